"""Messages of bytes: what the quick reader and the strict one make of a text is the same, or the same error."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.formats.strict_json import JsonError, decode
from corella_edge.messages import MAX_ID_CHARS, MAX_WHOLE, check, read
from corella_edge.request import Candidates, History, Request, User
from corella_edge.request_message import parse_request, read_request

TEXTS = st.text(max_size=5) | st.sampled_from(["a:b", ":", '":', "\\", "null", "x" * (MAX_ID_CHARS + 1), "é"])
NUMBERS = (
    st.integers(-3, 7) | st.floats() | st.sampled_from([MAX_WHOLE, MAX_WHOLE + 1, 2**63, -MAX_WHOLE, 10**30, 2**53 + 1])
)
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
FEATURES = st.dictionaries(
    TEXTS, SCALARS | st.lists(SCALARS, max_size=3) | st.lists(st.lists(SCALARS), max_size=1), max_size=3
)
ODD = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(TEXTS, SCALARS, max_size=2)
IDS = TEXTS | st.integers(-3, 9) | NUMBERS
EVENTS = st.fixed_dictionaries({"item": IDS}, optional={"rating": NUMBERS | st.none(), "time": NUMBERS | st.none()})
USERS = st.fixed_dictionaries(
    {}, optional={"id": IDS, "features": FEATURES, "history": st.lists(EVENTS | ODD, max_size=3)}
)
CANDIDATES = st.fixed_dictionaries({"item": IDS}, optional={"features": FEATURES | st.none()})
DOCUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "user": USERS | ODD, "user_id": IDS, "candidates": st.lists(CANDIDATES | ODD, max_size=3) | ODD, "id": IDS,
        "threshold": SCALARS, "top_k": NUMBERS, "timeout_ms": NUMBERS, "explain": SCALARS, "strict": SCALARS,
        "more": SCALARS,
    },
)  # fmt: skip


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """JSON of a document, spaced and escaped in several ways, at times with a name twice, or damaged."""
    text = json.dumps(
        draw(DOCUMENTS), ensure_ascii=draw(st.booleans()), indent=draw(st.none() | st.just(1)),
        separators=draw(st.none() | st.just((",", ":")) | st.just((", ", " : "))),
    )  # fmt: skip
    names = [name for name in ('"item"', '"id"', '"user"', '"rating"') if name in text]
    if names and draw(st.booleans()):
        name = draw(st.sampled_from(names))
        text = text.replace(name, f"{name}:1,{name}", 1)
    if draw(st.booleans()):
        place = draw(st.integers(0, len(text)))
        text = (
            text[:place] + draw(st.sampled_from(["", "\x00", "}", "\\ud800", "NaN", '"', "1e999"])) + text[place + 1 :]
        )
    return text.encode("utf-8", "surrogatepass")


def outcome(parse: Any, given: Any) -> Any:
    """A request, or kind and text of the error."""
    try:
        return parse(given)
    except InputError as error:
        return type(error), str(error)


@settings(max_examples=400)
@example(b'{"user_id": 1, "id": "a", "id": "b"}')
@example(b'{"user_id": "a:b", "id": "a", "id": "b"}')
@example(b'{"user_id": "\\u003a", "id": "a", "id": "b"}')
@example(b'{"user": {"history": [{"item": ":", "item": "x", "rating": null}]}}')
@example(b'{"user_id": ":", "user_id": "x"}')
@example(b'{"id": 18446744073709551617}')
@given(texts())
def test_the_quick_reader_says_what_the_strict_one_says(text: bytes) -> None:
    assert outcome(read_request, text) == outcome(lambda raw: parse_request(decode(raw)), text)


PLAIN = st.fixed_dictionaries(
    {
        "user": st.fixed_dictionaries({"id": st.text(min_size=1, max_size=4), "history": st.lists(
            st.fixed_dictionaries(
                {"item": st.text(min_size=1, max_size=3) | st.integers(0, 99)},
                optional={
                    "rating": st.none() | st.integers(1, 5), "time": st.none() | st.sampled_from([9e8, 900000000.5])
                },
            ), max_size=4)}),
        "candidates": st.lists(
            st.fixed_dictionaries(
                {"item": st.text(min_size=1, max_size=3) | st.integers(0, 99)},
                optional={"features": st.none() | st.dictionaries(st.text(max_size=3), st.integers(0, 9), max_size=2)},
            ), min_size=1, max_size=4),
    }
)  # fmt: skip


@given(PLAIN)
def test_columns_are_those_of_a_plain_reading(document: dict[str, Any]) -> None:
    found = read_request(json.dumps(document).encode())
    events, asked = document["user"]["history"], document["candidates"]
    assert found.candidates is not None
    assert [*found.user.history.items] == [str(event["item"]) for event in events]
    expected = [(str(e["item"]), e.get("rating"), None if e.get("time") is None else int(e["time"])) for e in events]
    assert [*found.user.history.rows()] == expected
    assert [*found.candidates.items] == [str(one["item"]) for one in asked]
    own = {i: one["features"] for i, one in enumerate(asked) if one.get("features") is not None}
    assert found.candidates.own == own


@given(PLAIN, st.integers(0, 4), st.integers(0, 4))
def test_columns_are_sequences_of_what_they_are_built_of(document: dict[str, Any], start: int, stop: int) -> None:
    found = parse_request(document)
    assert found.candidates is not None
    assert found.notes == ()
    assert Request(User(found.user.id, {}, tuple(found.user.history)), [*found.candidates]) == found
    history, candidates = found.user.history, found.candidates
    assert tuple(history[start:stop]) == tuple(history)[start:stop]
    assert tuple(candidates[start:stop]) == tuple(candidates)[start:stop]
    assert [candidates[i] for i in range(-len(candidates), len(candidates))] == [*candidates, *candidates]
    assert [history[i] for i in range(-len(history), len(history))] == [*history, *history]
    assert isinstance(history[start:stop], History)
    assert isinstance(candidates[start:stop], Candidates)
    assert tuple(history.last(start)) == tuple(history)[max(0, len(history) - start) :]


def test_a_name_is_given_once_in_any_message() -> None:
    kind = msgspec.defstruct("Kind", [("a", int)])
    assert read(b'{"a": 1}', kind, "it").a == 1  # type: ignore[attr-defined]
    with pytest.raises(JsonError, match="occurs twice"):
        read(b'{"a": 1, "a": 1}', kind, "it")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"user": {"history": [{"item": []}]}}, "user.history[0].item: expected a whole number or text, got a list"),
        ({"user": {"features": {"ok": 1, "age": {}}}}, "user.features.age: expected true or false"),
        ({"user_id": "1", "candidates": [{"item": "1"}, {"item": "x" * 300}]},
         "candidates[1].item: expected text of at most 256 characters, got 300 characters"),
        ({"user_id": "1", "candidates": []},
         "candidates: the list is empty; leave the field out to rank the whole catalogue"),
        ({"user_id": "1", "top_k": 0}, "top_k: expected a whole number of at least 1, got 0"),
        ({"user_id": "1", "candidates": [{"a": "1"}]}, "candidates[0]: unknown field 'a'; known fields: features,"),
        ({"user_id": "1", "candidates": [{}]}, "candidates[0].item: is missing"),
        ([], "request: expected an object, got a list"),
    ],
)  # fmt: skip
def test_an_error_says_where_what_and_instead_of_what(document: Any, expected: str) -> None:
    for parse, form in ((parse_request, document), (read_request, json.dumps(document).encode())):
        with pytest.raises(InputError) as caught:
            parse(form)
        assert expected in str(caught.value)


def test_what_is_nested_without_end_is_told_in_a_line() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InputError, match="nested too deeply"):
        check({"user": deep}, dict, "it")
    with pytest.raises(InputError, match="nested too deeply"):
        read_request(b'{"user":' + b"[" * 100_000)


def test_the_place_in_an_error_is_bounded_however_deep_it_is() -> None:
    deep: Any = 2**64 + 1
    for number in range(200):
        deep = {f"field-{number}": deep} if number % 2 else [deep]
    with pytest.raises(
        InputError, match=r"^user\.field-199\[0\].*….*\.field-1\[0\]: the number is too large$"
    ) as caught:
        parse_request({"user": deep})
    assert len(str(caught.value)) < 240


@pytest.mark.parametrize("item", ["1", "steam:1", ":"])
def test_a_name_given_twice_is_told_before_what_the_message_means(item: str) -> None:
    text = json.dumps({"user": {"history": [{"item": item, "time": 10**12}]}, "candidates": [{"item": item}]}).encode()
    with pytest.raises(InputError, match="looks like milliseconds"):
        read_request(text)
    with pytest.raises(JsonError, match="occurs twice"):
        read_request(text.replace(b'"item"', b'"item": 1, "item"', 1))
    sound = text.replace(b"000000000000", b"000000000")
    assert read_request(sound).candidates == Candidates([item])
    with pytest.raises(JsonError, match="occurs twice"):
        read_request(sound.replace(b'"candidates"', b'"candidates": null, "candidates"', 1))
