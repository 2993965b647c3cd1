"""Texts, ordered lists, missing numbers, and what becomes of values that training has not seen."""

from __future__ import annotations

from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, UnknownValueError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import (
    FIRST,
    OOV,
    PAD,
    Field,
    Schema,
    Vocabulary,
    bucket_counts,
    encode_value,
    words_of,
)
from corella_edge.features.unseen import Refusal
from corella_edge.request import Candidate, Candidates, Event, User

WORDS = Vocabulary("blurb", [], 16)
BLURB = Field("item_blurb", "text", "item", "blurb", "blurb", 4)
PATH = Field("user_path", "ordered", "user", "path", "path", 3)
PRICE = Field("item_price", "numeric", "item", "price", args={"mean": 3.0, "scale": 2.0, "missing": True})
FIELDS = (
    Field("user_id", "categorical", "user", "id", "user_id"),
    Field("item_id", "categorical", "item", "id", "item_id"),
    Field("item_brand", "categorical", "item", "brand", "brand", args={"unknown": "refuse"}),
    BLURB, PATH, PRICE,
    Field("history_items", "sequence", "user", "item", "item_id", 2),
)  # fmt: skip
VOCABULARIES = {
    "user_id": Vocabulary("user_id", ["u"]), "item_id": Vocabulary("item_id", ["a", "b"], 8), "blurb": WORDS,
    "brand": Vocabulary("brand", ["x", "y"]), "path": Vocabulary("path", ["p", "q"]),
}  # fmt: skip
SCHEMA = Schema(FIELDS, VOCABULARIES)
CATALOG = Catalog(
    ["a", "b", "new"],
    [{"brand": "x", "blurb": "Red red SHOE", "price": 5}, {"brand": "y"}, {"brand": "odd", "blurb": "shoe"}],
)
ENCODER = FeatureEncoder(SCHEMA, CATALOG)


def bucket(text: str, first: int, buckets: int) -> int:
    return first + crc32(text.encode()) % buckets


def test_an_unseen_value_has_the_row_of_its_hash() -> None:
    vocab = VOCABULARIES["item_id"]
    assert len(vocab) == FIRST + 2 + 8
    assert vocab.index("new") == vocab.indices(["new"])[0] == bucket("new", 4, 8)
    assert (vocab.index("b"), vocab.index(None), vocab.index(7), vocab.index(7.0)) == (3, OOV, *[vocab.index("7")] * 2)
    hidden = vocab.hidden()
    assert hidden.tolist() == [PAD, OOV, bucket("a", 4, 8), bucket("b", 4, 8), *range(4, 12)]


@given(st.text(), st.integers(1, 50))
def test_every_text_has_a_row_of_the_table(text: str, buckets: int) -> None:
    vocab = Vocabulary("v", ["a"], buckets)
    assert FIRST <= vocab.index(text) < len(vocab)


def test_a_text_is_its_words() -> None:
    assert words_of("Red red SHOE, 42 cm; größer") == ["red", "shoe", "42", "cm", "grösser"]
    assert (words_of(None), words_of(3.0), words_of(["A b", None, "B"])) == ([], ["3"], ["a", "b"])
    rows = encode_value(BLURB, WORDS, "Red red SHOE")
    assert rows == [bucket("red", FIRST, 16), bucket("shoe", FIRST, 16), PAD, PAD]
    assert len(encode_value(BLURB, WORDS, "a b c d e f")) == 4


def test_of_a_sequence_the_latest_count_and_stand_at_the_end() -> None:
    vocab = VOCABULARIES["path"]
    assert encode_value(PATH, vocab, ["p", "?", "q", "p"]) == [OOV, 3, 2]
    assert encode_value(PATH, vocab, ["q"]) == [PAD, PAD, 3]
    assert encode_value(PATH, vocab, None) == [PAD, PAD, PAD]


def test_a_missing_number_says_so() -> None:
    assert encode_value(PRICE, None, 5) == [1.0, 0.0]
    for missing in (None, "5", float("nan"), 1e40):
        assert encode_value(PRICE, None, missing) == [0.0, 1.0]
    feed, _ = ENCODER.encode(User(), [Candidate("a"), Candidate("b"), Candidate("a", {"price": None})])
    assert feed["item_price"].tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    assert feed["item_price"].dtype == np.float32


