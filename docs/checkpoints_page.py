"""docs/checkpoints.md: which language models come through, from the kept figures of benchmarks/language_models.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Json = dict[str, Any]
LOGITS, P_YES = 2e-2, 2e-3


def lines(results: Path) -> Iterator[str]:
    """The tables of the kept figures."""
    result = json.loads((results / "language-models.json").read_text("utf-8"))
    kinds = result["types"]
    head = f"| model | `model_type` | tokenizer | same tokens of {result['texts']:,} | logits, f16 | P(Yes), f16 | "
    yield head + " | ".join(f"{kind}: P(Yes), mean (greatest); size" for kind in kinds) + " |"
    yield "|" + "---|" * (6 + len(kinds))
    for row in result["rows"]:
        moved = " | ".join(_moved(row[kind]) for kind in kinds)
        yield (
            f"| {row['name']} | `{row['type']}` | {row['tokenizer']} | {row['same_tokens']:,} | {row['logits']:.1e} | "
            f"{row['p_yes']:.1e} | {moved} |"
        )
    yield ""
    yield f"Random weights; llama.cpp against float32 transformers. Allowed: logits {LOGITS:g}, P(Yes) {P_YES:g} (f16)."
    yield (
        "Two tokenizers are made for this: `scratch` as recipes do it, `tiktoken` with Llama 3's rules (its splits, "
        "whole words whatever the merges) over Qwen's words."
    )
    for row in result["trained"]:
        yield ""
        told = " ".join(row["continued"].split())
        yield f"Trained weights, {row['name']}, greedy: “{row['text']} **{told}**”: " + (
            "word for word as transformers continues it." if row["same"] else "**not** as transformers continues it."
        )


def _moved(found: Json) -> str:
    return f"{found['mean']:.3f} ({found['greatest']:.3f}); {found['size']:.0%}"


def problems(result: Json) -> list[str]:
    """What is beyond the bounds."""
    found = []
    for row in result["rows"]:
        if row["same_tokens"] != result["texts"]:
            found.append(f"{row['name']}: {result['texts'] - row['same_tokens']} texts have other tokens")
        if not row["logits"] <= LOGITS:
            found.append(f"{row['name']}: logits differ by {row['logits']:.1e}")
        if not row["p_yes"] <= P_YES:
            found.append(f"{row['name']}: P(Yes) differs by {row['p_yes']:.1e}")
    return found + [f"{row['name']} continues otherwise" for row in result["trained"] if not row["same"]]
