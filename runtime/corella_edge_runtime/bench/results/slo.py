"""From a benchmark of this machine to what a latency objective leaves for the LLM; the law beside what was measured.

The law is `corella_edge.routing.load`. What a request costs here, how its times are spread, and how the hard candidates
of one come together, is fitted on measured rows, one a share. The requests that ask are taken to be the slowest ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.routing.load import (
    LEVELS,
    Box,
    Correlations,
    Draws,
    Load,
    Reached,
    Times,
    asked_chances,
    asked_of,
    at,
    correlation_of_touched,
    costs,
    largest_share,
    reached,
    touched,
)
from corella_edge_runtime.bench.results.figures import needed
from corella_edge_runtime.bench.results.gathered import column
from corella_edge_runtime.bench.results.histogram import at_rank
from corella_edge_runtime.bench.results.points import Law, Point
from corella_edge_runtime.bench.results.result import Result
from corella_edge_runtime.bench.results.seen import Slice, Spot

LEAST_REQUESTS = 20  # of a measured share, below which it teaches nothing
ALONE = 1e-3  # requests a second at which none waits for another
_FINE = (np.arange(1000) + 0.5) / 1000  # ranks at which times of several shares are put together
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MeasuredShare:
    """What was measured at one share, one request at a time; times in seconds.

    Attributes:
        times: quantiles at `LEVELS` of the slowest requests, as many as ask; of all of them where none asks.
    """

    ratio: float | None
    share: float
    requests: int
    candidates: float
    touched: float
    mean: float
    p50: float
    p99: float
    tokens: float
    times: Times

    @classmethod
    def of(
        cls, ratio: float | None, share: float, counts: tuple[int, float, float], mean: float,
        quantile: Callable[[float], float], tokens: float,
    ) -> MeasuredShare:  # fmt: skip
        """`counts`: requests, candidates of each, and the share of requests that ask; `quantile`: of all latencies."""
        hit = counts[2]
        times = tuple(quantile(level if not hit else 1.0 - hit + hit * level) for level in LEVELS)
        return cls(ratio, share, *counts, mean, quantile(0.5), quantile(0.99), tokens, times)


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
    told, counts = point.histogram, (point.histogram.count, point.candidates, point.touched.value or 0.0)
    mean = told.mean if told.counts else 0.0
    return MeasuredShare.of(point.ratio, point.share.value or 0.0, counts, mean,
                            lambda q: told.quantile(q) if told.counts else 0.0, point.tokens_evaluated)  # fmt: skip


def of_slices(slices: Sequence[Slice], ratio: float | None, first: int = 0, step: int = 1) -> MeasuredShare | None:
    """Of every `step`th request from the `first` on of all slices of a spot; None if none of them was answered."""
    latency = np.concatenate([one.latency for one in slices])[first::step]
    sizes, routed, tokens = (column(slices, name)[first::step] for name in ("candidates", "routed", "evaluated"))
    ended = np.isfinite(latency) & (sizes > 0)
    if not ended.any():
        return None
    latency, sizes, routed, tokens = (values[ended] for values in (latency, sizes, routed, tokens))
    counts = len(latency), float(sizes.mean()), float((routed > 0).mean())
    return MeasuredShare.of(ratio, float(routed.sum() / sizes.sum()), counts, float(latency.mean()),
                            lambda q: at_rank(latency, q), float(tokens.mean()))  # fmt: skip


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
    correlations = _correlations(hit)
    cold = _box(alone, hit, correlations)
    touched_shares, asked = _asked(hit)
    kept = costs(touched_shares, asked, np.array([row.tokens for row in hit]))[0] / speed if speed else 0.0
    warm = replace(cold, prefix=max(0.0, cold.prefix - kept))
    if returning:
        warm = _box(*_parts(returning), correlations)
    named = sorted((row.ratio, row.share) for row in (alone, *hit) if row.ratio is not None)
    shares = np.maximum.accumulate([share for _, share in named])
    return Measured(cold, warm, correlations, tuple(ratio for ratio, _ in named), tuple(shares.tolist()))


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


def _box(alone: MeasuredShare, hit: Sequence[MeasuredShare], correlations: Correlations) -> Box:
    touched_shares, asked = _asked(hit)
    seconds = np.array([max(0.0, row.mean - alone.mean) for row in hit])
    prefix, suffix = costs(touched_shares, asked, seconds)
    times, fewest = (
        tuple(time / max(alone.p50, 1e-9) for time in alone.times),
        min(row.requests for row in (alone, *hit)),
    )
    plain = Box(alone.p50, prefix, suffix, times, requests=fewest)
    relative = [_relative(plain, row, correlations) for row in hit]
    return replace(plain, llm_times=tuple((row.share, _pooled(hit, relative, i)) for i, row in enumerate(hit)))


def _relative(box: Box, row: MeasuredShare, correlations: Correlations) -> Times:
    """The LLM's part of the requests that ask, over what they cost by prefix and suffixes, rank by rank."""
    n = round(row.candidates)
    chances = asked_chances(row.share, n, Load(1.0, n, correlations).correlation(row.share))
    ranks = np.array(LEVELS)
    work = box.llm(row.share, ranks, asked_of(chances, chances[0] + (1.0 - chances[0]) * ranks))
    return tuple((np.maximum(0.0, np.array(row.times) - box.crm) / np.maximum(work, 1e-9)).tolist())


