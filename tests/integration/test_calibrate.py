"""From prepared data to a bundle with a fitted policy, through the scores that `evaluate` keeps."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corella_edge.bundle.artefact import Bundle
from corella_edge.routing import parts
from corella_edge.routing.gate import MADE, NEW_ITEM, inputs_of
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.evaluation import evaluate as module
from corella_edge_export.evaluation import labelled as of_data
from corella_edge_runtime.calibrate import log
from corella_edge_runtime.engine import Engine
from sessions import ONE, run, succeed

WIDE = ("--gain", "0.5", "--no-cost")


@pytest.fixture(scope="module")
def scores(tiny, tmp_path_factory):
    """A folder of evaluation and the labelled rows beside it."""
    folder = tmp_path_factory.mktemp("scores")
    succeed("evaluate", tiny.bundle, "--data", tiny.data, "--split", "test", "--ratios", "0.2", *ONE, "--out",
            folder / "kept", "--labelled", folder / "rows.jsonl")  # fmt: skip
    return folder


def test_labelled_rows_are_the_scores_that_were_kept(tiny, scores):
    rows = log.read(scores / "rows.jsonl")
    crm, llm = np.frombuffer((scores / "kept" / "scores-0000.f64").read_bytes()).reshape(2, -1)
    assert np.array_equal(rows.crm, crm)
    assert np.array_equal(rows.llm, llm, equal_nan=True)
    data = PreparedData.open(tiny.data)
    split = data.split("test")
    assert len(rows) == len(split.users)
    assert sorted(rows.user) == sorted(data.user_ids[user] for user in split.users)
    assert rows.label.sum() == split.labels.sum()
    days = {(user, int(time) // 86400) for user, time in zip(rows.user, rows.time, strict=True)}
    assert len(set(rows.request)) == len(days)


def test_inputs_of_a_gate_are_those_of_a_request(tiny, scores):
    rows = log.read(scores / "rows.jsonl")
    data = PreparedData.open(tiny.data)
    with Engine.open(tiny.bundle, llm=None, tuned=False) as engine:
        chosen, _ = module.choice(engine, data, "test", 0, 0)
        asked = {request.user.id: request for request in chosen.requests()}  # the last of each user
        for user, request in list(asked.items())[:20]:
            place = int(np.flatnonzero(rows.user == user)[-1])
            found = engine.rank(request)
            at = engine.encoder.rows_of([rows.item[place]])
            counts = np.append(engine.slates.popular.counts, 0)[at].astype(float)
            p = rows.crm[rows.request == rows.request[place]]
            same = inputs_of(p, 0, [found.unknown[0]], counts, needs=MADE)
            for name in ("unknown", "popularity", "dispersion", NEW_ITEM):
                assert rows.inputs[name][place] == pytest.approx(same[name][0], abs=1e-9), name
    assert (rows.inputs["history"] >= 0).all()
    unseen = data.unseen_items(data.split("test"))[chosen.indices]
    assert (rows.inputs[NEW_ITEM] == unseen).all()
    assert {*unseen.tolist()} == {True, False}


@pytest.mark.slow
def test_a_bundle_is_calibrated_on_prepared_data_without_scoring_twice(tiny, scores, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_chunk", lambda *args: pytest.fail("scored again"))
    monkeypatch.setattr(parts, "FEW_USERS", 15)  # the tiny data's later half has 19
    succeed("calibrate", tiny.bundle, "--data", tiny.data, "--split", "test", "--scores", scores / "kept", "--out",
            tmp_path / "one", *WIDE, *ONE)  # fmt: skip
    succeed("calibrate", tiny.bundle, "--log", scores / "rows.jsonl", "--out", tmp_path / "two", *WIDE)
    one, two = (json.loads((tmp_path / f"{name}-report/report.json").read_text()) for name in ("one", "two"))
    assert one["parts"] == two["parts"]
    assert one["policy"] == two["policy"]
    assert Bundle.open(tmp_path / "one").json("routing.json") == Bundle.open(tmp_path / "two").json("routing.json")
    succeed("verify", tmp_path / "one", *ONE)
    assert one["share"] == 0.2  # the recipe's


def test_rows_that_trained_the_models_are_told(tiny, tmp_path):
    data = PreparedData.open(tiny.data)
    assert list(of_data.traps(data, "valid")) == []
    assert "these rows trained both models" in next(of_data.traps(data, "train"))


def test_a_split_that_is_too_small_is_refused_by_number(tiny, scores, tmp_path):
    done = run("calibrate", tiny.bundle, "--data", tiny.data, "--split", "test", "--scores", scores / "kept", "--out",
               tmp_path / "new", "--no-cost", "--gain", "0.001", *ONE)  # fmt: skip
    assert done.code == 2
    assert "0.001 takes about" in done.err
    assert not (tmp_path / "new").exists()
