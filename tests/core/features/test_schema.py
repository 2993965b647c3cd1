from __future__ import annotations

import contextlib
import json
import math
import weakref
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.features.derived import DERIVED, FARTHEST
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import (
    FIRST,
    NUMBERS,
    OOV,
    PAD,
    Field,
    Schema,
    Vocabulary,
    encode_value,
    value_key,
    vocabulary_names,
)  # fmt: skip
from corella_edge.features.tables import RatingCodes
from corella_edge.request import Candidate, Event, History, User

ITEMS = ["a", "b", "c", "d", "cold", "nowhere"]
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(10**300)
JUNK = st.recursive(
    SCALARS | st.sampled_from(["g1", "1999", "clerk", "u1"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)
RATINGS = st.none() | st.sampled_from([1.0, 2.0, 3.5, 4.25, 5.0]) | st.floats(-1e6, 1e6)
EVENTS = st.lists(st.builds(Event, st.sampled_from(ITEMS), RATINGS), max_size=9).map(tuple)
FEATURES = st.dictionaries(st.sampled_from(["genres", "year", "price", "title", "id"]), JUNK, max_size=4)
CANDIDATES = st.lists(st.builds(Candidate, st.sampled_from(ITEMS), st.none() | FEATURES), min_size=1, max_size=5)
USER_FEATURES = st.dictionaries(st.sampled_from(["job", "spend", "id"]), JUNK, max_size=3)
USERS = st.builds(User, st.none() | st.sampled_from(["u1", "u9"]), USER_FEATURES, EVENTS)


@given(JUNK)
def test_any_value_gets_a_row_of_the_table(value: Any) -> None:
    vocab = Vocabulary("v", ["1", "g1", "None", "True"])
    assert OOV <= vocab.index(value) < len(vocab)


def test_known_values_follow_padding_and_oov() -> None:
    vocab = Vocabulary("v", ["x", "3", "None"])
    assert (PAD, OOV, FIRST, len(vocab)) == (0, 1, 2, 5)
    assert [vocab.index(v) for v in ("x", 3, 3.0, "3", "None", "y", None)] == [2, 3, 3, 3, 4, OOV, OOV]
    with pytest.raises(BundleError, match=r"vocab/v.json: .* twice"):
        Vocabulary("v", ["x", "x"])


@given(st.integers(-(10**15), 10**15))
def test_whole_numbers_have_one_text(number: int) -> None:
    assert value_key(number) == value_key(float(number)) == value_key(str(number)) == str(number)


@settings(max_examples=200)
@given(USERS, CANDIDATES)
def test_every_input_fits_the_graph(world: Any, user: User, candidates: list[Candidate]) -> None:
    feed, unknown = world.encoder.encode(user, candidates)
    assert feed.keys() == {f.name for f in world.schema.fields}
    assert len(unknown) == len(candidates)
    for item in world.schema.fields:
        values = feed[item.name]
        assert values.shape[0] == (1 if item.side == "user" else len(candidates)), item.name
        if item.kind in NUMBERS:
            assert values.dtype == np.float32
            assert np.isfinite(values).all()
            # No request can push a number beyond what training may have seen.
            assert np.abs(values).max() <= FARTHEST**2 + 2.0
        else:
            assert values.dtype == np.int64
            assert values.min() >= PAD
            assert values.max() < len(world.schema.vocabularies[item.vocab])


@given(USERS, CANDIDATES)
def test_a_batch_equals_its_candidates_one_by_one(world: Any, user: User, candidates: list[Candidate]) -> None:
    feed, unknown = world.encoder.encode(user, candidates)
    for i, candidate in enumerate(candidates):
        alone, flags = world.encoder.encode(user, [candidate])
        assert flags == [unknown[i]]
        for item in world.schema.fields:
            row = feed[item.name][0 if item.side == "user" else i]
            np.testing.assert_array_equal(alone[item.name][0], row, err_msg=item.name)


@given(USERS, CANDIDATES)
def test_encoding_leaves_the_tables_alone(world: Any, user: User, candidates: list[Candidate]) -> None:
    before = world.encoder.encode(User(), [Candidate(i) for i in ITEMS])[0]
    before = {name: values.copy() for name, values in before.items()}
    world.encoder.encode(user, candidates)
    after = world.encoder.encode(User(), [Candidate(i) for i in ITEMS])[0]
    for name, values in before.items():
        np.testing.assert_array_equal(values, after[name], err_msg=name)


@given(EVENTS, CANDIDATES)
def test_history_inputs_equal_a_plain_recomputation(
    world: Any, events: tuple[Event, ...], candidates: list[Candidate]
) -> None:
    feed, _ = world.encoder.encode(User(history=events), candidates)
    assert feed["history_items"].tolist() == [slow_items(events, 3)]
    assert feed["history_ratings"].tolist() == [slow_ratings(events, 3)]
    np.testing.assert_allclose(feed["profile"], [slow_moments(events[-5:])], rtol=1e-4, atol=1e-4)
    expected = [slow_match(world.catalog, events[-4:], candidate) for candidate in candidates]
    np.testing.assert_allclose(feed["match"], expected, rtol=1e-4, atol=1e-4)


def slow_items(events: tuple[Event, ...], length: int) -> list[int]:
    known = {"a": 2, "b": 3, "c": 4, "d": 5}
    codes = [known.get(e.item, OOV) for e in events[-length:]]
    return [PAD] * (length - len(codes)) + codes


def slow_ratings(events: tuple[Event, ...], length: int) -> list[int]:
    known = {1.0: 2, 2.0: 3, 3.0: 4, 3.5: 5, 5.0: 6}
    codes = [OOV if e.rating is None else known.get(float(np.float32(e.rating)), OOV) for e in events[-length:]]
    return [PAD] * (length - len(codes)) + codes


def slow_moments(events: tuple[Event, ...]) -> list[float]:
    values = [1.0 if e.rating is None else (e.rating - 3.0) / 1.25 for e in events]
    values = [min(10.0, max(-10.0, v)) for v in values]
    weight = len(values) + 5.0
    mean = sum(values) / weight
    return [mean, (sum(v * v for v in values) + 5.0) / weight - mean * mean, 0.25 * math.log1p(len(values))]


def slow_match(catalog: Catalog, events: tuple[Event, ...], candidate: Candidate) -> list[float]:
    wanted = slow_genres(catalog, candidate)
    return slow_moments(tuple(e for e in events if slow_genres(catalog, Candidate(e.item)) & wanted))


def slow_genres(catalog: Catalog, candidate: Candidate) -> set[str]:
    """The candidate's known genres; those in the request win."""
    row = catalog.row_of.get(candidate.item)
    values: Any = catalog.attributes[row]["genres"] if row is not None else []
    if candidate.features is not None and "genres" in candidate.features:
        values = candidate.features["genres"]
    listed = values if isinstance(values, list) else [values]
    return {value_key(v) for v in listed if v is not None} & {f"g{i}" for i in range(100)}


def test_unknown_values_are_flagged_by_their_source(world: Any) -> None:
    user = User("u1", {"job": "clerk"})
    known, cold, nowhere, inline = world.encoder.encode(
        user, [Candidate("a"), Candidate("cold"), Candidate("nowhere"), Candidate("a", {"genres": ["g2", "new"]})]
    )[1]
    assert known == ()
    assert cold == ("item", "genres", "year")
    assert nowhere == ("item", "year")
    assert inline == ("genres",)
    assert world.encoder.encode(User("u9"), [Candidate("a")])[1] == [("user", "job")]


def test_inline_features_win_over_the_catalogue_and_ids_do_not(world: Any) -> None:
    inline = {"year": 2001, "price": 7, "id": "b"}
    candidates = [Candidate("a"), Candidate("a", inline), Candidate("x", {"year": "1999"})]
    feed, _ = world.encoder.encode(User(), candidates)
    assert feed["item_id"].tolist() == [2, 2, OOV]
    assert feed["item_year"].tolist() == [2, 3, 2]
    assert feed["item_price"].tolist() == [[-0.5], [2.0], [0.0]]
    assert feed["item_genres"].tolist() == [[2, 3, PAD], [2, 3, PAD], [PAD, PAD, PAD]]


def test_the_window_is_the_last_events(world: Any) -> None:
    events = tuple(Event(item, 5.0) for item in "abcdabcd")
    whole = world.encoder.encode(User(history=events), [Candidate("a")])[0]
    cut = world.encoder.encode(User(history=events[-world.schema.window :]), [Candidate("a")])[0]
    for name in whole:
        np.testing.assert_array_equal(whole[name], cut[name], err_msg=name)


def test_no_candidates_is_an_empty_batch(world: Any) -> None:
    feed, unknown = world.encoder.encode(User("u1", {}, (Event("a", 3.0),)), [])
    assert unknown == []
    assert {f.name: len(feed[f.name]) for f in world.schema.fields if f.side == "item"} == dict.fromkeys(
        ["item_id", "item_genres", "item_year", "item_price", "match", "item_text"], 0
    )


@given(JUNK)
def test_a_number_is_standardised_or_the_mean(value: Any) -> None:
    item = Field("n", "numeric", "user", "n", args={"mean": 3.0, "scale": 2.0})
    found = encode_value(item, None, value)
    usable = isinstance(value, (int, float)) and math.isfinite(value) and abs(value) < 1e30
    expected = (value - 3.0) / 2.0 if usable else 0.0
    assert found == min(10.0, max(-10.0, expected))


def test_a_schema_survives_json(world: Any) -> None:
    data = json.loads(json.dumps(world.schema.to_json()))
    assert Schema.from_json(data, world.schema.vocabularies).fields == world.schema.fields
    assert vocabulary_names(data) == set(world.schema.vocabularies)


BROKEN = [
    ({"vocab": "no"}, "vocabulary 'no'"), ({"kind": "number"}, "kind"), ({"side": "both"}, "side"),
    ({"length": 0}, "length"), ({"length": "3"}, "wrong type"), ({"length": True}, "wrong type"),
    ({"name": 3}, "wrong type"), ({"args": None}, "wrong type"), ({"args": {"vocab": []}}, "wrong type"),
    ({"colour": "red"}, "colour"), ({"kind": "derived", "source": "rm"}, "'rm'"),
    ({"kind": "derived", "source": "history_match"}, "user side"),
    ({"kind": "derived", "source": "history_match", "side": "item"}, "vocabulary None"),
    ({"kind": "derived", "source": "history_match", "side": "item", "args": {"vocab": "rating"}}, "attribute"),
    ({"kind": "derived", "source": "history_profile"}, "strength"),
    ({"kind": "numeric"}, "mean"), ({"kind": "numeric", "args": {"mean": 0, "scale": 0}}, "above 0"),
    ({"kind": "numeric", "args": {"mean": math.nan, "scale": 1}}, "numbers"),
    ({"kind": "sequence", "source": "time"}, "'time'"),
    ({"kind": "sequence", "source": "rating", "vocab": "user_id"}, "ratings"),
    ({"kind": "sequence", "source": "item", "vocab": "user_id"}, "different vocabularies"),
    ({"kind": "vector", "source": "title", "side": "item"}, "source 'text'"),
    ({"kind": "vector", "source": "text"}, "item side"),
    ({"kind": "vectors", "source": "text", "side": "item"}, "user side"),
    ({"kind": "vector", "source": "text", "side": "item"}, "attributes"),
    ({"kind": "vector", "source": "text", "side": "item", "args": {"attributes": [3]}}, "attributes"),
    ({"kind": "vector", "source": "text", "side": "item", "args": {"attributes": ["title"]}}, "more than one field"),
    ({"kind": "vector", "source": "text", "side": "item", "args": {"attributes": ["a"], "form": "keys"}}, "form must"),
    ({"kind": "vector", "source": "text", "side": "item", "args": {"attributes": ["a"], "form": []}}, "form must"),
    ({"kind": "vectors", "source": "text"}, "width"),
    ({"kind": "vectors", "source": "text", "args": {"width": 0}}, "width"),
    ({"kind": "vectors", "source": "text", "args": {"width": 3}}, "widths differ"),
    ({"name": "item_id"}, "twice"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "part"), BROKEN)
def test_an_impossible_field_is_refused(world: Any, change: dict[str, Any], part: str) -> None:
    data = json.loads(json.dumps(world.schema.to_json()))
    data["fields"][0].update(change)
    with pytest.raises(BundleError) as caught:
        Schema.from_json(data, world.schema.vocabularies)
    assert part in str(caught.value)


@given(st.dictionaries(st.sampled_from(["fields", "x"]), JUNK, max_size=2) | st.fixed_dictionaries(
    {"fields": st.lists(st.dictionaries(st.sampled_from(["name", "kind", "side", "source", "vocab", "length", "args"]),
                                        JUNK | st.sampled_from(["user", "numeric", "derived"]), max_size=7))}
))  # fmt: skip
def test_any_json_is_a_schema_or_a_bundle_error(data: Any) -> None:
    with contextlib.suppress(BundleError):
        vocabulary_names(data)
        Schema.from_json(data, {})


@given(st.integers(0, 12), st.integers(1, 12))
def test_the_last_events_of_a_history(world: Any, count: int, w: int) -> None:
    history = world.encoder.history(User(history=tuple(Event("a", float(i)) for i in range(count))))
    cut = history.last(w)
    assert cut.ratings.shape == (1, min(w, count, world.schema.window))
    assert cut.ratings[0].tolist() == [float(i) for i in range(count)][-min(w, world.schema.window) :]


@given(EVENTS, CANDIDATES, EVENTS)
def test_what_is_remembered_is_what_would_be_made_anew(
    world: Any, events: tuple[Event, ...], candidates: list[Candidate], others: tuple[Event, ...]
) -> None:
    """The same histories for two encoders by turns, with more candidates than kinds of items and with few."""
    encoders = [FeatureEncoder(world.schema, world.catalog) for _ in range(2)]
    slate, one, other = tuple(candidates) * 9, History.of(events), History.of(others)
    for history in (one, other, one, one, one):
        for user, asked in ((User("u1", {}, history), slate), (User("u9", {"job": "clerk"}, history), slate[:1])):
            expected, names = world.encoder.encode(User(user.id, user.features, tuple(history)), asked)
            for encoder in encoders:
                found, unknown = encoder.encode(user, asked)
                assert unknown == names
                for name, values in expected.items():
                    np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_history_does_not_keep_an_encoder_alive(world: Any) -> None:
    encoder, history = FeatureEncoder(world.schema, world.catalog), History.of((Event("a", 1.0), Event("b")))
    for _ in range(3):
        encoder.encode(User("u1", {}, history), [Candidate("a")])
    assert history.memo[1] is not None
    gone = weakref.ref(encoder)
    del encoder
    assert gone() is None


def test_a_list_of_candidates_may_change_between_requests(world: Any) -> None:
    candidates, user = [Candidate("a")], User("u1", {"job": "clerk"})
    assert world.encoder.encode(user, candidates)[0]["item_id"].tolist() == [2]
    candidates[0] = Candidate("b", {"year": "1999"})
    feed, _ = world.encoder.encode(user, candidates)
    assert (feed["item_id"].tolist(), feed["item_year"].tolist()) == ([3], [2])


def test_the_work_on_a_user_does_not_grow_with_the_candidates(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, asked = FeatureEncoder(world.schema, world.catalog), []
    function, *rest = DERIVED["history_match"]
    counted = lambda h, seen, facts, args: (asked.append(facts.shape[1]), function(h, seen, facts, args))[1]  # noqa: E731
    monkeypatch.setitem(DERIVED, "history_match", (counted, *rest))
    tallied, other = (User("u1", {}, (Event("a", 5.0), Event("b", rating))) for rating in (2.0, 2.25))
    for n in (1, 50, 1000):
        encoder.encode(tallied, [Candidate(item) for item in ITEMS] * n)
    assert asked == []
    for n in (1, 50, 1000):
        encoder.encode(other, [Candidate(item) for item in ITEMS] * n)
    # a, b, c, and what has no known genre; the third time the history is known.
    assert asked == [4, 4]


@given(EVENTS, st.lists(st.sampled_from(ITEMS), min_size=1, max_size=12))
def test_serving_gives_bit_for_bit_what_training_has_seen(
    world: Any, events: tuple[Event, ...], items: list[str]
) -> None:
    """Whether the events are tallied, since the vocabulary knows their ratings, or not."""
    encoder = world.encoder
    rows = np.array([world.catalog.row_of.get(item, encoder.unknown_row) for item in items])
    history = encoder.history(User(history=events))
    expected = encoder.encode_derived(history, encoder.candidate_facts(rows[None]))
    feed, _ = encoder.encode(User(history=events), [Candidate(item) for item in items])
    for name, values in expected.items():
        np.testing.assert_array_equal(feed[name], values, err_msg=name)
    for item in world.schema.of("sequence"):
        codes = encoder.encode_sequence(item, history.last(item.length))[0]
        np.testing.assert_array_equal(feed[item.name][0], [PAD] * (item.length - len(codes)) + codes.tolist())


@pytest.mark.parametrize(
    ("kinds", "tallied", "few"), [(4, True, True), (18, True, True), (50, False, True), (80, False, False)]
)
@pytest.mark.parametrize("centre", [{}, {"centre": "price"}])
def test_however_many_kinds_of_items_there_are_serving_is_training(
    kinds: int, tallied: bool, few: bool, centre: dict[str, str]
) -> None:
    """With a table of what an event adds, or without; a candidate alone, among others, or with values of its own."""
    rng = np.random.default_rng(kinds)
    match = {"mean": 3.0, "scale": 1.25, "strength": 5.0, "attribute": "genres", "vocab": "genre", **centre}
    fields = (
        Field("ratings", "sequence", "user", "rating", "rating", 7),
        Field("profile", "derived", "user", "history_profile", length=30, args=match),
        Field("latest", "derived", "user", "history_profile", length=5, args=match),
        Field("match", "derived", "item", "history_match", length=30, args=match),
        Field("short", "derived", "item", "history_match", length=9, args={**match, "strength": 2.0}),
    )
    names = [f"g{i}" for i in range(kinds - 1)]  # and items without
    genres = [[names[i % kinds]] if i % kinds < len(names) else [] for i in range(2 * kinds)]
    records = [{"genres": of, "price": float(rng.integers(1, 6))} for of in genres]
    ids = [f"i{i}" for i in range(len(records))]
    vocabularies = {"genre": Vocabulary("genre", names), "rating": Vocabulary("rating", ["1", "2", "3", "4", "5"])}
    encoder = FeatureEncoder(Schema(fields, vocabularies), Catalog(ids, records))
    assert {*encoder._match_tables} == ({"match", "short"} if tallied and not centre else set())
    assert [f.name for f in encoder._few] == (["match", "short"] if few else [])
    for w in (0, 1, 6, 28, 40):
        chosen = rng.integers(0, len(ids), w).tolist()
        history = History([ids[i] for i in chosen], [float(rng.integers(1, 6)) for _ in chosen])
        user, rows = User("u", {}, history), rng.integers(0, len(ids), (1, 100))
        events = encoder.history(user)
        expected = encoder.encode_derived(events, encoder.candidate_facts(rows))
        for n in (1, 3, 100):
            feed, _ = encoder.encode(user, [Candidate(ids[i]) for i in rows[0, :n]])
            own, _ = encoder.encode(user, [Candidate("nowhere", {"genres": genres[i]}) for i in rows[0, :n]])
            for name, values in expected.items():
                np.testing.assert_array_equal(feed[name], values[: len(feed[name])], err_msg=f"{name}, {w}, {n}")
                np.testing.assert_array_equal(own[name], values[: len(own[name])], err_msg=f"{name}, {w}, {n}")


@given(st.lists(st.none() | st.floats(-1e6, 1e6) | st.sampled_from([1.0, 3.5, 0.1, 1000]), max_size=6))
def test_ratings_are_known_if_all_are_none_or_a_value(ratings: list[float | None]) -> None:
    codes = RatingCodes(Vocabulary("r", ["3.5", "1", "1.0", "0.1", "1e3"]))
    found = codes.if_known(ratings)
    near = codes.of(np.asarray(ratings, dtype=np.float32))
    if found is None:
        assert any(r not in (None, 3.5, 1.0, 0.1, float(np.float32(0.1)), 1000.0) for r in ratings)
    else:
        assert found.tolist() == near.tolist()
        given = np.array(ratings, np.float32)
        np.testing.assert_array_equal(codes.ratings[0].take(found), given)


@given(st.lists(st.none() | st.floats(-1e6, 1e6, width=32) | st.sampled_from([1.0, 3.5]), max_size=6))
def test_a_rating_is_found_as_by_plain_search(ratings: list[float | None]) -> None:
    values = ["3.5", "1", "-2", "1.0", "1e3"]
    known = np.asarray([float(v) for v in values], dtype=np.float32).tolist()
    found = RatingCodes(Vocabulary("r", values)).of(np.asarray([ratings], dtype=np.float32))
    assert found.tolist() == [[FIRST + known.index(r) if r in known else OOV for r in ratings]]


def test_a_schema_without_history_needs_none() -> None:
    schema = Schema((Field("item_id", "categorical", "item", "id", "v"),), {"v": Vocabulary("v", ["a"])})
    encoder = FeatureEncoder(schema, Catalog(["a"], [{}]))
    feed, _ = encoder.encode(User("u", {}, (Event("a", 1.0),)), [Candidate("a"), Candidate("b")])
    assert {name: values.tolist() for name, values in feed.items()} == {"item_id": [2, OOV]}


def test_ratings_count_from_their_items_mean() -> None:
    args = {"mean": 3.0, "scale": 1.25, "strength": 5.0, "centre": "mean_rating"}
    match = {**args, "attribute": "genres", "vocab": "genre"}
    fields = (
        Field("profile", "derived", "user", "history_profile", length=5, args=args),
        Field("match", "derived", "item", "history_match", length=5, args=match),
    )
    records: list[dict[str, Any]] = [
        {"genres": ["g1"], "mean_rating": 4.0}, {"genres": ["g1", "g2"], "mean_rating": 2.5}, {"genres": ["g2"]},
        {"genres": ["g2"], "mean_rating": None},
    ]  # fmt: skip
    catalog = Catalog(["a", "b", "c", "d"], records)
    encoder = FeatureEncoder(Schema(fields, {"genre": Vocabulary("genre", ["g1", "g2"])}), catalog)
    # a: 5 is 1 above its mean, b: 2 is 0.5 below; c, d and what is unknown count from the general mean.
    events = (Event("a", 5.0), Event("b", 2.0), Event("c", 4.0), Event("d", 1.0), Event("nowhere", 5.0))
    moved = (Event("a", 4.0), Event("b", 2.5), *events[2:])
    candidates = [Candidate("a"), Candidate("c"), Candidate("nowhere"), Candidate("nowhere", {"genres": ["g2"]})]
    feed, _ = encoder.encode(User(history=events), candidates)
    np.testing.assert_allclose(feed["profile"], [slow_moments(moved)], rtol=1e-6)
    expected = [slow_moments(moved[:2]), slow_moments(moved[1:4]), slow_moments(()), slow_moments(moved[1:4])]
    np.testing.assert_allclose(feed["match"], expected, rtol=1e-6, atol=1e-7)
    for i, candidate in enumerate(candidates):
        alone, _ = encoder.encode(User(history=events), [candidate])
        np.testing.assert_array_equal(alone["match"][0], feed["match"][i])
    # Without a rating an event is a liked one, whatever its item's mean.
    unrated, _ = encoder.encode(User(history=(Event("a", None), Event("b", None))), [])
    np.testing.assert_allclose(unrated["profile"], [slow_moments((Event("a", None), Event("b", None)))], rtol=1e-6)
