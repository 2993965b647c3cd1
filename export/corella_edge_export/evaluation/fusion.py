"""Fusion rules, fitted on scored rows; what each does is in `corella_edge.routing.fusion`."""

from __future__ import annotations

import numpy as np

from corella_edge.routing.fusion import RULES, Fusion, fuse, logit, sigmoid
from corella_edge.routing.measure import is_routed
from corella_edge_export.evaluation.scored import Floats, Mask, ScoredRows

ENOUGH = 200  # routed validation rows that `stack` wants
RIDGE = 1e-3  # against nll in nats summed over rows: nothing beside 200 rows, but fits of equal columns stay finite


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
    """float64 [n]: the rule's scores on the chosen rows, the CRM's on all others."""
    return fuse(rows.crm, rows.llm, chosen, rule)


def _columns(crm: Floats, llm: Floats) -> Floats:
    return np.stack([np.ones(len(crm)), logit(crm), logit(llm)], axis=1)


def fit_agreeing(x: Floats, y: Mask) -> Floats:
    """As `fit_logistic`, but no slope is below 0: the columns of those that would be get 0, the lowest first.

    A few hundred rows near the boundary hardly differ in one model's logit, so its slope may come out negative by
    chance. On rows far from the boundary, which a lower threshold routes, it would turn that model's order round.
    """
    kept, w, found = np.arange(x.shape[1]), np.zeros(x.shape[1]), fit_logistic(x, y)
    while True:
        lowest = int(np.argmin(np.r_[np.inf, found[1:]]))
        if lowest == 0 or found[lowest] >= 0:
            w[kept] = found
            return w
        kept = np.delete(kept, lowest)
        found = fit_logistic(x[:, kept], y)


def fit_logistic(x: Floats, y: Mask, steps: int = 100) -> Floats:
    """Weights float64 [k] of a logistic regression by Newton's method; column 0 of float64 [n, k] is the intercept.

    Unregularised but for `RIDGE` on the slopes. Three weights need no library: scikit-learn stays a test's reference.
    """
    ridge = np.r_[0.0, np.full(x.shape[1] - 1, RIDGE)]
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = sigmoid(x @ w)
        slope = x.T @ (p - y) + ridge * w
        curve = (x * (p * (1 - p))[:, None]).T @ x + np.diag(ridge) + 1e-12 * np.eye(len(w))
        step = np.linalg.solve(curve, slope)
        w, done = _walk(x, y, ridge, w, step), float(slope @ step) < 1e-12
        if done:
            break
    return w


def _walk(x: Floats, y: Mask, ridge: Floats, w: Floats, step: Floats) -> Floats:
    """As far along Newton's step as lowers the loss: all of it, half, a quarter, …"""
    here = _loss(x, y, ridge, w)
    for halvings in range(30):
        there: Floats = w - step * 0.5**halvings
        if _loss(x, y, ridge, there) <= here:
            return there
    return w


def _loss(x: Floats, y: Mask, ridge: Floats, w: Floats) -> float:
    z = x @ w
    return float(np.logaddexp(0.0, np.where(y, -z, z)).sum() + 0.5 * (ridge * w * w).sum())
