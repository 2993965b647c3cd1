"""popular.jsonl counts what a plain loop over training rows counts, and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_export.bundling.popular import LATEST, LEAST, neighbours, popular_lines
from corella_edge_export.data.prepared import PreparedData

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=60)


def plainly(rows: list[tuple[int, int]], most: int) -> dict[int, list[tuple[int, float]]]:
    """Neighbours of each item, by loops."""
    chosen: dict[int, list[int]] = {}
    for user, item in rows:
        mine = chosen.setdefault(user, [])
        if item in mine:
            mine.remove(item)
        mine.append(item)
    sets = [mine[-LATEST:] for mine in chosen.values()]
    size = Counter(item for mine in sets for item in mine)
    pairs = Counter(pair for mine in sets for pair in permutations(mine, 2))
    found: dict[int, list[tuple[int, float]]] = {}
    for (a, b), number in pairs.items():
        if number >= LEAST:
            found.setdefault(a, []).append((b, number / math.sqrt(size[a] * size[b])))
    return {a: sorted(near, key=lambda pair: (-pair[1], pair[0]))[:most] for a, near in found.items()}


@given(ROWS, st.integers(1, 4))
def test_neighbours_are_those_of_a_plain_loop(rows: list[tuple[int, int]], most: int) -> None:
    users, items = (np.array([row[k] for row in rows], np.int64) for k in (0, 1))
    found = neighbours(users, items, 7, most, seed=0)
    told: dict[int, list[tuple[int, float]]] = {}
    for a, b, s in zip(found.items.tolist(), found.others.tolist(), found.similarity.tolist(), strict=True):
        told.setdefault(a, []).append((b, s))
    expected = plainly(rows, most)
    assert {a: [b for b, _ in near] for a, near in told.items()} == {a: [b for b, _ in n] for a, n in expected.items()}
    for a, near in told.items():
        assert [s for _, s in near] == pytest.approx([s for _, s in expected[a]])
        assert all(0.0 < s <= 1.0 + 1e-12 for _, s in near)


def test_more_pairs_than_are_counted_are_those_of_drawn_users() -> None:
    users = np.repeat(np.arange(1000), 10)
    items = np.tile(np.arange(10), 1000)
    found = neighbours(users, items, 10, 9, seed=1, pairs=9000)
    assert len(found.items) == 90
    assert found.similarity == pytest.approx(np.ones(90))


def test_counts_are_of_training_rows_with_label_one_most_popular_first(data: PreparedData) -> None:
    lines = list(popular_lines(data, 3, 0))
    train = pl.read_parquet(data.root / "train.parquet").filter(pl.col("label") == 1)
    assert {line["item"]: line["count"] for line in lines} == dict(train["item_id"].value_counts().iter_rows())
    assert [line["count"] for line in lines] == sorted((line["count"] for line in lines), reverse=True)
    assert max(len(line["similar"]) for line in lines) == 3


@pytest.mark.parametrize("split", ["valid", "test"])
def test_labels_outside_of_training_change_nothing(
    data: PreparedData, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list(popular_lines(data, 5, 0))
    read: Any = PreparedData._rows

    def flipped(self: PreparedData, name: str) -> Any:
        rows = read(self, name)
        if name in (split, "interactions"):
            rows.labels[:] = 1 - rows.labels
        return rows

    monkeypatch.setattr(PreparedData, "_rows", flipped)
    assert list(popular_lines(PreparedData.open(data.root), 5, 0)) == before


def test_more_neighbours_than_a_reader_takes_are_refused(tmp_path: Path) -> None:
    from corella_edge.errors import RecipeError
    from corella_edge_export.recipe import recipe_from

    with pytest.raises(RecipeError, match="neighbours"):
        recipe_from({"name": "x", "export": {"neighbours": 101}}, "x")
