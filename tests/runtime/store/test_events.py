"""`parse_events`: any JSON is events to append or one error that names the field."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.history import MAX_TIME
from corella_edge.messages import MAX_ID_CHARS
from corella_edge.request import Event
from corella_edge_runtime.store.events import MAX_EVENTS, NewEvents, parse_events, parse_user_id

NAMES = ["user_id", "events", "features", "key"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from([10**400, ""])
ANY_JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["item", "rating", "time"]) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)
IDS = st.text(min_size=1, max_size=MAX_ID_CHARS)
NUMBERS = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)
FEATURES = st.dictionaries(st.text(max_size=9), NUMBERS | st.booleans() | st.none() | st.lists(NUMBERS, max_size=3))
EVENTS = st.fixed_dictionaries(
    {"item": IDS}, optional={"rating": NUMBERS, "time": st.integers(-MAX_TIME, MAX_TIME) | st.floats(-1e9, 1e9)}
)
IN_ORDER = st.lists(EVENTS, max_size=4).map(lambda events: sorted(events, key=lambda event: event.get("time", 0)))
VALID = st.fixed_dictionaries({"user_id": IDS, "events": IN_ORDER}, optional={"features": FEATURES, "key": IDS})


@given(ANY_JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, ANY_JSON)))
def test_any_json_is_events_or_an_input_error(value: Any) -> None:
    try:
        message = repr(parse_events(value).key)
    except InputError as error:
        message = str(error)
    assert message
    assert "\n" not in message
    assert len(message) < 400


@given(VALID)
def test_a_valid_document_is_taken_over_completely(document: dict[str, Any]) -> None:
    events = tuple(
        Event(e["item"], e.get("rating"), int(e["time"]) if "time" in e else None) for e in document["events"]
    )
    expected = NewEvents(document["user_id"], events, document.get("features"), document.get("key"))
    found = parse_events(json.loads(json.dumps(document)))
    assert replace(found, notes=()) == expected
    assert all("before 1995" in note for note in found.notes)


def test_integers_are_ids_and_null_is_absence() -> None:
    document = {"user_id": 42, "events": [{"item": -3, "rating": None}], "features": None, "key": 7}
    assert parse_events(document) == NewEvents("42", (Event("-3"),), None, "7")
    assert parse_events({"user_id": "u", "events": None}) == NewEvents("u", ())


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ([], "body"),
        ({"events": []}, "user_id: is missing"),
        ({"user_id": "u"}, "events: is missing"),
        ({"user_id": None, "events": []}, "user_id"),
        ({"user_id": "", "events": []}, "user_id"),
        ({"user_id": "u", "events": [], "user": {}}, "'user'"),
        ({"user_id": "u", "events": {}}, "events"),
        ({"user_id": "u", "events": [{"item": "a"}, {}]}, "events[1].item"),
        ({"user_id": "u", "events": [{"item": "a", "rating": "5"}]}, "events[0].rating"),
        ({"user_id": "u", "events": [{"item": "a", "when": 1}]}, "events[0]: unknown field 'when'"),
        ({"user_id": "u", "events": [{"item": "a"}] * (MAX_EVENTS + 1)}, "events"),
        ({"user_id": "u", "events": [], "features": {"age": {}}}, "features.age"),
        ({"user_id": "u", "events": [], "key": "x" * (MAX_ID_CHARS + 1)}, "key"),
    ],
)
def test_an_error_names_the_field(document: Any, name: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_events(document)
    assert name in str(caught.value)


def test_an_id_in_a_path_is_bounded() -> None:
    assert parse_user_id("ü/?") == "ü/?"
    for wrong in ("", "x" * (MAX_ID_CHARS + 1)):
        with pytest.raises(InputError, match="user id"):
            parse_user_id(wrong)
