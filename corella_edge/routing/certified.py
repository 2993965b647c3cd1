"""Thresholds with a guarantee: what goes wrong unasked, or what is asked, stays below a limit with a stated confidence.

Learn-then-Test (arXiv 2110.01052) with fixed-sequence testing: thresholds are tried from the safest on, each by a test
whose p-value is valid, until one fails. Both losses here are monotone in the threshold, so that it may be any number
and need not come from a grid chosen beforehand: the only test that can fail wrongly is that of the last threshold
within the limit (the argument of Bates et al., arXiv 2101.02703, theorem 1).

What every guarantee here assumes: the rows are independent of each other, and later rows are drawn as these were. Rows
of one user are not independent. `one_row_each` takes one a user; the guarantee then holds for a random row of a random
user.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.routing.measure import NEVER, Floats

Ints = npt.NDArray[np.int64]
ALWAYS = -math.inf  # a threshold that every measure reaches
ASSUMED = "It is assumed that the rows are independent of each other and that later rows are drawn as these were."
_LAST = 1 << 40  # rows; more are not asked for


def binomial_tail(most: int, rows: int, rate: float) -> float:
    """P(X ≤ `most`) of X binomial with so many `rows`, each counting with probability `rate`."""
    if most < 0:
        return 0.0
    if most >= rows or rate <= 0.0:
        return 1.0
    return 0.0 if rate >= 1.0 else _beta_share(rows - most, most + 1, 1.0 - rate)


def _beta_share(a: float, b: float, x: float) -> float:
    """The regularised incomplete beta function I_x(a, b), 0 < x < 1, by its continued fraction (DLMF 8.17.22)."""
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    if x > (a + 1.0) / (a + b + 2.0):  # beyond it the fraction of the other tail is the one that converges fast
        return 1.0 - math.exp(log_front) / (b * _beta_fraction(b, a, 1.0 - x))
    return math.exp(log_front) / (a * _beta_fraction(a, b, x))


def _beta_fraction(a: float, b: float, x: float) -> float:
    """1 + d1 / (1 + d2 / (1 + …)) of DLMF 8.17.22, by Lentz's method."""
    value, c, d, tiny = 1.0, 1.0, 0.0, 1e-300
    for step in range(1, 100_000):
        m = step // 2
        if step % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / ((1.0 + term * d) or tiny)
        c = (1.0 + term / c) or tiny
        value *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return value


def upper_bound(wrong: int, rows: int, delta: float) -> float:
    """The rate that the true one exceeds with probability at most `delta` (Clopper and Pearson 1934, one-sided)."""
    if wrong >= rows:
        return 1.0
    low, high = wrong / rows, 1.0
    while high - low > 1e-12 * high:
        middle = 0.5 * (low + high)
        low, high = (middle, high) if binomial_tail(wrong, rows, middle) > delta else (low, middle)
    return high


def most_within(rows: int, limit: float, delta: float) -> int:
    """The greatest count among so many rows that shows, at confidence 1 - `delta`, a rate of at most `limit`; -1: none.

    It is the greatest k with P(binomial(rows, limit) ≤ k) ≤ delta, so `upper_bound` of it is at most `limit`.
    """
    return _last(lambda k: binomial_tail(k, rows, limit) <= delta, rows)


def rows_needed(limit: float, delta: float, rate: float = 0.0) -> int | None:
    """About how many rows show a rate of at most `limit` where the observed one is `rate`; None: no number does.

    Exact for a rate of 0: ln(delta) / ln(1 - limit).
    """
    if rate >= limit:
        return None
    too_few = _last(lambda n: binomial_tail(math.ceil(rate * n), n, limit) > delta, _LAST)
    return too_few + 1


