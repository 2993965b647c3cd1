"""Figures and their intervals, and which percentiles so many requests can tell."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.bench.results.figures import (
    PARTS,
    PERCENTILES,
    between,
    figure,
    latency,
    mean_of,
    needed,
    part,
    ratio_of,
    stretches,
    supported,
)
from corella_edge_runtime.bench.results.histogram import counted


@given(st.integers(0, 30_000))
def test_a_percentile_is_told_if_ten_requests_lie_beyond(requests: int) -> None:
    told = supported(requests)
    assert told == tuple(PERCENTILES)[: len(told)]
    for name in PERCENTILES:
        assert (name in told) == (requests >= needed(name))


def test_what_percentiles_take() -> None:
    assert [needed(name) for name in PERCENTILES] == [20, 100, 200, 1000, 10_000]


def test_latency_of_known_times() -> None:
    seconds = np.arange(1, 1001) / 1000.0
    found = latency([seconds], counted(seconds))
    assert found.p50.value == pytest.approx(500, rel=1e-3)
    assert found.p99.value == pytest.approx(990, rel=1e-3)
    assert found.max.value == 1000.0
    assert found.max.low is None
    assert found.supported == ("p50", "p90", "p95", "p99")
    assert found.p999.low is None
    assert found.p99.low is not None
    assert found.p50.low < 500 < found.p50.high


def test_an_interval_knows_that_neighbours_hang_together() -> None:
    rng = np.random.default_rng(0)
    drifting = np.repeat(rng.lognormal(0.0, 0.5, 20), 50)
    apart, together = (latency([values], counted(values)).p50 for values in (rng.permutation(drifting), drifting))
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_an_interval_knows_that_repeats_differ() -> None:
    rng = np.random.default_rng(0)
    same = [rng.lognormal(0.0, 0.1, 100) for _ in range(12)]
    other = [0.2 * rng.standard_normal() + one for one in same]
    steady, drifting = (latency(each, counted(np.concatenate(each))).p50 for each in (same, other))
    assert steady.high - steady.low < 100.0
    assert drifting.high - drifting.low > 3 * (steady.high - steady.low)


def test_neighbours_that_are_alike_count_as_one_state() -> None:
    rng = np.random.default_rng(0)
    slow = np.exp(np.repeat(rng.normal(0.0, 0.3, PARTS), 3))
    assert between(slow) > between(rng.permutation(slow))
    assert between(slow[:3]) == 1.0
    assert between(slow[:1]) == between(np.ones(5)) == 1.0
    few = np.array([1.0, 2.0])  # of two, the whole of Student's t
    assert between(few) == pytest.approx(np.exp(12.7062 * np.log(2.0) / 2.0), rel=1e-3)


def test_nothing_measured_is_no_figure() -> None:
    found = latency([np.zeros(0)], counted([]))
    assert (found.p50.value, found.mean.value, found.max.value) == (None, None, None)
    assert ratio_of(np.zeros(0), np.zeros(0)).value is None
    assert part(0, 0).value is None
    assert mean_of([]).value is None
    assert mean_of([2.0]).low is None
    assert figure(float("nan")).value is None


@given(st.integers(1, 400), st.floats(0.0, 1.0))
def test_a_share_lies_in_its_interval(requests: int, share: float) -> None:
    hits = np.random.default_rng(requests).binomial(20, share, requests).astype(float)
    found = ratio_of(hits, np.full(requests, 20.0))
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    touched = part(int((hits > 0).sum()), requests)
    assert 0.0 <= touched.low <= touched.value <= touched.high <= 1.0


def test_repeats_show_their_spread() -> None:
    found = mean_of([9.0, 10.0, 11.0])
    assert found.value == pytest.approx(990 ** (1 / 3))
    assert (found.low, found.high) == pytest.approx((7.73, 12.8), rel=1e-2)
    assert mean_of([0.0, 2.0]).low == 0.0


@given(st.lists(st.floats(0.001, 1e6), min_size=2, max_size=5))
def test_a_rate_is_never_below_nothing(rates: list[float]) -> None:
    found = mean_of(rates)
    assert 0.0 <= found.low <= found.value * (1 + 1e-9)
    assert found.high is None or found.value <= found.high * (1 + 1e-9)


@given(st.lists(st.floats(0.0, 100.0), max_size=50), st.integers(1, 12))
def test_stretches_hold_every_request_once(moments: list[float], parts: int) -> None:
    found = stretches(np.asarray(moments), parts)
    assert sorted(np.concatenate(found).tolist() if found else []) == list(range(len(moments)))
    assert len(found) <= parts
