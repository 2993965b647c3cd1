"""Text vectors: exact numbers, the catalogue's and those of words in a request, and files that are refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.bundle.schema_files import read_schema, write_schema
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Schema
from corella_edge.features.vectors import (
    LARGEST_HALF,
    LAYOUT,
    NAME,
    VECTORS,
    VectorTable,
    as_float16,
    as_float32,
    item_text,
    map_vectors,
    write_vectors,
)  # fmt: skip
from corella_edge.formats.arrays import write_arrays
from corella_edge.request import Candidate, Event, User

ITEMS = ["a", "b", "c", "d", "cold", "nowhere"]
NUMBERS = st.lists(st.floats(width=32), min_size=1, max_size=8)


def test_every_finite_half_is_the_same_number_in_float32() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = halves[np.isfinite(halves)]
    assert as_float32(finite).view(np.uint32).tolist() == finite.astype(np.float32).view(np.uint32).tolist()


@given(NUMBERS)
def test_what_a_half_cannot_hold_is_cut(numbers: list[float]) -> None:
    found = as_float16(np.array([n for n in numbers if n == n], np.float32))
    assert np.isfinite(found).all()
    assert (np.abs(found) <= LARGEST_HALF).all()


@given(st.lists(st.integers(0, 5), max_size=9))
def test_rows_are_those_of_the_table_and_zeros_for_unknown_items(rows: list[int]) -> None:
    table = np.linspace(-3, 3, 20).astype(np.float16).reshape(5, 4)
    found = VectorTable(table).of(np.array(rows, np.int64))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.vstack([table, np.zeros((1, 4))])[rows].astype(np.float32))


@given(st.lists(st.sampled_from(ITEMS), max_size=7), st.lists(st.sampled_from(ITEMS), min_size=1, max_size=5))
def test_candidates_and_events_have_the_catalogues_vectors(world: Any, events: list[str], items: list[str]) -> None:
    plain = dict(zip(world.catalog.ids, world.catalog.vectors.tolist(), strict=True))
    feed, _ = world.encoder.encode(User(history=[Event(item) for item in events]), [Candidate(i) for i in items])
    latest = [plain.get(item, [0.0, 0.0]) for item in events[-3:]]
    assert feed["item_text"].tolist() == [plain.get(item, [0.0, 0.0]) for item in items]
    assert feed["history_text"].tolist() == [[[0.0, 0.0]] * (3 - len(latest)) + latest]


def lengths(texts: Sequence[str]) -> Any:
    return np.array([[len(text), float(bool(text))] for text in texts], np.float32)


def test_words_that_come_with_a_request_are_read_and_the_catalogues_are_not(world: Any) -> None:
    encoder = FeatureEncoder(world.schema, world.catalog, lengths)
    own = [
        ("a", {"title": "Alpha"}), ("a", {"title": "Alpha beta"}), ("b", {"year": 2001}), ("b", {"title": None}),
        ("new", {"title": "New"}), ("new", {"price": 3.0}), ("d", {"title": " ", "year": None}), ("a", None),
    ]  # fmt: skip
    candidates = [Candidate(item, features) for item, features in own]
    found = encoder.encode(User(), candidates)[0]["item_text"].tolist()
    of = dict(zip(world.catalog.ids, world.catalog.vectors.tolist(), strict=True))
    expected = [of["a"], [len("Alpha beta. 1999"), 1], of["b"], [4, 1], [3, 1], [0, 0], [0, 0], of["a"]]
    assert found == expected
    for candidate, row in zip(candidates, expected, strict=True):
        assert encoder.encode(User(), [candidate])[0]["item_text"].tolist() == [row]
    without = FeatureEncoder(world.schema, world.catalog).encode(User(), candidates)[0]["item_text"].tolist()
    assert without == [of["a"], of["a"], of["b"], of["b"], [0, 0], [0, 0], of["d"], of["a"]]


def test_words_that_come_with_a_request_have_the_form_of_the_schema(world: Any) -> None:
    changed = [replace(f, args={**f.args, "form": "pairs"}) if f.kind == "vector" else f for f in world.schema.fields]
    schema = Schema(tuple(changed), world.schema.vocabularies)
    read: list[str] = []
    encoder = FeatureEncoder(schema, world.catalog, lambda texts: read.extend(texts) or lengths(texts))
    own = [("a", {"title": "Alpha beta"}), ("new", {"title": "New"}), ("a", {"title": "Alpha"})]
    encoder.encode(User(), [Candidate(item, features) for item, features in own])
    assert read == ["title: Alpha beta. year: 1999", "title: New"]
    assert (schema.text_form, world.schema.text_form) == ("pairs", "values")


def test_the_words_of_an_item() -> None:
    item = {"title": " Tea ", "of_kinds": ["hot", 2.0], "price": 3, "none": None, "empty": "", "blank": [" "]}
    names = ["title", "none", "of_kinds", "empty", "gone", "price", "blank"]
    assert item_text(item, names, "values") == "Tea. hot, 2. 3"
    assert item_text(item, names, "pairs") == "title: Tea. of kinds: hot, 2. price: 3"
    assert item_text({}, ["title"], "values") == item_text({}, ["title"], "pairs") == ""


def test_vectors_survive_their_file_and_are_mapped(world: Any, tmp_path: Path) -> None:
    write_schema(tmp_path, world.schema, world.catalog)
    write_vectors(tmp_path / VECTORS, world.catalog.vectors)
    schema, catalog = read_schema(tmp_path)
    assert schema.fields == world.schema.fields
    np.testing.assert_array_equal(catalog.vectors, world.catalog.vectors)
    assert not catalog.vectors.flags.owndata


GOOD = np.ones((5, 2), np.float16)
BROKEN = [
    ({NAME: GOOD.astype(np.float32)}, "two dimensions in F16"), ({NAME: GOOD[0]}, "two dimensions"),
    ({"x": GOOD}, "'vectors'"), ({NAME: GOOD, "x": GOOD}, "one array"),
    ({NAME: GOOD[:4]}, "4 items, the catalogue has 5"),
    ({NAME: np.where(np.eye(5, 2), np.float16(np.nan), GOOD)}, "not finite"),
    ({NAME: np.where(np.eye(5, 2), np.float16(np.inf), GOOD)}, "not finite"),
]  # fmt: skip


@pytest.mark.parametrize(("arrays", "part"), BROKEN)
def test_a_file_of_something_else_is_refused(arrays: dict[str, Any], part: str, tmp_path: Path) -> None:
    with (tmp_path / VECTORS).open("wb") as file:
        write_arrays(file, LAYOUT, arrays)
    with pytest.raises(BundleError, match=f"{VECTORS}: .*{part}"):
        map_vectors(tmp_path / VECTORS, 5)


def test_a_missing_file_and_another_width_are_told(world: Any, tmp_path: Path) -> None:
    write_schema(tmp_path, world.schema, world.catalog)
    write_vectors(tmp_path / VECTORS, np.ones((5, 3), np.float16))
    with pytest.raises(BundleError, match=r"text\.safetensors: schema\.json asks for 2 numbers"):
        FeatureEncoder(*read_schema(tmp_path))
    (tmp_path / VECTORS).unlink()
    with pytest.raises(BundleError, match=r"text\.safetensors: cannot be read"):
        read_schema(tmp_path)
    with pytest.raises(BundleError, match=r"text\.safetensors: schema\.json asks"):
        FeatureEncoder(world.schema, Catalog(world.catalog.ids, world.catalog.attributes))
