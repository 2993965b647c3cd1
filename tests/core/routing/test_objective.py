"""The latency objective under a simulated queue: a step in load, its end, and few requests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.routing import load
from corella_edge.routing.forms import parse_threshold
from corella_edge.routing.load import Box
from corella_edge.routing.measure import LN2, Band, entropy
from corella_edge.routing.objective import Eased, Objective, decided, lowered, observed
from corella_edge.routing.policy import Calibration, Policy, Routing

P99 = Objective(0.99, 0.05)
BOX, N, SHARE = Box(0.001, 0.008, 0.001), 20, 0.3


def served(
    rates: list[tuple[float, float]], seed: int = 0, control: bool = True
) -> tuple[list[float], list[float], list[float]]:
    """Arrivals, latencies and factors of requests to one LLM, with (seconds, requests a second) in turn."""
    rng = np.random.default_rng(seed)
    eased, now, free = Eased(), 0.0, 0.0
    times, latencies, factors = [], [], []
    for seconds, rate in rates:
        end = now + seconds
        while (now := now + rng.exponential(1.0 / rate)) < end:
            chances = load.asked_chances(round(SHARE * eased.factor, 3), N, 0.1)
            asked = int(rng.choice(N + 1, p=chances))
            done = now + BOX.crm
            if asked:
                free = done = max(free, done) + BOX.prefix + BOX.suffix * asked
            if control:
                eased = observed(eased, P99, done - now, now)
            times.append(now)
            latencies.append(done - now)
            factors.append(eased.factor)
        now = end
    return times, latencies, factors


def test_at_little_load_nothing_is_lowered() -> None:
    _, latencies, factors = served([(400.0, 5.0)])
    assert np.percentile(latencies, 99) < P99.seconds
    assert np.mean(factors) > 0.97


def test_a_step_in_load_lowers_the_share_and_its_end_brings_it_back() -> None:
    _, uncontrolled, _ = served([(60.0, 60.0)], control=False)
    assert np.percentile(uncontrolled, 99) > 2 * P99.seconds
    times, took, factor = map(np.array, served([(60.0, 5.0), (180.0, 60.0), (600.0, 5.0)]))
    step = (times > 90.0) & (times < 240.0)
    late, factors = np.mean(took[step] > P99.seconds), factor[step]
    assert late < 0.03
    assert factors.mean() < 0.9
    assert factor[times > 600.0].mean() > 0.95


@given(st.floats(0.0, 1.0), st.integers(0, 5000), st.integers(0, 50), st.integers(0, 50), st.floats(0.0, 1e4))
def test_it_stays_between_0_and_1_and_late_requests_never_raise(
    factor: float, requests: int, late: int, near: int, now: float
) -> None:
    eased = Eased(factor, 0.0, max(requests, late + near), late, late + near)
    found = decided(eased, P99, now)
    assert 0.0 <= found.factor <= 1.0
    if eased.late > P99.allowed * eased.requests:
        assert found.factor <= factor
    more = decided(Eased(factor, 0.0, eased.requests, late + 1, late + near + 1), P99, now)
    assert more.factor <= found.factor or found is eased


@settings(max_examples=20)
@given(st.lists(st.floats(0.0, 0.04), max_size=300))
def test_without_a_late_request_nothing_is_ever_lowered(seconds: list[float]) -> None:
    eased = Eased(0.5)
    for now, took in enumerate(seconds):
        before, eased = eased, observed(eased, P99, took, float(now))
        assert eased.factor >= before.factor


def test_all_late_ends_at_nothing_and_quiet_hours_bring_it_back() -> None:
    eased = Eased()
    for now in range(100):
        eased = observed(eased, P99, 1.0, now / 10.0)
    assert eased.factor == 0.0
    for minute in range(30):  # one request a minute, none of them late
        eased = observed(eased, P99, 0.001, 100.0 + 61.0 * minute)
    assert eased.factor == 1.0


P = np.random.default_rng(3).random(400)
ROUTING = Routing(calibration=Calibration.fit(entropy(P)))


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, LN2))
def test_the_lower_the_factor_the_less_is_asked_and_never_more_than_without(a: float, b: float, nats: float) -> None:
    policy = Policy(threshold=nats)
    less, more = ({*lowered(policy, ROUTING, factor).route(P)[0].tolist()} for factor in sorted((a, b)))
    assert less <= more <= {*policy.route(P)[0].tolist()}


def test_the_factor_is_of_the_share() -> None:
    policy = parse_threshold("ratio:0.4", ROUTING)
    assert lowered(policy, ROUTING, 1.0) is policy
    assert len(lowered(policy, ROUTING, 0.5).route(P)[0]) == 80
    assert len(lowered(policy, ROUTING, 0.0).route(P)[0]) == 0
    assert lowered(policy, ROUTING, 0.5).reason == "ratio"
    unknown = Policy(threshold=0.5)
    assert lowered(unknown, Routing(), 0.5) is unknown
    assert len(lowered(unknown, Routing(), 0.0).route(P)[0]) == 0


BANDS = Routing(probabilities=np.sort(P))


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_band_grows_narrower_with_the_factor(a: float, b: float, low: float, high: float) -> None:
    policy = Policy(Band(min(low, high), max(low, high)), 0.0)
    less, more = ({*lowered(policy, BANDS, factor).route(P)[0].tolist()} for factor in sorted((a, b)))
    assert less <= more <= {*policy.route(P)[0].tolist()}


@given(st.sampled_from([0.25, 0.5, 0.75]), st.floats(0.0, 0.4), st.floats(0.6, 1.0))
def test_a_band_keeps_the_wanted_part_of_its_share_from_its_middle(factor: float, low: float, high: float) -> None:
    policy = Policy(Band(low, high), 0.0)
    kept, whole = lowered(policy, BANDS, factor).route(P)[0], policy.route(P)[0]
    assert abs(len(kept) - factor * len(whole)) <= 1.0
    near = np.abs(P - 0.5 * (low + high))
    assert near[kept].max() <= np.delete(near, kept)[np.isin(np.delete(np.arange(len(P)), kept), whole)].min() + 1e-12


@given(st.lists(st.floats(0.0, 1.0), min_size=2, max_size=60), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_the_share_of_a_band_is_counted_on_the_probabilities(values: list[float], low: float, high: float) -> None:
    p, band = np.sort(values), Band(min(low, high), max(low, high))
    found = Routing(probabilities=p, rows=len(p)).share(Policy(band, 0.0))
    assert found == pytest.approx(np.mean((p >= band.low) & (p <= band.high)))
