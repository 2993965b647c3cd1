"""Fusion rules, fitted on scored rows; what each does is in `corella_edge.routing.fusion`."""

from __future__ import annotations

import numpy as np

from corella_edge.routing.fusion import RULES, Fusion, fuse
from corella_edge.routing.gate import NEW_ITEM
from corella_edge.routing.log_odds import fit_agreeing, logit
from corella_edge.routing.measure import is_routed
from corella_edge_export.evaluation.scored import Floats, Mask, ScoredRows

ENOUGH = 200  # routed validation rows that `stack` wants


def fusion(rule: str, valid: ScoredRows, threshold: float) -> Fusion:
    """The rule, fitted where it needs it on the validation rows that this threshold routes (see `fitting`)."""
    if rule not in RULES:
        raise ValueError(f"rule: {rule} is none of {', '.join(RULES)}")
    if rule != "stack":
        return Fusion(rule)
    rows = routed(valid, fitting(valid, threshold))
    weights = fit_agreeing(_columns(valid.crm[rows], valid.llm[rows]), valid.labels[rows] > 0)
    intercept, of_crm, of_llm = weights.tolist()
    return Fusion(rule, (intercept, of_crm, of_llm))


def fitting(valid: ScoredRows, threshold: float) -> float:
    """The threshold whose routed rows `stack` is fitted on: the given one, or 0 for all with an answer of the LLM.

    Rows near the boundary are the ones the fit is for; fewer than `ENOUGH`, or of one class, are too few.
    """
    rows = routed(valid, threshold)
    few = rows.sum() < ENOUGH or len(np.unique(valid.labels[rows])) < 2
    return 0.0 if few else threshold


def routed(rows: ScoredRows, threshold: float) -> Mask:
    """bool [n]: the rows that are the LLM's at a threshold in nats; those it has no answer for never are."""
    return is_routed(rows.entropies, threshold) & rows.answered


def fused(rows: ScoredRows, chosen: Mask, rule: Fusion) -> Floats:
    """float64 [n]: the rule's scores on the chosen rows, the CRM's on all others.

    A rule with weights for new items has them where the rows tell which those are; other inputs are not there.
    """
    told = {} if rows.new_items is None else {NEW_ITEM: rows.new_items.astype(np.float64)}
    return fuse(rows.crm, rows.llm, chosen, rule, told)


def _columns(crm: Floats, llm: Floats) -> Floats:
    return np.stack([np.ones(len(crm)), logit(crm), logit(llm)], axis=1)
