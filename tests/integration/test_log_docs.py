"""docs/operate.md on logs and objectives, as it stands: servers that shadow, explore and keep an objective, and what
their logs say."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from bundles import make_bundle
from pages import blocks, read, section
from sessions import ONE, serving, start

pytestmark = pytest.mark.slow
PAGE = read("operate.md")
REQUESTS = 60


def shop(root: Path) -> Path:
    """A folder with the page's bundle, and a `corella-edge` in `bin`."""
    (root / "bin").mkdir()
    program = root / "bin" / "corella-edge"
    program.write_text(f'#!/bin/bash\nexec {sys.executable} -m corella_edge "$@"\n')
    program.chmod(0o755)
    (root / "bundles").mkdir()
    make_bundle(root / "bundles" / "shop")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shop(tmp_path_factory.mktemp("logs"))


def served(place: Path, command: str) -> list[dict[str, Any]]:
    """The answers of a server that is started as the page says,."""
    words = shlex.split(command)
    assert words[:2] == ["corella-edge", "serve"]
    words = [str(place / word) if word in ("bundles/shop", "log") else word for word in words]
    found = []
    with serving(start(*words[1:], "--port", "0", *ONE)) as server:
        for k in range(REQUESTS):
            items = [{"item": f"i{(7 * k + j) % 35}"} for j in range(8)]
            user = {"id": f"u{k % 20}", "history": [{"item": f"i{k % 30}", "rating": 4}]}
            body = {"id": f"r{k}", "user": user, "candidates": items, "timeout_ms": 20_000}
            found.append(httpx.post(f"{server.url}/v1/rank", json=body, timeout=60).json())
        server.process.send_signal(signal.SIGTERM)
        assert server.end() == 0, server.errors
    return found


def run(place: Path, script: str) -> str:
    path = {"PATH": f"{place / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", script], cwd=place, env={**os.environ, **path}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines(place: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for path in sorted((place / "log").glob("*.jsonl")) for line in path.read_text().splitlines()
    ]


def test_in_the_shadow_the_base_model_answers(tmp_path: Path) -> None:
    (command,) = blocks(section(PAGE, "Shadow mode"), "bash")
    assert "--shadow 0.02" in command
    place = shop(tmp_path)
    for answer in served(place, command.replace("0.02", "1.0").replace("ratio:0.05", "ratio:1")):
        assert not any(candidate["routed"] for candidate in answer["candidates"])
    logged = [one for decision in lines(place) for one in decision["candidates"]]
    assert any("shadow" in one for one in logged)
    assert {one["reason"] for one in logged} <= {"shadow", "no_text"}


def test_a_log_that_explored_speaks_for_other_policies(place: Path) -> None:
    (command,) = blocks(section(PAGE, "Exploration"), "bash")
    assert "--explore 0.02" in command
    answers = served(place, command.replace("0.02", "0.3"))
    reasons = {one["reason"] for answer in answers for one in answer["candidates"] if one["routed"]}
    assert "explore" in reasons
    rows = [
        f"{answer['id']},{one['item']},{int(one['crm'] > 0.5)}" for answer in answers for one in answer["candidates"]
    ]
    (place / "labels.csv").write_text("\n".join(["request,item,label", *rows]) + "\n")
    (replay,) = blocks(section(PAGE, "Another policy on the same log"), "bash")
    out = run(place, replay)
    assert "rows are decided otherwise" in out
    assert len((place / "rows.jsonl").read_text().splitlines()) == 8 * REQUESTS
    (evaluate,) = blocks(section(PAGE, "What routing would have been worth"), "bash")
    out = run(place, evaluate)
    assert "asked at random" in out
    assert "ratio:0.5" in out
    assert len((place / "labelled.jsonl").read_text().splitlines()) == 8 * REQUESTS
    (first, *_) = lines(place)
    section_text = section(PAGE, "The log of decisions")
    assert {name for name in first if name not in ("fallback",)} <= {*json.loads(_example(section_text))}
    known = {name for one in first["candidates"] for name in one} | {"shadow"}
    assert known <= {*json.loads(_example(section_text))["candidates"][0], "shadow"}


def _example(text: str) -> str:
    """The page's line, without what it leaves out."""
    (line,) = [block for block in blocks(text) if block.startswith('{"id"')]
    return line.replace(", …]", "]")


def test_an_objective_is_planned_and_kept(place: Path) -> None:
    plan, command = blocks(section(PAGE, "A latency objective"), "bash")
    out = run(place, plan.replace("--out report", "--out report --budget 20s --llm-threads 1"))
    assert out.count("users") >= 4
    assert "correlation within a request" in out
    answers = served(place, command.replace("p99=30ms", "p99=0.001ms").replace("ratio:0.2", "ratio:0.9"))
    asked = [sum(one["routed"] for one in answer["candidates"]) for answer in answers]
    assert asked[0] > 0
    assert sum(asked[-10:]) == 0