def _last(holds: Callable[[int], bool], most: int) -> int:
    """The last of 0 … `most` at which something holds that holds up to some point and not beyond; -1: nowhere."""
    if not holds(0):
        return -1
    low, step = 0, 1
    while low + step <= most and holds(low + step):
        low, step = low + step, 2 * step
    high = min(low + step, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def bounded_tail(mean: float, rows: int, limit: float) -> float:
    """A p-value for "the expected loss exceeds `limit`", of losses in [0, 1] with such a mean over so many rows.

    Hoeffding and Bentkus (arXiv 2110.01052, section 2.2). Of losses that are 0 or 1 `binomial_tail` is tighter.
    """
    below = min(mean, limit)
    distance = below * math.log(below / limit) if below else 0.0
    distance += (1.0 - below) * math.log((1.0 - below) / (1.0 - limit))
    # A mean summed in floating point may lie a rounding above a whole count.
    count = math.ceil(rows * mean * (1.0 - 1e-12))
    return min(1.0, math.exp(-rows * distance), math.e * binomial_tail(count, rows, limit))


@dataclass(frozen=True, slots=True)
class Certificate:
    """What can be promised of the rows that are not routed.

    Attributes:
        certified: whether `threshold` keeps the promise at a share of at most `largest`.
        threshold: of the measure; rows at or above it are routed. `ALWAYS` where nothing can be promised.
        share: of the given rows that it routes.
        rows, missed: how many were given, and how many of them are wrong and not routed.
        risk, delta: the promise: with confidence 1 - delta, P(a row is wrong and not routed) ≤ risk. Without a delta,
            the expectation of that probability over the rows that calibrate it is at most the risk.
        bound: what the probability is at most, at that confidence, with this threshold.
        largest: the greatest share that may be routed.
        needed: rows that would do, as far as these tell; None where it is certified, or where no number of rows does.
    """

    certified: bool
    threshold: float
    share: float
    rows: int
    missed: int
    risk: float
    delta: float | None
    bound: float
    largest: float
    needed: int | None

    def to_json(self) -> dict[str, Any]:
        """Every field; a threshold that is no finite number is null."""
        return {**asdict(self), "threshold": self.threshold if math.isfinite(self.threshold) else None}

    def text(self) -> str:
        """One or two sentences for people."""
        sure = "in expectation" if self.delta is None else f"with confidence {1 - self.delta:.4g}"
        promise = f"P(wrong and not asked) ≤ {self.risk:.4g} {sure}"
        if self.certified:
            return f"Certified: {promise}, at a share of {self.share:.1%} ({self.missed} of {self.rows:,} rows missed)."
        if self.needed is not None:
            return f"Not certified: {promise} needs about {self.needed:,} rows, and there are {self.rows:,}."
        if self.largest < 1.0:
            return (
                f"Not certified: {promise} takes a share of {self.share:.1%}, more than {self.largest:.1%}. More rows "
                "do not help: among the rows that are not asked, too many are wrong."
            )
        return f"Not certified: {promise} holds only if every row is asked."


def certify(measure: Floats, wrong: npt.ArrayLike, risk: float, delta: float, largest: float = 1.0) -> Certificate:
    """The smallest share at which P(a row is wrong and not routed) ≤ `risk`, with confidence 1 - `delta`.

    Args:
        measure: float64 [n], the larger the rather asked. wrong: bool [n], whether the base model is.
        largest: the greatest share that may be routed; a certificate that needs more is none.

    Raises:
        InputError: a risk or delta outside (0, 1), or no rows.
    """
    _check(risk, "risk")
    _check(delta, "delta")
    rows = _count(measure)
    found = _least_routed(measure, np.asarray(wrong, bool), most_within(rows, risk, delta))
    bound = upper_bound(found.missed, rows, delta) if found.threshold > ALWAYS else 0.0

    def needed(rate: float) -> int | None:
        return rows_needed(risk, delta, rate)

    return _certificate(found, rows, risk, delta, bound, largest, needed)


def certify_expected(measure: Floats, wrong: npt.ArrayLike, risk: float, largest: float = 1.0) -> Certificate:
    """As `certify`, for the expectation: P(the next row is wrong and not routed) ≤ `risk`.

    Conformal risk control (arXiv 2208.02814, equation 4, losses at most 1): n/(n+1) · mean + 1/(n+1) ≤ risk.

    Raises:
        InputError: a risk outside (0, 1), or no rows.
    """
    _check(risk, "risk")
    rows = _count(measure)
    found = _least_routed(measure, np.asarray(wrong, bool), math.floor(risk * (rows + 1) * (1.0 + 1e-12)) - 1)
    bound = (found.missed + 1) / (rows + 1) if found.threshold > ALWAYS else 0.0

    def needed(rate: float) -> int | None:
        return None if rate >= risk else math.ceil((1.0 - risk) / (risk - rate))

    return _certificate(found, rows, risk, None, bound, largest, needed)


@dataclass(frozen=True, slots=True)
class _Found:
    """A threshold, the share it routes, how many rows it misses; and how many at each share, falling."""

    threshold: float
    share: float
    missed: int
    shares: Floats
    counts: Ints


def _least_routed(measure: Floats, wrong: npt.NDArray[np.bool_], allowed: int) -> _Found:
    """The highest threshold at which at most `allowed` rows are wrong and below it; rows of equal measure together."""
    order = np.argsort(measure, kind="stable")
    values, first = np.unique(measure[order], return_index=True)
    counts = np.append(np.append(0, np.cumsum(wrong[order]))[first], wrong.sum()).astype(np.int64)
    shares = 1.0 - np.append(first, len(measure)) / len(measure)
    if allowed < 0:
        return _Found(ALWAYS, 1.0, 0, shares, counts)
    place = int(np.searchsorted(counts, allowed, side="right")) - 1
    threshold = float(values[place]) if place < len(values) else NEVER
    return _Found(threshold, float(shares[place]), int(counts[place]), shares, counts)


def _certificate(
    found: _Found, rows: int, risk: float, delta: float | None, bound: float, largest: float,
    needed: Callable[[float], int | None],
) -> Certificate:  # fmt: skip
    """`needed`: rows by the observed rate of misses, at the share that may be routed."""
    certified = found.threshold > ALWAYS and found.share <= largest and found.share < 1.0
    wanted = None
    if found.threshold == ALWAYS:
        wanted = needed(0.0)
    elif not certified:
        at = max(1, int(np.searchsorted(-found.shares, -largest, side="left")))  # the greatest share that may be
        wanted = needed(float(found.counts[at]) / rows)
    return Certificate(certified, found.threshold, found.share, rows, found.missed, risk, delta, bound, largest, wanted)


def within_budget(
    measure: Floats,
    budget: float,
    delta: float,
    cost: Floats | None = None,
    owner: Ints | None = None,
    most: float = 1.0,
) -> float:
    """The lowest threshold whose expected cost of a row is at most `budget`, with confidence 1 - `delta`.

    Without a cost it is the routed share. A threshold that routes nothing (`NEVER`) always holds.

    Args:
        measure: float64 [n].
        cost: float64 [n] from 0 to `most`, of each row if it is routed; None = 1.
        owner: int64 [n], numbers from 0 of what is drawn independently (users, requests); a row's cost counts then as
            its part of the owner's mean. None = every row by itself.

    Raises:
        InputError: a budget outside (0, most), a delta outside (0, 1), a cost outside [0, most], or no rows.
    """
    _check(budget / most, "budget")
    _check(delta, "delta")
    rows = _count(measure)
    if cost is not None and not ((cost >= 0) & (cost <= most)).all():
        raise InputError(f"cost: every row's must be from 0 to {most:g}")
    order = np.argsort(-measure, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(measure[order])), rows - 1)
    if cost is None and owner is None and most == 1.0:
        place = int(np.searchsorted(ends + 1, most_within(rows, budget, delta), side="right")) - 1
    else:
        each, drawn = _parts(rows, cost, owner)
        means = np.cumsum(each[order])[ends] / (drawn * most)
        place = _last(lambda i: bounded_tail(float(means[i]), drawn, budget / most) <= delta, len(ends) - 1)
    return float(measure[order][ends[place]]) if place >= 0 else NEVER


def _parts(rows: int, cost: Floats | None, owner: Ints | None) -> tuple[Floats, int]:
    """What each row adds to the sum of its owner's mean cost, float64 [n], and how many owners there are."""
    each = np.ones(rows) if cost is None else cost
    if owner is None:
        return each, rows
    sizes = np.bincount(owner)
    return each / sizes[owner], int((sizes > 0).sum())


def one_row_each(users: npt.ArrayLike, rng: np.random.Generator) -> Ints:
    """One row of each user, by chance: int64, rising places in the n rows of `users`."""
    shuffled = rng.permutation(len(np.asarray(users)))
    _, first = np.unique(np.asarray(users)[shuffled], return_index=True)
    return np.sort(shuffled[first]).astype(np.int64)


def _check(value: float, name: str) -> None:
    if not 0.0 < value < 1.0:
        raise InputError(f"{name}: {value:g} is not between 0 and 1")


def _count(measure: Floats) -> int:
    if not len(measure):
        raise InputError("there is no labelled row to certify a threshold with")
    return len(measure)
