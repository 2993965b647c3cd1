"""Quality of probabilities against labels, with bootstrap intervals over users. Numpy only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

EPSILON = 1e-7


class RankedScores:
    """Scores sorted once, so that AUC under many row weights (bootstrap draws) needs no sorting."""

    def __init__(self, probability: npt.ArrayLike, label: npt.ArrayLike) -> None:
        p = np.asarray(probability, dtype=np.float64)
        self.order = np.argsort(p, kind="stable")
        ranked = p[self.order]
        self.positive = np.asarray(label, dtype=np.float64)[self.order] > 0
        self.ties = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(p) else np.zeros(0, np.int64)

    def auc(self, weight: Floats | None = None) -> float:
        """Area under the ROC curve, ties counted half; nan when one class is absent."""
        w = np.ones(len(self.order)) if weight is None else weight[self.order]
        if not len(w):
            return float("nan")
        positive = np.add.reduceat(np.where(self.positive, w, 0.0), self.ties)
        negative = np.add.reduceat(np.where(self.positive, 0.0, w), self.ties)
        below = np.cumsum(negative) - negative
        pairs = positive.sum() * negative.sum()
        return float((positive * (below + 0.5 * negative)).sum() / pairs) if pairs else float("nan")


def auc(probability: npt.ArrayLike, label: npt.ArrayLike) -> float:
    """Area under the ROC curve of float [n] against 0/1 [n]; nan when one class is absent."""
    return RankedScores(probability, label).auc()


def row_loss(probability: npt.ArrayLike, label: npt.ArrayLike) -> Floats:
    """Log-loss of each row in nats, float64 [n]; probabilities are clipped to [1e-7, 1 - 1e-7]."""
    p = np.clip(np.asarray(probability, dtype=np.float64), EPSILON, 1 - EPSILON)
    y = np.asarray(label, dtype=np.float64)
    loss: Floats = -(y * np.log(p) + (1.0 - y) * np.log1p(-p))
    return loss


def row_hit(probability: npt.ArrayLike, label: npt.ArrayLike) -> Floats:
    """1.0 where the class at 0.5 is right, float64 [n]."""
    hit: Floats = ((np.asarray(probability) >= 0.5) == (np.asarray(label) > 0)).astype(np.float64)
    return hit


@dataclass(frozen=True, slots=True)
class Quality:
    """AUC, log-loss (nats) and accuracy (at 0.5) of n rows."""

    auc: float
    logloss: float
    accuracy: float


def quality(probability: npt.ArrayLike, label: npt.ArrayLike) -> Quality:
    """The three metrics of float [n] against 0/1 [n]."""
    loss, hit = row_loss(probability, label), row_hit(probability, label)
    return Quality(auc(probability, label), float(loss.mean()), float(hit.mean()))


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its bootstrap 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


class Bootstrap:
    """Draws of users with replacement: one set of row weights a draw, shared by all metrics, so pairs are paired."""

    def __init__(self, users: npt.ArrayLike, draws: int = 2000, seed: int = 0) -> None:
        self._user_of_row = np.unique(np.asarray(users), return_inverse=True)[1]
        self._count = int(self._user_of_row.max()) + 1
        self.draws, self.seed = draws, seed

    def samples(self, statistic: Callable[[Floats], float]) -> Floats:
        """float64 [draws]: the statistic under each draw's row weights float64 [n]."""
        rng = np.random.default_rng(self.seed)
        share = np.full(self._count, 1.0 / self._count)
        weights = (rng.multinomial(self._count, share).astype(np.float64) for _ in range(self.draws))
        return np.asarray([statistic(w[self._user_of_row]) for w in weights])


@dataclass(frozen=True, slots=True)
class Sampled:
    """A metric on all rows and under every draw, float64 [draws]; two of the same `Bootstrap` are paired."""

    value: float
    draws: Floats

    def interval(self) -> Interval:
        """The value with its percentile interval."""
        low, high = np.nanpercentile(self.draws, [2.5, 97.5])
        return Interval(self.value, float(low), float(high))

    def gain(self, other: Sampled) -> Interval:
        """This minus the other, with the interval of the paired difference."""
        return Sampled(self.value - other.value, self.draws - other.draws).interval()


def sampled_auc(probability: npt.ArrayLike, label: npt.ArrayLike, bootstrap: Bootstrap) -> Sampled:
    """AUC under every draw of users."""
    ranked = RankedScores(probability, label)
    return Sampled(ranked.auc(), bootstrap.samples(ranked.auc))


def auc_interval(probability: npt.ArrayLike, label: npt.ArrayLike, bootstrap: Bootstrap) -> Interval:
    """AUC with its interval."""
    return sampled_auc(probability, label, bootstrap).interval()


def auc_gain(better: npt.ArrayLike, worse: npt.ArrayLike, label: npt.ArrayLike, bootstrap: Bootstrap) -> Interval:
    """AUC(better) - AUC(worse) on the same rows, with the interval of the paired difference."""
    return sampled_auc(better, label, bootstrap).gain(sampled_auc(worse, label, bootstrap))
