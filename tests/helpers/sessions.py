"""The real path on tiny synthetic data, through the command line, and ways to start its commands."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from corella_edge.cli import main
from made_once import copy_of

RECIPE = Path(__file__).parents[1] / "integration" / "tiny.toml"
REPOSITORY = Path(__file__).resolve().parents[2]
# On a machine whose cores are busy elsewhere, llama.cpp's threads wait for each other far longer than they work.
ONE = ("--llm-threads", "1")
SIZES = {"users": 120, "items": 60, "events": 16.0, "genres": 2}


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str


def run(*args: object) -> Done:
    """A command in this process, through the entry point of the console script."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(arg) for arg in args])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
    return Done(code, out.getvalue(), err.getvalue())


def succeed(*args: object) -> Done:
    """The same, and it must end well."""
    done = run(*args)
    assert done.code == 0, done
    return done


@dataclass(frozen=True)
class Session:
    """What one pass through the path left behind."""

    data: Path
    run: Path
    bundle: Path

    @property
    def requests(self) -> Path:
        return self.data / "requests.jsonl"


def prepare_tiny(folder: Path, seed: int = 0) -> Path:
    """The synthetic data set in small; its sizes are no option of the command."""
    from corella_edge_export.data.prepare import prepare

    prepare("synthetic", None, folder, seed=seed, requests=12, options=SIZES)
    return folder


def make_session(root: Path) -> Session:
    """Prepare, train and export; a few seconds on one core, once a test run."""
    copy_of("session", root, _make_session)
    return Session(root / "data", root / "run", root / "bundle")


def _make_session(root: Path) -> None:
    session = Session(prepare_tiny(root / "data"), root / "run", root / "bundle")
    succeed("train", RECIPE, "--data", session.data, "--out", session.run)
    succeed("export", session.run, "--out", session.bundle, "--llm-type", "Q8_0", "--llm-type", "F16", *ONE)


def start(*args: object, environment: Mapping[str, str] | None = None, **options: Any) -> subprocess.Popen[str]:
    """A command as a process of its own, with its streams captured."""
    command = [sys.executable, "-m", "corella_edge", *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **(environment or {})}, **options,
    )  # fmt: skip


class Served:
    """A `serve` process; `ready_after` is how long it took from its start, in seconds."""

    def __init__(self, process: subprocess.Popen[str], limit: float = 60.0) -> None:
        self.process, self.began, self.errors = process, time.monotonic(), ""
        # Read all the time: a full pipe would stop the server.
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"listening on (http://\S+)", line)
        self.url = found[1] if found else ""
        self.ready_after = self._wait(limit) if found else float("nan")

    def _read_errors(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors += line

    def says(self, text: str, limit: float = 10.0) -> bool:
        """Whether standard error holds a text, or does within `limit` seconds: the reader runs beside the test."""
        ends = time.monotonic() + limit
        while text not in self.errors and time.monotonic() < ends and self._reader.is_alive():
            time.sleep(0.02)
        return text in self.errors

    def _wait(self, limit: float) -> float:
        while time.monotonic() - self.began < limit and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/v2/health/ready").status_code == 200:
                    return time.monotonic() - self.began
            time.sleep(0.02)
        return float("nan")

    def end(self) -> int:
        """Wait for the end; the exit code."""
        code = self.process.wait(timeout=60)
        self._reader.join()
        return code


@contextlib.contextmanager
def serving(process: subprocess.Popen[str]) -> Iterator[Served]:
    """A ready server, killed if the test does not stop it."""
    with process:
        try:
            served = Served(process)
            assert served.ready_after == served.ready_after, served.errors
            yield served
        finally:
            if process.poll() is None:
                process.kill()
            served.end()


def call(line: str, url: str) -> Any:
    """The answer to a page's curl line as printed, sent to the server at `url`; without curl, to what it sends."""
    assert "http://127.0.0.1:8000/" in line
    line = line.replace("http://127.0.0.1:8000", url)
    if shutil.which("curl"):
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line], capture_output=True, check=True, timeout=60)
        return json.loads(done.stdout)
    words = shlex.split(line)
    target, data = next(word for word in words if word.startswith(url)), words[words.index("-d") + 1]
    if data == "@-":
        data = Path(words[3]).read_text("utf-8").partition("\n")[0]
    return httpx.post(target, content=data.encode(), timeout=60).json()
