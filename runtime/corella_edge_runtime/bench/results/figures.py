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
DRAWS = 400
_NORMAL_95 = 1.959964

Floats = npt.NDArray[np.float64]


def supported(requests: int) -> tuple[str, ...]:
    """Names of the percentiles that so many requests can tell: `BEYOND` of them lie above each."""
    return tuple(name for name, q in PERCENTILES.items() if requests * (1.0 - q) >= BEYOND - 1e-9)


def needed(name: str) -> int:
    """How many requests a percentile takes."""
    return math.ceil(BEYOND / (1.0 - PERCENTILES[name]) - 1e-9)


def latency(seconds: Floats, histogram: Histogram, seed: int = 0) -> Latency:
    """Percentiles of latencies float64 [n] in seconds, in the order of time, and of their histogram.

    The intervals come of drawing whole stretches of neighbouring requests (a block bootstrap). The highest value has
    none, and neither has a percentile that the requests do not support.
    """
    told = supported(len(seconds))
    drawn = _drawn(seconds, seed) if len(seconds) else np.empty((0, len(PERCENTILES) + 1))
    values = [*(histogram.quantile(q) for q in PERCENTILES.values()), histogram.mean]
    found = {}
    for column, (name, value) in enumerate(zip([*PERCENTILES, "mean"], values, strict=True)):
        known = len(drawn) and (name in told or name == "mean")
        low, high = np.percentile(drawn[:, column], [2.5, 97.5]).tolist() if known else (None, None)
        found[name] = figure(value, low, high, 1000.0)
    return Latency(**found, max=figure(histogram.high / 1e9 if histogram.counts else None, scale=1000.0),
                   supported=told)  # fmt: skip


def _drawn(seconds: Floats, seed: int) -> Floats:
    """Percentiles and the mean of each draw, float64 [draws, percentiles + 1]."""
    blocks = np.array_split(seconds, min(BLOCKS, len(seconds)))
    rng = np.random.default_rng([seed, 31])
    found = np.empty((DRAWS, len(PERCENTILES) + 1))
    for row in range(DRAWS):
        values = np.concatenate([blocks[i] for i in rng.integers(len(blocks), size=len(blocks)).tolist()])
        found[row, :-1] = _quantiles(values)
        found[row, -1] = values.mean()
    return found


def _quantiles(values: Floats) -> Floats:
    """The values at rank ⌈q · n⌉, as the histogram takes them."""
    ranks = [rank(q, len(values)) - 1 for q in PERCENTILES.values()]
    found: Floats = np.partition(values, sorted(set(ranks)))[ranks]
    return found


def figure(value: float | None, low: float | None = None, high: float | None = None, scale: float = 1.0) -> Figure:
    """Scaled; what is no finite number is None."""
    return Figure(*(None if x is None or not math.isfinite(x) else x * scale for x in (value, low, high)))


def mean_of(values: Sequence[float] | Floats) -> Figure:
    """Geometric mean of independent repeats of a rate, and its interval by Student's t on their logarithms, which no
    end of can be below 0; no interval of fewer than two. Where one of them is 0 there is no logarithm: their mean, from
    the lowest to the highest."""
    given = np.asarray(values, np.float64)
    if len(given) < 2 or not (given > 0.0).all():
        return figure(float(given.mean()), *(_ends(given) if len(given) > 1 else ())) if len(given) else Figure()
    logs = np.log(given)
    half = student(0.975, len(given) - 1) * float(logs.std(ddof=1)) / math.sqrt(len(given))
    return figure(*np.exp(logs.mean() + np.array([0.0, -half, half])).tolist())


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
