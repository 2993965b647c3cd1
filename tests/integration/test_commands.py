"""verify, inspect, score and benchmark on a bundle that was really trained and exported."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corella_edge.json_lines import read_lines
from corella_edge.request_message import parse_request
from corella_edge_export import report
from corella_edge_runtime.bench.reports.report import FILES
from corella_edge_runtime.bench.reports.shown import points
from corella_edge_runtime.bench.results.journal import FILE as SLICES
from corella_edge_runtime.bench.results.result import read
from corella_edge_runtime.engine import Engine
from sessions import ONE, REPOSITORY, run, serving, start, succeed

CRM, LLM = 1e-9, 5e-3


def column(answers, name):
    return np.array([row[name] for answer in answers for row in answer["candidates"]], dtype=float)


@pytest.fixture(scope="module")
def asked(tiny):
    """The prepared requests, cut to six candidates."""
    lines = [json.loads(line) for line in tiny.requests.read_text("utf-8").splitlines()]
    return [{**line, "candidates": line["candidates"][:6]} for line in lines]


@pytest.fixture(scope="module")
def batch(tiny, asked, tmp_path_factory):
    """What `score` answers when everything is routed."""
    folder = tmp_path_factory.mktemp("score")
    (folder / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked), "utf-8")
    succeed("score", tiny.bundle, folder / "in.jsonl", "--out", folder / "out.jsonl", "--threshold", "ratio:1", *ONE)
    return [json.loads(line) for line in (folder / "out.jsonl").read_text("utf-8").splitlines()]


def test_verify(tiny):
    done = succeed("verify", tiny.bundle, *ONE)
    assert done.out.endswith("tiny@1: verified\n")
    assert "64 compared by token ids" in done.out
    assert "not checked" not in done.out


def test_inspect_tells_what_was_trained(tiny):
    found = json.loads(succeed("inspect", tiny.bundle, "--json").out)
    text = json.dumps(found)
    assert "synthetic" in text
    assert "llm.F16.gguf" in text
    assert str(tiny.data.parent) not in text
    assert "PROBLEMS" not in succeed("inspect", tiny.bundle).out


def test_training_ends_with_a_report(tiny, tmp_path, monkeypatch):
    assert "Training report" in (tiny.run / "report.html").read_text("utf-8")
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    report.report_if_possible(tmp_path)  # no run at all: without matplotlib nothing is looked at
    assert not list(tmp_path.iterdir())


def test_no_file_of_the_bundle_holds_a_path_of_this_machine(tiny):
    for path in tiny.bundle.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(tiny.data.parent).encode() not in data, path.name
            assert str(REPOSITORY).encode() not in data, path.name


def test_scores_differ_from_candidate_to_candidate(batch):
    """Else the comparisons below would prove nothing."""
    assert np.ptp(column(batch, "crm")) > 0.2
    assert np.ptp(column(batch, "llm")) > 0.05
    assert not np.isnan(column(batch, "llm")).any()


def test_batch_equals_one_by_one(tiny, asked, batch):
    with Engine.open(tiny.bundle, threshold="ratio:1", require_llm=True, llm_threads=1) as engine:
        alone = [
            engine.rank(parse_request({"user": line["user"], "candidates": [candidate]}))
            for line in asked
            for candidate in line["candidates"]
        ]
    np.testing.assert_allclose(column(batch, "crm"), [s.crm[0] for s in alone], rtol=0, atol=CRM)
    np.testing.assert_allclose(column(batch, "llm"), [s.llm[0] for s in alone], rtol=0, atol=LLM)


def test_batch_equals_server(tiny, asked, batch):
    import httpx

    with serving(start("serve", tiny.bundle, "--port", 0, "--threshold", "ratio:1", *ONE)) as served:
        answers = [httpx.post(f"{served.url}/v1/rank", json=line, timeout=30).json() for line in asked]
    np.testing.assert_allclose(column(batch, "crm"), column(answers, "crm"), rtol=0, atol=CRM)
    np.testing.assert_allclose(column(batch, "llm"), column(answers, "llm"), rtol=0, atol=LLM)
    assert [a["id"] for a in batch] == [a["id"] for a in answers]


def test_the_policy_of_the_bundle_routes_about_its_share(tiny, tmp_path):
    done = succeed("score", tiny.bundle, tiny.requests, "--out", tmp_path / "out.jsonl", *ONE)
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    share = column(answers, "routed").mean()
    assert f"routed share {share:.4f}" in done.err
    assert 0.02 < share < 0.6
    routed = column(answers, "routed").astype(bool)
    entropies = column(answers, "entropy")
    assert entropies[routed].min() >= entropies[~routed].max()


def test_every_prepared_request_is_a_request(tiny):
    assert len(list(read_lines(tiny.requests, parse_request))) == 12


@pytest.mark.slow
def test_benchmark(tiny, tmp_path):
    args = ["--ratios", "0,0.2,1", "--out", tmp_path / "report", "--scenario", "single", "--budget", "2s", *ONE]
    done = succeed("benchmark", tiny.bundle, *args)
    found = read(tmp_path / "report")
    curve = points(found, "single", "new")
    assert [point.ratio for point in curve] == [0.0, 0.2, 1.0]
    assert (curve[0].share.value, curve[2].share.value) == (0.0, 1.0)
    assert "AUC" in done.out
    assert {path.name for path in (tmp_path / "report").iterdir()} == {*FILES, SLICES}


def test_a_second_export_to_the_same_folder_is_refused(tiny):
    done = run("export", tiny.run, "--out", tiny.bundle)
    assert done.code == 2
    assert "exists and is not empty" in done.err
