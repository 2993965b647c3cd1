"""The interval of the load law's p99 is that of every benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from corella_edge_runtime.bench.results.figures import latency
from corella_edge_runtime.bench.results.histogram import counted
from corella_edge_runtime.bench.results.seen import Seen
from load_law import interval


def rounds(scales: list[float], requests: int) -> list[list[Seen]]:
    """Latencies of a round are those of another one, times its scale; one request of each had no answer."""
    drawn = np.random.default_rng(5).lognormal(-4.0, 0.5, (len(scales), requests))
    return [[Seen(0.0, None, 1), *(Seen(0.0, s, 1) for s in (scale * row).tolist())]
            for scale, row in zip(scales, drawn, strict=True)]  # fmt: skip


def test_the_interval_is_that_of_a_benchmark_of_these_rounds() -> None:
    given = rounds([1.0, 1.0, 1.5], 400)
    each = [np.array([one.seconds for one in seen if one.seconds is not None]) for seen in given]
    p99 = latency(each, counted(np.concatenate(each))).p99
    assert interval(given) == pytest.approx((p99.low / 1000.0, p99.high / 1000.0))


def test_one_slow_round_of_many_does_not_become_an_end_of_the_interval() -> None:
    low, high = interval(rounds([1.0] * 23 + [8.0], 100))
    slow = interval(rounds([8.0] * 3, 400))
    assert low < high < slow[0]


def test_too_few_requests_have_no_interval() -> None:
    assert interval(rounds([1.0, 1.0], 50)) == (None, None)
