"""A bundle of many items and values: mapped files in place of parsed ones, and the same answers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corella_edge.bundle import schema_files
from corella_edge.bundle.schema_files import (
    MAPPED,
    VOCABULARY,
    read_schema,
    table_problems,
    write_catalog_tables,
    write_schema,
)
from corella_edge.catalog import LAYOUT, LINES, TABLES, Catalog
from corella_edge.errors import BundleError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Schema
from corella_edge.features.vectors import VECTORS, write_vectors
from corella_edge.formats.arrays import map_arrays, write_arrays
from corella_edge.formats.text_table import TextTable
from corella_edge.request import Candidate, Event, User

ITEMS = ["a", "b", "c", "d", "cold"]
USER = User("u1", {"job": "clerk"}, [Event("c", 2.0, 5), Event("nowhere", 9.0), Event("a"), Event("cold", 3.5, 7)])
OWN = Candidate("b", {"genres": ["g3", "?"], "price": 1.0})
Arrays = dict[str, Any]


@pytest.fixture
def folder(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalogue and vocabularies of at least four entries are large here."""
    monkeypatch.setattr(schema_files, "LARGE", 4)
    write_schema(tmp_path, world.schema, world.catalog)
    write_vectors(tmp_path / VECTORS, world.catalog.vectors)
    write_catalog_tables(tmp_path, world.schema, world.catalog)
    return tmp_path


def rewrite(path: Path, layout: str, change: Callable[[Arrays], Any], other: str = "") -> None:
    """Another file in its place: what is mapped must not be written to."""
    arrays = {name: array.copy() for name, array in map_arrays(path, layout).items()}
    change(arrays)
    with path.with_suffix(".new").open("wb") as file:
        write_arrays(file, other or layout, arrays)
    path.with_suffix(".new").rename(path)


def test_large_ones_are_mapped_and_small_ones_are_json(folder: Path) -> None:
    files = sorted(path.name for path in (folder / "vocab").iterdir())
    assert files == ["item_genres.safetensors", "item_id.safetensors", "item_year.json", "rating.safetensors",
                     "user_id.json", "user_job.json"]  # fmt: skip
    schema, catalog = read_schema(folder)
    assert isinstance(schema.vocabularies["item_id"].values, TextTable)
    assert isinstance(catalog.ids, TextTable)
    assert catalog.tables


def test_nothing_of_it_differs_from_the_parsed_one(folder: Path, world: Any) -> None:
    schema, catalog = read_schema(folder)
    assert schema.fields == world.schema.fields
    for name, vocab in world.schema.vocabularies.items():
        assert list(schema.vocabularies[name].values) == vocab.values
    assert [*catalog.ids] == world.catalog.ids
    assert [*catalog.attributes] == catalog.attributes[:] == world.catalog.attributes
    assert catalog.attributes[-1] == world.catalog.attributes[-1]
    assert (catalog.of("b"), catalog.of("nowhere")) == (world.catalog.of("b"), {})
    assert [*catalog.lines()] == [*world.catalog.lines()]
    assert schema.known_ratings == world.schema.known_ratings


@pytest.mark.parametrize("repeats", [1, 20])
def test_its_inputs_are_those_of_the_parsed_one(folder: Path, world: Any, repeats: int) -> None:
    encoder = FeatureEncoder(*read_schema(folder))
    assert not encoder.made.arrays  # nothing was computed
    candidates = [*map(Candidate, ITEMS), Candidate("nowhere"), OWN] * repeats
    for user in (USER, User("?", {"job": "none"})):
        expected, names = world.encoder.encode(user, candidates)
        found, told = encoder.encode(user, candidates)
        assert told == names
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == values.dtype, name
            np.testing.assert_array_equal(found[name], values, err_msg=name)


def set_to(name: str, value: Any) -> Callable[[Arrays], Any]:
    return lambda arrays: arrays[name].reshape(-1).__setitem__(-1, value)


