"""Figures of measured requests with their intervals: percentiles, shares, means. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from corella_edge.routing.parts import student
from corella_edge_runtime.bench.results.circumstances import Figure
from corella_edge_runtime.bench.results.histogram import Histogram, rank
from corella_edge_runtime.bench.results.points import Latency

PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
BEYOND = 10  # requests that must lie beyond a percentile before it is more than the luck of a few
BLOCKS = 20  # stretches of a run that are drawn as wholes: neighbours in time hang together
PARTS = 3  # of a run, early, middle and late, that are also compared: a slow change hardly shows from repeat to repeat
DRAWS = 400
_NORMAL_95 = 1.959964

Floats = npt.NDArray[np.float64]


def supported(requests: int) -> tuple[str, ...]:
    """Names of the percentiles that so many requests can tell: `BEYOND` of them lie above each."""
    return tuple(name for name, q in PERCENTILES.items() if requests * (1.0 - q) >= BEYOND - 1e-9)


def needed(name: str) -> int:
    """How many requests a percentile takes."""
    return math.ceil(BEYOND / (1.0 - PERCENTILES[name]) - 1e-9)


def latency(repeats: Sequence[Floats], histogram: Histogram, seed: int = 0) -> Latency:
    """Percentiles of latencies in seconds and of their histogram.

    The interval is the wider at each end of two: of drawing whole stretches of neighbouring requests (a block
    bootstrap), which knows the luck of the requests, and of what the repeats came to (`between`), which knows a
    machine that changes. The highest value has none, and neither has a percentile that the requests do not support.

    Args:
        repeats: float64 [n] each, in the order of time.
    """
    given = [one for one in repeats if len(one)]
    seconds = np.concatenate(given) if given else np.zeros(0)
    told = supported(len(seconds))
    values = [*(histogram.quantile(q) for q in PERCENTILES.values()), histogram.mean]
    found = {name: figure(value, scale=1000.0) for name, value in zip([*PERCENTILES, "mean"], values, strict=True)}
    if given:
        drawn, each = _drawn(seconds, seed), np.array([_summary(one) for one in given])
        for column, name in enumerate(found):
            if name in told or name == "mean":
                found[name] = _interval(values[column], drawn[:, column], each[:, column])
    return Latency(**found, max=figure(histogram.high / 1e9 if histogram.counts else None, scale=1000.0),
                   supported=told)  # fmt: skip


def _interval(value: float, drawn: Floats, each: Floats) -> Figure:
    """Milliseconds of a value in seconds, of its draws and of what each repeat came to."""
    low, high = np.percentile(drawn, [2.5, 97.5]).tolist()
    factor = between(each)
    return figure(value, min(low, value / factor), max(high, value * factor), 1000.0)


def between(each: Floats) -> float:
    """By which factor the mean of repeats, float64 [n] above 0 in the order of time, may be off at 95 %: Student's t on
    their logarithms. 1 for fewer than two.

    Repeats of a machine that changes slowly are alike where they are neighbours, and the t of all of them would count
    one state of the machine several times. So it is also taken of the means of `PARTS` parts of the run (Ibragimov and
    Müller, doi 10.1198/jbes.2009.08046), and the wider one holds.
    """
    logs = np.log(np.maximum(each, 1e-12))
    parts = np.array([part.mean() for part in np.array_split(logs, PARTS)]) if len(logs) >= 2 * PARTS else logs
    return math.exp(max(_half(logs), _half(parts)))


def _half(values: Floats) -> float:
    if len(values) < 2:
        return 0.0
    return student(0.975, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def _drawn(seconds: Floats, seed: int) -> Floats:
    """Percentiles and the mean of each draw, float64 [draws, percentiles + 1]."""
    blocks = np.array_split(seconds, min(BLOCKS, len(seconds)))
    rng = np.random.default_rng([seed, 31])
    found = np.empty((DRAWS, len(PERCENTILES) + 1))
    for row in range(DRAWS):
        values = np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks)).tolist()])
        found[row] = _summary(values)
    return found


def _summary(values: Floats) -> list[float]:
    """The values at rank ⌈q · n⌉, as the histogram takes them, and the mean."""
    ranks = [rank(q, len(values)) - 1 for q in PERCENTILES.values()]
    return [*np.partition(values, sorted(set(ranks)))[ranks].tolist(), float(values.mean())]


def figure(value: float | None, low: float | None = None, high: float | None = None, scale: float = 1.0) -> Figure:
    """Scaled; what is no finite number is None."""
    return Figure(*(None if x is None or not math.isfinite(x) else x * scale for x in (value, low, high)))


def mean_of(values: Sequence[float] | Floats) -> Figure:
    """Geometric mean of repeats of a rate in the order of time, and its interval (`between`), which no end of can be
    below 0; no interval of fewer than two. Where one of them is 0 there is no logarithm: their mean, from the lowest to
    the highest."""
    given = np.asarray(values, np.float64)
    if len(given) < 2 or not (given > 0.0).all():
        return figure(float(given.mean()), *(_ends(given) if len(given) > 1 else ())) if len(given) else Figure()
    mean, factor = float(np.exp(np.log(given).mean())), between(given)
    return figure(mean, mean / factor, mean * factor)


def _ends(given: Floats) -> tuple[float, float]:
    return float(given.min()), float(given.max())


def ratio_of(hits: Floats, sizes: Floats, seed: int = 0) -> Figure:
    """Sum of float64 [n] `hits` over that of `sizes`; the interval by drawing whole requests."""
    if not len(hits) or not float(sizes.sum()):
        return Figure()
    value = float(hits.sum() / sizes.sum())
    rng = np.random.default_rng([seed, 32])
    places = rng.integers(len(hits), size=(DRAWS, len(hits)))
    low, high = np.percentile(hits[places].sum(axis=1) / sizes[places].sum(axis=1), [2.5, 97.5]).tolist()
    return figure(value, low, high)


def part(hits: int, of: int) -> Figure:
    """`hits` / `of` with Wilson's interval; nothing where there is nothing to count."""
    if of == 0:
        return Figure()
    p, z2 = hits / of, _NORMAL_95**2
    middle = (p + z2 / (2 * of)) / (1 + z2 / of)
    half = _NORMAL_95 * math.sqrt(p * (1 - p) / of + z2 / (4 * of * of)) / (1 + z2 / of)
    return figure(p, 0.0 if hits == 0 else middle - half, 1.0 if hits == of else middle + half)


def stretches(moments: Floats, parts: int) -> list[npt.NDArray[np.int64]]:
    """Indices of the requests in each of so many equal stretches of time; stretches without any are left out."""
    if not len(moments):
        return []
    span = float(moments.max()) or 1.0
    at = np.minimum((moments / span * parts).astype(np.int64), parts - 1)
    found = [np.flatnonzero(at == number) for number in range(parts)]
    return [places for places in found if len(places)]
