"""Held-out rows: the cut of a history changes no prompt, and no user dominates a sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.features.schema import value_key
from corella_edge.prompt import Template

pytest.importorskip("torch")

from corella_edge_export.data.prepare import prepare
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.rowset import HistoryCut, choose_rows, choose_users


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    out = tmp_path_factory.mktemp("rowset") / "data"
    prepare("synthetic", None, out, requests=5, options={"users": 60, "items": 60})
    return PreparedData.open(out)


@given(st.integers(0, 900), st.integers(1, 12), st.integers(0, 30), st.integers(0, 300))
def test_a_cut_history_gives_the_same_prompt_as_the_whole(position: int, block: int, keep: int, window: int) -> None:
    template = Template(history_lines=keep, block=block)
    cut = max(window, keep + block)
    start = PreparedData(Path(), {}).history_start(position, cut, block)
    assert start + template.first_event(position - start) == template.first_event(position)
    assert position - start >= min(position, cut)


def test_requests_are_cut_in_the_given_blocks(data: PreparedData) -> None:
    rows = choose_users(data, "test", 0, 0, HistoryCut(10, 3))
    for request, row in zip(rows.requests(), rows.indices.tolist(), strict=True):
        position = int(rows.split.positions[row])
        assert len(request.user.history) == position - max(0, position - 10) // 3 * 3


def test_a_sample_of_rows_has_few_of_each_user(data: PreparedData) -> None:
    rows = choose_rows(data, "test", 60, 1, HistoryCut(10), per_user=2)
    counts = np.unique(rows.users, return_counts=True)[1]
    assert counts.max() <= 2
    assert len(rows) == len(set(rows.indices.tolist())) == min(60, counts.sum())
    assert rows.indices.tolist() == choose_rows(data, "test", 60, 1, HistoryCut(10), per_user=2).indices.tolist()
    order = list(zip(rows.users.tolist(), rows.split.positions[rows.indices].tolist(), strict=True))
    assert order == sorted(order)


@given(st.floats(-1e6, 1e6).map(lambda x: float(round(x))))
def test_a_whole_number_reads_the_same_as_its_integer(value: float) -> None:
    assert Template().text(value) == Template().text(int(value)) == value_key(int(value))