def test_what_is_unseen_is_told_whatever_row_it_has() -> None:
    user = User("u", {"path": ["p", "?"]}, [Event("a"), Event("new"), Event("gone")])
    feed, unknown = ENCODER.encode(user, [Candidate("a"), Candidate("new"), Candidate("else", {"brand": "x"})])
    assert unknown == [("path",), ("item", "brand", "path"), ("item", "path")]
    assert feed["item_id"].tolist() == [2, bucket("new", 4, 8), bucket("else", 4, 8)]
    assert feed["history_items"].tolist() == [[bucket("new", 4, 8), bucket("gone", 4, 8)]]
    flags = ENCODER.unseen.item_flags()
    assert {name: of.tolist() for name, of in flags.items()} == {
        "item": [False, False, True, True], "brand": [False, False, True, True], "blurb": [False] * 4,
    }  # fmt: skip


@given(st.lists(st.sampled_from(["a", "b", "new", "else"]), min_size=1, max_size=5))
def test_a_batch_is_its_candidates_one_by_one(items: list[str]) -> None:
    candidates = [Candidate(item, {"blurb": f"The {item}", "price": i} if i % 2 else None)
                  for i, item in enumerate(items)]  # fmt: skip
    feed, unknown = ENCODER.encode(User("u"), candidates)
    for i, candidate in enumerate(candidates):
        one, names = ENCODER.encode(User("u"), [candidate])
        assert names[0] == unknown[i]
        for item in FIELDS:
            if item.side == "item":
                np.testing.assert_array_equal(one[item.name][0], feed[item.name][i])


def check(candidates: list[Candidate], user: User | None = None) -> None:
    slate, user = Candidates.of(candidates), user or User()
    Refusal(SCHEMA, CATALOG).check(user, slate, ENCODER.encode(user, slate)[1])


@pytest.mark.parametrize(
    ("candidates", "where"),
    [
        ([Candidate("a"), Candidate("new")], "candidates[1], brand of the catalogue: 'odd'"),
        ([Candidate("a", {"brand": "z"})], "candidates[0].features.brand: 'z'"),
    ],
)
def test_a_refused_value_is_one_error_that_says_where(candidates: list[Candidate], where: str) -> None:
    with pytest.raises(UnknownValueError) as caught:
        check(candidates)
    assert str(caught.value) == f"{where} is unknown to this bundle, which refuses unknown values of item_brand"
    assert caught.value.field == "brand"


def test_a_missing_value_is_not_refused() -> None:
    check([Candidate("b", {"brand": None}), Candidate("nowhere"), Candidate("a")])


@pytest.mark.parametrize(
    ("data", "right"),
    [
        ({"fields": []}, True), ({"fields": [], "buckets": {"x": 3}}, False), ({"fields": [], "buckets": 3}, False),
        ({**SCHEMA.to_json()}, True), ({**SCHEMA.to_json(), "buckets": {"item_id": 0}}, False),
        ({**SCHEMA.to_json(), "buckets": {"item_id": 2**25}}, False),
        ({**SCHEMA.to_json(), "buckets": {"item_id": True}}, False),
    ],
)  # fmt: skip
def test_buckets_in_a_schema(data: dict[str, Any], right: bool) -> None:
    if right:
        assert bucket_counts(data) == data.get("buckets", {})
        return
    with pytest.raises(BundleError, match="buckets must give"):
        bucket_counts(data)


@pytest.mark.parametrize(
    ("changes", "part"), [({"unknown": "guess"}, "policy 'guess'"), ({"unknown": 3}, "policy '3'")]
)
def test_an_unknown_policy_is_refused(changes: dict[str, Any], part: str) -> None:
    field = Field("item_brand", "categorical", "item", "brand", "brand", args=changes)
    with pytest.raises(BundleError, match=part):
        Schema((field,), VOCABULARIES)


def test_a_text_without_buckets_is_refused() -> None:
    with pytest.raises(BundleError, match="needs a vocabulary with buckets"):
        Schema((BLURB,), {"blurb": Vocabulary("blurb", [])})
