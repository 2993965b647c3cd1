"""A mapped table of texts finds what a dict finds, and no file can lead it out of its arrays."""

from __future__ import annotations

import contextlib
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.errors import BundleError
from corella_edge.features.lookup import MappedLookup
from corella_edge.features.schema import FIRST, OOV, Vocabulary
from corella_edge.formats import text_table
from corella_edge.formats.text_table import TextTable, table_arrays, text_hash

ALIKE = ("plumless", "buckeroo")  # texts of one CRC-32
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from([*ALIKE, "é", "日本", ""])
LISTS = st.lists(TEXT, unique=True, max_size=60)
ANY = st.text(max_size=6) | TEXT  # halves of surrogate pairs, too


def table(values: list[str], **changes: Any) -> TextTable:
    arrays = table_arrays(values)
    assert arrays is not None
    return TextTable({**arrays, **changes}, "vocab/x")


@given(LISTS, st.lists(ANY, max_size=80))
def test_it_finds_what_a_dict_finds(values: list[str], asked: list[str]) -> None:
    found, place = table(values), {text: i for i, text in enumerate(values)}
    asked = [*asked, *values]
    expected = [place.get(text, -1) for text in asked]
    assert found.places(asked).tolist() == expected
    assert [found.place(text) for text in asked] == expected
    assert found.places(asked, unknown=7).tolist() == [7 if i < 0 else i for i in expected]
    assert MappedLookup(found).rows(asked).tolist() == [len(values) if i < 0 else i for i in expected]
    assert [text in found for text in asked] == [i >= 0 for i in expected]


@given(LISTS)
def test_it_is_the_sequence_of_its_texts(values: list[str]) -> None:
    found = table(values)
    assert list(found) == [found[i] for i in range(len(found))] == found[:] == values
    assert [found[i - len(values)] for i in range(len(values))] == values
    assert found == values
    assert dict(found.places_of) == {text: i for i, text in enumerate(values)}
    with pytest.raises(IndexError):
        found[len(values)]


def test_two_texts_of_one_hash_are_told_apart_by_their_bytes() -> None:
    assert text_hash(ALIKE[0]) == text_hash(ALIKE[1])
    assert table([ALIKE[0]]).places([*ALIKE]).tolist() == [0, -1]
    assert table([*ALIKE]).places([*ALIKE, "x"]).tolist() == [0, 1, -1]


def test_many_texts_of_one_hash_stay_json() -> None:
    hashes = np.zeros(text_table.MOST_PROBES + 1, np.uint32)
    assert text_table._slots(hashes) is None
    assert text_table._slots(hashes[:-2]) is not None


def test_the_hash_is_the_documented_one() -> None:
    assert text_hash("Straße") == crc32("Straße".encode()) == 1_199_729_489


@pytest.mark.parametrize(
    ("values", "part"), [(["a", "b", "a"], "a value occurs twice"), (["a\ud800"], "cannot be written in UTF-8")]
)
def test_what_cannot_be_a_table_is_refused(values: list[str], part: str) -> None:
    with pytest.raises(BundleError, match=part):
        table_arrays(values)


DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "no ends": ({"ends": np.zeros(0, np.uint64)}, "do not fit each other"),
    "ends of another type": ({"ends": np.zeros(3, np.int64)}, "lacks the array 'ends'"),
    "a text ends behind the last": ({"ends": np.array([1, 9, 4], np.uint64)}, "do not end where they should"),
    "the last does not end the file": ({"ends": np.array([1, 2, 3], np.uint64)}, "do not end where they should"),
    "a slot beyond the texts": ({"slots": np.array([9, 1, 2, 3, 0, 0, 0, 0], np.uint32)}, "no place of a text"),
    "no free slot": ({"slots": np.array([1, 2], np.uint32)}, "do not fit each other"),
    "slots that are no power of two": ({"slots": np.zeros(7, np.uint32)}, "do not fit each other"),
    "endless probing": ({"probes": np.array(2**31, np.uint32)}, "do not fit each other"),
    "not UTF-8": ({"texts": np.array([255, 97, 98, 99], np.uint8)}, "not UTF-8"),
    "half a letter": ({"texts": np.frombuffer("éab".encode(), np.uint8)}, "within a letter"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_table_that_could_lead_astray_is_refused(damage: str) -> None:
    changes, part = DAMAGES[damage]
    with pytest.raises(BundleError, match=r"^vocab/x: ") as caught:
        table(["a", "b", "cd"], **changes)
    assert part in str(caught.value)


def test_a_table_without_slots_is_refused() -> None:
    with pytest.raises(BundleError, match="do not fit each other"):
        table([], slots=np.zeros(0, np.uint32))


@settings(max_examples=300)
@given(st.data())
def test_damaged_arrays_are_refused_or_harmless(data: Any) -> None:
    arrays = table_arrays(["a", "bé", "cd", "日本", *map(str, range(20))])
    assert arrays is not None
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(sorted(arrays)))
        array = arrays[name] = arrays[name].copy()
        flat = array.reshape(-1)
        flat[data.draw(st.integers(0, flat.size - 1))] = data.draw(st.integers(0, np.iinfo(array.dtype).max))
    with contextlib.suppress(BundleError):
        found = TextTable(arrays, "x")
        assert all(-1 <= place < len(found) for place in found.places(["a", "7", "é", "nowhere"] * 10).tolist())
        assert all(isinstance(text, str) for text in found)


@given(LISTS, st.lists(ANY | st.none() | st.integers(0, 9), max_size=40))
def test_a_mapped_vocabulary_is_the_one_in_memory(values: list[str], asked: list[Any]) -> None:
    plain, mapped = Vocabulary("v", values), Vocabulary("v", table(values))
    assert len(plain) == len(mapped)
    assert [*mapped.index_of] == values
    for given_values in (asked, [value for value in asked if isinstance(value, str)], values):
        expected = [plain.index(value) for value in given_values]
        assert [mapped.index(value) for value in given_values] == expected
        assert mapped.indices(given_values).tolist() == plain.indices(given_values).tolist() == expected
    assert mapped.index(None) == OOV
    assert mapped.hidden().tolist() == [0] + [OOV] * (FIRST - 1 + len(values))
