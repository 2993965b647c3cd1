"""Which samples the LLM is asked about, and how two scores become one: a policy, its cost, what it is calibrated by.

How a policy is written as a threshold is in `forms`; where it is read from, in `routing_file`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from corella_edge.routing.decision import Reach
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.measure import (
    BY_ENTROPY,
    NEVER,
    NO_INPUTS,
    NO_ROWS,
    NO_VALUES,
    Band,
    Floats,
    Inputs,
    Measure,
    is_routed,
    routed_rows,
)

RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
USUAL = 20  # candidates of a request, where a figure has to be of some number
MOST_POINTS = 100_000  # of a calibration, beside the first: 4 MB of routing.json
MOST_PROBABILITIES = 10_000


class Calibration:
    """Values of a measure on held-out samples, as quantiles: turns a wanted routed share into a threshold.

    `shares` ascend from 0 to 1; `thresholds[i]` routes `shares[i]` of the calibration rows, up to ties
    (rows of equal values stay together). `least` routes everything.
    """

    def __init__(self, shares: Sequence[float], thresholds: Sequence[float], least: float = 0.0) -> None:
        """Raises ValueError unless there is one threshold a share, shares rise and thresholds do not."""
        self.shares = np.asarray(shares, dtype=np.float64)
        self.thresholds = np.asarray(thresholds, dtype=np.float64)
        self.least = least
        if self.shares.ndim != 1 or self.shares.shape != self.thresholds.shape or len(self.shares) < 2:
            raise ValueError("as many thresholds as shares are needed, at least 2")
        rising = (self.shares[1:] > self.shares[:-1]).all() and (self.thresholds[1:] <= self.thresholds[:-1]).all()
        if not rising:
            raise ValueError("shares must rise and thresholds must not")

    @classmethod
    def fit(cls, values: Floats, points: int | None = None, least: float = 0.0) -> Calibration:
        """From values float64 [n] of calibration rows.

        Without `points` there is one more than rows, so that the realised share of any threshold is that asked for to
        one row, up to ties; of more than `MOST_POINTS` rows, to one in as many.
        """
        shares = np.linspace(0.0, 1.0, min(len(values), MOST_POINTS) + 1 if points is None else points)
        hardest = np.sort(values)[::-1]
        thresholds = [_threshold_at(hardest, share, least) for share in shares]
        return cls(shares.tolist(), [*thresholds[:-1], float(hardest[-1]) if len(hardest) else least], least)

    def threshold(self, share: float) -> float:
        """The value at or above which about `share` of such traffic lies; 0 = never, 1 = always."""
        if share <= 0.0:
            return NEVER
        if share >= 1.0:
            return self.least
        return float(np.interp(share, self.shares[1:], self.thresholds[1:]))

    def threshold_within(self, share: float) -> float:
        """The lowest of the thresholds that routes no more than `share` of the calibration rows, ties included."""
        if share >= 1.0:
            return self.least
        last = np.r_[self.thresholds[1:] < self.thresholds[:-1], True]  # of equal thresholds the one that routes all
        return float(self.thresholds[np.flatnonzero(last & (self.shares <= share)).max(initial=0)])

    def share(self, threshold: float) -> float:
        """The share of the calibration rows at or above a threshold, as far as the quantiles tell."""
        if threshold <= self.least:
            return 1.0
        reached = np.searchsorted(-self.thresholds[1:], -threshold, side="right")
        return float(self.shares[reached])


def probability_points(p: Floats) -> Floats:
    """float64 [q], ascending: of the probabilities float64 [n] of calibration rows what `Routing.probabilities` holds:
    all, or quantiles where they are many."""
    many = len(p) > MOST_PROBABILITIES
    return np.quantile(p, np.linspace(0.0, 1.0, MOST_PROBABILITIES + 1)) if many else np.sort(p)


def _share_below(points: Floats, p: float, side: Literal["left", "right"]) -> float:
    """The share of the rows with a probability below p, or with the side "right" up to p: the distribution function
    between quantiles float64 [q]."""
    place = int(np.searchsorted(points, p, side))
    if not 0 < place < len(points):
        return float(place > 0)
    before, after = float(points[place - 1]), float(points[place])
    return (place - 1 + (p - before) / (after - before)) / (len(points) - 1)


def threshold_for(s: Floats, share: float) -> float:
    """The threshold that routes the `share` hardest of the rows with entropies `s` (ties go together)."""
    return _threshold_at(np.sort(s)[::-1], share, 0.0)


def _threshold_at(hardest: Floats, share: float, least: float) -> float:
    """`threshold_for` of values in falling order."""
    if share <= 0.0:
        return NEVER
    if share >= 1.0:
        return least
    count = max(1, round(share * len(hardest)))
    return float(hardest[count - 1])


@dataclass(frozen=True, slots=True)
class AskCost:
    """What asking the LLM costs on one machine: milliseconds of the `first` routed candidate of a request, whose prompt
    holds the user's history, and of each `further` one."""

    first: float
    further: float

    def of(self, routed: float, touched: float) -> float:
        """Milliseconds of so many routed candidates in so many requests that have one."""
        return self.first * touched + self.further * max(0.0, routed - touched)

    @property
    def finite(self) -> bool:
        """Whether there is somebody to ask."""
        return math.isfinite(self.first)

    def expected(self, share: float, n: int) -> float:
        """Milliseconds of a request of `n` candidates of which each is routed by itself with the chance `share`.

        Never falls with the share. Where the hard candidates of a request come together, fewer requests are touched.
        """
        return self.of(share * n, 1.0 - (1.0 - share) ** n)


