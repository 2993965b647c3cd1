"""What docs/results.md says of a pre-trained LLM's worth: AUC alone, and the gain of asking it by share and slice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from corella_edge_export.evaluation.tables import figure, table_head, table_row

Json = dict[str, Any]
NAMES = "**/language-worth-*.json"
ALL = "all rows"
PARTS = ("new items", "known items", ALL)


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
    yield "first. Then, of all rows: the gain of as many rows drawn at random; the gain over a base model that has the"
    yield "count of an item's training likes beside it; and the gain within users (UAUC, a pair a user)."
    yield ""
    gains = (f"gain, {part}" for part in PARTS)
    yield from table_head(
        "LLM", "asked about", "of new items", *gains, "at random", "over base and count", "within users"
    )
    for model in (one for one in found["models"] if "trained" in one):
        for name in [name for name in model if name.startswith("routed ")]:
            at, beside = model[name], model["over base and count"][name]
            asked = [f"{at['asked'][part]:.0%}" for part in (ALL, "new items")]
            others = at["at random"][ALL], beside[ALL]["gain"], at[ALL]["uauc gain"]
            cells = [figure(gain, "+") for gain in (*(at[part]["gain"] for part in PARTS), *others)]
            yield table_row(model["name"], *asked, *cells)
        new = model["asked about new items"]["new items"]
        gains_of = figure(new["gain"], "+"), *[""] * 4, f"{figure(new['uauc gain'], '+')} (new items)"
        yield table_row(model["name"], "new items alone, fitted on such", "100%", *gains_of)
    yield ""