def _pooled(rows: Sequence[MeasuredShare], times: Sequence[Times], place: int) -> Times:
    """Those of a share, together with those of the nearest ones until there are as many requests that ask as its p99
    takes: of too few, the slowest one would be it."""
    found, wanted = list[tuple[float, Times]](), needed("p99") * rows[place].touched
    for near in sorted(range(len(rows)), key=lambda i: (abs(i - place), -i)):
        found.append((rows[near].touched * rows[near].requests, times[near]))
        if sum(count for count, _ in found) >= wanted:
            break
    return found[0][1] if len(found) == 1 else _together(found)


def _together(found: Sequence[tuple[float, Times]]) -> Times:
    """Quantiles of times that come with a weight."""
    values = np.concatenate([at(times, _FINE) for _, times in found])
    order = np.argsort(values)
    weight = np.repeat([count for count, _ in found], len(_FINE))[order]
    ranks = (np.cumsum(weight) - 0.5 * weight) / weight.sum()
    return tuple(np.interp(LEVELS, ranks, values[order]).tolist())


def _correlations(rows: Sequence[MeasuredShare]) -> Correlations:
    """By the requests that were touched at each share at which not nearly all are."""
    found = {
        row.share: correlation_of_touched(row.share, round(row.candidates), row.touched)
        for row in rows
        if 0.0 < row.share < 0.9
    }
    return tuple(sorted(found.items()))


def laws(found: Mapping[Spot, Sequence[Slice]], ratios: Mapping[str, float | None]) -> dict[Spot, Law]:
    """What the law says of each spot, and what was measured.

    It is fitted on each half of the requests of one at a time, and what it says of their spots is said of the other
    half: of no request by a law that has seen it. Spots of Server and of the random control had no part in the fit.
    What both say is averaged.

    Args:
        ratios: the share in each threshold.
    """
    fits = [_of_half(found, ratios, half) for half in (0, 1)]
    draws = Draws.of(np.random.default_rng(0))
    told = {}
    for spot, slices in found.items():
        ratio, own = ratios[spot.threshold], spot.scenario == "single" and spot.routing == "policy"
        rows = [of_slices(slices, ratio, *((1 - half, 2) if own else (0, 1))) for half in (0, 1)]
        said = [_law(spot, row, _rate(slices), fit, draws)
                for row, fit in zip(rows, fits, strict=True) if row is not None]  # fmt: skip
        told[spot] = _judged(said, of_slices(slices, ratio))
    return told


def _of_half(found: Mapping[Spot, Sequence[Slice]], ratios: Mapping[str, float | None], half: int) -> Measured | None:
    """Fitted on every other request of one at a time; None where too little was measured."""
    rows = {
        users: [
            row
            for spot, slices in found.items()
            if (spot.scenario, spot.routing, spot.users) == ("single", "policy", users)
            and (row := of_slices(slices, ratios[spot.threshold], half, 2)) is not None
        ]
        for users in ("new", "returning")
    }
    return _fitted_if(rows["new"], rows["returning"]) or _fitted_if(rows["new"])


def _judged(said: Sequence[Law], seen: MeasuredShare | None) -> Law:
    """The mean of what several laws say, beside what was measured."""
    if not said or seen is None:
        return Law()
    means = {name: _mean([getattr(one, name) for one in said])
             for name in ("correlation", "touched", "independent", "p99")}  # fmt: skip
    return Law(**means, seen_touched=seen.touched, seen_p99=1000.0 * seen.p99, seen_requests=seen.requests)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None


def _fitted_if(new: Sequence[MeasuredShare], returning: Sequence[MeasuredShare] = ()) -> Measured | None:
    """None where too little was measured."""
    try:
        return fitted(new, returning)
    except InputError:
        return None


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
        p99=1000.0 * p99 if p99 is not None and math.isfinite(p99) else None,
    )  # fmt: skip


def answer(box: Box, load: Load, objective: tuple[str, float], share: float | None, draws: Draws) -> LargestShare:
    """The largest share that keeps an objective, and whether a policy's own `share` does."""
    best = largest_share(box, load, *objective, draws)
    return LargestShare(
        best, None if best is None else reached(box, load, best, draws), reached(box, load, 0.0, draws),
        None if share is None else reached(box, load, share, draws),
    )  # fmt: skip
