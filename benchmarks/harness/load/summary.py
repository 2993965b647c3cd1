"""Figures of a run with their uncertainty. Pure functions of what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.bench.results.figures import part
from corella_edge_runtime.bench.results.histogram import at_rank

DRAWS = 2000

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MedianInterval:
    """A figure and its 95 % interval.

    Attributes:
        pairs: how many independent parts it rests on.
    """

    median: float
    low: float
    high: float
    pairs: int

    def to_json(self) -> dict[str, float]:
        return {"median": round(self.median, 5), "low": round(self.low, 5), "high": round(self.high, 5),
                "pairs": self.pairs}  # fmt: skip


def answered(seconds: Floats) -> Floats:
    """Those that ended."""
    return seconds[np.isfinite(seconds)]


def percentiles(seconds: Floats) -> dict[str, float]:
    """Milliseconds: p50, p90, p99, p999 and max of those that ended, and their count; the count alone if it is 0."""
    ended = answered(seconds)
    if not len(ended):
        return {"count": 0}
    at = {"p50_ms": 0.5, "p90_ms": 0.9, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
    return {**{name: round(1e3 * at_rank(ended, q), 4) for name, q in at.items()}, "count": len(ended)}


def percentile(parts: Sequence[Floats], q: float, seed: int = 0) -> MedianInterval:
    """The q-th percentile of all values; the interval by drawing whole parts, in which neighbours hang together.

    Raises:
        ValueError: there are no values.
    """
    filled = [part for part in parts if len(part)]
    if not filled:
        raise ValueError("nothing was measured")
    rng = np.random.default_rng([seed, 21])
    draws = rng.integers(len(filled), size=(DRAWS, len(filled)))
    found = [at_rank(np.concatenate([filled[i] for i in draw]), q / 100.0) for draw in draws.tolist()]
    low, high = np.percentile(found, [2.5, 97.5]).tolist()
    return MedianInterval(at_rank(np.concatenate(filled), q / 100.0), low, high, len(filled))


def share(hits: int, of: int) -> MedianInterval:
    """`hits` / `of` with Wilson's interval; 0 to 1 where there is nothing to count."""
    if of == 0:
        return MedianInterval(math.nan, 0.0, 1.0, 0)
    found = part(hits, of)
    return MedianInterval(found.value or 0.0, found.low or 0.0, found.high or 0.0, of)


def slope(x: Floats, y: Floats, block: int, seed: int = 0) -> MedianInterval:
    """Least-squares slope of y over x; the interval by drawing blocks of neighbouring residuals.

    Args:
        block: values a block, at most a quarter of all; what neighbours share, such as a buffer that grows in steps,
            stays together.

    Raises:
        ValueError: fewer than three values.
    """
    if len(x) < 3:
        raise ValueError("a slope needs at least three values")
    centred = x - x.mean()
    weights = centred / float(centred @ centred)
    found = float(weights @ y)
    residuals = y - y.mean() - found * centred
    rng = np.random.default_rng([seed, 22])
    size = max(1, min(block, len(y) // 4))
    starts = rng.integers(len(y) - size + 1, size=(DRAWS, math.ceil(len(y) / size)))
    drawn = residuals[(starts[:, :, None] + np.arange(size)).reshape(DRAWS, -1)[:, : len(y)]]
    low, high = np.percentile(found + drawn @ weights, [2.5, 97.5]).tolist()
    return MedianInterval(found, low, high, len(y))


def parts_of(moments: Floats, values: Floats, count: int, seconds: float) -> list[Floats]:
    """The values by the stretch of time their moment falls into: `count` stretches of equal length."""
    place = np.minimum((moments / seconds * count).astype(np.int64), count - 1)
    return [values[place == number] for number in range(count)]
