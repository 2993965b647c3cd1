"""The law of latency under load: its distribution against numpy's own draws, its queue against the formula."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.routing import load
from corella_edge.routing.load import Box, Draws, Load

SHARES = st.floats(0.001, 0.999)
SLOWER = tuple(0.7 + level + level**9 for level in load.LEVELS)  # rising
BOX = Box(0.001, 0.008, 0.002, SLOWER, ((0.05, SLOWER),))
DRAWS = Draws.of(np.random.default_rng(0), 20_000)


@given(SHARES, st.integers(1, 200), st.floats(0.0, 0.99))
def test_chances_are_a_distribution_whose_mean_is_the_share(share: float, n: int, correlation: float) -> None:
    chances = load.asked_chances(share, n, correlation)
    assert chances.shape == (n + 1,)
    assert (chances >= 0).all()
    assert chances.sum() == pytest.approx(1.0)
    assert chances @ np.arange(n + 1) == pytest.approx(share * n, rel=1e-6)


@given(SHARES, st.integers(1, 200))
def test_without_correlation_it_is_the_textbook_formula(share: float, n: int) -> None:
    assert load.touched(share, n) == pytest.approx(1.0 - (1.0 - share) ** n, rel=1e-9)


@given(SHARES, st.integers(2, 100), st.floats(0.0, 0.9), st.floats(0.001, 0.05))
def test_the_more_correlated_the_fewer_requests_are_touched(share: float, n: int, at: float, more: float) -> None:
    assert load.touched(share, n, at + more) <= load.touched(share, n, at) + 1e-12


def test_nothing_and_everything_are_exact() -> None:
    for correlation in (0.0, 0.3):
        assert load.touched(0.0, 50, correlation) == 0.0
        assert load.asked_chances(1.0, 50, correlation).tolist() == [0.0] * 50 + [1.0]


@pytest.mark.parametrize("true", [0.0, 0.05, 0.3])
@pytest.mark.parametrize("share", [0.02, 0.3])
def test_the_correlation_is_found_again(true: float, share: float) -> None:
    rng = np.random.default_rng(7)
    sizes = rng.integers(10, 40, 20_000)
    weight = (1 - true) / true if true else np.inf
    p = np.full(len(sizes), share) if not true else rng.beta(share * weight, (1 - share) * weight, len(sizes))
    found = load.correlation(rng.binomial(sizes, p), sizes)
    assert found == pytest.approx(true, abs=0.01 + 0.05 * true)


@given(st.floats(0.01, 0.9), st.integers(2, 100), st.floats(0.01, 0.9))
def test_the_share_of_touched_requests_tells_the_correlation(share: float, n: int, correlation: float) -> None:
    seen = load.touched(share, n, correlation)
    if seen < load.touched(share, n) * (1 - 1e-6):
        assert load.touched(share, n, load.correlation_of_touched(share, n, seen)) == pytest.approx(seen, rel=1e-4)


def test_a_group_or_a_constant_has_no_correlation() -> None:
    assert load.correlation(np.array([3]), np.array([10])) == 0.0
    assert load.correlation(np.array([0, 0]), np.array([10, 20])) == 0.0
    assert load.correlation(np.array([10, 20]), np.array([10, 20])) == 0.0
    assert load.correlation(np.array([10, 0]), np.array([10, 10])) > 0.99


def test_the_queue_is_the_loop_it_stands_for() -> None:
    rng = np.random.default_rng(1)
    arrivals, work = np.cumsum(rng.exponential(size=500)), rng.exponential(0.8, 500)
    done, expected = 0.0, []
    for at, takes in zip(arrivals.tolist(), work.tolist(), strict=True):
        done = max(at, done) + takes
        expected.append(done)
    assert load.ends(arrivals, work) == pytest.approx(expected)


def test_the_simulated_wait_is_pollaczek_and_khinchines() -> None:
    rng = np.random.default_rng(2)
    rate, n = 0.6, 2_000_000
    arrivals, work = np.cumsum(rng.exponential(size=n)) / rate, rng.gamma(2.0, 0.5, n)
    wait = load.ends(arrivals, work) - arrivals - work
    assert wait.mean() == pytest.approx(load.mean_wait(rate, 1.0, 1.5), rel=0.02)
    assert load.mean_wait(1.0, 1.0, 1.0) == float("inf")


@settings(deadline=None, max_examples=30)
@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 0.8), st.floats(1.0, 200.0))
def test_latency_never_falls_as_the_share_rises(a: float, b: float, correlation: float, qps: float) -> None:
    low, high = (load.reached(BOX, Load(qps, 20, ((0.0, correlation),)), share, DRAWS) for share in sorted((a, b)))
    assert low.touched <= high.touched + 1e-12
    for quantile in ("p50", "p95", "p99"):
        assert getattr(low, quantile) <= getattr(high, quantile) + 1e-9


def test_a_correlation_is_of_its_share() -> None:
    traffic = Load(1.0, 20, ((0.1, 0.0), (0.5, 0.4)))
    assert [traffic.correlation(share) for share in (0.0, 0.1, 0.3, 1.0)] == pytest.approx([0.0, 0.0, 0.2, 0.4])
    assert Load(1.0, 20).correlation(0.5) == 0.0


def test_share_0_is_the_base_model_alone_and_share_1_the_whole_request() -> None:
    box, light = Box(0.001, 0.008, 0.002), Load(0.01, 20)
    assert load.reached(box, light, 0.0, DRAWS).p99 == pytest.approx(0.001)
    assert load.reached(box, light, 1.0, DRAWS).p50 == pytest.approx(0.049)
    assert load.reached(box, Load(100.0, 20), 1.0, DRAWS).p50 == float("inf")


@settings(deadline=None, max_examples=10)
@given(st.floats(0.002, 0.1), st.floats(1.0, 100.0))
def test_the_largest_share_holds_and_a_larger_one_does_not(limit: float, qps: float) -> None:
    traffic = Load(qps, 20, ((0.0, 0.2),))
    found = load.largest_share(BOX, traffic, "p99", limit, DRAWS)
    if found is None:  # the base model alone is too slow
        assert load.reached(BOX, traffic, 0.0, DRAWS).p99 > limit
        return
    assert load.reached(BOX, traffic, found, DRAWS).p99 <= limit
    if found < 1.0:
        assert load.reached(BOX, traffic, min(1.0, found + 1e-3), DRAWS).p99 > limit


def test_a_limit_that_the_base_model_breaks_leaves_no_share() -> None:
    assert load.largest_share(BOX, Load(10.0, 20), "p99", 0.0005, DRAWS) is None


@given(st.floats(0.0, 0.05), st.floats(0.0, 0.01))
def test_the_costs_of_a_prefix_and_a_suffix_are_found_again(prefix: float, suffix: float) -> None:
    share = np.array([0.01, 0.05, 0.2, 0.5, 1.0])
    hit, asked = np.array([load.touched(s, 20, 0.1) for s in share]), 20 * share
    found = load.costs(hit, asked, prefix * hit + suffix * asked)
    assert np.array(found) @ [1.0, 20.0] == pytest.approx(prefix + 20 * suffix, rel=1e-6, abs=1e-9)
    assert load.costs(np.zeros(2), np.zeros(2), np.zeros(2)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("p99=30ms", ("p99", 0.03)),
        ("p50 = 1.5 s", ("p50", 1.5)),
        ("p95=.5ms", ("p95", 0.0005)),
        ("p90=2s", ("p90", 2.0)),
        ("p99.9=1s", ("p99.9", 1.0)),
    ],
)
def test_an_objective_is_read(text: str, found: tuple[str, float]) -> None:
    assert load.parse_slo(text)[0] == found[0]
    assert load.parse_slo(text)[1] == pytest.approx(found[1])


@pytest.mark.parametrize(
    "text", ["", "p99", "p98=30ms", "p999=30ms", "p99x9=30ms", "p99=30", "p99=0ms", "p99=-1ms", "p99=2h", "p99=9999s"]
)
def test_no_other_objective_is(text: str) -> None:
    with pytest.raises(InputError, match="write p99=30ms"):
        load.parse_slo(text)
