"""The script `benchmarks/decision_aware.py` on a small log."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import decision_aware


@pytest.fixture
def log(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = []
    for request in range(60):
        for item in range(8):
            crm, llm = rng.random(2).round(3).tolist()
            row = {"request": f"r{request}", "user": f"u{request % 12}", "item": f"i{item}", "time": 1000 + request,
                   "label": int(rng.random() < crm), "crm": crm, "llm": llm, "input.new": item / 8}  # fmt: skip
            lines.append(json.dumps(row) + "\n")
    path = tmp_path / "log.jsonl"
    path.write_text("".join(lines))
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["decision_aware.py", *arguments, "--draws", "20"])
    return decision_aware.main()


def test_a_log_becomes_a_curve(log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for extra in (["--by", "user"], ["--bonus", "new", "--fusion", "blend"]):
        assert run(monkeypatch, str(log), "--miss", "0.1", "--ratios", "0,0.5,1", "--top-k", "2", *extra) == 0
        printed = capsys.readouterr()
        figures = json.loads(printed.out)
        assert [(p["ratio"], p["way"]) for p in figures["points"]][:3] == [(0, "all"), (0, "exact"), (0, "miss 0.1")]
        assert figures["lists"] == (12 if extra[0] == "--by" else 30)
        assert len(printed.err.splitlines()) == 1 + len(figures["points"])


def test_what_is_not_there_is_one_line(
    log: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, str(log), "--weight", "price") == 2
    assert capsys.readouterr().err == "decision_aware: the log has no column input.price\n"
