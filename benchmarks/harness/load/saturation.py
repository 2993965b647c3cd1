"""The highest rate a server can be asked at without falling behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from harness.load.mix import Stream, mix
from harness.load.outcome import Outcome
from harness.load.setting import Setting

LATE = 0.100  # p99 of a served rate, seconds
GROWTH = 2.0  # median of the last third to that of the first, beyond which a queue grows
SMALL = 0.005  # seconds that a median may grow by whatever its factor


def keeps_up(done: Outcome) -> bool:
    """Every request answered, p99 bounded, and no queue that grows."""
    latency = done.latency
    if not len(latency) or (done.status != 200).any() or np.percentile(latency, 99) > LATE:
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


def saturation(run: Setting, requests: list[bytes], first: float, seconds: float, seed: int) -> tuple[float, list[Any]]:
    """The highest rate served, and every rate that was tried: (rate, kept up, p99 in ms)."""
    tried: list[Any] = []

    def served(rate: float) -> bool:
        done = run.put(mix([Stream("easy", rate, requests)], seconds, seed + len(tried)), judged=False, patience=10.0)
        kept = keeps_up(done)
        tried.append((round(rate, 1), kept, round(float(np.percentile(done.latency, 99)) * 1e3, 2)))
        return kept

    return highest(served, first), tried
