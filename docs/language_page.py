"""What docs/results.md says of a pre-trained LLM's worth: AUC alone, and the gain of asking it by share and slice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge_export.evaluation.tables import figure, table_head, table_row

Json = dict[str, Any]
NAMES = "**/language-worth-*.json"
PARTS = ("new items", "known items", "all rows")


def lines(results: Path) -> Iterator[str]:
    """The tables of every data set that was asked about."""
    for path in sorted(results.glob(NAMES)):
        found = json.loads(path.read_text("utf-8"))
        yield from _alone(found)
        yield from _routed(found)


def _alone(found: Json) -> Iterator[str]:
    rows = found["rows"]["test"]
    counts = ", ".join(f"{rows[part]['rows']:,} of {part}" for part in PARTS)
    yield f"AUC of each model alone ({found['data']}; test rows: {counts}; base model `{found['base']['recipe']}`):"
    yield ""
    yield from table_head("asked alone", *PARTS, "tokens of training", "a second", "memory, GB")
    yield table_row("base model", *(figure(found["base"][part]["auc"]) for part in PARTS), "", "", "")
    for model in found["models"]:
        yield table_row(model["name"], *(figure(model["alone"][part]["auc"]) for part in PARTS), *_cost(model))
    yield ""


def _cost(model: Json) -> list[str]:
    trained = model.get("trained")
    if trained is None:
        return ["0", "", ""]
    peak = f"{trained['peak_bytes'] / 1e9:.2f}"
    return [f"{trained['tokens']:,}", f"{trained['tokens_per_second']:.0f}", peak]


def _routed(found: Json) -> Iterator[str]:
    yield "What asking adds to the base model's AUC (`stack`, fitted on validation rows; paired), the least sure rows"
    yield "first; in the last column as many rows drawn at random:"
    yield ""
    gains = (f"gain, {part}" for part in PARTS)
    yield from table_head("LLM", "asked about", "of new items", *gains, "at random, all rows")
    for model in found["models"]:
        for name in [name for name in model if name.startswith("routed ")]:
            at = model[name]
            asked = [f"{at['asked'][part]:.0%}" for part in ("all rows", "new items")]
            cells = [figure(at[part]["gain"], "+") for part in PARTS]
            yield table_row(model["name"], *asked, *cells, figure(at["at random"]["all rows"], "+"))
        new = model["asked about new items"]["new items"]["gain"]
        yield table_row(model["name"], "new items alone", "100%", figure(new, "+"), "", "", "")
    yield ""
