"""The highest rate a server can be asked at without falling behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from corella_edge_runtime.bench.load.mix import Stream, mix
from corella_edge_runtime.bench.load.outcome import Outcome
from corella_edge_runtime.bench.load.rates import holds
from harness.load.setting import ServerUnderLoad

LATE = 0.100  # p99 of a served rate, seconds


def keeps_up(done: Outcome) -> bool:
    """Every request answered, p99 bounded, and no queue that grows."""
    return bool((done.status == 200).all()) and holds(done.latency, 0.99, LATE)


def saturation(
    run: ServerUnderLoad, requests: list[bytes], first: float, seconds: float, seed: int
) -> tuple[float, list[Any]]:
    """The highest rate served, and every rate that was tried: (rate, kept up, p99 in ms)."""
    tried: list[Any] = []

    def served(rate: float) -> bool:
        done = run.put(mix([Stream("easy", rate, requests)], seconds, seed + len(tried)), judged=False, patience=10.0)
        kept = keeps_up(done)
        tried.append((round(rate, 1), kept, round(float(np.percentile(done.latency, 99)) * 1e3, 2)))
        return kept

    return highest(served, first), tried


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
