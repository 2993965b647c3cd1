"""Does a measure order what it is meant to order? Gain by decile of the measure, and a verdict.

A confidence that does not order the errors is none: on MovieLens by time, some order them no better than chance
(arXiv 2603.09947). So a measure is looked at on the log at hand before a threshold on it is trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from corella_edge.judge import Json, interval, number
from corella_edge.metrics import Bootstrap, Floats, Ints, Sampled, mass_bins

BINS = 10
LEVEL = 0.05


@dataclass(frozen=True)
class Order:
    """What asking brings in each part of the rows, by the measure.

    Attributes:
        low, high: the measure's ends in each part that has rows, float64 [k].
        rows: how many rows, int64 [k].
        means: what was averaged, and its draws, k of them.
        trend: change from the lowest part to the highest by a straight line through the means.
        falls: parts whose mean is below that of the one before by more than chance, all tests together at 5 %.
    """

    low: Floats
    high: Floats
    rows: Ints
    means: tuple[Sampled, ...]
    trend: Sampled
    falls: tuple[int, ...]

    @property
    def verdict(self) -> str:
        """`monotone`, `in part` (a significant fall within a rise), `none` or `reversed`."""
        found = self.trend.interval()
        if found.low > 0:
            return "in part" if self.falls else "monotone"
        return "reversed" if found.high < 0 else "none"

    def to_json(self) -> Json:
        parts = [
            {"from": number(low), "to": number(high), "rows": int(rows), **interval(mean.interval())}
            for low, high, rows, mean in zip(self.low, self.high, self.rows, self.means, strict=True)
        ]
        return {"verdict": self.verdict, "trend": interval(self.trend.interval()), "falls_at": list(self.falls),
                "deciles": parts}  # fmt: skip


def order(values: Floats, worth: Floats, bootstrap: Bootstrap, bins: int = BINS, weight: Floats | None = None) -> Order:
    """Means of `worth` float64 [n] (larger = rather ask) by equal-mass part of the measure `values` float64 [n].

    Rows of equal measure stay together, so there may be fewer parts than `bins`. The draws are over users.

    Args:
        weight: float64 [n], how many rows each stands for; None = one each.
    """
    each = np.ones(len(worth)) if weight is None else weight
    number_of = np.unique(mass_bins(values, bins, weight), return_inverse=True)[1].astype(np.int64)
    count = int(number_of.max()) + 1
    rows = np.bincount(number_of, minlength=count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    np.minimum.at(low, number_of, values)
    np.maximum.at(high, number_of, values)
    sums, masses = (bootstrap.totals(v, number_of, count) for v in (each * worth, each))
    draws = np.divide(sums, masses, out=np.full_like(sums, np.nan), where=masses > 0)
    total, mass = (np.bincount(number_of, weights=v, minlength=count) for v in (each * worth, each))
    means = total / mass
    sampled = tuple(Sampled(float(mean), draws[:, place]) for place, mean in enumerate(means))
    return Order(low, high, rows, sampled, _trend(sampled, count), _falls(sampled))


def _trend(means: tuple[Sampled, ...], count: int) -> Sampled:
    """Least-squares line through the means: its rise from the first to the last."""
    place = np.arange(count) - (count - 1) / 2
    weight = place * (count - 1) / max(float((place**2).sum()), 1.0)
    value = float(weight @ [mean.value for mean in means])
    return Sampled(value, np.stack([mean.draws for mean in means], axis=1) @ weight)


def _falls(means: tuple[Sampled, ...]) -> tuple[int, ...]:
    """Places whose mean is below the one before in all but LEVEL / tests of the draws (Bonferroni), one-sided."""
    tests = max(1, len(means) - 1)
    found = []
    for place, (before, after) in enumerate(pairwise(means), 1):
        change = after.draws - before.draws
        known = change[~np.isnan(change)]
        if len(known) and np.quantile(known, 1 - LEVEL / tests) < 0:
            found.append(place)
    return tuple(found)
