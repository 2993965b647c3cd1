"""Quality of probabilities against labels, with bootstrap intervals over users. Numpy only.

Rows may weigh differently: `weight` float64 [n] says how many rows each stands for, at least 0; None = one each. A row
of weight 2 counts as if it were there twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

EPSILON = 1e-7
BINS = 15


def auc(probability: npt.ArrayLike, label: npt.ArrayLike, weight: Floats | None = None) -> float:
    """Area under the ROC curve of float [n] against 0/1 [n]; nan when one class is absent."""
    one_user = np.zeros(len(np.asarray(label)), dtype=np.int64)
    return float(user_aucs(probability, label, one_user, weight).item()) if len(one_user) else float("nan")


def auc_error(positive: int, negative: int, auc: float = 0.75) -> float:
    """Standard error of an AUC over so many independent rows of each class (Hanley and McNeil 1982); inf without both.

    Rows of one user are no independent ones, so it is a lower bound.
    """
    if not positive or not negative:
        return float("inf")
    two_positive, two_negative = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    spread = (positive - 1) * (two_positive - auc * auc) + (negative - 1) * (two_negative - auc * auc)
    return float(np.sqrt((auc * (1 - auc) + spread) / (positive * negative)))


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


def quality(probability: npt.ArrayLike, label: npt.ArrayLike, weight: Floats | None = None) -> Quality:
    """The three metrics of float [n] against 0/1 [n]."""
    loss, hit = (mean(of(probability, label), weight) for of in (row_loss, row_hit))
    return Quality(auc(probability, label, weight), loss, hit)


def mean(values: Floats, weight: Floats | None = None) -> float:
    """Of float64 [n]; nan where all rows weigh nothing."""
    return float(values.mean() if weight is None else _ratio(weight @ values, weight.sum()))


def mass_bins(probability: npt.ArrayLike, bins: int = BINS, weight: Floats | None = None) -> Ints:
    """The equal-mass bin of each row, int64 [n] below `bins`; equal scores share a bin, so some may stay empty."""
    p = np.asarray(probability, dtype=np.float64)
    if not len(p):
        return np.zeros(0, dtype=np.int64)
    places = np.arange(1, bins) * len(p) // bins
    order = np.argsort(p, kind="stable")
    if weight is not None:
        mass = np.cumsum(weight[order])
        places = np.searchsorted(mass, np.arange(1, bins) * mass[-1] / bins, side="right").clip(max=len(p) - 1)
    return np.searchsorted(p[order][places], p, side="right").astype(np.int64)


def calibration_curve(
    probability: npt.ArrayLike, label: npt.ArrayLike, bins: int = BINS
) -> tuple[Floats, Floats, Ints]:
    """Mean score, share of positives and rows of each equal-mass bin, [bins] each; nan in an empty bin."""
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    place = mass_bins(p, bins)
    rows = np.bincount(place, minlength=bins)
    scores, positives = (np.bincount(place, weights=v, minlength=bins) for v in (p, y))
    return _ratio(scores, rows), _ratio(positives, rows), rows


def ece(probability: npt.ArrayLike, label: npt.ArrayLike, bins: int = BINS, weight: Floats | None = None) -> float:
    """Expected calibration error: |mean score - share of positives| of the bins, weighted by their rows."""
    excess = np.asarray(probability, dtype=np.float64) - np.asarray(label, dtype=np.float64)
    each = np.ones(len(excess)) if weight is None else weight
    sums = np.bincount(mass_bins(probability, bins, weight), weights=excess * each, minlength=bins)
    return float(_ratio(np.abs(sums).sum(), each.sum()))


def uauc(probability: npt.ArrayLike, label: npt.ArrayLike, users: npt.ArrayLike, weight: Floats | None = None) -> float:
    """Plain mean of the AUCs of users who have both classes; nan if no user has."""
    found = user_aucs(probability, label, _owners(users), weight)
    known = found[~np.isnan(found)]
    return float(known.mean()) if len(known) else float("nan")


def user_aucs(probability: npt.ArrayLike, label: npt.ArrayLike, owner: Ints, weight: Floats | None = None) -> Floats:
    """AUC of each user, float64 [users], nan without both classes; `owner` int64 [n] numbers users from 0."""
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label) > 0
    order = np.lexsort((p, owner))
    p, y, of = p[order], y[order], owner[order]
    each = np.ones(len(p)) if weight is None else weight[order]
    negative, number = np.where(y, 0.0, each), int(owner.max(initial=-1)) + 1
    beaten = np.where(y, each * _beaten(p, of, negative), 0.0)
    won, mass, rest = (np.bincount(of, weights=v, minlength=number) for v in (beaten, each - negative, negative))
    return _ratio(won, mass * rest)


def _beaten(p: Floats, owner: Ints, negative: Floats) -> Floats:
    """Of rows sorted by user and score: what the user's negative rows below each weigh, and half of those of its own
    score, float64 [n]. Whole weights give exact sums."""
    before = np.cumsum(negative) - negative
    new_user = np.r_[True, owner[1:] != owner[:-1]] if len(p) else np.zeros(0, dtype=bool)
    starts = new_user | np.r_[True, p[1:] != p[:-1]] if len(p) else new_user
    level, user = np.cumsum(starts) - 1, np.cumsum(new_user) - 1
    tied = np.bincount(level, weights=negative) if len(p) else negative
    below: Floats = before[starts][level] - before[new_user][user] + 0.5 * tied[level]
    return below


def _ratio(above: npt.NDArray[Any], below: npt.NDArray[Any]) -> Floats:
    """Elementwise quotient, nan where the divisor is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _owners(users: npt.ArrayLike) -> Ints:
    """Users numbered from 0, int64 [n]."""
    return np.unique(np.asarray(users), return_inverse=True)[1].astype(np.int64)


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

    _BLOCK, _KEEP = 1 << 22, 1 << 25  # numbers: in one block of draws, and kept between metrics

    def __init__(self, users: npt.ArrayLike, draws: int = 2000, seed: int = 0) -> None:
        self.owner = _owners(users)
        self.users = int(self.owner.max()) + 1
        self.draws, self.seed = draws, seed
        self._kept: list[Floats] = []

    def weights(self) -> Iterator[Floats]:
        """How often each user is drawn: blocks of draws, whole numbers in float64 [some, users]; always the same."""
        if self.draws * self.users > self._KEEP:
            yield from self._drawn()
            return
        self._kept = self._kept or list(self._drawn())
        yield from self._kept

    def _drawn(self) -> Iterator[Floats]:
        rng = np.random.default_rng(self.seed)
        share = np.full(self.users, 1.0 / self.users)
        step = max(1, self._BLOCK // self.users)
        for start in range(0, self.draws, step):
            yield rng.multinomial(self.users, share, min(step, self.draws - start)).astype(np.float64)

    def totals(self, values: Floats, place: Ints | None = None, places: int = 1) -> Floats:
        """float64 [draws, places]: sums of row values float64 [n] under each draw, by `place` int64 [n]."""
        cell = self.owner * places + (0 if place is None else place)
        sums = np.bincount(cell, weights=values, minlength=self.users * places).reshape(self.users, places)
        return np.concatenate([block @ sums for block in self.weights()])


@dataclass(frozen=True, slots=True)
class Sampled:
    """A metric on all rows and under every draw, float64 [draws]; two of the same `Bootstrap` are paired."""

    value: float
    draws: Floats

    def interval(self) -> Interval:
        """The value with its percentile interval."""
        known = self.draws[~np.isnan(self.draws)]
        low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
        return Interval(self.value, float(low), float(high))

    def gain(self, other: Sampled) -> Interval:
        """This minus the other, with the interval of the paired difference."""
        return Sampled(self.value - other.value, self.draws - other.draws).interval()

    def percent(self, other: Sampled) -> Interval:
        """The gain in percent of the other, with the interval of the paired ratio."""
        value = self.value / other.value if other.value else float("nan")
        return Sampled(100 * (value - 1), 100 * (_ratio(self.draws, other.draws) - 1)).interval()


class UserPairs:
    """AUC under whole-number weights of users, in one pass over rows that were sorted once, exactly.

    Each positive row knows how many negatives lie below it and how many not above it; a draw sums the negatives'
    weights once, as integers, which is fast, and looks both up. No sum is rounded.
    """

    def __init__(self, probability: npt.ArrayLike, label: npt.ArrayLike, owner: Ints) -> None:
        p = np.asarray(probability, dtype=np.float64)
        order = np.argsort(p, kind="stable")
        ranked, positive = p[order], np.asarray(label)[order] > 0
        self._positive, self._negative = owner[order][positive], owner[order][~positive]
        self._below, self._within = (
            np.searchsorted(ranked[~positive], ranked[positive], side=side) for side in ("left", "right")
        )
        self._tied = bool((self._below != self._within).any())
        # A draw's weights of up to 16 million rows cannot pass 2^31: no user is drawn more than 127 times.
        self._kind = np.int32 if len(p) < 1 << 24 else np.int64

    def auc(self, weight: Floats) -> float:
        """Area under the ROC curve with users weighted by whole numbers [users]; nan when one class is absent."""
        whole = weight.astype(self._kind)
        sums: npt.NDArray[Any] = np.zeros(len(self._negative) + 1, dtype=self._kind)
        np.cumsum(whole.take(self._negative), out=sums[1:])
        own = weight.take(self._positive)
        won = own @ sums.take(self._below)
        twice = won + (own @ sums.take(self._within) if self._tied else won)
        pairs = own.sum() * float(sums[-1])
        return float(twice / (2 * pairs)) if pairs else float("nan")


class WeightedPairs:
    """AUC of rows that stand for several, in one pass over rows that were sorted once: each pair weighs the product of
    both weights."""

    def __init__(self, probability: npt.ArrayLike, label: npt.ArrayLike, owner: Ints, weight: Floats) -> None:
        p = np.asarray(probability, dtype=np.float64)
        order = np.argsort(p, kind="stable")
        order = order[weight[order] > 0]
        ranked, self._owner, self._weight = p[order], owner[order], weight[order]
        self._positive = np.asarray(label)[order] > 0
        self._below, self._within = (np.searchsorted(ranked, ranked, side=side) for side in ("left", "right"))

    def auc(self, weight: Floats) -> float:
        """Each row's weight multiplied by its user's, float64 [users]; nan when one class is absent."""
        each = self._weight * weight[self._owner]
        negative = np.concatenate([[0.0], np.cumsum(np.where(self._positive, 0.0, each))])
        own = np.where(self._positive, each, 0.0)
        won = own @ (0.5 * (negative[self._below] + negative[self._within]))
        pairs = own.sum() * negative[-1]
        return float(won / pairs) if pairs else float("nan")


def sampled_auc(
    probability: npt.ArrayLike, label: npt.ArrayLike, bootstrap: Bootstrap, weight: Floats | None = None
) -> Sampled:
    """AUC under every draw of users."""
    rows = probability, label, bootstrap.owner
    pairs = UserPairs(*rows) if weight is None else WeightedPairs(*rows, weight)
    draws = np.asarray([pairs.auc(w) for block in bootstrap.weights() for w in block])
    return Sampled(pairs.auc(np.ones(bootstrap.users)), draws)


def sampled_mean(values: npt.ArrayLike, bootstrap: Bootstrap, weight: Floats | None = None) -> Sampled:
    """The mean of row values (such as `row_loss`, `row_hit`) under every draw of users."""
    v = np.asarray(values, dtype=np.float64)
    each = np.ones(len(v)) if weight is None else weight
    return Sampled(mean(v, weight), _ratio(bootstrap.totals(each * v), bootstrap.totals(each))[:, 0])


def sampled_ece(
    probability: npt.ArrayLike, label: npt.ArrayLike, bootstrap: Bootstrap, bins: int = BINS,
    weight: Floats | None = None,
) -> Sampled:  # fmt: skip
    """ECE under every draw of users.

    Rows keep the bins of all rows: a draw only reweighs them, so its bins hold about equal mass. Absolute values
    make noise count as error, so draws lie above the value as a rule, and its interval may not hold it.
    """
    excess = np.asarray(probability, dtype=np.float64) - np.asarray(label, dtype=np.float64)
    each = np.ones(len(excess)) if weight is None else weight
    sums = bootstrap.totals(each * excess, mass_bins(probability, bins, weight), bins)
    mass = bootstrap.totals(each)[:, 0]
    return Sampled(ece(probability, label, bins, weight), _ratio(np.abs(sums).sum(axis=1), mass))


def sampled_uauc(
    probability: npt.ArrayLike, label: npt.ArrayLike, bootstrap: Bootstrap, weight: Floats | None = None
) -> Sampled:
    """UAUC under every draw of users; a user drawn twice counts twice."""
    found = user_aucs(probability, label, bootstrap.owner, weight)
    known = ~np.isnan(found)
    sums = np.stack([np.where(known, found, 0.0), known], axis=1)
    totals = np.concatenate([block @ sums for block in bootstrap.weights()])
    return Sampled(float(found[known].mean()) if known.any() else float("nan"), _ratio(totals[:, 0], totals[:, 1]))
