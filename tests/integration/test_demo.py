"""The demo as a newcomer sees it: it ends well, some ratio beats both models, and what it prints can be typed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from sessions import REPOSITORY, Served

pytestmark = pytest.mark.slow


def test_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "corella_edge", "demo", "--out", "runs/demo"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert time.monotonic() - started < 600
    winners = [row for row in evaluation(tmp_path) if row["gain"]["low"] > 0 and row["gain_over_llm"]["low"] > 0]
    assert any(0 < row["ratio"] < 1 for row in winners)
    assert "p99 ms" in done.stdout
    follow(done.stdout, tmp_path)


def evaluation(folder: Path) -> list[dict[str, dict[str, float]]]:
    found = json.loads((folder / "runs/demo/evaluation/evaluation.json").read_text("utf-8"))
    rows: list[dict[str, dict[str, float]]] = found["groups"]["all"]["at"]
    return rows


def follow(printed: str, folder: Path) -> None:
    """Type the printed `serve` line (on a free port), and send what the printed `curl` line sends."""
    line = re.search(r"^ +(\S+) (serve .*)$", printed, re.MULTILINE)
    file = re.search(r"head -n 1 (\S+)", printed)
    assert line
    assert file
    command = [sys.executable, "-m", "corella_edge", *shlex.split(line[2]), "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    served = Served(process)
    try:
        body = (folder / file[1]).read_bytes().split(b"\n")[0]
        answer = httpx.post(f"{served.url}/v1/rank", content=body)
        assert answer.status_code == 200
        assert len(answer.json()["candidates"]) == 20
    finally:
        process.terminate()
        assert served.end() == 0


def test_a_demo_of_another_seed_is_not_taken_for_this_one(tmp_path: Path) -> None:
    from corella_edge_export.data.prepare import prepare

    prepare("synthetic", None, tmp_path / "demo" / "data", requests=5, options={"users": 60, "items": 60})
    command = [sys.executable, "-m", "corella_edge", "demo", "--out", str(tmp_path / "demo"), "--seed", "1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds a demo of seed 0" in done.stderr
