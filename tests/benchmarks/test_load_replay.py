"""The offline replay: what fits is never more than time allows, and never less than a simple schedule reaches."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scenarios.serving.replay import Arrival, DecodeCost, DecodeLimits, best, fitted, replay

COST = DecodeCost(0.002, 1e-5, 1e-4)
ROOM = DecodeLimits(512, 64)
ARRIVALS = st.lists(
    st.builds(
        lambda moment, prefix, suffixes: Arrival(moment, moment + 0.05, prefix, tuple(suffixes)),
        st.floats(0.0, 0.5), st.integers(1, 400), st.lists(st.integers(1, 40), min_size=1, max_size=30),
    ),
    max_size=30,
)  # fmt: skip


def sorted_by_moment(arrivals: list[Arrival]) -> list[Arrival]:
    return sorted(arrivals, key=lambda one: one.moment)


@given(arrivals=ARRIVALS, newest=st.booleans())
def test_no_more_is_answered_than_was_asked_or_than_time_allows(arrivals: list[Arrival], newest: bool) -> None:
    given_ = sorted_by_moment(arrivals)
    answered = replay(given_, COST, ROOM, newest)
    assert all(0 <= count <= len(one.suffixes) for count, one in zip(answered, given_, strict=True))
    if given_:
        # At most one decode server, which is busy from the first arrival to the last deadline at most.
        span = given_[-1].deadline - given_[0].moment
        tokens = sum(one.prefix * bool(n) + sum(one.suffixes[:n]) for n, one in zip(answered, given_, strict=True))
        assert sum(answered) * COST.prompt + tokens * COST.token <= span + 1e-9


@given(arrivals=ARRIVALS)
def test_without_load_everything_is_answered(arrivals: list[Arrival]) -> None:
    apart = [Arrival(i, i + 0.9, one.prefix, one.suffixes) for i, one in enumerate(arrivals)]
    assert best(apart, COST, ROOM) == [len(one.suffixes) for one in apart]


def test_a_prompt_that_can_not_end_in_time_is_not_begun() -> None:
    late = Arrival(0.0, 0.0019, 1, (1, 1))
    assert replay([late], COST, ROOM, False) == [0]


def test_as_many_as_end_in_time_are_answered_hardest_first() -> None:
    one = Arrival(0.0, 0.01, 100, (10,) * 50)  # 2 ms + 1 ms for the prefix leave 7 ms of 0.2 ms each
    assert replay([one], COST, ROOM, False) == [35]


def test_the_prefix_is_paid_once() -> None:
    cost, room = DecodeCost(0.0, 0.001, 0.0), DecodeLimits(11, 64)
    one = Arrival(0.0, 0.0301, 10, (1,) * 40)
    assert replay([one], cost, room, False) == [20]  # 10 ms for the prefix, then 1 ms each


def test_under_overload_the_better_order_counts() -> None:
    arrivals = [Arrival(0.001 * i, 0.001 * i + 0.05, 100, (10,) * 50) for i in range(100)]
    found = best(arrivals, COST, ROOM)
    assert sum(found) == max(sum(replay(arrivals, COST, ROOM, order)) for order in (False, True))


@given(fixed=st.floats(0.0, 0.01), token=st.floats(0.0, 1e-4), prompt=st.floats(0.0, 1e-3))
def test_the_cost_of_a_decode_is_found_from_exact_times(fixed: float, token: float, prompt: float) -> None:
    sizes = [1, 2, 4, 8, 16, 32]
    tokens = [90 + 11 * n + (n * n) % 7 for n in sizes]
    true = DecodeCost(fixed, token, prompt)
    found = fitted(tokens, sizes, [true.seconds(t, n) for t, n in zip(tokens, sizes, strict=True)])
    for t, n in zip(tokens, sizes, strict=True):
        assert found.seconds(t, n) == pytest.approx(true.seconds(t, n), rel=1e-3, abs=1e-7)


@given(st.lists(st.floats(1e-4, 1.0), min_size=3, max_size=9))
def test_no_part_of_a_cost_is_negative(seconds: list[float]) -> None:
    sizes = [2.0**i for i in range(len(seconds))]
    found = fitted([100 + 7 * n for n in sizes], sizes, seconds)
    assert min(found.fixed, found.token, found.prompt) >= 0.0
    assert math.isfinite(found.seconds(100, 1))


def test_two_decodes_are_too_few_for_a_cost() -> None:
    with pytest.raises(ValueError, match="three"):
        fitted([1, 2], [1, 2], [0.1, 0.2])
