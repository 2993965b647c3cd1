"""The demo as a newcomer sees it: it ends well, some ratio beats both models, and what it prints can be typed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from corella_edge.bundle.artefact import Bundle
from corella_edge.routing.budget import BudgetTarget, Scale
from corella_edge.routing.measure import entropy, is_routed
from held import Run
from sessions import REPOSITORY, serving

pytestmark = pytest.mark.slow


def test_demo(tmp_path: Path) -> None:
    command = [Path(sys.executable).with_name("corella-edge"), "demo", "--out", "runs/demo"]
    started = time.monotonic()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert time.monotonic() - started < 300
    winners = [row for row in evaluation(tmp_path) if row["gain"]["low"] > 0 and row["gain_over_llm"]["low"] > 0]
    assert any(0 < row["ratio"] < 1 for row in winners)
    assert "p99 ms" in done.stdout
    assert '{"' not in done.stdout
    assert len(done.stdout) < 3000
    follow(done.stdout, tmp_path)
    a_tenth_is_held(tmp_path / "runs/demo")


def a_tenth_is_held(demo: Path) -> None:
    """Of the test rows the threshold for a tenth routes more; under control it is a tenth, by a simulated clock."""
    parts = [np.fromfile(path).reshape(2, -1)[0] for path in sorted((demo / "evaluation").glob("scores-*.f64"))]
    crm, calibration = np.concatenate(parts), Bundle.open(demo / "bundle").calibration()
    assert is_routed(entropy(crm), calibration.threshold(0.1)).mean() > 0.11
    run = Run(BudgetTarget(0.1, window=600.0), Scale(calibration))
    run.drive(lambda _, rng: rng.choice(crm, 20), 0.0, 2400.0, 1.0)
    assert run.over_window(600.0, 2400.0) == pytest.approx(0.1, abs=0.01)


def evaluation(folder: Path) -> list[dict[str, dict[str, float]]]:
    found = json.loads((folder / "runs/demo/evaluation/evaluation.json").read_text("utf-8"))
    rows: list[dict[str, dict[str, float]]] = found["groups"]["all"]["at"]
    return rows


def follow(printed: str, folder: Path) -> None:
    """Type the printed `serve` line, and the printed `curl` lines in another terminal; only the port is a free one."""
    line = re.search(r"^ +(\S+ serve .*)$", printed, re.MULTILINE)
    call = re.search(r"^ +(head -n 1 (\S+) \|.*8000/v1/rank.*)\Z", printed, re.MULTILINE | re.DOTALL)
    assert line
    assert call
    command = [*shlex.split(line[1]), "--port", "0"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with serving(process) as served:
        script = call[1].replace("http://127.0.0.1:8000", served.url)
        answer = typed(script, folder) if shutil.which("curl") else sent(folder / call[2], served.url)
        assert len(answer["candidates"]) == 20
        served.process.terminate()
        assert served.end() == 0


def typed(script: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script], cwd=folder, capture_output=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def sent(requests: Path, url: str) -> dict[str, Any]:
    """The same, where there is no curl."""
    answer: dict[str, Any] = httpx.post(f"{url}/v1/rank", content=requests.read_bytes().split(b"\n")[0]).json()
    return answer


def test_a_demo_of_another_seed_is_not_taken_for_this_one(tmp_path: Path) -> None:
    from corella_edge_export.data.prepare import prepare

    prepare("synthetic", None, tmp_path / "demo" / "data", requests=5, options={"users": 60, "items": 60})
    command = [sys.executable, "-m", "corella_edge", "demo", "--out", str(tmp_path / "demo"), "--seed", "1"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "holds a demo of seed 0" in done.stderr
