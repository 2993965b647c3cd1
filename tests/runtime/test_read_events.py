"""What is kept of users' events: the same states however they came about, within its budget, gone when forgotten."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.features.schema import FIRST, OOV, PAD, Feed, Field, Kind, Schema, Vocabulary
from corella_edge_runtime.read_events import EventReader, KeptStates, States

SLOTS, LAYERS, WIDTH = 12, 2, 3
SCHEMA = Schema(
    (
        Field("past_items", "sequence", "user", "item", "item", SLOTS),
        Field("past_ratings", "sequence", "user", "rating", "rating", SLOTS),
    ),
    {"item": Vocabulary("item", [f"i{i}" for i in range(20)]), "rating": Vocabulary("rating", ["1", "2", "3"])},
)
NAMES = ("past_items", "past_ratings")
Events = Sequence[tuple[int, int]]  # codes of items and ratings


class Reading:
    """Each state is made of the state before it and of its event; counts the events that it is given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def __call__(self, events: Feed, past: States) -> States:
        items, ratings = (events[name][0].astype(np.float64) for name in NAMES)
        self.given.append(len(items))
        assert (items != PAD).all()
        rows = [*np.moveaxis(past, 2, 0).astype(np.float64)]
        for item, rating in zip(items, ratings, strict=True):
            before = rows[-1] if rows else np.zeros((LAYERS, 2, WIDTH))
            shift = np.arange(before.size).reshape(before.shape)
            rows.append(np.float32(np.sin(before * 3.0 + item + 0.1 * rating + shift)).astype(np.float64))
        return np.stack(rows, axis=2).astype(np.float32)


def feed_of(events: Events) -> Feed:
    """Padded on the left, as the encoder does."""
    padded = [(PAD, PAD)] * (SLOTS - len(events)) + list(events)
    return {name: np.array([[event[i] for event in padded]], np.int64) for i, name in enumerate(NAMES)}


def reader(budget: int = 2**20) -> tuple[EventReader, Reading]:
    reading = Reading()
    return EventReader(reading, SCHEMA, NAMES, (LAYERS, WIDTH), budget), reading


def afresh(events: Events) -> States:
    return reader(0)[0].states(feed_of(events))


EVENT = st.tuples(st.integers(OOV, OOV + 3), st.integers(OOV, OOV + 1))
HISTORY = st.lists(EVENT, max_size=SLOTS)
STEPS = st.lists(st.tuples(st.integers(0, 3), st.lists(EVENT, min_size=1, max_size=SLOTS)), max_size=20)


@settings(max_examples=150)
@given(STEPS, st.sampled_from([0, 500, 1500, 2**20]))
def test_states_are_those_of_a_fresh_reading(steps: list[tuple[int, list[tuple[int, int]]]], budget: int) -> None:
    """Users whose histories grow in any order, share beginnings, and leave the memory."""
    kept, _ = reader(budget)
    histories: list[list[tuple[int, int]]] = [[], [], [], []]
    for user, events in steps:
        histories[user] = (histories[user] + events)[-SLOTS:]
        np.testing.assert_array_equal(kept.states(feed_of(histories[user])), afresh(histories[user]))
        assert kept.kept.bytes <= budget


@given(HISTORY, HISTORY)
def test_only_what_is_new_is_read(first: list[tuple[int, int]], second: list[tuple[int, int]]) -> None:
    """Of a history that shares its beginning with a kept one, whichever is longer."""
    kept, reading = reader()
    kept.states(feed_of(first))
    reading.given.clear()
    kept.states(feed_of(second))
    common = next((i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b),
                  min(len(first), len(second)))  # fmt: skip
    assert sum(reading.given) == len(second) - common


def test_a_history_that_grows_is_kept_once() -> None:
    kept, reading = reader()
    history = [(FIRST + i, FIRST) for i in range(SLOTS)]
    for n in range(1, SLOTS + 1):
        kept.states(feed_of(history[:n]))
    assert reading.given == [1] * SLOTS
    assert len(kept.kept) == 1
    assert kept.stats() == {
        "crm_events_read": SLOTS, "crm_events_reused": sum(range(SLOTS)), "crm_history_hits": 0,
        "crm_history_misses": SLOTS, "crm_evictions": 0, "crm_kept_histories": 1, "crm_kept_bytes": kept.kept.bytes,
    }  # fmt: skip
    kept.states(feed_of(history))
    assert kept.stats()["crm_history_hits"] == 1


