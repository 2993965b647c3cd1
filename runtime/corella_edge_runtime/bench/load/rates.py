"""The highest rate that keeps an objective, by doubling and halving. Pure: what a rate comes to is the caller's.

Rates of a benchmark are those of a grid, the preferred numbers R10 of ISO 3: two runs then mostly send at the same
rate, and what they measure at it can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.bench.results.histogram import at_rank

GROWTH = 2.0  # median of the last third to that of the first, beyond which a queue grows
SMALL = 0.005  # seconds that a median may grow by whatever its factor
GRID = (1.0, 1.25, 1.6, 2.0, 2.5, 3.15, 4.0, 5.0, 6.3, 8.0)  # times a power of ten
DOUBLE = 3  # steps of the grid
FARTHEST = 6 * DOUBLE  # steps that a search goes below where it began
STRIDES = (1, 2, 4, 8, 16)  # steps up or down from where a repeated search begins
MOST_RATE = 1e5


def holds(latency: npt.NDArray[np.float64], quantile: float, limit: float) -> bool:
    """Whether latencies float64 [n] in seconds, in the order of their moments, keep an objective: the quantile at most
    `limit`, and no queue that grows. One that is infinite was not answered; nothing at all is no success."""
    if not len(latency) or not at_rank(latency, quantile) <= limit:
        return False
    third = max(1, len(latency) // 3)
    first, last = float(np.median(latency[:third])), float(np.median(latency[-third:]))
    return last <= max(GROWTH * first, first + SMALL)


def on_grid(step: int) -> float:
    """Requests a second of a step of the grid: 0 is 1, 1 is 1.25, 10 is 10, -1 is 0.8."""
    return float(f"{GRID[step % len(GRID)]}e{step // len(GRID)}")


def nearest(rate: float) -> int:
    """The step of the grid whose rate is nearest, in its logarithm."""
    return round(len(GRID) * math.log10(rate))


def largest_step(served: Callable[[float], bool], first: int) -> tuple[int | None, int]:
    """The largest step of the grid that is served, None if none from `first` - `FARTHEST` on is, and the step above it.

    A rate counts as too high when it fails twice: something else may have been in the way.
    """

    def twice(step: int) -> bool:
        return served(on_grid(step)) or served(on_grid(step))

    low, high = None, first
    while on_grid(high) < MOST_RATE and twice(high):
        low, high = high, high + DOUBLE
    while low is None and high > first - FARTHEST:
        low, high = (high - DOUBLE, high) if twice(high - DOUBLE) else (None, high - DOUBLE)
    return (low, high) if low is None else _between(twice, low, high)


def _between(served: Callable[[int], bool], low: int, high: int) -> tuple[int, int]:
    """The last step that is served and the one above it, of a step that is and a higher one that is not."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if served(middle) else (low, middle)
    return low, high


def moved_step(served: Callable[[float], bool], last: int, held: bool) -> tuple[int | None, int | None]:
    """The same, begun at the `last` result, of which it is known whether it is served now: up or down by
    `STRIDES` until that changes, and then between the two; each tried once.

    The lower one is None if none was found that is served, the upper one if none was found that is not.
    """
    near, far = last, None
    for stride in STRIDES:
        step = last + (stride if held else -stride)
        if on_grid(step) > MOST_RATE:
            break
        if served(on_grid(step)) != held:
            far = step
            break
        near = step
    low, high = (near, far) if held else (far, near)
    return (low, high) if low is None or high is None else _between(lambda step: served(on_grid(step)), low, high)
