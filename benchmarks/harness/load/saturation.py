"""The highest rate a server can be asked at without falling behind."""

from __future__ import annotations

from typing import Any

import numpy as np

from corella_edge_runtime.bench.load.mix import Stream, mix
from corella_edge_runtime.bench.load.outcome import Outcome
from corella_edge_runtime.bench.load.rates import highest, holds
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
