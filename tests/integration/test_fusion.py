"""A rule that is fitted at export, shipped, verified and judged: the figures are those of what is served."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from corella_edge.bundle.artefact import Bundle
from corella_edge.request_message import parse_request
from corella_edge.routing.fusion import fuse
from corella_edge.routing.measure import entropy, is_routed
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.rowset import choose_users, history_needed
from corella_edge_export.evaluation.fusion import fused, fusion, routed
from corella_edge_export.evaluation.scored import ScoredRows
from corella_edge_export.training.run import Run
from corella_edge_runtime import reference
from corella_edge_runtime.engine import Engine
from sessions import ONE, succeed

RATIOS = (0.0, 0.2, 0.5, 1.0)


@pytest.fixture(scope="module")
def stacked(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("stacked") / "bundle"
    done = succeed("export", tiny.run, "--out", out, "--fusion", "stack", "--no-sample", *ONE)
    assert done.out.endswith("verified\n")
    return out


@pytest.fixture(scope="module")
def routing(stacked):
    return json.loads((stacked / "routing.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def valid(tiny, stacked):
    """The calibration rows, scored again."""
    run = Run.open(tiny.run, PreparedData.open(tiny.data))
    schema, _ = run.fit_inputs()
    export, history = run.recipe.export, history_needed(schema, run.recipe.prompt)
    rows = choose_users(run.data, "valid", export.calibration_rows, run.recipe.seed, history)
    with Engine.open(stacked, threshold="ratio:1", llm_threads=1, require_llm=True, tuned=False) as engine:
        scores = [engine.rank(request) for request in rows.requests()]
    crm, llm = (np.concatenate([getattr(s, model) for s in scores]) for model in ("crm", "llm"))
    return ScoredRows(crm, crm, llm, rows.labels, rows.users.astype(np.int64), np.zeros(len(crm), dtype=bool))


def test_the_weights_are_the_study_s_fit_of_the_calibration_rows(routing, valid):
    about = routing["fusion"]
    assert about["rule"] == "stack"
    # Too few rows for a fit near the boundary: all that the LLM answers.
    assert about["fit"] == {"split": "valid", "rows": int(valid.answered.sum()), "threshold": 0.0}
    assert about["weights"] == pytest.approx(fusion("stack", valid, 0.0).weights, rel=1e-6)
    assert len({*map(abs, about["weights"])} - {0.0, 0.5}) == 3


def test_the_table_is_of_the_fused_scores(routing, stacked, valid):
    rule = Bundle.open(stacked).fusion()
    for row in routing["table"]:
        chosen = routed(valid, math.inf if row["threshold"] is None else row["threshold"])
        final = fused(valid, chosen, rule)
        assert row["share"] == chosen.mean()
        assert row["auc"] == pytest.approx(roc_auc_score(valid.labels, final), abs=1e-6)
        assert row["logloss"] == pytest.approx(log_loss(valid.labels, final), abs=1e-6)


def test_without_a_rule_routing_json_is_as_ever(tiny, routing):
    plain = json.loads((tiny.bundle / "routing.json").read_text("utf-8"))
    assert list(plain) == [
        "threshold", "calibration", "table", "rows", "base_rate", "fusions", "probabilities", "calibrated",
    ]  # fmt: skip
    assert plain["calibration"] == routing["calibration"]
    assert plain["table"][0] == routing["table"][0]
    assert plain["table"][-1] != routing["table"][-1]


def test_reference_rows_are_served_as_the_study_fuses_them(stacked):
    with Engine.open(stacked, llm_threads=1, require_llm=True) as engine:
        rows = reference.read(engine.bundle)
        scores = [engine.rank(replace(row.request, threshold="ratio:1")) for row in rows]
        rule = engine.fusion
    crm, llm, served = (np.array([getattr(s, name)[0] for s in scores]) for name in ("crm", "llm", "probability"))
    n = len(rows)
    data = ScoredRows(crm, crm, llm, np.zeros(n, np.int8), np.zeros(n, np.int64), np.zeros(n, dtype=bool))
    assert data.answered.any()
    assert fused(data, routed(data, 0.0), rule).tolist() == served.tolist()
    trained = np.array([row.crm for row in rows]), np.array([math.nan if r.llm is None else r.llm for r in rows])
    expected = fuse(*trained, ~np.isnan(trained[1]), rule)
    np.testing.assert_allclose(served, expected, rtol=0, atol=3e-2)


def test_verify_and_inspect_tell_the_rule(stacked, routing):
    assert "\nfusion: stack, greatest difference " in succeed("verify", stacked, *ONE).out
    shown = json.loads(succeed("inspect", stacked, "--json").out)["routing"]["fusion"]
    assert shown == routing["fusion"]


def test_score_answers_with_the_fused_score(tiny, stacked, tmp_path):
    out = tmp_path / "out.jsonl"
    succeed("score", stacked, tiny.requests, "--out", out, "--threshold", "ratio:1", *ONE)
    found = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    rows = [row for one in found for row in one["candidates"] if row["routed"]]
    assert rows
    crm, llm = (np.array([row[name] for row in rows]) for name in ("crm", "llm"))
    expected = Bundle.open(stacked).fusion()(crm, llm)
    assert [row["probability"] for row in rows] == pytest.approx(expected.tolist(), abs=1e-12)


@pytest.mark.slow
def test_evaluate_judges_what_is_served(tiny, stacked, tmp_path):
    """Every figure against a row-by-row computation from the two models' scores."""
    folder = tmp_path / "evaluation"
    ratios = ("--ratios", ",".join(map(str, RATIOS)))
    done = succeed("evaluate", stacked, "--data", tiny.data, "--out", folder, *ratios, *ONE)
    assert "share 1 `stack` of both models wherever" in done.out
    crm, llm = np.frombuffer((folder / "scores-0000.f64").read_bytes()).reshape(2, -1)
    split, calibration = PreparedData.open(tiny.data).split("test"), Bundle.open(stacked).calibration()
    labels = split.labels[np.lexsort((split.positions, split.users))]
    table = json.loads((folder / "evaluation.json").read_text("utf-8"))
    a, b, c = table["fusion"]["weights"]
    for row in table["groups"]["all"]["at"]:
        final = []
        for p, yes in zip(crm.tolist(), llm.tolist(), strict=True):
            hard = bool(is_routed(entropy([p]), calibration.threshold(row["ratio"]))[0]) and not math.isnan(yes)
            odds = a + b * math.log(p / (1 - p)) + c * math.log(yes / (1 - yes)) if hard else 0.0
            final.append(1 / (1 + math.exp(-odds)) if hard else p)
        assert row["auc"]["value"] == pytest.approx(roc_auc_score(labels, final), abs=1e-9)
        assert row["logloss"]["value"] == pytest.approx(log_loss(labels, final), abs=1e-9)
        assert row["accuracy"]["value"] == pytest.approx(((np.array(final) >= 0.5) == labels).mean(), abs=1e-9)
        assert row["auc"] == row["lines"]["stack"]["auc"]
        assert set(row["lines"]) == {"replace", "blend", "stack", "random", "oracle"}
    first, *_, last = table["groups"]["all"]["at"]
    assert first["gain"]["value"] == 0.0
    assert last["lines"]["replace"]["over_llm"]["auc"]["value"] == 0.0
    assert last["gain_over_llm"]["value"] != 0.0


@pytest.mark.slow
def test_blend_needs_no_fit(tiny, tmp_path):
    out = tmp_path / "bundle"
    succeed("export", tiny.run, "--out", out, "--fusion", "blend", "--no-sample", *ONE)
    assert json.loads((out / "routing.json").read_text("utf-8"))["fusion"] == {"rule": "blend"}
    request = parse_request(json.loads(tiny.requests.read_text("utf-8").splitlines()[0]))
    with Engine.open(out, llm_threads=1, require_llm=True) as engine:
        scores = engine.rank(replace(request, threshold="ratio:1"))
    odds = [np.log(p / (1 - p)) for p in (scores.crm, scores.llm)]
    expected = np.where(scores.routed, 1 / (1 + np.exp(-sum(odds) / 2)), scores.crm)
    np.testing.assert_allclose(scores.probability, expected, rtol=0, atol=1e-12)
