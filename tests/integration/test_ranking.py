"""`evaluate --ranking`: its ranks against a request a row, what is refused, and the same figures after a stop."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corella_edge.request import Candidate, Request
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.rowset import HistoryCut
from corella_edge_export.evaluation import ranking
from corella_edge_runtime.engine import Engine
from sessions import run, succeed


def arguments(tiny, out, *more):
    return ["evaluate", tiny.bundle, "--data", tiny.data, "--ranking", "--rows", 60, "--out", out, *more]


@pytest.fixture(scope="module")
def found(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranking") / "out"
    done = succeed(*arguments(tiny, folder))
    assert "## all: " in done.out
    return folder


def test_ranks_are_those_of_requests(tiny, found):
    data, places = PreparedData.open(tiny.data), np.frombuffer((found / "ranks-0000.i64").read_bytes(), np.int64)
    table = json.loads((found / "ranking.json").read_text("utf-8"))
    places = dict(zip(table["rankings"], places.reshape(len(table["rankings"]), -1), strict=True))
    with Engine.open(tiny.bundle, llm=None, tuned=False) as engine:
        events, block, _ = engine.memory
        targets = ranking.choose_targets(data, "test", 60, 0, HistoryCut(events, block))
        assert table["rows"] == len(targets)
        items = tuple(Candidate(item) for item in data.item_ids)
        for row in range(0, len(targets), 7):
            own = int(targets.split.items[row])
            scores = engine.rank(Request(targets.user(row), items)).crm
            seen = set(targets.before(row).tolist()) - {own}
            above = sum(scores[i] >= scores[own] for i in range(len(items)) if i != own and i not in seen)
            assert places["crm"][row] == above + 1
    values = table["slices"]["all"]["rankings"]["crm"]
    assert values["hr@10"]["value"] == pytest.approx((places["crm"] <= 10).mean())
    assert values["mrr"]["value"] == pytest.approx((1 / places["crm"]).mean())


def test_it_says_how_it_ranked(found):
    text = (found / "ranking.md").read_text("utf-8")
    assert "full ranking: each liked row looks for its own item among all 60 items" in text
    assert "items of the user's history are left out; equal scores count against the target" in text
    assert "| items by likes in training rows |" in text


def test_another_protocol_in_the_same_folder_is_refused(tiny, found):
    done = run(*arguments(tiny, found, "--keep-history"))
    assert done.code == 2
    assert "begun with another" in done.err


def test_again_nothing_is_ranked(tiny, found, monkeypatch):
    before = (found / "ranking.json").read_bytes()
    monkeypatch.setattr(ranking, "_places", None)
    succeed(*arguments(tiny, found))
    assert (found / "ranking.json").read_bytes() == before


def test_keep_history_needs_ranking(tiny, tmp_path):
    done = run("evaluate", tiny.bundle, "--data", tiny.data, "--keep-history", "--out", tmp_path / "out")
    assert done.code == 2
    assert "--keep-history belongs to --ranking" in done.err
