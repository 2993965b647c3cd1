"""From what was seen of a spot's slices to its point: histograms, figures with intervals, the way of a request.

Pure functions: the same slices give the same point, whether they were measured in one run or in a run and its rest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace

from corella_edge_runtime.bench.results import figures
from corella_edge_runtime.bench.results.circumstances import Noise
from corella_edge_runtime.bench.results.figures import Floats, figure, mean_of, part, ratio_of
from corella_edge_runtime.bench.results.histogram import Histogram, at_rank, counted, merged
from corella_edge_runtime.bench.results.points import Energy, Law, Moment, Outcomes, Point, Rates, Repeat, Stage
from corella_edge_runtime.bench.results.seen import Slice

STRETCHES = 10  # of each point, for the share over time


def point(slices: Sequence[Slice], ratio: float | None, limit: float | None, why_no_energy: str, law: Law) -> Point:
    """The point of a spot. `limit`: seconds that a request may take to count as good, None = no objective."""
    spot, seconds = slices[0].spot, np.concatenate([one.latency for one in slices])
    ended = [_answered(one) for one in slices]
    answered = np.isfinite(seconds)
    candidates, routed = (column(slices, name) for name in ("candidates", "routed"))
    histogram = merged(map(counted, ended))
    return Point(
        scenario=spot.scenario, threshold=spot.threshold, ratio=ratio, routing=spot.routing, users=spot.users,
        workers=spot.workers, share=ratio_of(routed, candidates),
        touched=part(int((routed[answered] > 0).sum()), int(answered.sum())),
        latency=figures.latency(ended, histogram), histogram=histogram,
        unrouted=counted(seconds[answered & (routed == 0)]),
        requests_per_s=mean_of([len(took) / one.wall for took, one in zip(ended, slices, strict=True)]),
        candidates_per_s=mean_of([sum(one.candidates) / one.wall for one in slices]),
        goodput=None if limit is None else mean_of([good(one, limit) for one in slices]),
        outcomes=outcomes(slices, limit), law=law, noise=noise([one.noise for one in slices]),
        energy=energy(slices, why_no_energy), candidates=float(candidates.mean()) if len(seconds) else 0.0,
        seconds=sum(one.wall for one in slices), rate=_rate(slices),
        rates=searched([one.rates for one in slices if one.rates is not None]), stages=stages(slices),
        tokens_evaluated=float(column(slices, "evaluated").mean()) if len(seconds) else 0.0,
        tokens_reused=float(column(slices, "reused").mean()) if len(seconds) else 0.0,
        llm_ms_per_thousand=llm_time(slices),
        memory_bytes=max((one.memory for one in slices if one.memory is not None), default=None),
        over_time=over_time(slices), repeats=tuple(map(repeat, slices)),
        intervals="repeats" if len(slices) > 1 else "blocks",
    )  # fmt: skip


def column(slices: Sequence[Slice], name: str) -> Floats:
    """Of all requests of all slices, float64 [n]."""
    return np.concatenate([np.asarray(getattr(one, name), np.float64) for one in slices])


def _answered(one: Slice) -> Floats:
    seconds = one.latency
    return seconds[np.isfinite(seconds)]


def _rate(slices: Sequence[Slice]) -> float | None:
    rates = [one.rate for one in slices if one.rate is not None]
    return float(np.mean(rates)) if rates else None


def searched(found: Sequence[Rates]) -> Rates | None:
    """What the repeats of a search came to together: each of them is on the grid, their mean need not be. One that was
    cut short knows no largest rate, and is left out of the mean; of nothing else, the first stands."""
    if not found:
        return None
    whole = [one for one in found if not one.cut] or found[:1]
    tries, cut = tuple(one for rates in found for one in rates.tries), any(one.cut for one in found)
    if len(whole) < 2 or not all(one.first_failed for one in whole):
        return replace(whole[0], tries=tries, cut=cut)
    held, failed = mean_of([one.largest for one in whole]), mean_of([one.first_failed or 0.0 for one in whole])
    return Rates(largest=held.value or 0.0, first_failed=failed.value, low=held.low, high=failed.high, tries=tries,
                 cut=cut)  # fmt: skip


def good(one: Slice, limit: float) -> float:
    """Requests a second that were answered within `limit` seconds."""
    return float((one.latency <= limit).sum()) / one.wall


def outcomes(slices: Sequence[Slice], limit: float | None) -> Outcomes:
    """What became of all requests and candidates."""
    seconds = np.concatenate([one.latency for one in slices])
    rejected, kept = sum(one.rejected for one in slices), int(column(slices, "kept").sum())
    degraded: dict[str, int] = {}
    for one in slices:
        for reason, count in one.degraded.items():
            degraded[reason] = degraded.get(reason, 0) + count
    routed = int(column(slices, "routed").sum())
    return Outcomes(
        requests=len(seconds), failed=int(np.isinf(seconds).sum()) - rejected, rejected=rejected,
        late=0 if limit is None else int((seconds > limit).sum()), llm=routed - kept, kept=kept, degraded=degraded,
        easy=int(column(slices, "candidates").sum()) - routed - sum(degraded.values()),
    )  # fmt: skip


def noise(found: Sequence[Noise]) -> Noise:
    """The worst of several stretches."""
    foreign = [one.foreign for one in found if one.foreign is not None]
    return Noise(foreign=max(foreign) if foreign else None, steal=max(one.steal for one in found))


def mean_noise(slices: Sequence[Slice]) -> Noise:
    """Of all the time of some slices together."""
    wall = sum(one.wall for one in slices)
    foreign = [one.noise.foreign for one in slices]
    known = [share * one.wall for share, one in zip(foreign, slices, strict=True) if share is not None]
    return Noise(foreign=sum(known) / wall if len(known) == len(slices) else None,
                 steal=sum(one.noise.steal * one.wall for one in slices) / wall)  # fmt: skip


def energy(slices: Sequence[Slice], why: str) -> Energy:
    """Joules a thousand requests; `why` there are none."""
    told = [one for one in slices if one.joules is not None]
    requests = sum(len(one.at) for one in told)
    if not requests:
        return Energy(why=why)
    return Energy(joules_per_thousand=1000.0 * sum(one.joules or 0.0 for one in told) / requests)


def llm_time(slices: Sequence[Slice]) -> float | None:
    """Milliseconds of the LLM at work, a thousand requests; None where nobody tells."""
    told = [one for one in slices if one.llm_seconds is not None]
    requests = sum(len(one.at) for one in told)
    return 1e6 * sum(one.llm_seconds or 0.0 for one in told) / requests if requests else None


def stages(slices: Sequence[Slice]) -> tuple[Stage, ...]:
    """Of each part of the way: its mean over all requests, percentiles of those that passed it."""
    names = dict.fromkeys(name for one in slices for name in one.stages)
    requests = sum(len(one.at) for one in slices)
    found = []
    for name in names:
        passed = [took for one in slices for took in one.stages.get(name, ()) if took]
        ms = 1000.0 * np.asarray(passed, np.float64)
        p50, p99 = (at_rank(ms, 0.5), at_rank(ms, 0.99)) if passed else (None, None)
        found.append(Stage(name=name, ms=float(ms.sum()) / requests, p50=p50, p99=p99, requests=len(passed)))
    return tuple(found)


def over_time(slices: Sequence[Slice]) -> tuple[Moment, ...]:
    """Stretches of all slices one after the other: each slice as long as its requests were due."""
    found, begun = [], 0.0
    parts = max(1, STRETCHES // len(slices))
    for one in slices:
        at, routed, sizes = (np.asarray(values, np.float64) for values in (one.at, one.routed, one.candidates))
        for places in figures.stretches(at, parts):
            took, asked = one.latency[places], float(sizes[places].sum())
            histogram = counted(took[np.isfinite(took)])
            found.append(Moment(
                at_s=begun + float(at[places].max()), requests=len(places),
                share=float(routed[places].sum()) / asked if asked else None, p50=_ms(histogram, 0.5),
                p99=_ms(histogram, 0.99),
            ))  # fmt: skip
        begun += max(one.wall, float(at.max(initial=0.0)))  # the wall is less where time between requests is left out
    return tuple(found)


def _ms(histogram: Histogram, q: float) -> float | None:
    return figure(histogram.quantile(q), scale=1000.0).value


def repeat(one: Slice) -> Repeat:
    """A slice by itself."""
    ended, sizes = _answered(one), sum(one.candidates)
    histogram = counted(ended)
    return Repeat(requests=len(one.at), seconds=one.wall, share=sum(one.routed) / sizes if sizes else None,
                  p50=_ms(histogram, 0.5), p99=_ms(histogram, 0.99), requests_per_s=len(ended) / one.wall,
                  noise=one.noise)  # fmt: skip
