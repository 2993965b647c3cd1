"""The script `benchmarks/routing_policies.py` on small logs."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import routing_policies
from corella_edge.metrics import row_loss
from corella_edge.routing.fusion import REPLACE
from corella_edge_runtime.calibrate import log
from logs import labelled_log


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["routing_policies.py", *map(str, arguments), "--draws", "60"])
    return routing_policies.main()


def test_every_measure_routes_the_same_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write(labelled_log(700, 6, 90), tmp_path / "log.jsonl")
    assert run(monkeypatch, tmp_path / "log.jsonl", "--shares", "0.1", "--out", tmp_path / "out.json") == 0
    found = json.loads(capsys.readouterr().out)
    rows = {row["measure"]: row for row in found["versus"]}
    assert set(rows) == {"entropy", "entropy, centred", "margin", "band", "gate", "disagreement", "random", "oracle"}
    assert {row["rows"] for row in rows.values()} == {round(0.1 * found["parts"]["later"]["rows"])}
    assert rows["oracle"]["logloss"]["value"] == min(row["logloss"]["value"] for row in rows.values())
    # Entropy and margin order alike where the centre is one half: the very same rows.
    assert rows["margin"]["over_entropy"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert rows["random"]["over_entropy"]["logloss"]["low"] > 0.0
    assert json.loads((tmp_path / "out.json").read_text())["versus"] == found["versus"]
    kept = [row for row in found["maps"] if row["maps"] == "none"]
    assert [row["change"]["value"] for row in kept] == [0.0, 0.0, 0.0]
    assert len(found["maps"]) == 12


def test_a_band_lies_where_asking_helps() -> None:
    rows = labelled_log(1000, 6, 90)
    found = routing_policies.best_band(rows, REPLACE, 0.2)
    inside = (rows.crm >= found.low) & (rows.crm <= found.high)
    saved = row_loss(rows.crm, rows.label) - row_loss(rows.llm, rows.label)
    assert inside.mean() == pytest.approx(0.2, abs=0.01)
    assert saved[inside].sum() > 0.2 * saved.sum()
    assert found.low < 0.5 < found.high


def test_maps_mend_scores_that_are_too_sure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = labelled_log(800, 6, 90)
    sure = rows.llm**3 / (rows.llm**3 + (1 - rows.llm) ** 3)
    columns = {**vars(rows), "llm": np.clip(sure, 1e-6, 1 - 1e-6)}
    log.write(type(rows)(**columns), tmp_path / "log.csv.jsonl")
    assert run(monkeypatch, tmp_path / "log.csv.jsonl", "--shares", "0.2") == 0
    maps = json.loads(capsys.readouterr().out)["maps"]
    mended = [row for row in maps if row["route"] == "routed: LLM" and row["maps"] != "none"]
    assert len(mended) == 3
    assert all(row["change"]["high"] < 0.0 for row in mended)


def test_a_log_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path / "nowhere") == 2
    assert capsys.readouterr().err.endswith("nowhere: no such file\n")


def test_rows_that_were_drawn_by_chance_stand_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A share is of what rows stand for, and the base model's figures are those of all rows."""
    rows, rng = labelled_log(1200, 6, 90), np.random.default_rng(3)
    hard = np.abs(rows.crm - 0.5) < 0.2
    told = hard | (rng.random(len(rows)) < 0.25)
    thin = replace(rows, llm=np.where(told, rows.llm, np.nan), propensity=np.where(hard, 1.0, 0.25))
    found = []
    for name, log_of in (("all", rows), ("thin", thin)):
        log.write(log_of, tmp_path / f"{name}.jsonl")
        assert run(monkeypatch, tmp_path / f"{name}.jsonl", "--shares", "0.2") == 0
        found.append({row["measure"]: row for row in json.loads(capsys.readouterr().out)["versus"]})
    for measure in ("entropy", "random"):
        gains = [one[measure]["over_crm"]["logloss"]["value"] for one in found]
        assert gains[1] == pytest.approx(gains[0], abs=0.006), measure
        assert found[1][measure]["auc"]["value"] == pytest.approx(found[0][measure]["auc"]["value"], abs=0.02)
    assert "ndcg@10" in found[0]["entropy"]
    assert "ndcg@10" not in found[1]["entropy"]
