"""The ring of recent requests: what it says of them, and what it makes of their times."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.server.recent import Finished, Recent, cost, quantile_ms, summarise

REQUESTS = st.lists(
    st.integers(0, 200).flatmap(
        lambda n: st.builds(Finished, st.just(0.0), st.floats(0, 100), st.just(n), st.integers(0, n))
    ),
    max_size=30,
)


@given(REQUESTS)
def test_a_summary_lies_within_what_it_sums_up(ranked):
    found = summarise(ranked)
    assert found["requests"] == len(ranked)
    assert found["asked"] <= found["candidates"] == sum(r.candidates for r in ranked)
    assert (found["share"] is None) == (found["candidates"] == 0)
    if ranked:
        times = [1000 * r.seconds for r in ranked]
        assert min(times) <= found["p50_ms"] <= found["p99_ms"] <= max(times)
        assert found["p50_ms"] in times


@given(st.lists(st.floats(0, 10), min_size=1, max_size=200), st.floats(0.001, 1))
def test_a_quantile_is_the_least_value_that_enough_do_not_exceed(seconds, share):
    ascending = sorted(seconds)
    found = quantile_ms(ascending, share)
    assert sum(1000 * s <= found for s in ascending) >= share * len(ascending)
    assert sum(1000 * s < found for s in ascending) < share * len(ascending)


def test_nothing_has_no_quantile():
    assert quantile_ms([], 0.5) is None


def test_only_the_window_counts_and_a_full_ring_forgets_the_oldest():
    now = [0.0]
    recent = Recent(kept=3, clock=lambda: now[0])
    for second in range(5):
        now[0] = float(second)
        recent.add(0.001 * second, 10, second)
    assert recent.summary(window=1.5)["asked"] == 3 + 4
    assert recent.summary(window=60.0)["asked"] == 2 + 3 + 4
    now[0] = 100.0
    assert recent.summary(window=60.0)["requests"] == 0
    assert recent.summary(window=60.0)["cost"]["asked"] is not None


@given(st.floats(0, 0.01), st.floats(0, 0.1), st.floats(0, 0.01))
def test_the_cost_finds_the_line_that_the_times_lie_on(crm, more, each):
    ranked = [Finished(0, crm + (more + each * n if n else 0), 20, n) for n in (0, 0, 1, 2, 5, 20)]
    found = cost(ranked)
    assert found["crm"] == pytest.approx(1000 * crm)
    assert found["llm"] == pytest.approx(1000 * (crm + more), abs=1e-6)
    assert found["asked"] == pytest.approx(1000 * each, abs=1e-6)


def test_one_slow_request_does_not_move_the_line():
    ranked = [Finished(0, 0.001 + 0.002 * n, 20, n) for n in range(8)] + [Finished(0, 5.0, 20, 8)]
    assert cost(ranked)["asked"] == pytest.approx(2.0)


@given(REQUESTS)
def test_a_cost_is_never_negative_and_asking_never_seems_to_save_time(ranked):
    found = cost(ranked)
    assert (found["crm"] is None) == all(r.routed for r in ranked)
    assert (found["llm"] is None) == (found["asked"] is None) == (not any(r.routed for r in ranked))
    assert all(value is None or (value >= 0 and math.isfinite(value)) for value in found.values())
    if found["crm"] is not None and found["llm"] is not None:
        assert found["llm"] >= found["crm"]