UNASKABLE = AskCost(math.inf, math.inf)  # of an LLM that is not there: no budget pays for it


@dataclass(frozen=True, slots=True, eq=False)
class Budget:
    """At most so many LLM milliseconds a request, in the mean over traffic like the calibration rows."""

    milliseconds: float
    cost: AskCost
    calibration: Calibration

    def share(self, n: int) -> float:
        """The largest routed share of requests of `n` candidates that costs no more."""
        if n < 1 or self.cost.expected(1.0, n) <= self.milliseconds:
            return 1.0
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.cost.expected(middle, n) <= self.milliseconds else (low, middle)
        return low

    def threshold(self, n: int) -> float:
        """The least value of the measure that is routed in a request of `n` candidates."""
        return _within_budget(self, n)


@lru_cache(1024)
def _within_budget(budget: Budget, n: int) -> float:
    return budget.calibration.threshold_within(budget.share(n))


@dataclass(frozen=True, slots=True)
class Policy:
    """Which candidates of a request the LLM is asked about, and how both scores become one.

    A candidate is routed if and only if its value by `measure` is at or above the threshold; equal values go together.

    Attributes:
        threshold: in the unit of the measure; `NEVER` routes nothing, `measure.least` everything.
        fusion: what makes one probability of both models' where routed.
        budget: raises the threshold to what a request may cost; None = it costs what it costs.
        reason: of the candidates that are routed.
    """

    measure: Measure = BY_ENTROPY
    threshold: float = NEVER
    fusion: Fusion = REPLACE
    budget: Budget | None = None
    reason: str = "entropy"

    def __str__(self) -> str:
        """For people: from when on a candidate is routed."""
        if self.budget is not None:
            return f"{self.budget.milliseconds:g} ms of the LLM a request"
        if self.threshold == NEVER:
            return "never"
        if self.measure is BY_ENTROPY:
            return f"{self.threshold:.4f} nats"
        if isinstance(self.measure, Band) and self.threshold == 0.0:
            return f"probabilities from {self.measure.low:g} to {self.measure.high:g}"
        made = ", ".join(f"{name} {value}" for name, value in self.measure.to_json().items() if name != "name")
        return f"{self.measure.name} {self.threshold:.4g}" + (f" ({made})" if len(made) in range(1, 60) else "")

    @property
    def key(self) -> str:
        """Tells it from others that route otherwise; one with a budget is the same on every machine."""
        if self.nats is not None:
            return str(self.nats)
        made = [self.measure.to_json(), self.threshold, None if self.budget is None else self.budget.milliseconds]
        return json.dumps(made)

    @property
    def nats(self) -> float | None:
        """The entropy at or above which exactly it routes, whatever the request; None where no entropy says it."""
        return self.threshold if self.measure is BY_ENTROPY and self.budget is None else None

    def least(self, n: int) -> float:
        """The threshold of a request of `n` candidates."""
        return self.threshold if self.budget is None else max(self.threshold, self.budget.threshold(n))

    def route(self, p: Floats, inputs: Inputs = NO_INPUTS) -> tuple[npt.NDArray[np.int64], Floats]:
        """Places int64 [m] of the routed among the base model's probabilities float64 [n], ascending, and how much the
        LLM is wanted for each, float64 [m].

        Args:
            inputs: float64 [n] by name, those that `measure.needs`.
        """
        threshold = self.threshold if self.budget is None else self.least(len(p))
        if self.measure is BY_ENTROPY:
            return routed_rows(p, threshold)
        if threshold == NEVER:
            return NO_ROWS, NO_VALUES
        values = self.measure(p, inputs)
        rows = is_routed(values, threshold).nonzero()[0]
        return rows, values[rows]


