"""A recipe of all five stages, seconds in all, and data for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corella_edge_export.data.prepare import write_prepared
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.readers.synthetic import SyntheticConfig, generate
from corella_edge_export.recipe import Recipe, recipe_from

SHORT = {"rows": 120, "epochs": 1, "batch_tokens": 2048, "evaluations": 1}
TABLE: dict[str, Any] = {
    "name": "tiny",
    "crm": {"embedding_dim": 4, "cross_layers": 2, "hidden": [8], "history": 5, "window": 16, "batch_size": 128,
            "epochs": 1, "evaluations": 1, "dropout": 0.0, "oov_rate": 0.2, "pooling": "attention", "centre": "item"},
    "llm": {"vocab_size": 300, "hidden": 16, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 24,
            "context": 300, "epochs": 1, "batch_tokens": 2048, "valid_rows": 40, "evaluations": 1, "whole_items": True,
            "spell_rate": 0.1, "text_weight": 0.3},
    "joint": {**SHORT, "width": 8},
    "continuation": SHORT,
    "prompt": {"instruction": "Like it?\n", "item": "[{title}]:", "history_lines": 3, "block": 2},
    "export": {"calibration_rows": 20, "sample_rows": 20, "reference_rows": 4},
}  # fmt: skip


def recipe(**changes: dict[str, Any]) -> Recipe:
    """The recipe with other values in some sections; `top` are keys of its own."""
    top = changes.pop("top", {})
    table = {name: {**part, **changes.get(name, {})} for name, part in TABLE.items() if isinstance(part, dict)}
    return recipe_from({"name": "tiny", **table, **top}, "tiny")


def prepared(folder: Path) -> PreparedData:
    write_prepared(generate(SyntheticConfig(seed=3, users=40, items=50, genres=2, events=16.0)), folder, requests=5)
    return PreparedData.open(folder)


def english(path: Path, lines: int = 400) -> Path:
    """A text that a model learns at once."""
    path.write_text("the cat sat on the mat and the dog sat on the log . " * lines, "utf-8")
    return path
