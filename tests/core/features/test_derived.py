"""Functions of the history and a candidate, held against the same by hand; the rest is in test_schema.py."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.features.derived import DERIVED, FEW, WIDEST, Histories, moments, number_fact, vector_fact
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import LONGEST, Field, Schema
from corella_edge.request import Candidate, Event, User

NUMBER = {"mean": 1985.0, "scale": 10.0, "strength": 3.0, "attribute": "year"}
LIKE = {"mean": 0.1, "scale": 0.5, "strength": 1.0, "attribute": "likeness", "width": 2}
RECORDS: list[dict[str, Any]] = [
    {"year": "1995", "likeness": [1.0, 0.0]}, {"year": 1975, "likeness": [0.6, 0.8]},
    {"year": None, "likeness": [0.0, -1.0]}, {"year": "old", "likeness": [1.0]}, {},
]  # fmt: skip
IDS = ["a", "b", "c", "d", "e"]
YEARS = dict(zip(IDS, [1.0, -1.0, 0.0, 0.0, 0.0], strict=True))
VECTORS = dict(zip(IDS, [(1.0, 0.0), (0.6, 0.8), (0.0, -1.0), (0.0, 0.0), (0.0, 0.0)], strict=True))
WINDOW = 7


def encoder() -> FeatureEncoder:
    fields = (
        Field("years", "derived", "item", "history_number", length=WINDOW, args=NUMBER),
        Field("alike", "derived", "item", "history_similarity", length=WINDOW, args=LIKE),
    )
    return FeatureEncoder(Schema(fields, {}), Catalog(IDS, RECORDS))


def slow_latest(values: list[float]) -> float:
    weights = [0.5 ** ((len(values) - 1 - j) / 10) for j in range(len(values))]
    return sum(w * v for w, v in zip(weights, values, strict=True)) / (sum(weights) + 1)


def slow_number(events: list[str], candidate: str) -> list[float]:
    own, numbers = YEARS.get(candidate, 0.0), [YEARS.get(item, 0.0) for item in events]
    weight = len(events) + 3.0
    return [own, sum(numbers) / weight, slow_latest(numbers), sum(abs(n - own) for n in numbers) / weight]


def slow_similarity(events: list[str], candidate: str) -> list[float]:
    own = VECTORS.get(candidate, (0.0, 0.0))
    cosines = [sum(x * y for x, y in zip(own, VECTORS.get(item, (0.0, 0.0)), strict=True)) for item in events]
    values = [(cosine - 0.1) / 0.5 for cosine in cosines]
    return [sum(values) / 10, sum(values) / (len(events) + 1), slow_latest(values), sum(sorted(values)[-5:]) / 5]


@given(st.lists(st.sampled_from([*IDS, "nowhere"]), max_size=10))
def test_numbers_and_similarities_by_hand_whatever_the_batch(events: list[str]) -> None:
    made, user = encoder(), User(history=tuple(Event(item) for item in events))
    candidates = [Candidate(item) for item in [*IDS, "nowhere"]]
    feed, _ = made.encode(user, candidates)
    recent = events[-WINDOW:]
    expected = [slow_number(recent, candidate.item) for candidate in candidates]
    np.testing.assert_allclose(feed["years"], expected, rtol=1e-5, atol=1e-6)
    expected = [slow_similarity(recent, candidate.item) for candidate in candidates]
    np.testing.assert_allclose(feed["alike"], expected, rtol=1e-5, atol=1e-6)
    for i, candidate in enumerate(candidates):
        alone, _ = made.encode(user, [candidate])
        np.testing.assert_allclose(alone["years"][0], feed["years"][i], rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(alone["alike"][0], feed["alike"][i], rtol=1e-6, atol=1e-7)


@given(st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(0, 1e6), st.integers(0, LONGEST)), max_size=FEW),
       st.floats(1e-3, 1e3))  # fmt: skip
def test_moments_of_few_rows_are_bit_for_bit_those_of_many(
    rows: list[tuple[float, float, int]], strength: float
) -> None:
    sums = np.array([rows], dtype=np.float64).reshape(1, len(rows), 3).transpose(0, 2, 1)
    many = np.concatenate([sums, np.ones((1, 3, FEW + 1))], axis=2)
    few = moments(sums, strength)
    assert (few.dtype, few.shape) == (np.float32, (1, len(rows), 3))
    np.testing.assert_array_equal(few, moments(many, strength)[:, : len(rows)])


def test_the_log_of_every_count_is_the_same_of_a_number_and_of_an_array() -> None:
    sums = np.repeat(np.arange(LONGEST + 1, dtype=np.float64), 3).reshape(1, -1, 3).transpose(0, 2, 1)
    of_array = moments(sums, 1.0)[0]
    of_numbers = np.concatenate([moments(sums[:, :, i : i + 1], 1.0)[0] for i in range(LONGEST + 1)])
    np.testing.assert_array_equal(of_array, of_numbers)


EVENTS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1.0, 2.5, 5.0, math.nan])), max_size=9)


@given(st.lists(EVENTS, min_size=1, max_size=5), st.integers(1, 3))
def test_a_padded_batch_of_users_holds_what_each_alone_gives(users: list[list[tuple[int, float]]], n: int) -> None:
    w, rng = max(map(len, users)), np.random.default_rng(n)
    padded = Histories(np.zeros((len(users), w), np.int64), np.full((len(users), w), np.nan, np.float32),
                       np.zeros((len(users), w), np.bool_))  # fmt: skip
    assert padded.mask is not None
    alone = []
    for i, events in enumerate(users):
        rows, ratings = np.array([e[0] for e in events], np.int64), np.array([e[1] for e in events], np.float32)
        alone.append(Histories(rows[None], ratings[None]))
        places = slice(w - len(events), w)
        padded.rows[i, places], padded.ratings[i, places], padded.mask[i, places] = rows, ratings, True
    bits = np.array([[1], [2], [3], [4], [9]], np.uint8)
    numbers = rng.normal(size=(5, 1)).astype(np.float32)
    vectors = rng.normal(size=(5, 2)).astype(np.float32)
    facts = {"history_profile": bits, "history_match": bits, "history_number": numbers, "history_similarity": vectors}
    chosen = rng.integers(0, 5, (len(users), n))
    for name, table in facts.items():
        seen = table[padded.rows] * padded.mask[..., None]  # the row of unknown items has nothing
        together = DERIVED[name][0](padded, seen, table[chosen], LIKE)
        for i, history in enumerate(alone):
            found = DERIVED[name][0](history, table[history.rows], table[chosen[i : i + 1]], LIKE)
            if name in ("history_profile", "history_match"):
                np.testing.assert_array_equal(together[i], found[0], err_msg=name)
            np.testing.assert_allclose(together[i], found[0], rtol=1e-5, atol=1e-6, err_msg=name)


def test_what_a_request_brings_wins_over_the_catalogue() -> None:
    user = User(history=(Event("a"), Event("b")))
    inline = Candidate("nowhere", {"year": 1995, "likeness": [1.0, 0.0]})
    feed, _ = encoder().encode(user, [Candidate("a"), inline])
    for values in feed.values():
        np.testing.assert_array_equal(values[0], values[1])


@given(st.one_of(st.none(), st.text(), st.floats(), st.integers(), st.lists(st.floats() | st.none(), max_size=3)))
def test_any_value_is_a_bounded_fact(value: Any) -> None:
    for fact in (number_fact(value, NUMBER), vector_fact(value, LIKE)):
        assert np.isfinite(fact).all()
        assert np.abs(fact).max() <= 10.0


@pytest.mark.parametrize("width", [None, 0, WIDEST + 1, 2.0, True])
def test_a_vector_has_a_width(width: Any) -> None:
    field = Field("alike", "derived", "item", "history_similarity", args={**LIKE, "width": width})
    with pytest.raises(BundleError, match="width"):
        Schema((field,), {})


def test_a_schema_of_them_survives_json() -> None:
    schema = encoder().schema
    assert Schema.from_json(json.loads(json.dumps(schema.to_json())), {}).fields == schema.fields
    assert math.isclose(schema.window, WINDOW)


PACE = {"mean": 0.5, "scale": 0.25, "strength": 2.0}


def paced() -> FeatureEncoder:
    fields = (Field("pace", "derived", "user", "history_pace", length=WINDOW, args=PACE),)
    return FeatureEncoder(Schema(fields, {}), Catalog(IDS, RECORDS))


def slow_pace(times: list[int | None]) -> list[float]:
    pairs = pairwise(times[-WINDOW:])
    gaps = [b - a if a is not None and b is not None else None for a, b in pairs]

    def share(some: list[int | None]) -> float:
        there = [gap for gap in some if gap is not None and 0 <= gap < 7200]
        return ((sum(gap <= 45 for gap in there) + 1) / (len(there) + 2) - 0.5) / 0.25

    return [share(gaps[-10:]), share(gaps)]


@given(st.lists(st.one_of(st.none(), st.sampled_from([0, 1, 45, 46, 90, 7199, 7200, 7245, 2**53])), max_size=12))
def test_pace_by_hand_whatever_the_times(times: list[int | None]) -> None:
    feed, _ = paced().encode(User(history=tuple(Event("a", None, time) for time in times)), [Candidate("b")])
    np.testing.assert_allclose(feed["pace"], [slow_pace(times)], rtol=1e-6)


def test_the_latest_gaps_are_ten_however_long_the_history() -> None:
    field = Field("pace", "derived", "user", "history_pace", length=40, args=PACE)
    slow_then_quick = [*range(0, 2000, 100), *range(2000, 2011)]
    history = tuple(Event("a", None, time) for time in slow_then_quick)
    feed, _ = FeatureEncoder(Schema((field,), {}), Catalog(IDS, RECORDS)).encode(User(history=history), [])
    np.testing.assert_allclose(feed["pace"], [[(11 / 12 - 0.5) / 0.25, (11 / 32 - 0.5) / 0.25]], rtol=1e-6)


def test_the_pace_of_a_batch_equals_that_of_each_user() -> None:
    """Padded on the left, as training has it: a padded place is no event and begins no gap."""
    made = paced()
    times = [[5, 10, 900], [7, 8], []]
    rows, mask = np.zeros((3, 4), np.int64), np.zeros((3, 4), np.bool_)
    stamps = np.zeros((3, 4), np.int64)
    for k, own in enumerate(times):
        mask[k, 4 - len(own) :] = True
        stamps[k, 4 - len(own) :] = own
    feed = made.encode_derived(Histories(rows, np.full((3, 4), np.nan, np.float32), mask, stamps), {})
    np.testing.assert_allclose(feed["pace"], [slow_pace(list(own)) for own in times], rtol=1e-6)
