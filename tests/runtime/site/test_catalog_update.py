"""A catalogue update as values: what is merged, refused, told, and which reference rows still hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.features.schema import Field, Schema, Vocabulary
from corella_edge.json_lines import parse_reference
from corella_edge.prompt import Template
from corella_edge.request import Candidate
from corella_edge_runtime.attributes import UsedAttributes, read_items, remarks
from corella_edge_runtime.site.catalog_change import MARK, reference_lines
from corella_edge_runtime.site.catalog_update import merge
from corella_edge_runtime.site.successor import next_version

TEMPLATE = Template(item="{title} {genres}:")
NUMBER = {"mean": 0.0, "scale": 1.0, "strength": 3.0}
SCHEMA = Schema(
    (
        Field("item", "categorical", "item", "id", "item"),
        Field("genres", "multi", "item", "genres", "genre", 2),
        Field("year", "categorical", "item", "year", "year"),
        Field("price", "numeric", "item", "price", args={"mean": 0.0, "scale": 1.0}),
        Field("match", "derived", "item", "history_match", "", 8, {**NUMBER, "attribute": "genres", "vocab": "genre"}),
        Field("old", "derived", "item", "history_number", "", 8, {**NUMBER, "attribute": "age"}),
        Field("like", "derived", "item", "history_similarity", "", 8, {**NUMBER, "attribute": "like", "width": 2}),
        Field("profile", "derived", "user", "history_profile", "", 8, {**NUMBER, "centre": "mean_rating"}),
    ),
    {
        "item": Vocabulary("item", ["a", "b"]),
        "genre": Vocabulary("genre", ["Drama", "Comedy"]),
        "year": Vocabulary("year", ["1999", "2001"]),
    },
)
READING = UsedAttributes(SCHEMA, TEMPLATE)
CATALOG = Catalog(
    ["a", "b", "cold"],
    [
        {"title": "Alpha", "genres": ["Drama"], "year": 1999, "price": 2.0, "poster": "a.png"},
        {"title": "Beta", "genres": ["Comedy"], "year": 2001, "mean_rating": None},
        {"title": "Gamma"},
    ],
)


def items(*lines: dict[str, Any]) -> list[Candidate]:
    return [Candidate(line["item"], {k: v for k, v in line.items() if k != "item"}) for line in lines]


def test_new_items_come_last_and_known_ones_keep_their_place_and_what_is_not_given() -> None:
    new, known = {"item": "new", "title": "N", "price": None}, {"item": "a", "year": 2001, "price": None}
    found = merge(CATALOG, items(new, known, {"item": "b", "title": "Beta"}))
    assert (found.added, found.changed, found.same) == (["new"], ["a"], 1)
    assert found.catalog.ids == ["a", "b", "cold", "new"]
    assert found.catalog.of("new") == {"title": "N"}
    assert found.catalog.of("a") == {"title": "Alpha", "genres": ["Drama"], "year": 2001, "poster": "a.png"}
    assert found.catalog.attributes[1] is CATALOG.attributes[1]


@pytest.mark.parametrize("value", [1999, "1999", 1999.0])
def test_the_same_number_in_another_form_is_a_change_only_as_json(value: Any) -> None:
    assert len(merge(CATALOG, items({"item": "a", "year": value})).changed) == (value != 1999 or type(value) is not int)


VALUES = (
    st.none() | st.integers(-3, 3) | st.text("xy", max_size=2) | st.booleans() | st.lists(st.text("xy"), max_size=2)
)
RECORDS = st.dictionaries(st.sampled_from(["title", "genres", "year"]), VALUES)


@given(st.dictionaries(st.sampled_from("abcdef"), RECORDS), st.dictionaries(st.sampled_from("abcdef"), RECORDS))
def test_an_update_read_back_is_what_inline_features_would_give_and_a_second_time_changes_nothing(
    old: dict[str, Any], new: dict[str, Any]
) -> None:
    before, given = Catalog(old, old.values()), [Candidate(item, features) for item, features in new.items()]
    after = merge(before, given)
    assert after.catalog.ids == [*old, *(item for item in new if item not in old)]
    for item, features in new.items():
        inline = {**old.get(item, {}), **features}
        names = inline.keys() | after.catalog.of(item).keys()
        assert {n: after.catalog.of(item).get(n) for n in names} == {n: inline.get(n) for n in names}
    assert all(after.catalog.of(item) == old[item] for item in old.keys() - new.keys())
    again = merge(after.catalog, given)
    assert (again.added, again.changed) == ([], [])
    assert len(after.added) + len(after.changed) + after.same == len(new)


KNOWN = {*READING.names, "poster"}


def read(tmp_path: Path, *lines: object) -> list[Candidate]:
    path = tmp_path / "items.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines))
    return read_items(path, KNOWN, READING)


def test_lines_are_read_and_numbers_are_ids(tmp_path: Path) -> None:
    found = read(tmp_path, {"item": 7, "title": "Seven", "poster": "x", "age": "30", "like": [0.5, 1]}, {"item": "b"})
    assert found == [
        Candidate("7", {"title": "Seven", "poster": "x", "age": "30", "like": [0.5, 1]}),
        Candidate("b", {}),
    ]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"{", "not JSON"), (b"{\n", "(column 2)"),
        (b'{"item": "a", "title": NaN}\n', "NaN"), (b'{"item": "a", "item": "b"}\n', "twice"),
        ([], "expected an object"), ({}, "item: is missing"), ({"item": ""}, "item: expected text of at least 1"),
        ({"item": "x", "title": 3}, "title: expected a text"), ({"item": "x", "title": ["A"]}, "title: expected a"),
        ({"item": "x", "genre": "Drama"}, "unknown attribute 'genre'; did you mean 'genres'? --extra genre"),
        ({"item": "x", "qqq": 1}, "unknown attribute 'qqq'; --extra"), ({"item": "x", "year": [1]}, "year: expected"),
        ({"item": "x", "price": "2"}, "price: expected a number"), ({"item": "x", "price": True}, "price: expected"),
        ({"item": "x", "age": "old"}, "age: expected a number"), ({"item": "x", "mean_rating": "x"}, "mean_rating"),
        ({"item": "x", "like": [1]}, "like: expected a list of 2 numbers"), ({"item": "x", "genres": {}}, "genres"),
        ({"item": "x", "like": [1, "2"]}, "like: expected a list"), ({"item": "a"}, "the item 'a' occurs twice"),
    ],
)  # fmt: skip
def test_a_bad_line_is_told_by_file_and_number(tmp_path: Path, line: object, part: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, {"item": "a", "title": "A", "genres": "Drama", "price": 1}, line)
    assert f"{tmp_path / 'items.jsonl'} line 2: " in str(caught.value)
    assert part in str(caught.value)


PIECES = [b'{"item":"a"', b',"title":', b'"x"', b"}", b"\n", b"null", b"7"]


@given(st.binary(max_size=60) | st.lists(st.sampled_from(PIECES)).map(b"".join))
def test_any_bytes_are_items_or_an_input_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    path = tmp_path_factory.mktemp("items") / "items.jsonl"
    path.write_bytes(raw)
    try:
        found = read_items(path, KNOWN, READING)
    except InputError:
        return
    assert found
    assert len({item.item for item in found}) == len(found)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no items"):
        read(tmp_path)


def row(candidate: dict[str, Any], *history: str) -> dict[str, Any]:
    user = {"history": [{"item": item} for item in history]}
    return {"request": {"user": user, "candidates": [candidate]}, "crm": 0.5, "prompt": None, "llm": None}


def kept(
    rows: list[dict[str, Any]], *changes: dict[str, Any], reading: UsedAttributes = READING
) -> list[dict[str, Any]]:
    pairs = [(parse_reference(line), line) for line in rows]
    return [json.loads(line) for line in reference_lines(pairs, CATALOG, merge(CATALOG, items(*changes)), reading)]


def test_a_row_with_a_changed_item_in_its_history_goes_and_the_others_stay() -> None:
    rows = [row({"item": "cold"}, "a"), row({"item": "cold"}, "b"), row({"item": "cold"}, "new")]
    assert kept(rows, {"item": "a", "title": "Other"}) == rows[1:]
    assert kept(rows, {"item": "a", "genres": ["Comedy"]}) == rows[1:]
    assert kept(rows, {"item": "a", "mean_rating": 2.5}) == rows[1:]
    assert kept(rows, {"item": "new", "title": "N"}) == rows[:2]


def test_what_nothing_reads_of_a_history_costs_no_row() -> None:
    rows = [row({"item": "cold"}, "a"), row({"item": "cold"}, "b")]
    assert kept(rows, {"item": "a", "price": 3.0, "poster": "b.png"}) == rows
    blind = UsedAttributes(SCHEMA, None)
    assert kept(rows, {"item": "a", "title": "Other"}, reading=blind) == rows


def test_a_changed_candidate_brings_what_it_was_scored_with() -> None:
    rows = [
        row({"item": "a"}),
        row({"item": "b", "features": {"year": 1999}}),
        row({"item": "new"}),
        row({"item": "cold"}),
    ]
    changes = [
        {"item": "a", "title": "Other", "age": 3},
        {"item": "b", "year": 1999, "price": 1},
        {"item": "new", "title": "N"},
    ]
    found = [line["request"]["candidates"][0] for line in kept(rows, *changes)]
    assert found == [
        {"item": "a", "features": {"title": "Alpha", "age": None}},
        {"item": "b", "features": {"year": 1999, "price": None}},
        {"item": "new", "features": {"title": None}},
        {"item": "cold"},
    ]


def notes(*changes: dict[str, Any], reading: UsedAttributes = READING) -> list[str]:
    after = merge(CATALOG, items(*changes))
    return list(remarks(reading, CATALOG, after.catalog, after.added, after.changed))


FULL = {"genres": ["Drama"], "year": "1999", "price": 1.0}


def test_nothing_odd_is_nothing_told() -> None:
    assert notes({"item": "new", "title": "N", **FULL}, {"item": "a", "price": 9.5}) == []


def test_what_a_person_should_know_is_told_with_examples() -> None:
    found = notes({"item": "new", "genres": ["Drama", "Dramma"], "year": 2050, "price": 1})
    assert [text.partition(" (")[0] for text in found] == [
        "1 item without a title: the LLM cannot be asked about them",
        "1 item with genres that the CRM has never seen; typing errors?",
        "1 item with year that the CRM has never seen; typing errors?",
    ]
    found = notes(*({"item": f"n{i}", "title": f"N{i}", "genres": "Drama", "year": 1999} for i in range(7)))
    assert found == ["7 items new and without price, which the CRM reads (n0, n1, n2, n3, n4, …)"]


def test_another_title_of_a_known_id_is_told_and_of_an_unknown_one_is_not() -> None:
    assert ["ids stays" in text for text in notes({"item": "a", "title": "Another"})] == [True]
    assert notes({"item": "cold", "title": "Another", **FULL}) == []


def test_an_item_that_reads_as_another_one_does_or_did_is_told() -> None:
    def twins(*changes: dict[str, Any]) -> list[str]:
        return [text.partition("(")[2] for text in notes(*changes) if "takes for others" in text]

    assert twins({"item": "new", "title": "Alpha", **FULL}) == ["new)"]
    assert twins({"item": "a", "title": "Alpha 2"}, {"item": "new", "title": "Alpha", **FULL}) == ["new)"]
    assert twins({"item": "new", "title": "Alpha", **FULL, "genres": ["Comedy"]}) == []
    assert twins({"item": "n1", "title": "e\u0301", **FULL}, {"item": "n2", "title": "é", **FULL}) == ["n1, n2)"]
    assert twins({"item": "a", "price": 3}) == []
    assert notes({"item": "new", "title": "Alpha", **FULL}, reading=UsedAttributes(SCHEMA, None)) == []


def test_the_version_tells_parent_and_items_and_does_not_grow() -> None:
    first = next_version("1", MARK, "p" * 64, "i" * 64)
    assert first == next_version("1", MARK, "p" * 64, "i" * 64)
    assert first.startswith("1+items.")
    second = next_version(first, MARK, "q" * 64, "i" * 64)
    assert len(second) == len(first)
    assert len({first, second, next_version("1", MARK, "p" * 64, "j" * 64)}) == 3


def test_every_attribute_that_is_read_is_known() -> None:
    assert READING.names == {"title", "genres", "year", "price", "age", "like", "mean_rating"}
    assert READING.of_history == {"title", "genres", "age", "like", "mean_rating"}
    assert UsedAttributes(replace(SCHEMA, fields=SCHEMA.fields[:4]), None).of_history == set()
