"""All quality metrics of probabilities on fixed rows, under the same draws of users, and how figures are written."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.metrics import (
    Bootstrap,
    Floats,
    Interval,
    Sampled,
    ece,
    mean,
    quality,
    row_hit,
    row_loss,
    sampled_auc,
    sampled_ece,
    sampled_mean,
    sampled_uauc,
    uauc,
)
from corella_edge.ranking import CUT, Lists

Json = dict[str, Any]
Figures = dict[str, Sampled]

METRICS = ("auc", "logloss", "accuracy", "ece", "uauc")
NDCG = f"ndcg@{CUT}"  # where rows are in lists


class Judge:
    """Metrics of probabilities for float [n] labels and users [n]; the same scores are judged once.

    Args:
        requests: [n], which rows were ranked together: NDCG@10 is then among the metrics.
        weight: float64 [n], how many rows each stands for; None = one each. A list stands for as many as that of its
            rows which stands for most: the others are known of every list.
    """

    def __init__(
        self, labels: npt.ArrayLike, users: npt.ArrayLike, draws: int = 2000, seed: int = 0,
        requests: npt.ArrayLike | None = None, weight: Floats | None = None,
    ) -> None:  # fmt: skip
        self.labels, self.weight = np.asarray(labels), weight
        self.bootstrap = Bootstrap(users, draws, seed)
        self._lists = None if requests is None else Lists(requests, self.labels)
        self._known: dict[bytes, Figures] = {}

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that a call gives; NDCG only where some list has anything to be ordered."""
        return METRICS if self._lists is None or not self._lists.judged.any() else (*METRICS, NDCG)

    def mean(self, values: Floats) -> float:
        """Of float64 [n], the rows weighted."""
        return mean(values, self.weight)

    def __call__(self, p: Floats) -> Figures:
        """Every metric of float64 [n]."""
        key = hashlib.blake2b(np.ascontiguousarray(p).tobytes(), digest_size=16).digest()
        if key not in self._known:
            self._known[key] = self._figures(p)
        return self._known[key]

    def _figures(self, p: Floats) -> Figures:
        y, bootstrap, weight = self.labels, self.bootstrap, self.weight
        found = {
            "auc": sampled_auc(p, y, bootstrap, weight),
            "logloss": sampled_mean(row_loss(p, y), bootstrap, weight),
            "accuracy": sampled_mean(row_hit(p, y), bootstrap, weight),
            "ece": sampled_ece(p, y, bootstrap, weight=weight),
            "uauc": sampled_uauc(p, y, bootstrap, weight),
        }
        return found if NDCG not in self.metrics else {**found, NDCG: self._ndcg(p)}

    def _ndcg(self, p: Floats) -> Sampled:
        """Over lists, each drawn as often as its user."""
        assert self._lists is not None
        judged = self._lists.judged
        gains, first, each = self._lists.ndcg(p)[judged], self._lists.first[judged], self._list_weight()
        told = np.zeros((2, len(p)))
        told[:, first] = np.stack([gains * each, each])
        sums, counts = (self.bootstrap.totals(values)[:, 0] for values in told)
        with np.errstate(invalid="ignore"):
            return Sampled(mean(gains, each), sums / counts)

    def _list_weight(self) -> Floats:
        """float64 [judged lists]: how many lists each stands for."""
        assert self._lists is not None
        judged = self._lists.judged
        return np.ones(judged.sum()) if self.weight is None else self._lists.most(self.weight)[judged]

    def points(self, p: Floats) -> dict[str, float]:
        """Every metric of float64 [n] without draws."""
        y, weight = self.labels, self.weight
        found = quality(p, y, weight)
        errors, by_user = ece(p, y, weight=weight), uauc(p, y, self.bootstrap.owner, weight)
        plain = {"auc": found.auc, "logloss": found.logloss, "accuracy": found.accuracy, "ece": errors, "uauc": by_user}
        if NDCG in self.metrics and self._lists is not None:
            plain[NDCG] = mean(self._lists.ndcg(p)[self._lists.judged], self._list_weight())
        return plain


def shown(figures: Figures) -> Json:
    """Each metric with its interval."""
    return {name: interval(sampled.interval()) for name, sampled in figures.items()}


def gains(figures: Figures, other: Figures) -> Json:
    """Each metric minus the other's, with the interval of the paired difference."""
    return {name: interval(sampled.gain(other[name])) for name, sampled in figures.items()}


def better(gain: Json) -> bool:
    """Whether the gain's interval (`gains`) lies above 0 in AUC, or below 0 in log-loss."""
    low, high = gain["auc"]["low"], gain["logloss"]["high"]
    return (low is not None and low > 0.0) or (high is not None and high < 0.0)


def worse_order(gain: Json) -> list[str]:
    """Of AUC and NDCG@10 those whose gain's interval (`gains`), where there is one, lies below 0."""
    highs = {name: gain[name]["high"] for name in ("auc", NDCG) if name in gain}
    return [name for name, high in highs.items() if high is not None and high < 0.0]


def percents(figures: Figures, other: Figures) -> Json:
    """Each metric's gain in percent of the other's, with the interval of the paired ratio."""
    return {name: interval(sampled.percent(other[name])) for name, sampled in figures.items()}


def interval(found: Interval) -> Json:
    """An interval as JSON, null for what is not defined."""
    return {"value": number(found.value), "low": number(found.low), "high": number(found.high)}


def number(value: float) -> float | None:
    """A finite number, or null."""
    return float(value) if math.isfinite(value) else None