def test_the_least_recently_used_leave_first() -> None:
    kept, reading = reader()
    kept.states(feed_of([(FIRST, FIRST)]))
    kept.kept.budget = 3 * kept.kept.bytes
    for i in (1, 2, 0, 3):  # 0 was used again when 3 came
        kept.states(feed_of([(FIRST + i, FIRST)]))
    reading.given.clear()
    for i in (0, 2, 3):
        kept.states(feed_of([(FIRST + i, FIRST)]))
    assert reading.given == []
    kept.states(feed_of([(FIRST + 1, FIRST)]))
    assert reading.given == [1]
    assert kept.stats()["crm_evictions"] == 2


def test_what_is_larger_than_the_budget_is_not_kept_and_drives_nobody_out() -> None:
    kept = KeptStates(1000, 1)
    kept.put(b"a", np.zeros((1, 2, 1, 1), np.float32), 0)
    kept.put(b"b", np.zeros((1, 2, 1, 1000), np.float32), 0)
    assert (len(kept), kept.evictions) == (1, 0)
    assert kept.find(b"a")[0] == 1


def test_a_user_without_events_has_no_states_and_is_nothing_to_keep() -> None:
    kept, reading = reader()
    assert kept.states(feed_of([])).shape == (LAYERS, 2, 0, WIDTH)
    assert (reading.given, len(kept.kept)) == ([], 0)


def test_what_is_forgotten_while_it_is_read_does_not_come_back() -> None:
    reading = Reading()

    def forgetting(events: Feed, past: States) -> States:
        states = reading(events, past)
        found.kept.clear()  # a user is deleted meanwhile
        return states

    found = EventReader(forgetting, SCHEMA, NAMES, (LAYERS, WIDTH), 2**20)
    np.testing.assert_array_equal(found.states(feed_of([(3, 2)])), afresh([(3, 2)]))
    assert (len(found.kept), found.kept.bytes) == (0, 0)


def test_threads_share_it() -> None:
    """With a budget for a few of the histories, which all threads ask for in orders of their own."""
    kept, _ = reader(2500)
    rng = np.random.default_rng(3)
    histories = [[(int(a), int(b)) for a, b in rng.integers(OOV, OOV + 3, (SLOTS, 2))] for _ in range(6)]
    wanted = {(u, n): afresh(h[:n]) for u, h in enumerate(histories) for n in range(1, SLOTS + 1)}
    wrong: list[object] = []

    def ask(seed: int) -> None:
        for user, n in np.random.default_rng(seed).integers((0, 1), (6, SLOTS + 1), (300, 2)).tolist():
            if seed == 0 and n == 5:
                kept.kept.clear()
            if not np.array_equal(kept.states(feed_of(histories[user][:n])), wanted[user, n]):
                wrong.append((user, n))

    with often_switching():
        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert kept.kept.bytes <= 2500
    assert kept.kept.bytes == sum(s.nbytes + len(k) + 300 for k, s in kept.kept._states.items())
    found = kept.stats()
    assert found["crm_history_hits"] + found["crm_history_misses"] == 4 * 300
    assert found["crm_history_hits"] > 100


class often_switching:  # noqa: N801 - reads as a clause
    """While entered, threads take turns a hundred times as often."""

    def __enter__(self) -> None:
        self._usual = sys.getswitchinterval()
        sys.setswitchinterval(self._usual / 100)

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self._usual)


def test_an_unseen_item_is_known_by_its_text() -> None:
    """Two items that training has not seen have one code, but not one vector; a known item has one vector."""
    given: list[int] = []

    def read(events: Feed, past: States) -> States:
        given.append(events["past_text"].shape[1])
        rows = events["past_text"][0].sum(axis=1).astype(np.float32)
        return np.concatenate([past, np.broadcast_to(rows[:, None], (LAYERS, 2, len(rows), WIDTH))], axis=2)

    texts = Field("past_text", cast(Kind, "vectors"), "user", "text", length=SLOTS, args={"width": 4})
    schema = cast(Schema, SimpleNamespace(fields=(*SCHEMA.fields, texts), vocabularies=SCHEMA.vocabularies))
    found = EventReader(read, schema, [*NAMES, "past_text"], (LAYERS, WIDTH), 2**20)
    events = [(FIRST, FIRST), (OOV, FIRST), (FIRST + 1, FIRST)]
    vectors = np.zeros((1, SLOTS, 4), np.float32)
    vectors[0, -3:] = np.arange(12).reshape(3, 4)
    found.states({**feed_of(events), "past_text": vectors})
    again = found.states({**feed_of(events), "past_text": vectors.copy()})
    assert given == [3]
    other = vectors.copy()
    other[0, -2, 0] += 1.0
    changed = found.states({**feed_of(events), "past_text": other})
    assert given == [3, 2]
    assert (changed[0, 0, :, 0] - again[0, 0, :, 0]).tolist() == [0.0, 1.0, 0.0]
