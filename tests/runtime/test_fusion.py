"""A bundle's fusion rule in the engine, in the server's protocols, in `verify` and in `benchmark`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from bundles import ITEMS, make_bundle, reseal
from corella_edge.bundle.artefact import Bundle
from corella_edge.cli import main
from corella_edge.errors import BundleError
from corella_edge.json_lines import parse_traffic
from corella_edge.metrics import quality
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.request_message import parse_request
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.policy import Policy
from corella_edge.scores import answer
from corella_edge_runtime import reference
from corella_edge_runtime.bench.measure import quality as bench
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.service import Service

STACK = {"rule": "stack", "weights": [0.1, 0.7, -0.4]}
EVERYTHING = tuple(Candidate(f"i{i}") for i in range(ITEMS))
USER = User("u3", {}, tuple(Event(f"i{i}", 4.0) for i in range(4)))
BODY = {
    "user": {"id": "u3", "history": [{"item": f"i{i}", "rating": 4} for i in range(4)]},
    "candidates": [{"item": f"i{i}"} for i in range(ITEMS)],
}


def with_rule(root: Path, out: Path, rule: Any) -> Path:
    """The bundle with an object `fusion`."""
    shutil.copytree(root, out)
    routing = json.loads((out / "routing.json").read_text())
    (out / "routing.json").write_text(json.dumps({**routing, "fusion": rule}))
    reseal(out)
    return out


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("fusion") / "plain")


@pytest.fixture(scope="module")
def stacked(plain: Path) -> Path:
    return with_rule(plain, plain.parent / "stacked", STACK)


@pytest.fixture(scope="module")
def engine(stacked: Path) -> Iterator[Engine]:
    with Engine.open(stacked, llm_threads=1, deterministic=True, tuned=False) as opened:
        yield opened


def by_hand(row: dict[str, Any]) -> float:
    """The final probability of a row of an answer."""
    if not row["routed"]:
        return float(row["crm"])
    odds = [math.log(p / (1 - p)) for p in (row["crm"], row["llm"])]
    a, b, c = STACK["weights"]
    return 1 / (1 + math.exp(-(a + b * odds[0] + c * odds[1])))


@pytest.mark.parametrize("threshold", ["ratio:0", "ratio:0.3", 0.6, "ratio:1"])
def test_routed_candidates_have_the_stacked_score_and_each_model_keeps_its_own(engine: Engine, threshold: Any) -> None:
    request = Request(USER, EVERYTHING, threshold=threshold)
    scores = engine.rank(request)
    rows = answer(request, scores, engine.name)["candidates"]
    assert [row["probability"] for row in rows] == pytest.approx([by_hand(row) for row in rows], rel=0, abs=1e-9)
    assert [row["llm"] is not None for row in rows] == [row["routed"] for row in rows] == scores.routed.tolist()
    order = sorted(rows, key=lambda row: -row["probability"])
    assert [row["rank"] for row in order] == list(range(1, ITEMS + 1))
    if threshold == "ratio:0":
        assert scores.probability.tobytes() == scores.crm.tobytes()
    else:
        assert 0 < scores.routed.sum() < ITEMS
        assert not set(scores.probability[scores.routed]) & {*scores.llm[scores.routed], *scores.crm}


def test_a_rule_changes_no_model_s_own_score(engine: Engine, plain: Path) -> None:
    request = Request(USER, EVERYTHING, threshold="ratio:1")
    stacked = engine.rank(request)
    with Engine.open(plain, llm_threads=1, deterministic=True, tuned=False) as other:
        replaced = other.rank(request)
    for name in ("crm", "llm", "entropy", "routed"):
        np.testing.assert_array_equal(getattr(stacked, name), getattr(replaced, name))
    assert (stacked.reason, stacked.unknown) == (replaced.reason, replaced.unknown)


def test_replace_by_name_answers_as_a_bundle_without_a_rule(plain: Path, tmp_path: Path) -> None:
    named, answers = with_rule(plain, tmp_path / "named", {"rule": "replace"}), []
    for root in (plain, named):
        with Engine.open(root, llm_threads=1, deterministic=True, tuned=False) as opened:
            scores = opened.rank(Request(USER, EVERYTHING, threshold="ratio:0.5"))
            expected = np.where(scores.routed, scores.llm, scores.crm)
            assert scores.probability.tobytes() == expected.tobytes()
            answers.append(answer(Request(USER), scores, "b@1"))
    assert answers[0] == answers[1]


def test_a_batch_is_one_by_one(engine: Engine) -> None:
    together = engine.rank(Request(USER, EVERYTHING, threshold="ratio:1"))
    alone = [engine.rank(Request(USER, (one,), threshold="ratio:1")).probability[0] for one in EVERYTHING]
    np.testing.assert_allclose(together.probability, alone, rtol=0, atol=1e-6)
    assert np.ptp(together.probability) > 0.1


def test_of_two_answers_the_first_is_the_crm_s_and_the_last_the_whole_one(engine: Engine) -> None:
    request = Request(USER, EVERYTHING, threshold="ratio:0.5")
    draft = engine.begin(request)
    first = engine.before_llm(draft)
    assert first.probability.tobytes() == first.crm.tobytes()
    assert draft.asking is not None
    assert draft.asking.future is not None
    draft.asking.future.result(20)
    assert engine.finish(draft).probability.tolist() == engine.rank(request).probability.tolist()


def test_without_an_llm_the_crm_s_score_stands(stacked: Path) -> None:
    with Engine.open(stacked, llm=None, tuned=False) as opened:
        scores = opened.rank(Request(USER, EVERYTHING, threshold="ratio:1"))
    assert scores.probability.tobytes() == scores.crm.tobytes()


def test_every_protocol_answers_with_the_same_score(engine: Engine) -> None:
    service = Service()
    service.serve(engine)
    inputs = [
        {"name": "user_id", "datatype": "BYTES", "shape": [1], "data": ["u3"]},
        {"name": "history_items", "datatype": "BYTES", "shape": [4], "data": [f"i{i}" for i in range(4)]},
        {"name": "history_ratings", "datatype": "FP32", "shape": [4], "data": [4.0] * 4},
        {"name": "candidates", "datatype": "BYTES", "shape": [ITEMS], "data": [f"i{i}" for i in range(ITEMS)]},
    ]
    whole = {**BODY, "threshold": "ratio:1"}

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(build_app(service))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return [
                await client.post("/v1/rank", json=whole),
                await client.post("/v1/rank?mode=progressive", json=whole),
                await client.post(
                    "/v2/models/rank/infer", json={"inputs": inputs, "parameters": {"threshold": "ratio:1"}}
                ),
                await client.post("/v2/models/llm/infer", json={"inputs": inputs}),
                await client.get("/page/curve"),
            ]

    try:
        rank, progressive, infer, llm, curve = asyncio.run(ask())
    finally:
        service.close()
    expected = engine.rank(parse_request(whole))
    final = json.loads(progressive.text.rpartition("data: ")[2])
    for found in (rank.json(), final):
        assert [row["probability"] for row in found["candidates"]] == expected.probability.tolist()
        assert [row["rank"] for row in found["candidates"]] == expected.rank.tolist()
    named = {output["name"]: output["data"] for output in infer.json()["outputs"]}
    assert named["probability"] == pytest.approx(expected.probability.tolist(), abs=1e-7)
    own = [math.nan if p is None else p for p in llm.json()["outputs"][0]["data"]]
    np.testing.assert_allclose(own, expected.llm, atol=1e-7)
    assert curve.json()["fusion"] == "stack"


def test_verify_repeats_the_rule(engine: Engine, stacked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["verify", str(stacked), "--llm-threads", "1"])
    assert not left.value.code
    assert "\nfusion: stack, greatest difference " in capsys.readouterr().out
    good = reference.compare(engine)
    assert good.problems == []
    assert 0.0 < good.fused < 1e-2
    forgetful = Engine(engine.bundle, engine.encoder, engine.crm, engine.llm)
    forgetful.fusion = REPLACE
    bad = reference.compare(forgetful)
    assert len(bad.problems) > good.rows / 2
    assert all("stack gives " in problem for problem in bad.problems)


def test_inspect_shows_the_rule(stacked: Path, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for root in (stacked, plain):
        with pytest.raises(SystemExit):
            main(["inspect", str(root), "--json"])
        shown.append(json.loads(capsys.readouterr().out)["routing"]["fusion"])
    assert shown == [STACK, {"rule": "replace"}]


def test_benchmark_judges_the_score_that_is_served(engine: Engine, stacked: Path) -> None:
    rows = [parse_traffic(json.loads(line)) for line in (stacked / "sample.jsonl").read_text().splitlines()[:60]]
    users = [row.request.user.id or "" for row in rows]
    data = bench.score(engine.rank, rows, users, lambda *_: None)
    half = engine.parse_threshold("ratio:0.5")
    policies, ratios = {"ratio:0.5": half, "ratio:0": Policy()}, {"ratio:0.5": 0.5, "ratio:0": 0.0}
    found = bench.judged(data, policies, ratios, engine.routing.measure, engine.fusion, draws=20)
    at = {point.threshold: point for point in found.points if point.line == "policy"}
    served = [engine.rank(dataclasses.replace(row.request, threshold=half.nats)).probability[0] for row in rows]
    expected = quality(served, data.label)
    assert 0 < at["ratio:0.5"].share < 1
    told = [at["ratio:0.5"].metrics[name].value for name in ("auc", "logloss")]
    assert told == pytest.approx([expected.auc, expected.logloss], abs=1e-6)
    assert at["ratio:0"].metrics["logloss"].value == pytest.approx(quality(data.crm, data.label).logloss)


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ([], "fusion: expected an object"),
        (None, "fusion: expected an object"),
        ({}, "fusion.rule: None"),
        ({"rule": "vote"}, "fusion.rule: 'vote' is not one of replace, blend, stack"),
        ({"rule": "stack"}, "fusion.weights: expected three numbers"),
        ({"rule": "stack", "weights": [0, 1]}, "fusion.weights: expected three numbers"),
        ({"rule": "stack", "weights": [0, "1", 1]}, "fusion.weights: expected three numbers"),
        ({"rule": "stack", "weights": [0, 1e7, 1]}, "fusion.weights: expected three numbers"),
        ({"rule": "stack", "weights": [0, math.nan, 1]}, "fusion.weights: expected three numbers"),
        ({"rule": "blend", "weights": [0, 1, 1]}, "fusion.weights: blend takes no weights"),
    ],
)
def test_a_malformed_rule_is_told_before_any_model_is_loaded(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Any, field: str
) -> None:
    monkeypatch.setattr("corella_edge_runtime.engine.Crm", None)
    with pytest.raises(BundleError) as caught:
        Engine.open(with_rule(plain, tmp_path / "bad", rule), tuned=False)
    assert str(caught.value).startswith(f"routing.json: {field}")


def test_a_bundle_without_a_rule_replaces(plain: Path, stacked: Path) -> None:
    assert Bundle.open(plain).fusion() == REPLACE
    assert Bundle.open(stacked).fusion() == Fusion("stack", (0.1, 0.7, -0.4))


MAPPED = {
    "rule": "mapped_stack", "weights": [0.1, 0.7, 0.4, 0.3], "inputs": ["history"], "fill": [1.0],
    "maps": {"crm": {"kind": "temperature", "slope": 0.5}, "llm": {"kind": "platt", "slope": 2.0, "shift": 0.1},
             "alone": {"kind": "isotonic", "from": [0.2, 0.8], "to": [0.3, 0.6]}},
}  # fmt: skip


@pytest.fixture(scope="module")
def mapped(plain: Path) -> Iterator[Engine]:
    with Engine.open(with_rule(plain, plain.parent / "mapped", MAPPED), require_llm=True, llm_threads=1) as opened:
        yield opened


def test_mapped_scores_stand_beside_each_model_s_own(mapped: Engine, plain: Path) -> None:
    request = parse_request({**BODY, "threshold": "ratio:0.5"})
    shown = answer(request, mapped.rank(request), "")["candidates"]
    assert {row["routed"] for row in shown} == {True, False}
    for row in shown:
        if row["routed"]:
            crm, llm = (math.log(row[name] / (1 - row[name])) for name in ("crm", "llm"))
            added = 0.3 * (math.log1p(len(BODY["user"]["history"])) - 1.0)
            total = 0.1 + 0.7 * 0.5 * crm + 0.4 * (2.0 * llm + 0.1) + added
            assert row["probability"] == pytest.approx(1 / (1 + math.exp(-total)), abs=1e-9)
            assert row["crm_mapped"] == pytest.approx(1 / (1 + math.exp(-0.5 * crm)), abs=1e-9)
        else:
            assert (
                row["probability"] == row["crm_mapped"] == pytest.approx(np.interp(row["crm"], [0.2, 0.8], [0.3, 0.6]))
            )
            assert row["llm_mapped"] is None
    with Engine.open(plain, require_llm=True, llm_threads=1) as engine:
        unmapped = answer(request, engine.rank(request), "")["candidates"]
    assert [row["crm"] for row in unmapped] == [row["crm"] for row in shown]
    assert not {"crm_mapped", "llm_mapped"} & unmapped[0].keys()
    explained = parse_request({**BODY, "threshold": "ratio:0.5", "explain": True})
    assert [row["crm_mapped"] for row in answer(explained, mapped.rank(explained), "")["candidates"]] == [
        row["crm_mapped"] for row in shown
    ]


def test_what_is_mapped_ranks_without_the_llm_too(mapped: Engine) -> None:
    request = parse_request({**BODY, "threshold": "ratio:0", "top_k": 3})
    shown = answer(request, mapped.rank(request), "")["candidates"]
    everything = parse_request({**BODY, "threshold": "ratio:0"})
    whole = answer(everything, mapped.rank(everything), "")["candidates"]
    assert [row["probability"] for row in whole] == [row["crm_mapped"] for row in whole]
    assert [row for row in whole if row["rank"] <= 3] == shown


def test_verify_repeats_a_mapped_rule(mapped: Engine) -> None:
    assert reference.compare(mapped).problems == []


@pytest.mark.parametrize("threshold", ["band:0.3-0.5", "ms:40", "policy"])
def test_every_form_routes_by_what_it_says(engine: Engine, threshold: str) -> None:
    request = parse_request({**BODY, "threshold": threshold, "explain": True})
    found = engine.rank(request)
    policy = engine.parse_threshold(threshold)
    wanted = {i for i, reason in enumerate(found.reason) if reason}
    assert wanted == set(policy.route(found.crm)[0].tolist())
    assert {reason for reason in found.reason if reason} <= {policy.reason, "no_text"}
    told = answer(request, found, "")["explain"]
    assert told.get("measure") == ("band" if threshold.startswith("band") else None)
    assert told["threshold"] == (None if math.isinf(policy.least(ITEMS)) else policy.least(ITEMS))


def test_without_an_llm_a_budget_asks_nobody(stacked: Path) -> None:
    with Engine.open(stacked, llm=None, threshold="ms:40") as engine:
        assert set(engine.rank(parse_request(BODY)).reason) == {""}


def test_an_engine_with_a_budget_measures_what_asking_costs(stacked: Path) -> None:
    with Engine.open(stacked, threshold="ms:40", require_llm=True, llm_threads=1) as engine:
        assert engine.routing.cost is not None
        assert engine.routing.cost.finite
        assert engine.routing.cost.first > 0.0
        assert any("ms:" in line for line in engine.told())
