"""The part of docs/studies.md on what CoReLLa's stages are worth in two regimes, and on what the alignment moves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from corella_edge_export.evaluation.tables import figure, table_head, table_row

# The LLM has been asked about every training row before stage 2; it has read plain text alone.
REGIMES = ("ml-1m-small", "ml-1m-stages")
Json = dict[str, Any]


def lines(kept: Sequence[Json]) -> Iterator[str]:
    """The section, where both studies are kept; without them nothing."""
    studies = {result["name"]: result for result in kept if result.get("what") == "study"}
    if not all(name in studies for name in REGIMES):
        return
    yield "## What the stages are worth, in two regimes"
    yield ""
    yield "`ml-1m-small` asks its LLM about all training rows in a stage of its own before stages 2 and 3. The LLM of"
    yield "`ml-1m-stages` has read plain text alone by then, as the paper's has: stages 2 and 3 hold all the answers it"
    yield "sees. Data, CRM, prompt and the LLM's sizes are the same; rates, rows and batches of stages 2 and 3 are"
    yield "those that suit an LLM that has converged, or one that has not. Gains are over the full system of the same"
    yield "regime; `replaced` is the LLM's score as it is at validation ratio 0.2, where its own point may `stack`."
    yield ""
    yield from _ablations([studies[name] for name in REGIMES])
    for result in kept:
        if result.get("what") == "alignment":
            yield from _alignment(result)


def _ablations(studies: Sequence[Json]) -> Iterator[str]:
    yield from table_head("variant", "recipe", "LLM: AUC - full", "system: AUC - full", "replaced: AUC - full",
                       "mean score, LLM - CRM", "calibration error curves, mean distance")  # fmt: skip
    for name in studies[-1]["analysis"]["boundary_by_variant"]:
        for study in studies:
            yield table_row(name, f"`{study['name']}`", *_variant(study, name))
    yield ""


def _variant(study: Json, name: str) -> Iterator[str]:
    """One variant's gains over the full system, and its boundary shift."""
    alone = study["analysis"].get("models_by_variant", {}).get(name, {})
    system = next(row for row in study["ablation"] if row["name"] == name)
    for found in (alone.get("llm"), system, alone.get("replace")):
        yield figure(found and found["over_full"]["auc"], "+")
    shift = study["analysis"]["boundary_by_variant"][name]
    yield from (figure(shift[measure], "+") for measure in ("mean_score", "calibration"))


def _alignment(result: Json) -> Iterator[str]:
    """What stage 2 did, run by run."""
    yield "### What the alignment moves"
    yield ""
    yield "Of single runs of stage 2, before it → after it, on training rows of that stage (`benchmarks/alignment.py`)."
    yield "Pull: gradient of the weighted alignment on a model, in parts of that of the model's own loss. Moved: change"
    yield "of a model's weights. Spread: variance that the projections keep. Gap / spread: squared distance of the two"
    yield "projections in parts of that; 0 where they are equal, 2 where they know nothing of each other, more where"
    yield "their means differ. Likeness: of the two models' own states, without projections (linear CKA, 0 to 1)."
    yield ""
    yield from (f"- {note}" for note in result["notes"])
    yield ""
    yield from table_head("recipe", "weight", "rates: LLM, CRM, projections", "validation AUC: LLM, CRM",
                       "moved: LLM, CRM", "pull: LLM, CRM", "gap / spread", "spread", "likeness")  # fmt: skip
    for run in result["runs"]:
        yield table_row(f"`{run['recipe']}`", f"{run['align_weight']:g}", *_moves(run))
    yield ""


def _moves(run: Json) -> Iterator[str]:
    rates = [run[name] for name in ("learning_rate", "crm_learning_rate", "align_learning_rate")]
    yield ", ".join(f"{rate:g}" for rate in rates)
    yield f"{run['llm_auc']:.4f}, {run['crm_auc']:.4f}"
    yield f"{run['moved_llm']:.1%}, {run['moved_crm']:.1%}"
    ends = (run["before"], run["after"])
    yield _to(f"{end['pull_llm']:.3f}, {end['pull_crm']:.3f}" for end in ends)
    yield _to(f"{2 * end['gap'] / (end['spread_llm'] + end['spread_crm']):.2f}" for end in ends)
    yield _to(f"{(end['spread_llm'] + end['spread_crm']) / 2:.3g}" for end in ends)
    yield _to(f"{end['likeness']:.3f}" for end in ends)


def _to(ends: Iterator[str]) -> str:
    return " → ".join(ends)
