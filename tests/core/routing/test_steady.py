"""Hysteresis: within the tolerance of the threshold a route stays as it was, beyond it the rule decides."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.routing.measure import LN2, NEVER, entropy, is_routed
from corella_edge.routing.steady import ITEMS, LastRoutes, undecided

TOLERANCE = 1e-3
P = st.lists(st.floats(0, 1), min_size=1, max_size=30).map(np.asarray)


@given(P, st.floats(0, LN2), st.lists(st.floats(-TOLERANCE, TOLERANCE), min_size=30, max_size=30))
def test_a_route_that_no_difference_could_turn_is_decided(p: np.ndarray, t: float, moved: list[float]) -> None:
    unsure = undecided(p, t, TOLERANCE, entropy)
    again = (p + np.asarray(moved[: len(p)])).clip(0.0, 1.0)
    turned = is_routed(entropy(p), t) != is_routed(entropy(again), t)
    # Entropy has its top between: only beside one half may a point within be higher than both ends.
    assert not (turned & ~unsure & (np.abs(p - 0.5) > TOLERANCE)).any()


@given(P)
def test_never_and_always_are_decided(p: np.ndarray) -> None:
    assert not undecided(p, NEVER, TOLERANCE, entropy).any()
    assert not undecided(p, 0.0, TOLERANCE, entropy).any()


@given(P, st.floats(0.01, LN2 - 0.01), st.integers(0, 2**30 - 1))
def test_scores_that_move_within_the_tolerance_do_not_flicker(p: np.ndarray, t: float, seed: int) -> None:
    rng, routes, items = np.random.default_rng(seed), LastRoutes(1000), [f"i{n}" for n in range(len(p))]
    first = is_routed(entropy(p), t)
    far = np.abs(p - 0.5) > 4 * TOLERANCE
    routes.remember("u1", items, first)
    for _ in range(5):
        again = (p + rng.uniform(-TOLERANCE, TOLERANCE, len(p))).clip(0.0, 1.0)
        plain = is_routed(entropy(again), t)
        found = routes.steady("u1", items, plain, undecided(again, t, TOLERANCE, entropy))
        assert (found == first)[far].all()
        routes.remember("u1", items, found)


def test_beyond_the_tolerance_the_rule_decides() -> None:
    routes, t = LastRoutes(100), float(entropy(0.3))
    routes.remember("u1", ["a", "b"], np.array([True, False]))
    moved = np.array([0.3 - 2 * TOLERANCE, 0.3 + 2 * TOLERANCE])
    asked = is_routed(entropy(moved), t)
    assert routes.steady("u1", ["a", "b"], asked, undecided(moved, t, TOLERANCE, entropy)).tolist() == [False, True]


def test_other_users_and_new_items_follow_the_rule() -> None:
    routes, everywhere = LastRoutes(100), np.ones(2, np.bool_)
    routes.remember("u1", ["a"], np.array([True]))
    asked = np.zeros(2, np.bool_)
    assert routes.steady("u1", ["a", "b"], asked, everywhere).tolist() == [True, False]
    assert routes.steady("u2", ["a", "b"], asked, everywhere).tolist() == [False, False]
    routes.forget("u1")
    assert routes.steady("u1", ["a", "b"], asked, everywhere).tolist() == [False, False]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 7)), max_size=40))
def test_what_is_remembered_is_bounded(requests: list[tuple[str, int]]) -> None:
    routes = LastRoutes(12)
    for user, number in requests:
        routes.remember(user, [f"i{n}" for n in range(number)], np.ones(number, np.bool_))
        assert len(routes) == sum(map(len, routes._users.values())) <= 12


@pytest.mark.parametrize("asked", [0, 3, ITEMS + 5])
def test_of_a_whole_catalogue_what_was_asked_is_remembered(asked: int) -> None:
    routes, number = LastRoutes(10**6), 5 * ITEMS
    routes.remember("u1", [f"i{n}" for n in range(number)], np.arange(number) < asked)
    assert len(routes) == min(asked, ITEMS)
