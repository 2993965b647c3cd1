"""How far apart the two models' decision boundaries lie on the rows that are routed.

Before alignment a score of 0.6 means something else to each model, and replacing one by the other reorders rows for
no reason. Measured as the difference of mean scores, and of the two calibration error curves.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from corella_edge.metrics import (
    BINS,
    Bootstrap,
    Floats,
    Sampled,
    calibration_curve,
    mass_bins,
    sampled_ece,
    sampled_mean,
)
from corella_edge.routing.policy import Calibration
from corella_edge_export.evaluation.fusion import routed
from corella_edge_export.evaluation.groups import about
from corella_edge_export.evaluation.scored import Json, ScoredRows, ScoredSplits, interval, number

SHARE = 0.2


def boundary(
    pair: ScoredSplits,
    share: float = SHARE,
    draws: int = 2000,
    seed: int = 0,
    bins: int = BINS,
    on: ScoredSplits | None = None,
) -> Json:
    """The shift on the test rows routed at a validation share; `rows` 0 and nothing else where none is.

    `on` decides which rows those are: of several variants, the shifts on the same rows can be compared.
    """
    deciding = on or pair
    threshold = Calibration.fit(deciding.valid.entropies).threshold(share)
    chosen = routed(deciding.test, threshold)
    asked: Json = {"ratio": share, "threshold": number(threshold), "share": float(chosen.mean())}
    return {**asked, **(_shift(pair.test.part(chosen), draws, seed, bins) if chosen.any() else {"rows": 0})}


def _shift(rows: ScoredRows, draws: int, seed: int, bins: int) -> Json:
    bootstrap = Bootstrap(rows.users, draws, seed)
    flips = (rows.llm >= 0.5) != (rows.crm >= 0.5)
    found = {
        "mean_score": sampled_mean(rows.llm - rows.crm, bootstrap),
        "calibration": curve_difference(rows, bootstrap, bins),
        "flips": sampled_mean(flips.astype(np.float64), bootstrap),
        "crm_bias": sampled_mean(rows.crm - rows.labels, bootstrap),
        "llm_bias": sampled_mean(rows.llm - rows.labels, bootstrap),
        "crm_ece": sampled_ece(rows.crm, rows.labels, bootstrap, bins),
        "llm_ece": sampled_ece(rows.llm, rows.labels, bootstrap, bins),
    }
    curves = {name: calibration(p, rows.labels, bins) for name, p in (("crm", rows.crm), ("llm", rows.llm))}
    return {**about(rows), **{name: interval(one.interval()) for name, one in found.items()}, "curves": curves}


def curve_difference(rows: ScoredRows, bootstrap: Bootstrap, bins: int = BINS) -> Sampled:
    """Mean over bins k of |e_llm(k) - e_crm(k)|, e(k) being mean score - share of positives in a model's own k-th bin.

    Each model's bins are its own equal-mass bins, so bin k holds its k-th lowest scores. Bins stay those of all rows
    in every draw; one that either model leaves empty does not count. Noise counts as difference, so the value lies
    above 0 even for equally calibrated models: compare it between variants, not with 0.
    """
    llm, crm = (_errors(p, rows, bootstrap, bins) for p in (rows.llm, rows.crm))
    return Sampled(float(_mean_known(np.abs(llm[0] - crm[0]))), _mean_known(np.abs(llm[1] - crm[1])))


def _errors(p: Floats, rows: ScoredRows, bootstrap: Bootstrap, bins: int) -> tuple[Floats, Floats]:
    """Mean score - share of positives of each bin: of all rows [bins] and under every draw [draws, bins]."""
    score, rate, _ = calibration_curve(p, rows.labels, bins)
    place = mass_bins(p, bins)
    excess, mass = (bootstrap.totals(v, place, bins) for v in (p - rows.labels, np.ones(len(p))))
    return score - rate, np.where(mass > 0, excess / np.maximum(mass, 1.0), np.nan)


def _mean_known(values: Floats) -> Floats:
    """Mean along the last axis without nan; nan where nothing else is left."""
    known = ~np.isnan(values)
    mean: Floats = np.where(known, values, 0.0).sum(axis=-1) / np.where(known.any(axis=-1), known.sum(axis=-1), np.nan)
    return mean


def calibration(p: Floats, labels: npt.NDArray[np.int8], bins: int = BINS) -> Json:
    """Mean score, share of positives and rows of each equal-mass bin; null for a bin that equal scores left empty."""
    score, rate, rows = calibration_curve(p, labels, bins)
    found = {"score": [number(x) for x in score.tolist()], "rate": [number(x) for x in rate.tolist()]}
    return {**found, "rows": rows.tolist()}
