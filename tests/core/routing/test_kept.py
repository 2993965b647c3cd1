"""Kept answers: given back as they were, only in the same state of the user, never too old or too many, and erased."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from corella_edge.request import Event, User
from corella_edge.routing.kept import KeptAnswers, key_of, state_of

ME = User("u1", {"gender": "F", "age": 30}, [Event("i1", 5.0, 100), Event("i2", None, 200)])


def test_the_state_is_what_a_model_reads() -> None:
    same = User("u1", {"age": 30, "gender": "F"}, [Event("i1", 5.0, 100, "view", 2.0), Event("i2", None, 200)])
    assert state_of(same) == state_of(ME)
    others = [
        User("u1", {"gender": "M", "age": 30}, ME.history),
        User("u1", ME.features, ME.history.last(1)),
        User("u1", ME.features, [Event("i1", 4.0, 100), Event("i2", None, 200)]),
        User("u1", ME.features, [Event("i1", 5.0, 101), Event("i2", None, 200)]),
        User("u1", ME.features, [*ME.history, Event("i3")]),
    ]
    assert len({state_of(user) for user in [ME, *others]}) == 6


def test_somebody_without_an_id_is_known_by_the_state() -> None:
    nobody = User(None, ME.features, ME.history)
    assert key_of(ME, state_of(ME)) == "u1"
    assert key_of(nobody, state_of(nobody)) == state_of(ME)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_an_answer_comes_back_bit_for_bit_in_the_same_state_alone(scores: list[float]) -> None:
    kept, items = KeptAnswers(100, 60.0), [f"i{n}" for n in range(len(scores))]
    kept.put("u1", b"a", items, np.asarray(scores), 0.0)
    assert kept.get("u1", b"a", items, 60.0).tolist() == scores
    assert np.isnan(kept.get("u1", b"b", items, 1.0)).all()
    assert np.isnan(kept.get("u2", b"a", items, 1.0)).all()
    assert np.isnan(kept.get("u1", b"a", items, 60.1)).all()
    assert (kept.hits, kept.misses) == (len(scores), 3 * len(scores))


def test_an_item_has_one_answer_and_the_latest_is_known_whatever_the_state() -> None:
    kept = KeptAnswers(100, 60.0)
    kept.put("u1", b"a", ["i1", "i2"], np.array([0.1, 0.2]), 0.0)
    kept.put("u1", b"b", ["i1"], np.array([0.3]), 1.0)
    assert len(kept) == 2
    assert math.isnan(kept.get("u1", b"a", ["i1"], 1.0)[0])
    assert kept.latest("u1", ["i1", "i2"], 60.0).tolist() == [0.3, 0.2]
    assert np.isnan(kept.latest("u1", ["i2"], 60.5)).all()
    assert (kept.hits, kept.misses) == (0, 1)


class Machine(RuleBasedStateMachine):
    """Against a plain list of all that was ever put."""

    MOST, SECONDS = 6, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.kept, self.now = KeptAnswers(self.MOST, self.SECONDS), 0.0
        self.put_: dict[tuple[Any, str], tuple[bytes, float, float]] = {}

    keys = st.sampled_from(["u1", "u2", "u3", b"x", b"y"])
    states = st.sampled_from([b"a", b"b"])
    items = st.lists(st.sampled_from(["i1", "i2", "i3", "i4"]), min_size=1, max_size=4, unique=True)

    @rule(seconds=st.floats(0, 8))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(key=keys, state=states, items=items, score=st.floats(0, 1))
    def put(self, key: Any, state: bytes, items: list[str], score: float) -> None:
        self.kept.put(key, state, items, np.full(len(items), score), self.now)
        self.put_ |= {(key, item): (state, score, self.now) for item in items}

    @rule(key=keys, state=states, items=items)
    def get(self, key: Any, state: bytes, items: list[str]) -> None:
        for item, score in zip(items, self.kept.get(key, state, items, self.now).tolist(), strict=True):
            if not math.isnan(score):
                assert (state, score) == self.put_[key, item][:2]
                assert self.now - self.put_[key, item][2] <= self.SECONDS

    @rule(key=keys)
    def forget(self, key: Any) -> None:
        self.kept.forget(key)
        self.put_ = {place: value for place, value in self.put_.items() if place[0] != key}

    @rule()
    def forget_unnamed(self) -> None:
        self.kept.forget_unnamed()
        self.put_ = {place: value for place, value in self.put_.items() if isinstance(place[0], str)}

    @rule()
    def clear(self) -> None:
        self.kept.clear()
        self.put_ = {}
        assert len(self.kept) == 0

    @invariant()
    def bounded(self) -> None:
        assert len(self.kept) == sum(len(of.scores) for of in self.kept._users.values()) <= self.MOST


TestMachine = Machine.TestCase


def test_who_was_not_seen_longest_leaves_first_and_silence_leaves_nothing() -> None:
    kept = KeptAnswers(4, 60.0)
    for n, user in enumerate(("u1", "u2")):
        kept.put(user, b"a", ["i1", "i2"], np.array([0.1, 0.2]), float(n))
    kept.get("u1", b"a", ["i1"], 2.0)
    kept.put("u3", b"a", ["i1"], np.array([0.5]), 3.0)
    assert math.isnan(kept.get("u2", b"a", ["i1"], 3.0)[0])
    assert kept.get("u1", b"a", ["i1"], 3.0)[0] == 0.1
    kept.sweep(64.0)
    assert len(kept) == 0
