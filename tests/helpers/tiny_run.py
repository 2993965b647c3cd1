"""A recipe of all five stages, seconds in all, and data for it."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from corella_edge_export.crm.recipe import CrmRecipe
from corella_edge_export.data.prepare import write_prepared
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.readers.synthetic import SyntheticConfig, generate
from corella_edge_export.recipe import Recipe, recipe_from
from made_once import copy_of

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


def sections(keys: dict[str, Any]) -> dict[str, Any]:
    """A CRM's keys side by side → the table of a recipe, each in every section that has it."""
    found: dict[str, Any] = {}
    plain = CrmRecipe()
    parts = {item.name: getattr(plain, item.name) for item in fields(plain) if is_dataclass(getattr(plain, item.name))}
    for key, value in keys.items():
        places = [name for name, part in parts.items() if key in {item.name for item in fields(part)}]
        for place in places:
            found.setdefault(place, {})[key] = value
        if not places:
            found[key] = value
    return found


def crm_recipe(**keys: Any) -> CrmRecipe:
    """The [crm] of a recipe with these keys, whatever section each belongs in."""
    return recipe_from({"name": "crm", "crm": sections(keys)}, "crm").crm


def recipe(**changes: dict[str, Any]) -> Recipe:
    """The recipe with other values in some sections; `top` are keys of its own."""
    top = changes.pop("top", {})
    table = {name: {**part, **changes.get(name, {})} for name, part in TABLE.items() if isinstance(part, dict)}
    table["crm"] = sections({**TABLE["crm"], **changes.get("crm", {})})
    return recipe_from({"name": "tiny", **table, **top}, "tiny")


def prepared(folder: Path) -> PreparedData:
    """40 users and 50 items, synthetic."""
    config = SyntheticConfig(seed=3, users=40, items=50, genres=2, events=16.0)
    return PreparedData.open(copy_of("tiny", folder, lambda kept: write_prepared(generate(config), kept, requests=5)))


def english(path: Path, lines: int = 400) -> Path:
    """A text that a model learns at once."""
    path.write_text("the cat sat on the mat and the dog sat on the log . " * lines, "utf-8")
    return path
