"""The script `benchmarks/gate_forms.py` on a log in which the LLM knows popular items alone."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import gate_forms
from corella_edge_runtime.calibrate import log
from logs import uneven_log


def test_what_knows_of_popularity_gains_more_than_the_entropy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write(uneven_log(600, 8, 100), tmp_path / "rows.jsonl")
    monkeypatch.setattr(sys, "argv", ["gate_forms.py", str(tmp_path / "rows.jsonl"), "--draws", "100"])
    assert gate_forms.main() == 0
    printed = capsys.readouterr()
    for rows in json.loads(printed.out)["shares"].values():
        by_name = {row["measure"]: row for row in rows}
        assert list(by_name) == ["entropy", "margin", "band", "ridge", "logistic", "trees", "random"]
        assert by_name["entropy"]["over"]["value"] == by_name["margin"]["over"]["value"] == 0.0
        for name in ("ridge", "trees"):
            assert by_name[name]["over"]["low"] > 0
        assert by_name["random"]["saved"]["value"] < by_name["ridge"]["saved"]["value"]
    assert len(printed.err.splitlines()) == 1 + 3 * 7


def test_too_few_rows_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.write(uneven_log(40, 8, 30), tmp_path / "rows.jsonl")
    monkeypatch.setattr(sys, "argv", ["gate_forms.py", str(tmp_path / "rows.jsonl")])
    assert gate_forms.main() == 2
    assert "gate_forms: a gate takes 500 rows" in capsys.readouterr().err
