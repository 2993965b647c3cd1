"""Log-odds and back, and logistic regression of few columns: what maps and fusion rules are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from corella_edge.metrics import EPSILON

Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
RIDGE = 1e-3  # against nll in nats summed over rows: nothing beside 200 rows, but fits of equal columns stay finite


def logit(p: Floats) -> Floats:
    """Log-odds, of probabilities clipped to [1e-7, 1 - 1e-7]."""
    clipped = np.clip(p, EPSILON, 1 - EPSILON)
    odds: Floats = np.log(clipped) - np.log1p(-clipped)
    return odds


def sigmoid(x: Floats) -> Floats:
    """The logistic function, without overflow."""
    half: Floats = 0.5 * (1.0 + np.tanh(0.5 * x))
    return half


def fit_agreeing(x: Floats, y: Mask, agreeing: int | None = None, weight: Floats | None = None) -> Floats:
    """As `fit_logistic`, but no slope is below 0: the columns of those that would be get 0, the lowest first.

    `agreeing`: how many of the columns after the intercept that holds for; None = for all.

    A few hundred rows near the boundary hardly differ in one model's logit, so its slope may come out negative by
    chance. On rows far from the boundary, which a lower threshold routes, it would turn that model's order round.
    """
    kept, w, found = np.arange(x.shape[1]), np.zeros(x.shape[1]), fit_logistic(x, y, weight)
    last = x.shape[1] - 1 if agreeing is None else agreeing
    while True:
        bound = (kept >= 1) & (kept <= last)
        lowest = int(np.argmin(np.where(bound, found, np.inf)))
        if not bound.any() or found[lowest] >= 0:
            w[kept] = found
            return w
        kept = np.delete(kept, lowest)
        found = fit_logistic(x[:, kept], y, weight)


def fit_logistic(x: Floats, y: Mask, weight: Floats | None = None, steps: int = 100) -> Floats:
    """Weights float64 [k] of a logistic regression by Newton's method; column 0 of float64 [n, k] is the intercept.

    `weight`: float64 [n], how much a row counts; only what these are among each other matters. None: all the same.

    Unregularised but for `RIDGE` on the slopes. Three weights need no library: scikit-learn stays a test's reference.
    """
    ridge = np.r_[0.0, np.full(x.shape[1] - 1, RIDGE)]
    each = np.ones(len(y)) if weight is None else weight / weight.mean()
    w = np.zeros(x.shape[1])
    for _ in range(steps):
        p = sigmoid(x @ w)
        slope = x.T @ (each * (p - y)) + ridge * w
        curve = (x * (each * p * (1 - p))[:, None]).T @ x + np.diag(ridge) + 1e-12 * np.eye(len(w))
        step = np.linalg.solve(curve, slope)
        w, done = _walk(x, y, each, ridge, w, step), float(slope @ step) < 1e-12
        if done:
            break
    return w


def _walk(x: Floats, y: Mask, each: Floats, ridge: Floats, w: Floats, step: Floats) -> Floats:
    """As far along Newton's step as lowers the loss: all of it, half, a quarter, …"""
    here = _loss(x, y, each, ridge, w)
    for halvings in range(30):
        there: Floats = w - step * 0.5**halvings
        if _loss(x, y, each, ridge, there) <= here:
            return there
    return w


def _loss(x: Floats, y: Mask, each: Floats, ridge: Floats, w: Floats) -> float:
    z = x @ w
    return float((each * np.logaddexp(0.0, np.where(y, -z, z))).sum() + 0.5 * (ridge * w * w).sum())