@dataclass(frozen=True, eq=False)
class Routing:
    """What a bundle says of routing, and what this machine adds: by it a written threshold becomes a policy.

    Attributes:
        threshold: the bundle's own, as it is written; `own` is used instead where the bundle has one.
        calibration: of the entropies of the calibration rows.
        measure: orders the candidates of `ratio:` and `ms:`.
        values: the calibration of the measure's values, where that is not the entropy.
        fusion: how both scores of a routed row become one.
        own: the bundle's own threshold in the unit of the measure; None = `threshold` says it.
        probabilities: float64 [q], ascending: the base model's of all calibration rows; quantiles if q is not `rows`.
        base_rate: the share of the calibration rows that are positive.
        rows: how many of them there are.
        cost: of asking the LLM on this machine; None = not known.
        reach: how far asking moves a score; None = not known. Then every routed candidate may change the top.
    """

    threshold: str = "ratio:0"
    calibration: Calibration | None = None
    measure: Measure = BY_ENTROPY
    values: Calibration | None = None
    fusion: Fusion = REPLACE
    own: float | None = None
    probabilities: Floats | None = None
    base_rate: float | None = None
    rows: int | None = None
    cost: AskCost | None = None
    reach: Reach | None = None

    @property
    def quantiles(self) -> Calibration | None:
        """What the measure's values are calibrated by; None = by nothing."""
        return self.calibration if self.measure is BY_ENTROPY else self.values

    def policy(
        self, threshold: float, reason: str, measure: Measure | None = None, budget: Budget | None = None
    ) -> Policy:
        """A policy with the bundle's fusion, and with its measure where none is given."""
        return Policy(measure or self.measure, threshold, self.fusion, budget, reason)

    def as_nats(self, policy: Policy) -> float:
        """The entropy at or above which a policy routes, or that routes as many of the calibration rows."""
        if policy.nats is not None or self.calibration is None:
            return NEVER if policy.nats is None else policy.nats
        return self.calibration.threshold(self.share(policy) or 0.0)

    def share(self, policy: Policy) -> float | None:
        """The share of the calibration rows that a policy routes; None where the bundle does not tell.

        Of a policy with a budget: in requests of `USUAL` candidates.
        """
        threshold, measure, points = policy.least(USUAL), policy.measure, self.probabilities
        if threshold == NEVER:
            return 0.0
        counted = self._fitted(measure) is not None or self.counts(measure)
        if isinstance(measure, Band) and points is not None and not counted:
            low, high = measure.low + threshold, measure.high - threshold
            return max(0.0, _share_below(points, high, "right") - _share_below(points, low, "left"))
        calibration = self.calibration_of(measure)
        return None if calibration is None else calibration.share(threshold)

    def counts(self, measure: Measure) -> bool:
        """Whether the shares that policies by a measure route are known to the row, not between quantiles."""
        fitted = self._fitted(measure)
        if fitted is not None:
            return len(fitted.shares) - 1 == self.rows
        return self.probabilities is not None and len(self.probabilities) == self.rows

    def _fitted(self, measure: Measure) -> Calibration | None:
        """The calibration of its values that the bundle has."""
        return self.quantiles if measure is self.measure else self.calibration if measure is BY_ENTROPY else None

    def calibration_of(self, measure: Measure) -> Calibration | None:
        """What the values of a measure are calibrated by; None where the bundle does not tell.

        Of another than the bundle's own: the values of the probabilities' quantiles.
        """
        known = self._fitted(measure)
        if known is not None or self.probabilities is None or measure.needs:
            return known
        return _of_probabilities(self, measure)


@lru_cache(64)
def _of_probabilities(routing: Routing, measure: Measure) -> Calibration:
    assert routing.probabilities is not None
    return Calibration.fit(measure(routing.probabilities), least=measure.least)
