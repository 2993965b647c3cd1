"""The highest rate that keeps an objective, by doubling and halving. Pure: what a rate comes to is the caller's."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.bench.results.histogram import at_rank

GROWTH = 2.0  # median of the last third to that of the first, beyond which a queue grows
SMALL = 0.005  # seconds that a median may grow by whatever its factor


def holds(latency: npt.NDArray[np.float64], quantile: float, limit: float) -> bool:
    """Whether latencies float64 [n] in seconds, in the order of their moments, keep an objective: the quantile at most
    `limit`, and no queue that grows. One that is infinite was not answered; nothing at all is no success."""
    if not len(latency) or not at_rank(latency, quantile) <= limit:
        return False
    third = max(1, len(latency) // 3)
    first, last = float(np.median(latency[:third])), float(np.median(latency[-third:]))
    return last <= max(GROWTH * first, first + SMALL)


def highest(served: Callable[[float], bool], first: float, precision: float = 0.05, most: float = 1e5) -> float:
    """The highest rate that is served, within `precision` of it; 0 if `first` / 64 is not.

    A rate counts as too high when it fails twice: something else may have been in the way.
    """
    low, high = 0.0, first
    while high < most and (served(high) or served(high)):
        low, high = high, 2 * high
    if not low:
        while high > first / 64 and not low:
            high /= 2
            low, high = (high, 2 * high) if served(high) or served(high) else (0.0, high)
    while low and high - low > precision * low:
        middle = (low + high) / 2
        low, high = (middle, high) if served(middle) or served(middle) else (low, middle)
    return low
