"""What the LLM's work costs: learned from what is measured, whatever is measured."""

from __future__ import annotations

import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.llm.contract.cost import MOST, TRIAL, Cost, Meter

COSTS = st.floats(1e-5, 1.0)


def taught(per_decode: float, per_token: float, number: int = 40, seed: int = 0, noise: float = 0.2) -> Cost:
    """After decodes of many sizes, with the noise of a busy machine."""
    cost, draw = Cost(), random.Random(seed)
    for now in range(number):
        decodes, tokens = draw.randint(1, 3), draw.randint(20, 1500)
        seconds = per_decode * decodes + per_token * tokens
        cost.learn(decodes, tokens, seconds * draw.lognormvariate(0.0, noise), now)
    return cost


def test_before_anything_is_known_nothing_costs_anything() -> None:
    cost = Cost()
    assert (cost.known, cost.seconds(3, 1000)) == (False, 0.0)
    assert cost.stale(0.0)


@given(COSTS, st.floats(0.0, 300.0), st.integers(0, 99))
def test_both_costs_are_told_apart(per_token: float, share: float, seed: int) -> None:
    per_decode = share * per_token
    cost = taught(per_decode, per_token, seed=seed, noise=0.0)
    for decodes, tokens in [(1, 30), (1, 500), (3, 1500)]:
        assert cost.seconds(decodes, tokens) == pytest.approx(per_decode * decodes + per_token * tokens, rel=0.3)


@given(st.integers(0, 99))
def test_noise_is_evened_out(seed: int) -> None:
    cost = taught(1e-3, 1e-5, 100, seed)
    assert cost.seconds(1, 500) == pytest.approx(6e-3, rel=0.3)


OBSERVATIONS = st.lists(st.tuples(st.floats(0, 10), st.floats(0, 1e5), st.floats(-1, 1e3) | st.just(float("nan"))))


@given(OBSERVATIONS)
def test_whatever_is_measured_more_work_never_costs_less(observations: list[tuple[float, float, float]]) -> None:
    cost = Cost()
    for now, observed in enumerate(observations):
        cost.learn(*observed, now)
        assert 0.0 <= cost.per_decode < 1e9
        assert 0.0 <= cost.per_token < 1e9
        assert cost.known or not (min(observed) >= 1.0 and math.isfinite(sum(observed)))


def test_a_process_that_was_paused_teaches_little() -> None:
    cost = taught(1e-3, 1e-5, noise=0.0)
    cost.learn(1, 500, 30.0, 50.0)
    assert cost.seconds(1, 500) < 6e-3 * (1 + 0.2 * MOST)
    # Again and again is another matter: it is slower now.
    for now in range(30):
        cost.learn(1, 500, 0.06, 51.0 + now)
    assert cost.seconds(1, 500) == pytest.approx(0.06, rel=0.2)


def test_a_slow_start_is_forgotten_at_once() -> None:
    cost = Cost()
    cost.learn(1, 200, 1.0, 0.0)
    cost.learn(1, 500, 6e-3, 1.0)
    cost.learn(1, 450, 5.5e-3, 2.0)
    assert cost.seconds(1, 500) < 0.02


def test_of_decodes_that_are_all_alike_a_small_one_is_not_taken_for_cheap() -> None:
    cost = Cost()
    for now in range(30):
        cost.learn(1, 512, 6e-3, now)
    assert cost.seconds(1, 512) == pytest.approx(6e-3, rel=0.02)
    assert cost.seconds(1, 10) > 6e-3 * 10 / 512 * 3


@given(COSTS, COSTS, st.floats(0, 100))
def test_the_tokens_of_some_seconds_take_them(per_decode: float, per_token: float, seconds: float) -> None:
    cost = Cost()
    cost.per_decode, cost.per_token = per_decode, per_token
    tokens = cost.tokens(seconds)
    assert cost.seconds(1, tokens) == pytest.approx(seconds) if tokens else seconds <= per_decode


def test_what_was_learned_gets_old() -> None:
    cost = taught(1e-3, 1e-5)
    assert not cost.stale(cost.learned + 0.9 * TRIAL)
    assert cost.stale(cost.learned + 1.1 * TRIAL)


def counters(decodes: float, tokens: float, seconds: float, aborted: float = 0, errors: float = 0) -> dict[str, float]:
    return {"decodes": decodes, "evaluated_tokens": tokens, "busy_seconds": seconds, "aborted": aborted,
            "errors": errors}  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 900), st.floats(0, 9)), min_size=1))
def test_observations_add_up_to_the_counters(steps: list[tuple[int, int, float]]) -> None:
    meter, now, found = Meter(), (0.0, 0.0, 0.0), [(0.0, 0.0, 0.0)]
    meter.read(counters(*now))
    for step in [*steps, (1, 1, 1.0)]:
        now = tuple(a + b for a, b in zip(now, step, strict=True))  # type: ignore[assignment]
        observed = meter.read(counters(*now))
        found += [observed] if observed else []
    # Seconds without a decode, such as those of telling who is late, go with the next one.
    assert [sum(column) for column in zip(*found, strict=True)] == pytest.approx(now)


def test_decodes_that_failed_or_were_given_up_teach_nothing() -> None:
    meter = Meter()
    rows = [counters(1, 10, 1), counters(2, 20, 2), counters(3, 30, 9, aborted=1), counters(4, 40, 10, aborted=1)]
    assert [meter.read(row) for row in rows] == [None, (1, 10, 1), None, (1, 10, 1)]
    assert meter.read(counters(5, 50, 20, 1, errors=1)) is None


def test_counters_that_begin_anew_are_noticed() -> None:
    meter = Meter()
    rows = [counters(5, 500, 5), counters(1, 30, 1), counters(2, 60, 2), {}]
    found = [(meter.read(row), meter.renewed) for row in rows]
    assert found == [(None, False), (None, True), ((1, 30, 1), False), (None, True)]
    assert all(a is not b for a, b in pairwise(rows))
