"""`calibrate --gate`, `--risk`, `--delta` and `--miss`: the bundle that comes out, the report, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from corella_edge.bundle.artefact import Bundle
from corella_edge.request import Candidate, Request, User
from corella_edge.routing.gate import Gate
from corella_edge_runtime.calibrate import log
from corella_edge_runtime.engine import Engine
from logs import labelled_log, uneven_log

QUICK = ("--no-cost", "--no-verify", "--gain", "0.5", "--ratios", "0.1")


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "rows.jsonl"
    log.write(uneven_log(), path)
    return path


def test_a_gate_is_carried_by_the_new_bundle_and_serves(corella, bundle, logged, tmp_path):
    out = tmp_path / "new"
    done = corella("calibrate", bundle, "--log", logged, "--out", out, "--share", "0.1", "--gate", *QUICK)
    assert done.code == 0, done.err
    assert "it is taken" in done.out
    result = json.loads((tmp_path / "new-report" / "report.json").read_text())
    assert result["gate"]["taken"]
    assert "## The learned gate against the entropy" in (tmp_path / "new-report" / "report.md").read_text()
    routing = Bundle.open(out).routing()
    assert isinstance(routing.measure, Gate)
    assert routing.measure.to_json() == result["measure"]
    assert routing.reach is not None
    with Engine.open(out, llm=None, tuned=False) as engine:
        assert engine.policy.measure == routing.measure
        assert len(engine.rank(Request(User("u1"), [Candidate("i1"), Candidate("i2")])).crm) == 2


def test_a_gate_that_finds_nothing_is_said_and_left(corella, bundle, tmp_path):
    path = tmp_path / "plain.jsonl"
    log.write(labelled_log(700, 8, 150, seed=3), path)
    done = corella("calibrate", bundle, "--log", path, "--out", tmp_path / "new", "--share", "0.1", "--gate",
                   "--miss", "0", *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    assert "not better, so the entropy stays" in done.out
    routing = Bundle.open(tmp_path / "new").routing()
    assert routing.measure.name == "entropy"
    assert routing.reach is None
    assert "not better" in (tmp_path / "new-report" / "report.html").read_text()


def test_a_certified_threshold_is_the_new_bundle_s(corella, bundle, logged, tmp_path):
    out = tmp_path / "new"
    done = corella("calibrate", bundle, "--log", logged, "--out", out, "--risk", "0.1", "--delta", "0.1",
                   "--one-row-a-user", *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    assert "Certified: P(wrong and not asked) ≤ 0.1 with confidence 0.9" in done.out
    result = json.loads((tmp_path / "new-report" / "report.json").read_text())
    assert result["promise"]["rows"] == result["promise"]["users"]
    routing = Bundle.open(out).json("routing.json")
    assert routing["policy"]["threshold"] == result["promise"]["threshold"]
    assert routing["calibrated"]["promise"]["risk"] == 0.1
    assert "## What the threshold promises" in (tmp_path / "new-report" / "report.md").read_text()


def test_a_share_may_be_a_limit(corella, bundle, logged, tmp_path):
    done = corella("calibrate", bundle, "--log", logged, "--out", tmp_path / "new", "--share", "0.1", "--delta",
                   "0.05", *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    assert "With confidence 0.95 at most 10.0% of later rows are routed" in done.out


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--risk", "0.0001", "--delta", "0.0001"], 2, "Not certified: P(wrong and not asked) ≤ 0.0001"),
        (["--risk", "0.05", "--share", "0.01"], 2, "more than 1.0%. More rows do not help"),
        (["--delta", "0.1", "--share", "0"], 2, "the share 0 is no limit"),
        (["--one-row-a-user"], 2, "--one-row-a-user belongs to --risk or --delta"),
        (["--risk", "1"], 2, "--risk"),
    ],
)
def test_what_cannot_be_promised_leaves_no_bundle(corella, bundle, logged, tmp_path, options, code, said):
    out = tmp_path / "new"
    done = corella("calibrate", bundle, "--log", logged, "--out", out, *QUICK, *options)
    assert done.code == code
    assert said in " ".join(done.err.split())
    assert not out.exists()
    assert not (tmp_path / "new-report").exists()


def test_too_few_rows_for_a_gate_are_said_with_the_number(corella, bundle, tmp_path):
    path = tmp_path / "few.jsonl"
    log.write(labelled_log(150, 8, 60), path)
    done = corella("calibrate", bundle, "--log", path, "--out", tmp_path / "new", "--gate", *QUICK)
    assert done.code == 2
    assert "a gate takes 500 rows that the LLM was asked about, of 20 users" in done.err
