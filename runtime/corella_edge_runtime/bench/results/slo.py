"""From a benchmark of this machine to what a latency objective leaves for the LLM; the law beside what was measured.

The law is `corella_edge.routing.load`. What a request costs here, and how the hard candidates of one come together, is
fitted on measured rows, one a share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.routing.load import (
    Box,
    Correlations,
    Draws,
    Load,
    Reached,
    correlation_of_touched,
    costs,
    largest_share,
    reached,
    touched,
)
from corella_edge_runtime.bench.results.gathered import column
from corella_edge_runtime.bench.results.histogram import at_rank
from corella_edge_runtime.bench.results.points import Law, Point
from corella_edge_runtime.bench.results.result import Result
from corella_edge_runtime.bench.results.seen import Slice, Spot

_Z99 = 2.3263  # of the normal distribution
LEAST_REQUESTS = 20  # of a measured share, below which it teaches nothing
ALONE = 1e-3  # requests a second at which none waits for another
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MeasuredShare:
    """What was measured at one share, one request at a time; times in seconds."""

    ratio: float | None
    share: float
    requests: int
    candidates: float
    touched: float
    mean: float
    p50: float
    p99: float
    tokens: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What a benchmark says of a machine.

    Attributes:
        cold, warm: costs of a request of a user whose prompt's beginning is not kept, and is.
        correlations: within a request, of being asked, by share.
        ratios, shares: float64 [k], ascending: the shares asked for, and those that came of it.
    """

    cold: Box
    warm: Box
    correlations: Correlations
    ratios: tuple[float, ...]
    shares: tuple[float, ...]

    def share(self, ratio: float) -> float:
        """What `ratio:…` comes to on the benchmark's requests."""
        return float(np.interp(ratio, self.ratios, self.shares))

    def ratio(self, share: float) -> float:
        """The `ratio:…` that comes to a share there."""
        return float(np.interp(share, self.shares, self.ratios))


@dataclass(frozen=True, slots=True)
class LargestShare:
    """For users of one kind: the largest share that holds and what it comes to (None: not even share 0 holds), the
    base model alone, and the policy asked about."""

    share: float | None
    best: Reached | None
    alone: Reached
    policy: Reached | None


def measured(result: Result) -> Measured:
    """The costs and the correlation that fit a benchmark's figures.

    Raises:
        InputError: too little was measured: it takes share 0 and at least two shares above it.
    """
    single = [point for point in result.points if point.scenario == "single" and point.routing == "policy"]
    rows = {kind: [_of_point(point) for point in single if point.users == kind] for kind in ("new", "returning")}
    speed = result.ceilings.llm_tokens_per_s
    try:
        return fitted(rows["new"], rows["returning"], speed)
    except InputError:  # of returning users; of new ones it is raised again
        return fitted(rows["new"], (), speed)


def _of_point(point: Point) -> MeasuredShare:
    def ms(value: float | None) -> float:
        return 0.0 if value is None else value / 1000.0

    told = point.latency
    return MeasuredShare(point.ratio, point.share.value or 0.0, point.histogram.count, point.candidates,
               point.touched.value or 0.0, ms(told.mean.value), ms(told.p50.value), ms(told.p99.value),
               point.tokens_evaluated)  # fmt: skip


def of_slices(slices: Sequence[Slice], ratio: float | None, first: int, step: int) -> MeasuredShare | None:
    """Of every `step`th request from the `first` on of all slices of a spot; None if none of them was answered."""
    latency = np.concatenate([one.latency for one in slices])[first::step]
    sizes, routed, tokens = (column(slices, name)[first::step] for name in ("candidates", "routed", "evaluated"))
    ended = np.isfinite(latency) & (sizes > 0)
    if not ended.any():
        return None
    latency, sizes, routed, tokens = (values[ended] for values in (latency, sizes, routed, tokens))
    p50, p99 = (at_rank(latency, q) for q in (0.5, 0.99))
    share, hit = float(routed.sum() / sizes.sum()), float((routed > 0).mean())
    return MeasuredShare(ratio, share, len(latency), float(sizes.mean()), hit, float(latency.mean()), p50, p99,
                         float(tokens.mean()))  # fmt: skip


def fitted(
    new: Sequence[MeasuredShare], returning: Sequence[MeasuredShare] = (), speed: float | None = None
) -> Measured:
    """The costs and the correlation that fit rows of new users.

    Args:
        returning: rows of users whose prompt's beginning is kept; without them their cost is that of new users less
            what reading it takes at `speed`, tokens a second.

    Raises:
        InputError: too little was measured.
    """
    alone, hit = _parts(new)
    cold = _box(alone, hit)
    touched_shares, asked = _asked(hit)
    kept = costs(touched_shares, asked, np.array([row.tokens for row in hit]))[0] / speed if speed else 0.0
    warm = replace(cold, prefix=max(0.0, cold.prefix - kept))
    if returning:
        warm = _box(*_parts(returning))
    named = sorted((row.ratio, row.share) for row in (alone, *hit) if row.ratio is not None)
    shares = np.maximum.accumulate([share for _, share in named])
    return Measured(cold, warm, _correlations(hit), tuple(ratio for ratio, _ in named), tuple(shares.tolist()))


