"""Words of items as columns: the weights by hand, and who shares a column."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge_export.crm.fitted import words as item_text  # noqa: E402


def data_with(**items: list[Any]) -> Any:
    """`abstract` is a text, everything else a list."""
    kinds = {name: "categorical" if name == "abstract" else "multi" for name in items}
    count = len(next(iter(items.values())))
    # Hashed by identity, as PreparedData is.
    return type("Data", (), {"items": items, "item_attributes": kinds, "item_ids": [str(i) for i in range(count)]})()


def dense(made: Any, *names: str) -> Any:
    return item_text.columns(made, names).to_dense().numpy()


def test_no_text_is_no_column(fitted: Any) -> None:
    assert item_text.columns(fitted.data, ()).shape == (len(fitted.data.item_ids), 0)


def test_tf_idf_by_hand() -> None:
    """Two words stand in four texts each; the pair of them, and all other words, are too rare."""
    texts = ["war war peace", "war", "war", "peace", "peace", "peace war x", None, *["y"] * 13]
    found = dense(data_with(abstract=texts), "abstract")
    assert found.shape == (20, 2 + 2)  # peace, war; whether and how much ("y" is in too many texts)
    idf = math.log(21 / 5) + 1
    first = np.asarray([idf, (1 + math.log(2)) * idf])
    expected = math.sqrt(item_text.WORDS) * first / np.linalg.norm(first)
    np.testing.assert_allclose(found[0, :2], expected)
    np.testing.assert_allclose(found[1, :2], [0, math.sqrt(item_text.WORDS)])
    assert not found[6:, :2].any()


def test_values_and_lengths() -> None:
    lists = [["a", "b"], ["a"], ["a", "a"], ["b", "c"], [], None]
    found = dense(data_with(genres=lists), "genres")
    assert found.shape == (6, 1 + 2)  # only "a" stands with three items
    np.testing.assert_allclose(found[:, 0], np.sqrt(item_text.VALUE) * np.asarray([1, 1, 1, 0, 0, 0]))
    np.testing.assert_allclose(found[:, 1:].mean(axis=0), 0, atol=1e-12)
    np.testing.assert_allclose(found[:, 1:].var(axis=0), item_text.LENGTH)
    assert found[4, 1] == found[5, 1] < found[0, 1]


def test_texts_without_a_frequent_word() -> None:
    found = dense(data_with(abstract=["one", "two", None]), "abstract")
    assert found.shape == (3, 2)
    assert np.isfinite(found).all()


def test_texts_stand_side_by_side() -> None:
    made = data_with(abstract=["war peace"] * 4 + [None] * 16, genres=[["a"]] * 20)
    both = dense(made, "abstract", "genres")
    np.testing.assert_array_equal(both, np.hstack([dense(made, "abstract"), dense(made, "genres")]))
    assert both.shape[1] == (3 + 2) + (1 + 2)
