"""The script `benchmarks/policy_checks.py` on small logs, and what docs/results.md makes of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import policy_checks
from corella_edge.routing.labelled import LabelledRows
from corella_edge_runtime.calibrate import log
from logs import labelled_log, uneven_log
from pages import DOCS


def run(monkeypatch: pytest.MonkeyPatch, rows: LabelledRows, folder: Path, name: str, *more: str) -> dict[str, Any]:
    log.write(rows, folder / f"{name}.jsonl")
    out = folder / f"policy-checks-{name}.json"
    given = [str(folder / f"{name}.jsonl"), "--name", name, "--draws", "60", "--out", str(out), *more]
    monkeypatch.setattr(sys, "argv", ["policy_checks.py", *given])
    assert policy_checks.main() == 0
    return json.loads(out.read_text())


def test_what_the_llm_brings_is_told_apart_from_what_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run(monkeypatch, uneven_log(), tmp_path, "shop", "--gain", "0.05", "--risks", "0.25,0.001")
    fitted, same = found["fitted"], found["same_answer"]
    assert fitted["gain"]["low"] > 0.005 > abs(same["gain"]["value"])
    assert fitted["share"]["value"] == pytest.approx(0.2, abs=0.05)
    kept, strict = found["certified"]
    assert 0.0 <= kept["share"] < strict["share"] <= 1.0
    assert kept["missed"] / kept["rows"] <= 0.25
    assert kept["later"]["value"] <= 0.28


def test_inputs_that_tell_the_outcome_gain_as_much_without_the_llm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = labelled_log(800, 10, 120)
    told = rows.label + np.random.default_rng(0).normal(0, 1, len(rows))
    mute = replace(rows, llm=np.full(len(rows), 0.4), inputs={"popularity": told})
    found = run(monkeypatch, mute, tmp_path, "shop", "--share", "0.5", "--gain", "0.05")
    assert found["same_answer"]["gain"]["value"] == pytest.approx(found["fitted"]["gain"]["value"], abs=0.01)
    assert found["same_answer"]["gain"]["low"] > 0.0


def test_a_refusal_is_kept_in_place_of_figures_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    import routing_page

    found = run(monkeypatch, labelled_log(20, 6, 4), tmp_path, "few", "--risks", "0.000001")
    assert found["fitted"]["refused"].startswith("too few rows: the earlier part, which is fitted on, has 60 rows")
    assert found["same_answer"] is None
    run(monkeypatch, labelled_log(600, 8, 150), tmp_path, "many", "--gain", "0.05", "--risks", "0.3")
    told = "\n".join(routing_page.lines(tmp_path))
    assert f"`calibrate` refuses: *{found['fitted']['refused']}*" in told
    assert "| many | 2,400 of " in told
    assert "| many | 0.3 | " in told


def test_a_log_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["policy_checks.py", str(tmp_path / "nowhere"), "--name", "shop"])
    assert policy_checks.main() == 2
    assert capsys.readouterr().err.endswith("nowhere: no such file\n")