def _parts(rows: Sequence[MeasuredShare]) -> tuple[MeasuredShare, list[MeasuredShare]]:
    """The row that asks nothing, and those that ask, by rising share."""
    ordered = sorted(rows, key=lambda row: row.share)
    alone = next((row for row in ordered if not row.share), None)
    hit = [row for row in ordered if row.share > 0.0 and row.requests >= LEAST_REQUESTS]
    if alone is None or len(hit) < 2:
        raise InputError(f"--benchmark: it takes ratio 0 and two ratios above it, of {LEAST_REQUESTS} requests each; "
                         "measure with --scenario single --ratios 0,0.05,0.2,1")  # fmt: skip
    return alone, hit


def _asked(hit: Sequence[MeasuredShare]) -> tuple[Floats, Floats]:
    """Float64 [k] each: the share of requests touched, and candidates asked a request."""
    return np.array([row.touched for row in hit]), np.array([row.share * row.candidates for row in hit])


def _box(alone: MeasuredShare, hit: Sequence[MeasuredShare]) -> Box:
    touched_shares, asked = _asked(hit)
    seconds = np.array([max(0.0, row.mean - alone.mean) for row in hit])
    noise, llm_noise = _spread(alone.p50, alone.p99), _spread_of_llm(hit[-1], alone.p50)
    # Log-normal times have a mean above their median.
    prefix, suffix = (cost * math.exp(-0.5 * llm_noise**2) for cost in costs(touched_shares, asked, seconds))
    return Box(alone.p50, prefix, suffix, noise, llm_noise)


def _spread(p50: float, p99: float) -> float:
    """Standard deviation of the logarithm of times, from their median and 99th percentile."""
    return max(0.0, math.log(p99 / p50) / _Z99) if p50 > 0.0 else 0.0


def _spread_of_llm(row: MeasuredShare, crm: float) -> float:
    """Of the LLM's part, where all is asked; nothing tells it from the number asked elsewhere."""
    if row.ratio is None or row.ratio < 1.0:
        return 0.0
    return _spread(*(max(1e-9, value - crm) for value in (row.p50, row.p99)))


def _correlations(rows: Sequence[MeasuredShare]) -> Correlations:
    """By the requests that were touched at each share at which not nearly all are."""
    found = {
        row.share: correlation_of_touched(row.share, round(row.candidates), row.touched)
        for row in rows
        if 0.0 < row.share < 0.9
    }
    return tuple(sorted(found.items()))


def laws(found: Mapping[Spot, Sequence[Slice]], ratios: Mapping[str, float | None]) -> dict[Spot, Law]:
    """What the law says of each spot, fitted on every other request of one at a time, and what the others show.

    Spots of Server and of the random control had no part in the fit, so that all their requests are looked at.

    Args:
        ratios: the share in each threshold.
    """
    half = {kind: _halves(found, ratios, kind) for kind in ("new", "returning")}
    costs_here = _fitted_if(half["new"], half["returning"]) or _fitted_if(half["new"])
    draws = Draws.of(np.random.default_rng(0))
    told = {}
    for spot, slices in found.items():
        own = spot.scenario == "single" and spot.routing == "policy"
        row = of_slices(slices, ratios[spot.threshold], *((1, 2) if own else (0, 1)))
        told[spot] = Law() if row is None else _law(spot, row, _rate(slices), costs_here, draws)
    return told


def _fitted_if(new: Sequence[MeasuredShare], returning: Sequence[MeasuredShare] = ()) -> Measured | None:
    """None where too little was measured."""
    try:
        return fitted(new, returning)
    except InputError:
        return None


def _halves(
    found: Mapping[Spot, Sequence[Slice]], ratios: Mapping[str, float | None], users: str
) -> list[MeasuredShare]:
    rows = [
        of_slices(slices, ratios[spot.threshold], 0, 2)
        for spot, slices in found.items()
        if (spot.scenario, spot.routing, spot.users) == ("single", "policy", users)
    ]
    return [row for row in rows if row is not None]


def _rate(slices: Sequence[Slice]) -> float:
    """Requests a second that came."""
    rates = [one.rate for one in slices if one.rate is not None]
    return float(np.mean(rates)) if rates else ALONE


def _law(spot: Spot, row: MeasuredShare, rate: float, here: Measured | None, draws: Draws) -> Law:
    n, share = round(row.candidates), row.share
    correlations = () if spot.routing == "random" or here is None else here.correlations
    load = Load(rate, n, correlations)
    known = here is not None or spot.routing == "random"
    p99 = None
    if here is not None and spot.scenario != "offline":
        p99 = reached(here.warm if spot.users == "returning" else here.cold, load, share, draws).p99
    return Law(
        correlation=load.correlation(share) if known else None,
        touched=touched(share, n, load.correlation(share)) if known else None, independent=touched(share, n),
        p99=1000.0 * p99 if p99 is not None and math.isfinite(p99) else None, seen_touched=row.touched,
        seen_p99=1000.0 * row.p99,
    )  # fmt: skip


def answer(box: Box, load: Load, objective: tuple[str, float], share: float | None, draws: Draws) -> LargestShare:
    """The largest share that keeps an objective, and whether a policy's own `share` does."""
    best = largest_share(box, load, *objective, draws)
    return LargestShare(
        best, None if best is None else reached(box, load, best, draws), reached(box, load, 0.0, draws),
        None if share is None else reached(box, load, share, draws),
    )  # fmt: skip
