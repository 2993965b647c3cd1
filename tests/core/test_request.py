from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.history import MAX_TIME
from corella_edge.messages import MAX_FEATURES, MAX_ID_CHARS, MAX_TEXT_CHARS, MAX_VALUES
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.request_message import MAX_CANDIDATES, MAX_TIMEOUT_MS, parse_request

TOP = ["id", "candidates", "threshold", "top_k", "timeout_ms"]
NAMES = ["user", *TOP, "features", "history", "item", "rating", "time"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([10**400, ""])
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=20,
)
IDS = st.text(min_size=1, max_size=MAX_ID_CHARS)
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)
VALUES = st.text(max_size=9) | NUMBERS | st.booleans() | st.none()
FEATURES = st.dictionaries(st.text(max_size=9), VALUES | st.lists(VALUES, max_size=3), max_size=3)
EVENTS = st.fixed_dictionaries(
    {"item": IDS}, optional={"rating": NUMBERS, "time": st.integers(-MAX_TIME, MAX_TIME) | st.floats(-1e9, 1e9)}
)
IN_ORDER = st.lists(EVENTS, max_size=4).map(lambda events: sorted(events, key=lambda event: event.get("time", 0)))
USERS = st.fixed_dictionaries({}, optional={"id": IDS, "features": FEATURES, "history": IN_ORDER})
CANDIDATES = st.lists(st.fixed_dictionaries({"item": IDS}, optional={"features": FEATURES}), min_size=1, max_size=4)
VALID = st.fixed_dictionaries(
    {"user": USERS},
    optional={
        "id": IDS,
        "candidates": CANDIDATES,
        "threshold": st.floats(0, 0.69) | st.text(max_size=9),
        "top_k": st.integers(1, 100),
        "timeout_ms": st.floats(0, 1e6),
    },
)


@given(ANY_JSON | st.fixed_dictionaries({"user": ANY_JSON}, optional=dict.fromkeys(TOP, ANY_JSON)))
@example({"\n": 2**64 + 1})
@example({"user": {"features": {"\n": 2**64 + 1}}})
@example({"user": {"features": {"\n": {"a": 1}}}})
@example({"user": {"\n": 1}})
def test_any_json_is_a_request_or_an_input_error(value: Any) -> None:
    try:
        message = repr(parse_request(value).user)[:4]
    except InputError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 400


@given(VALID)
def test_a_valid_document_is_taken_over_completely(document: dict[str, Any]) -> None:
    request = parse_request(json.loads(json.dumps(document)))
    user = document["user"]
    assert request.id == document.get("id")
    assert request.threshold == document.get("threshold")
    assert request.top_k == document.get("top_k")
    assert request.timeout_ms == document.get("timeout_ms")
    assert request.user.id == user.get("id")
    assert request.user.features == user.get("features", {})
    assert request.user.history == tuple(
        Event(e["item"], e.get("rating"), int(e["time"]) if "time" in e else None) for e in user.get("history", [])
    )
    listed = document.get("candidates")
    assert request.candidates == (listed and tuple(Candidate(c["item"], c.get("features")) for c in listed))


def test_integers_are_ids_and_null_is_absence() -> None:
    document = {"id": 7, "user": {"id": 42, "history": None, "features": None}, "candidates": [{"item": -3}]}
    assert parse_request(document) == Request(User("42"), (Candidate("-3"),), "7")
    assert parse_request({"user": {}, "candidates": None}) == Request(User())


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ([], "request"),
        ({}, "'user'"),
        ({"user": 3}, "user:"),
        ({"user": {}, "extra": 1}, "'extra'"),
        ({"user": {"age": 3}}, "user: unknown field 'age'"),
        ({"user": {"id": 1.5}}, "user.id"),
        ({"user": {"id": True}}, "user.id"),
        ({"user": {"id": ""}}, "user.id"),
        ({"user": {"id": "x" * (MAX_ID_CHARS + 1)}}, "user.id"),
        ({"user_id": ""}, "user_id"),
        ({"user": {}, "user_id": "1"}, "exactly one of the fields 'user' and 'user_id'"),
        ({"user": {}, "explain": 1}, "explain"),
        ({"user": {}, "strict": "yes"}, "strict"),
        ({"user": {"features": {"x": "y" * (MAX_TEXT_CHARS + 1)}}}, "user.features.x"),
        ({"user": {"features": {"x": ["y"] * (MAX_VALUES + 1)}}}, "user.features.x"),
        ({"user": {"features": {str(i): 1 for i in range(MAX_FEATURES + 1)}}}, "user.features"),
        ({"user": {"features": []}}, "user.features"),
        ({"user": {"features": {"age": {"a": 1}}}}, "user.features.age"),
        ({"user": {"features": {"age": [[1]]}}}, "user.features.age"),
        ({"user": {"features": {"age": float("nan")}}}, "user.features.age"),
        ({"user": {"features": {"age": 10**50}}}, "user.features.age"),
        ({"user": {"history": {}}}, "user.history"),
        ({"user": {"history": [{"item": "a"}, 3]}}, "user.history[1]"),
        ({"user": {"history": [{"rating": 3}]}}, "user.history[0].item"),
        ({"user": {"history": [{"item": "a", "rating": "5"}]}}, "user.history[0].rating"),
        ({"user": {"history": [{"item": "a", "rating": 10**7, "time": 0}]}}, "user.history[0].rating"),
        ({"user": {"history": [{"item": "a", "rating": 1, "time": MAX_TIME + 1}]}}, "user.history[0].time"),
        ({"user": {"history": [{"item": "a", "when": 1}]}}, "user.history[0]: unknown field 'when'"),
        ({"user": {}, "candidates": []}, "candidates"),
        ({"user": {}, "candidates": [{"item": "a"}, {}]}, "candidates[1].item"),
        ({"user": {}, "candidates": [{"item": "a", "features": 3}]}, "candidates[0].features"),
        ({"user": {}, "candidates": [{"item": "a"}] * (MAX_CANDIDATES + 1)}, "candidates"),
        ({"user": {}, "threshold": [1]}, "threshold"),
        ({"user": {}, "threshold": float("inf")}, "threshold"),
        ({"user": {}, "top_k": 0}, "top_k"),
        ({"user": {}, "top_k": True}, "top_k"),
        ({"user": {}, "top_k": 10**5000}, "top_k"),
        ({"user": {}, "timeout_ms": -1}, "timeout_ms: expected a number of at least 0, got -1"),
        ({"user": {}, "timeout_ms": math.inf}, "timeout_ms: inf is not a finite number"),
        ({"user": {}, "timeout_ms": "5"}, "timeout_ms"),
        ({"user": {}, "timeout_ms": MAX_TIMEOUT_MS + 1}, "timeout_ms"),
    ],
)  # fmt: skip
def test_an_error_names_the_field(document: Any, name: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_request(document)
    assert name in str(caught.value)


def test_a_bare_user_id_is_a_user_without_anything_else() -> None:
    assert parse_request({"user_id": 42}) == parse_request({"user": {"id": "42"}})
    assert parse_request({"user_id": 42}).user.bare
    assert not parse_request({"user": {"id": "42", "history": [{"item": "1"}]}}).user.bare
    assert not parse_request({"user": {}}).user.bare


def test_a_request_asks_for_more_or_for_less_patience() -> None:
    plain = parse_request({"user": {}, "explain": None, "strict": False})
    assert (plain.explain, plain.strict) == (False, False)
    asked = parse_request({"user": {}, "explain": True, "strict": True})
    assert (asked.explain, asked.strict) == (True, True)
