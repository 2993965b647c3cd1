"""Both models in parts of the test rows: thirds by the CRM's confidence; seen and unseen users; unseen items."""

from __future__ import annotations

import numpy as np

from corella_edge.metrics import Ints
from corella_edge_export.evaluation.fusion import routed
from corella_edge_export.evaluation.scored import Floats, Json, Mask, ScoredJudge, ScoredRows, gains, percents, shown
from corella_edge_export.evaluation.shares import Operation

THIRDS = 3
UNSEEN_ITEMS = "unseen items"  # the rows whose item has no training row


def confidence_group(entropies: Floats, groups: int = THIRDS) -> Ints:
    """int64 [n] from 1, the most confident, to `groups`; equal entropies share a group."""
    edges = np.sort(entropies)[np.arange(1, groups) * len(entropies) // groups]
    return 1 + np.searchsorted(edges, entropies, side="right").astype(np.int64)


def thirds(rows: ScoredRows, draws: int = 2000, seed: int = 0) -> list[Json]:
    """The CRM against the LLM in each third by CRM confidence, the paper's group study."""
    group = confidence_group(rows.entropies)
    return [_third(rows.part(group == g), g, draws, seed) for g in range(1, THIRDS + 1) if (group == g).any()]


def _third(rows: ScoredRows, group: int, draws: int, seed: int) -> Json:
    judge = ScoredJudge(rows, draws, seed)
    crm, llm = judge(rows.crm), judge(rows.llm_or_crm)
    entropies = rows.entropies
    return {
        "group": group, **about(rows), "entropy": [float(entropies.min()), float(entropies.max())],
        "crm": shown(crm), "llm": shown(llm), "llm_over_crm": gains(llm, crm),
    }  # fmt: skip


def about(rows: ScoredRows) -> Json:
    """How many rows, users and positives."""
    return {"rows": len(rows), "users": len(np.unique(rows.users)), "positive": float(rows.labels.mean())}


def parts(rows: ScoredRows) -> dict[str, Mask]:
    """All rows, the seen and the unseen ones, those of unseen items; of these, those that there are."""
    masks = {"all": np.ones(len(rows), dtype=bool), "seen": rows.seen, "unseen": ~rows.seen}
    masks |= {} if rows.new_items is None else {UNSEEN_ITEMS: rows.new_items}
    return {name: mask for name, mask in masks.items() if mask.any()}


def by_user(
    rows: ScoredRows, how: Operation, draws: int = 2000, seed: int = 0, whole: ScoredJudge | None = None
) -> Json:
    """Every model and the routed system on all rows, on seen and on unseen ones, on those of unseen items."""
    final, chosen = how.scores(rows), routed(rows, how.threshold)
    found: Json = {}
    for name, mask in parts(rows).items():
        judge = whole if whole and name == "all" else ScoredJudge(rows.part(mask), draws, seed)
        found[name] = systems(judge, final[mask], float(chosen[mask].mean()))
    return found


def systems(judge: ScoredJudge, final: Floats, share: float) -> Json:
    """Stage-1 CRM, CRM, LLM and routed scores on a judge's rows, and what routing gains over each."""
    rows = judge.rows
    models = {"base": rows.base, "crm": rows.crm, "llm": rows.llm_or_crm}
    system = judge(final)
    return {
        **about(rows), "share": share,
        **{name: shown(judge(p)) for name, p in models.items()}, "routed": shown(system),
        **{f"over_{name}": gains(system, judge(p)) for name, p in models.items()},
        "over_base_percent": percents(system, judge(rows.base)),
    }  # fmt: skip
