"""Whether traffic is still what the bundle was calibrated on: shares fast and slow, the measure's histogram, unknown
ids, and how far the LLM is from the base model. Pure functions of an explicit state; windows are exponential."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from corella_edge.routing.measure import Floats
from corella_edge.routing.policy import Calibration

FAST, SLOW = 300.0, 3600.0  # seconds after which what was seen counts 1/e
BINS = 10
LEAST, LEAST_ANSWERED = 1000.0, 100.0  # candidates and answers below which a histogram and a mean say nothing


@dataclass(frozen=True, slots=True)
class MeasureHistogram:
    """The measure's histogram on the calibration rows: `edges` float64 [b - 1] ascending between b bins, each with the
    edge on its left; `expected` float64 [b], the share of the rows in each."""

    edges: Floats
    expected: Floats

    def counts(self, measure: Floats) -> Floats:
        """float64 [b]: how many values of the measure, float64 [n], lie in each bin."""
        places = np.searchsorted(self.edges, measure, side="right")
        return np.bincount(places, minlength=len(self.expected)).astype(np.float64)


def histogram_of(calibration: Calibration | None, bins: int = BINS) -> MeasureHistogram:
    """A histogram with about as many calibration rows in each bin; equal thresholds (ties) make fewer bins, and without
    a calibration there is one."""
    if calibration is None:
        return MeasureHistogram(np.empty(0), np.ones(1))
    shares, values = calibration.shares, calibration.thresholds
    wanted = np.searchsorted(shares, np.arange(1, bins) / bins - 1e-9)
    edges = np.unique(values[wanted][np.isfinite(values[wanted])])
    # The share that lies at or above an edge is the largest whose threshold still reaches it.
    above = np.array([shares[values >= edge].max(initial=0.0) for edge in edges.tolist()])
    expected = -np.diff(np.concatenate(([1.0], above, [0.0])))
    return MeasureHistogram(edges, expected)


def psi(expected: Floats, counts: Floats) -> float:
    """Population stability index, sum of (o - e) ln(o / e): 0 where the observed shares o are the expected ones e.

    Below 0.1 is usually called stable, above 0.25 a shift. Half a row is added to each bin, so that none is empty.
    The sum of both Kullback-Leibler divergences (Jeffreys, 1946). NaN without a bin.
    """
    observed = (counts + 0.5) / (counts + 0.5).sum()
    smoothed = (expected * max(1.0, float(counts.sum())) + 0.5) / (max(1.0, float(counts.sum())) + 0.5 * len(expected))
    return float(((observed - smoothed) * np.log(observed / smoothed)).sum())


@dataclass(frozen=True, slots=True)
class Batch:
    """What was seen of some candidates: how many, how many were routed, had an unknown item or user, were answered by
    the LLM; `apart`: sum over these of the LLM's probability minus the base model's; `counts` float64 [b] by bin, of
    the candidates whose value of the measure is known."""

    candidates: float
    routed: float
    new_items: float
    new_users: float
    answered: float
    apart: float
    counts: Floats


def batch(
    measure: Floats, routed: npt.NDArray[np.bool_], crm: Floats, llm: Floats, new_items: int, new_users: int,
    histogram: MeasureHistogram,
) -> Batch:  # fmt: skip
    """Of candidates in any order.

    Args:
        measure: float64 [m], of those candidates whose value is known.
        routed: bool [n], where the LLM's score counts.
        crm, llm: float64 [n], both probabilities; NaN where the LLM did not answer.
    """
    answered = ~np.isnan(llm)
    apart = float((llm[answered] - crm[answered]).sum())
    return Batch(len(crm), int(np.count_nonzero(routed)), new_items, new_users, int(np.count_nonzero(answered)),
                 apart, histogram.counts(measure))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Window:
    """Sums over an exponential window of `seconds`."""

    seconds: float
    sums: Batch

    def after(self, seconds: float, more: Batch) -> Window:
        """`seconds` later, with `more`."""
        fade, old = math.exp(-seconds / self.seconds), self.sums
        return replace(self, sums=Batch(
            old.candidates * fade + more.candidates, old.routed * fade + more.routed,
            old.new_items * fade + more.new_items, old.new_users * fade + more.new_users,
            old.answered * fade + more.answered, old.apart * fade + more.apart, old.counts * fade + more.counts,
        ))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Drift:
    """The state, and what it says. A figure is NaN where too little was seen to say it."""

    histogram: MeasureHistogram
    fast: Window
    slow: Window
    seen: float | None = field(default=None)

    def share(self, window: Window) -> float:
        """Routed share of the candidates in a window."""
        return _part(window.sums.routed, window.sums.candidates)

    @property
    def psi(self) -> float:
        """Of the measure in the slow window, against the calibration rows."""
        counts = self.slow.sums.counts
        return psi(self.histogram.expected, counts) if counts.sum() >= LEAST and len(counts) > 1 else math.nan

    @property
    def unknown(self) -> dict[str, float]:
        """Share of the candidates whose `item` or `user` the base model does not know, in the slow window."""
        sums = self.slow.sums
        return {"item": _part(sums.new_items, sums.candidates), "user": _part(sums.new_users, sums.candidates)}

    @property
    def llm_minus_base(self) -> float:
        """Mean difference of both models' probabilities over the answers in the slow window."""
        sums = self.slow.sums
        return _part(sums.apart, sums.answered) if sums.answered >= LEAST_ANSWERED else math.nan


def _part(of: float, number: float) -> float:
    return of / number if number >= 1e-9 else math.nan


def begin(calibration: Calibration | None, fast: float = FAST, slow: float = SLOW) -> Drift:
    """Nothing seen yet."""
    histogram = histogram_of(calibration)
    nothing = Batch(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, np.zeros(len(histogram.expected)))
    return Drift(histogram, Window(fast, nothing), Window(slow, nothing))


def observed(drift: Drift, more: Batch, now: float) -> Drift:
    """The state at `now` (seconds of a monotonic clock), after more candidates."""
    seconds = 0.0 if drift.seen is None else max(0.0, now - drift.seen)
    return replace(drift, fast=drift.fast.after(seconds, more), slow=drift.slow.after(seconds, more), seen=now)