DAMAGES: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "an index beyond its table": (set_to("field.item_id", 6), "'field.item_id' holds an index outside"),
    "an index below 0": (set_to("field.item_genres", -1), "'field.item_genres' holds an index outside"),
    "a kind that there is not": (set_to("fact.match.kind_of", 99), "'fact.match.kind_of' holds an index outside"),
    "an index of the history": (set_to("history", 6), "'history' holds an index outside"),
    "a field too few": (lambda arrays: arrays.pop("field.item_price"), "lacks the array 'field.item_price'"),
    "another width": (lambda a: a.update({"field.item_genres": a["field.item_genres"][:, :2]}), "another form"),
    "another number of items": (lambda a: a.update({"history": a["history"][:-1]}), "another form"),
    "another kind of number": (lambda a: a.update({"field.item_price": a["field.item_price"].view("i4")}), "another"),
    "lines that do not fit": (set_to("lines", 10), "does not fit catalog.jsonl"),
    "no ends of lines": (lambda arrays: arrays.pop("lines"), "lacks the ends of the 5 lines"),
    "ids without a slot": (set_to("ids.slots", 1), "a slot holds no place|holds no place of a text"),
    "no ids": (lambda arrays: arrays.pop("ids.texts"), "lacks the array 'texts'"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_forged_catalogue_is_refused(folder: Path, damage: str) -> None:
    change, part = DAMAGES[damage]
    rewrite(folder / TABLES, LAYOUT, change)
    with pytest.raises(BundleError, match=part) as caught:
        FeatureEncoder(*read_schema(folder))
    assert str(caught.value).startswith(TABLES)


@pytest.mark.parametrize(
    ("name", "value"), [("field.item_id", 1), ("field.item_price", 7.0), ("unseen.kind_of", 1), ("history", 3)]
)
def test_verify_finds_tables_that_tell_something_else(folder: Path, name: str, value: Any) -> None:
    assert [*table_problems(folder)] == []
    rewrite(folder / TABLES, LAYOUT, lambda arrays: arrays[name].reshape(-1).__setitem__(0, value))
    assert [*table_problems(folder)] == [f"catalog.safetensors: its array {name!r} is not what catalog.jsonl gives"]


def test_a_line_that_is_none_is_named_when_it_is_asked_for(folder: Path) -> None:
    raw = bytearray((folder / LINES).read_bytes())
    raw[0] = ord("[")
    (folder / LINES).write_bytes(raw)
    catalog = read_schema(folder)[1]
    assert catalog.of("b")["title"] == "Beta"
    with pytest.raises(BundleError, match=r"catalog\.jsonl line 1: not JSON"):
        catalog.of("a")
    with pytest.raises(IndexError):
        catalog.attributes[5]


def test_a_vocabulary_in_two_forms_is_refused(folder: Path) -> None:
    shutil.copy(folder / "vocab/user_id.json", folder / "vocab/item_id.json")
    with pytest.raises(BundleError, match=r"vocab/item_id\.json: stands beside vocab/item_id\.safetensors"):
        read_schema(folder)


def test_a_newer_layout_is_refused_by_name(folder: Path) -> None:
    path = folder / "vocab" / f"item_id{MAPPED}"
    rewrite(path, VOCABULARY, lambda arrays: None, "corella-edge vocabulary 2")
    with pytest.raises(BundleError, match=r"vocab/item_id\.safetensors: its layout 'corella-edge vocabulary 2' is not"):
        read_schema(folder)


def test_an_empty_catalogue_is_no_large_one(tmp_path: Path, world: Any) -> None:
    nothing = Catalog([], [])
    nothing.vectors = world.catalog.vectors[:0]
    write_schema(tmp_path, world.schema, nothing)
    write_vectors(tmp_path / VECTORS, nothing.vectors)
    write_catalog_tables(tmp_path, world.schema, nothing)
    assert not (tmp_path / TABLES).exists()
    assert isinstance(read_schema(tmp_path)[0], Schema)
