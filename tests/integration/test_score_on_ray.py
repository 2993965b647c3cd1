"""`score --engine ray` with two real workers, one of them killed in the middle: the files of a run in one process."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import request_tables as tables
from bundles import make_bundle

pytest.importorskip("ray", reason="ray is not installed (extra [ray])")
pytestmark = pytest.mark.slow  # a cluster takes ten seconds to start

COMMAND = [sys.executable, "-m", "corella_edge", "score"]
LOCAL = ["--engine", "ray", "--ray-address", "local", "--worker-cpus", "1"]
# The tests' own processes may be on two CPUs or on many; Ray is told of two.
ENV = {**os.environ, "RAY_OVERRIDE_RESOURCES": '{"CPU": 2}'}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("ray") / "bundle")


@pytest.fixture(scope="module")
def messages(bundle: Path) -> list[dict]:
    lines = [json.loads(line)["request"] for line in (bundle / "sample.jsonl").read_text().splitlines()]
    return [
        {**line, "id": f"r{i}", "candidates": [*line["candidates"], {"item": "i1"}]} for i, line in enumerate(lines)
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def here(bundle: Path, source: Path, out: Path, *options: str) -> None:
    subprocess.run([*COMMAND, bundle, source, "--out", out, "-q", *options], check=True, timeout=120)


def test_a_killed_worker_is_replaced_and_the_answers_are_the_same(
    bundle: Path, messages: list[dict], tmp_path: Path
) -> None:
    for name in "abcd":
        tables.write(tmp_path / f"in/{name}.parquet", tables.table_of(messages * 15))
    command = [*map(str, [*COMMAND, bundle, tmp_path / "in", "--out", tmp_path / "out", "--no-llm", "-v"]), *LOCAL]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=subprocess.PIPE, env=ENV)
    end = time.monotonic() + 90
    while len({piece.parent for piece in tmp_path.rglob("*.piece")}) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    # Both are at work.
    first, *_ = pids = re.findall(r"worker on \S+, pid (\d+)", (tmp_path / "log").read_text())
    assert len(pids) == 2
    os.kill(int(first), signal.SIGKILL)
    printed, _ = process.communicate(timeout=120)
    said = (tmp_path / "log").read_text()
    assert (process.returncode, printed) == (0, b""), said
    assert len(re.findall(r"warning: a worker has died; \w\.parquet goes on with another one", said)) == 1
    assert len(set(re.findall(r"worker on \S+, pid (\d+)", said))) == 3
    here(bundle, tmp_path / "in", tmp_path / "here", "--no-llm")
    assert files(tmp_path / "out") == files(tmp_path / "here")


def test_scores_of_the_llm_are_the_same_and_a_bad_row_is_one_line(
    bundle: Path, messages: list[dict], tmp_path: Path
) -> None:
    for name, rows in (("a", messages[:40]), ("b", messages[40:80])):
        tables.write(tmp_path / f"in/{name}.parquet", tables.table_of(rows))
    options = ["--threshold", "ratio:0.5", "--deterministic"]
    command = [*COMMAND, bundle, tmp_path / "in", "--out", tmp_path / "out", *options, *LOCAL]
    done = subprocess.run(command, capture_output=True, text=True, env=ENV, timeout=120)
    assert done.returncode == 0, done.stderr
    here(bundle, tmp_path / "in", tmp_path / "here", *options)
    assert files(tmp_path / "out") == files(tmp_path / "here")
    assert any(row["routed"] for row in tables.rows(tmp_path / "out"))
    tables.write(tmp_path / "in/c.parquet", tables.table_of([{**messages[0], "candidates": []}]))
    done = subprocess.run([*command, "-q"], capture_output=True, text=True, env=ENV, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "c.parquet row 0 (from 0): candidates: the list is empty" in done.stderr


def test_no_cluster_is_one_line(bundle: Path, messages: list[dict], tmp_path: Path) -> None:
    source = tables.write(tmp_path / "in.parquet", tables.table_of(messages[:3]))
    command = [*COMMAND, bundle, source, "--out", tmp_path / "out.parquet", "--engine", "ray"]
    env = {**ENV, "RAY_ADDRESS": "", "RAY_TMPDIR": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("corella-edge: --ray-address auto: no Ray cluster (")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for the names of Ray's sockets, which may have 107 letters in all."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        yield Path(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind_and_goes_on(
    bundle: Path, messages: list[dict], tmp_path: Path, short: Path, number: signal.Signals
) -> None:
    source = tables.write(tmp_path / "in.parquet", tables.table_of(messages * 40))
    out = tmp_path / "out.parquet"
    command = [*COMMAND, bundle, source, "--out", out, "--no-llm", *LOCAL]
    # Processes of this run are known by their folder.
    env = {**ENV, "RAY_TMPDIR": str(short)}
    process = subprocess.Popen([*command, "-q"], stderr=subprocess.PIPE, text=True, env=env)
    end = time.monotonic() + 90
    while not [*tmp_path.rglob("*.piece")] and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip().splitlines() == ["corella-edge: interrupted; run the same command again to resume"]
    assert not out.exists()
    while left := with_words(str(short)):
        assert time.monotonic() < end + 30, left
        time.sleep(0.1)
    again = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    assert (again.returncode, "were there already" in again.stderr) == (0, True), again.stderr


def with_words(text: str) -> list[str]:
    """Command lines of processes that hold a text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            found += [words] if text in words else []
    return found
