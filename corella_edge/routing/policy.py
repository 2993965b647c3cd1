"""Which samples the LLM is asked about: the ways to write a threshold, and the entropy that each stands for.

A new way is a new row of `FORMS`. The request's schema, OpenAPI, the command line's help and checks, and the `reason`
of a routed candidate follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.measure import (
    BY_ENTROPY,
    LN2,
    NEVER,
    NO_INPUTS,
    NO_ROWS,
    NO_VALUES,
    Floats,
    Inputs,
    Measure,
    entropy,
    is_routed,
    routed_rows,
)

RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
_EPSILON = float(np.finfo(np.float64).eps)


class Calibration:
    """Entropies of held-out samples, as quantiles: turns a wanted routed share into a threshold.

    `shares` ascend from 0 to 1; `thresholds[i]` routes `shares[i]` of the calibration rows, up to ties
    (rows of equal entropy stay together).
    """

    def __init__(self, shares: Sequence[float], thresholds: Sequence[float]) -> None:
        """Raises ValueError unless there is one threshold a share, shares rise and thresholds do not."""
        self.shares = np.asarray(shares, dtype=np.float64)
        self.thresholds = np.asarray(thresholds, dtype=np.float64)
        if self.shares.ndim != 1 or self.shares.shape != self.thresholds.shape or len(self.shares) < 2:
            raise ValueError("as many thresholds as shares are needed, at least 2")
        rising = (self.shares[1:] > self.shares[:-1]).all() and (self.thresholds[1:] <= self.thresholds[:-1]).all()
        if not rising:
            raise ValueError("shares must rise and thresholds must not")

    @classmethod
    def fit(cls, s: Floats, points: int = 1001) -> Calibration:
        """From entropies float64 [n] of calibration rows."""
        shares = np.linspace(0.0, 1.0, points)
        hardest = np.sort(s)[::-1]
        return cls(shares.tolist(), [_threshold_at(hardest, share) for share in shares])

    def threshold(self, share: float) -> float:
        """The entropy at or above which about `share` of such traffic lies; 0 = never, 1 = always."""
        if share <= 0.0:
            return NEVER
        if share >= 1.0:
            return 0.0
        return float(np.interp(share, self.shares[1:], self.thresholds[1:]))

    def threshold_within(self, share: float) -> float:
        """The lowest of the thresholds that routes no more than `share` of the calibration rows, ties included."""
        if share >= 1.0:
            return 0.0
        last = np.r_[self.thresholds[1:] < self.thresholds[:-1], True]  # of equal thresholds the one that routes all
        return float(self.thresholds[np.flatnonzero(last & (self.shares <= share)).max(initial=0)])


def threshold_for(s: Floats, share: float) -> float:
    """The threshold that routes the `share` hardest of the rows with entropies `s` (ties go together)."""
    return _threshold_at(np.sort(s)[::-1], share)


def _threshold_at(hardest: Floats, share: float) -> float:
    """`threshold_for` of entropies in falling order."""
    if share <= 0.0:
        return NEVER
    if share >= 1.0:
        return 0.0
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

    def expected(self, share: float, n: int) -> float:
        """Milliseconds of a request of `n` candidates of which each is routed by itself with the chance `share`.

        Never falls with the share. Where the hard candidates of a request come together, fewer requests are touched.
        """
        return self.of(share * n, 1.0 - (1.0 - share) ** n)


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


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write a threshold: a prefix, and a number from 0 to `most`.

    Attributes:
        reason: of the candidates that are routed by such a threshold.
        placeholder: stands for the number in help texts.
        meaning: what the number is.
        digits: regular expression of the plain numbers that JSON may have after the prefix; unused without a prefix.
        nats: the number, and the bundle's calibration → the threshold: a sample is routed iff its entropy reaches it.
        range: what to give instead of a number out of range, where `meaning` does not say it.
    """

    prefix: str
    reason: str
    placeholder: str
    meaning: str
    most: float
    digits: str
    nats: Callable[[float, Calibration | None], float]
    range: str = ""

    def __str__(self) -> str:
        return f"{self.meaning} (0 to {self.most:.4g})"

    def number(self, text: str) -> float:
        """The number behind the prefix. Raises InputError."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if 0.0 <= number <= self.most:
            return number
        name = self.prefix.rstrip(":") or "threshold"
        # Whoever writes 0.7 may mean a share: what is out of one form's range may be in another's.
        others = [form.prefix + text for form in FORMS if not self.prefix and 0.0 <= number <= form.most]
        hint = f"; or is {' or '.join(others)} meant?" if others else ""
        shown = repr(text[:40]) if math.isnan(number) else text[:40]
        if self.range and not math.isnan(number):
            raise InputError(f"{name}: {shown} is out of range; give {self.range}")
        raise InputError(f"{name}: {shown} is not {self}{hint}")


def _by_calibration(share: float, calibration: Calibration | None) -> float:
    if calibration is not None:
        return calibration.threshold(share)
    if 0.0 < share < 1.0:
        raise InputError(f"threshold: ratio:{share:g} needs a calibrated bundle; give an entropy in nats instead")
    return 0.0 if share else NEVER


def _by_margin(distance: float, _: Calibration | None) -> float:
    """The entropy at that distance. Both ends are routed: what rounding may take from a probability or an entropy is
    less than what is added to the distance and taken from the result."""
    away = min(0.5, distance + _EPSILON)
    return float(entropy([0.5 - away, 0.5 + away]).min()) * (1.0 - 8.0 * _EPSILON)


ENTROPY = Form("", "entropy", "NATS", "an entropy in nats", LN2, "", lambda nats, _: nats)
RATIO = Form(
    "ratio:", "ratio", "SHARE", "a share of the candidates", 1.0, r"(0|1|0\.[0-9]{1,9})", _by_calibration,
)  # fmt: skip
MARGIN = Form(
    "margin:", "margin", "DISTANCE", "the greatest distance of the base model's probability from 0.5", 0.5,
    r"(0|0\.5|0\.[0-4][0-9]{0,8})", _by_margin,
    "a distance from 0.5 between 0 and 0.5",
)  # fmt: skip
FORMS = (ENTROPY, RATIO, MARGIN)
_EACH = "; ".join(f"{form.prefix}{form.placeholder}, {form}" for form in FORMS)
HELP = f"Which candidates the LLM is asked about: {_EACH}."
PATTERN = "^(" + "|".join(form.prefix + form.digits for form in FORMS if form.prefix) + ")$"  # of those that are texts


@dataclass(frozen=True, slots=True)
class Threshold:
    """A resolved threshold: `nats` (a sample is routed iff entropy >= nats) and the `reason` of what it routes."""

    nats: float
    unit: str


def read_threshold(value: float | str) -> tuple[Form, float]:
    """How a threshold is written, and its number; no bundle is needed for that.

    Raises:
        InputError: no such form, or a number out of its range.
    """
    text = str(value).strip()
    head, colon, number = text.rpartition(":")
    for form in FORMS:
        if form.prefix == head + colon:
            return form, form.number(number)
    raise InputError(f"threshold: {text[:40]!r} is not one of: {_EACH}")


@lru_cache(256, typed=True)
def parse_threshold(value: float | str, calibration: Calibration | None) -> Threshold:
    """`0.65` (nats), `"ratio:0.05"` (routed share, by the bundle's calibration) or another of `FORMS`.

    Raises:
        InputError: as `read_threshold`; or a ratio without a calibration.
    """
    form, number = read_threshold(value)
    return Threshold(form.nats(number, calibration), form.reason)


def parse_share(text: str) -> float:
    """A routed share from 0 to 1. Raises InputError."""
    return RATIO.number(text)
