"""What a request may say of adapters, what a bundle says, and by what is answered then."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.adapters import ALONE, MAX_WEIGHT, Adapters, is_name, weights_of
from corella_edge.errors import BundleError, InputError
from corella_edge.request import Request, User
from corella_edge.request_json import request_json
from corella_edge.request_message import parse_request, read_request
from corella_edge.routing.kept import KeptAnswers, asked_by

KNOWN = Adapters(("a", "b", "c.1"), (("a", 1.0),))
NAMES = st.sampled_from(["a", "b", "c.1"])
WEIGHTS = st.floats(-MAX_WEIGHT, MAX_WEIGHT)


def read(**more: Any) -> Request:
    """By bytes, which must be the same as by a decoded value."""
    message = {"user": {"id": "u"}, **more}
    found = read_request(json.dumps(message).encode())
    assert parse_request(message) == found
    return found


def test_one_adapter_is_the_same_as_its_weight_of_one() -> None:
    assert read(adapter="a").adapters == read(adapters={"a": 1}).adapters == {"a": 1.0}
    assert read().adapters is None
    assert read(adapter=None, adapters=None).adapters is None
    assert read(adapters={}).adapters == {}


@given(st.dictionaries(NAMES, WEIGHTS | st.integers(-10, 10), max_size=3))
def test_weights_come_through_a_request_and_its_json(wanted: dict[str, float]) -> None:
    request = read(adapters=wanted)
    assert request.adapters == wanted
    assert parse_request(request_json(request)).adapters == wanted
    found = KNOWN.weights(request.adapters)
    assert found == tuple(sorted(found))
    assert dict(found) == {name: float(np.float32(w)) for name, w in wanted.items() if np.float32(w)}
    assert weights_of(KNOWN.settled(request).adapters) == found
    assert KNOWN.settled(KNOWN.settled(request)) == KNOWN.settled(request)


@given(st.permutations(["a", "b", "c.1"]), st.floats(0.1, 1), st.floats(0.1, 1))
def test_the_order_of_names_and_weights_of_zero_say_nothing(order: list[str], one: float, two: float) -> None:
    weights = {"a": one, "b": two, "c.1": 0.0}
    assert KNOWN.weights({name: weights[name] for name in order}) == KNOWN.weights({"a": one, "b": two})


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), st.lists, max_leaves=4)


def outcome(message: Any) -> tuple[Request | None, str]:
    """The request, or what is wrong with it."""
    try:
        return parse_request(message), ""
    except InputError as error:
        return None, str(error)


@given(st.dictionaries(st.text(max_size=70), JSON, max_size=4) | JSON, JSON)
def test_anything_else_is_one_error_that_names_the_field(several: Any, one: Any) -> None:
    message = {"user": {"id": "u"}, "adapters": several, "adapter": one}
    found, error = outcome(message)
    if found is None:
        assert "adapter" in error
        assert "\n" not in error
        return
    assert (one is None) != (several is None) or found.adapters is None
    for weight in (found.adapters or {}).values():
        assert -MAX_WEIGHT <= weight <= MAX_WEIGHT


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"adapter": "a", "adapters": {"b": 1}}, "adapter: give adapter or adapters, not both"),
        ({"adapter": ""}, "adapter: expected text of at least 1 character"),
        ({"adapter": 3}, "adapter: expected text"),
        ({"adapters": {"a": 10.5}}, r"adapters\.a: expected a number of at most 10"),
        ({"adapters": {"a": "1"}}, r"adapters\.a: expected a number"),
        ({"adapters": {"a": True}}, r"adapters\.a: expected a number"),
        ({"adapters": ["a"]}, "adapters: expected an object"),
    ],
)
def test_errors_name_the_field_and_what_is_expected(more: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(**more)


def test_a_name_twice_is_refused_as_everywhere_in_json() -> None:
    with pytest.raises(InputError, match="'a' occurs twice"):
        read_request(b'{"user": {"id": "u"}, "adapters": {"a": 1, "a": 2}}')
    assert read_request(b'{"user": {"id": "u:"}, "adapters": {"a:b": 1, "c": 2}}').adapters == {"a:b": 1, "c": 2}


def test_an_unknown_name_is_told_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match=r"adapters: 'd' is no adapter of this bundle, which has a, b, c\.1"):
        KNOWN.weights({"a": 1, "d": 0})
    with pytest.raises(InputError, match="which has none"):
        Adapters().settled(Request(User("u"), adapters={"a": 1.0}))
    assert Adapters().settled(Request(User("u"))).adapters is None
    assert Adapters().settled(Request(User("u"), adapters={})).adapters is None
    assert KNOWN.settled(Request(User("u"))).adapters == {"a": 1.0}


def test_the_list_of_a_bundle_comes_back_as_it_was() -> None:
    assert Adapters.parse(json.loads(json.dumps(KNOWN.to_json()))) == KNOWN
    assert Adapters.parse({"adapters": ["b", "a"], "default": {}}) == Adapters(("a", "b"), ALONE)
    assert KNOWN.files["c.1"] == "adapters/c.1.gguf"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "adapters is not a list"),
        ({"adapters": [], "default": {}}, "adapters is not a list"),
        ({"adapters": ["a", "a"], "default": {}}, "adapters is not a list of different names"),
        ({"adapters": ["../a"], "default": {}}, "adapters is not a list of different names"),
        ({"adapters": ["a"]}, "default is not an object"),
        ({"adapters": ["a"], "default": {"a": float("nan")}}, "default is not an object of weights"),
        ({"adapters": ["a"], "default": {"a": "1"}}, "default is not an object of weights"),
        ({"adapters": ["a"], "default": {"b": 1}}, "default: adapters: 'b' is no adapter"),
    ],
)
def test_a_damaged_list_is_one_error(data: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleError, match=rf"adapters\.json: {message}"):
        Adapters.parse(data)


@given(st.text(max_size=70))
def test_names_are_file_names(text: str) -> None:
    assert is_name(text) == (text.isascii() and 0 < len(text) <= 64 and text[0].isalnum()
                             and all(c.isalnum() or c in "._-" for c in text))  # fmt: skip


def test_answers_are_kept_apart_by_adapters() -> None:
    kept, by_a, by_b = KeptAnswers(10, 60.0), (("a", 1.0),), (("b", 1.0),)
    for number, by in enumerate((ALONE, by_a, by_b)):
        kept.put("u", b"s", asked_by(["i"], by), np.array([0.1 * number]), 0.0)
    for number, by in enumerate((ALONE, by_a, by_b)):
        assert kept.get("u", b"s", asked_by(["i"], by), 1.0).tolist() == [0.1 * number]
        assert kept.latest("u", asked_by(["i"], by), 1.0).tolist() == [0.1 * number]
    assert len(kept) == 3
    kept.forget("u")
    assert np.isnan(kept.get("u", b"s", asked_by(["i"], by_a), 1.0)).all()
