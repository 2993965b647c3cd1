"""What a script's background job or `nohup` leaves ignored: a command keeps to it, and no test depends on it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "bundle-v1"
CONFTEST = Path(__file__).parents[1] / "conftest.py"
OURS = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCHLD]

# Prints the signals that this process and one that it starts ignore, as the system has them.
SHOW = """
import re, runpy, subprocess, sys
if len(sys.argv) > 1: sys.path[:0] = [sys.argv[2]]; runpy.run_path(sys.argv[1])
found = lambda text: int(re.search(r"SigIgn:\\s*(\\w+)", text)[1], 16)
print(found(open("/proc/self/status").read()), found(subprocess.check_output(["cat", "/proc/self/status"], text=True)))
"""


def ignoring(numbers: Sequence[int]) -> Callable[[], None]:
    """For `preexec_fn`."""
    return lambda: [signal.signal(number, signal.SIG_IGN) for number in numbers].clear()


def ignored(*args: str) -> list[set[int]]:
    """Of OURS, by a Python that inherits them all ignored, and by its child."""
    command = [sys.executable, "-c", SHOW, *args]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, preexec_fn=ignoring(OURS))
    return [{number for number in OURS if int(mask) >> (number - 1) & 1} for mask in done.stdout.split()]


def test_the_tests_and_what_they_start_ignore_nothing_that_they_inherit() -> None:
    assert ignored() == [set(OURS), set(OURS)]
    assert ignored(str(CONFTEST), str(CONFTEST.parent / "helpers")) == [set(), set()]


@pytest.fixture
def commands(tmp_path: Path) -> dict[str, list[object]]:
    """Each takes long enough to be met at its work, and writes `out`."""
    row = json.loads((GOLDEN / "sample.jsonl").read_text().splitlines()[0])
    requests = tmp_path / "requests.jsonl"
    requests.write_text("".join(json.dumps({**row["request"], "id": i}) + "\n" for i in range(3000)))
    return {
        "prepare": ["prepare", "synthetic", "--out", tmp_path / "out"],
        "score": ["score", GOLDEN, requests, "--no-llm", "--out", tmp_path / "out"],
    }


@pytest.mark.parametrize("name", ["prepare", "score"])
def test_a_command_that_inherits_ctrl_c_as_ignored_ends_its_work(
    commands: dict[str, list[object]], tmp_path: Path, name: str
) -> None:
    command = [sys.executable, "-m", "corella_edge", *map(str, commands[name])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=ignoring(OURS)) as process:
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert "interrupted" not in errors
    if name == "score":
        assert len((tmp_path / "out").read_text().splitlines()) == 3000
    else:
        assert (tmp_path / "out" / "dataset.json").exists()


def test_the_same_command_ends_at_ctrl_c_otherwise(commands: dict[str, list[object]], tmp_path: Path) -> None:
    """So the test above would notice: it is met while it works."""
    before = set(tmp_path.iterdir())
    command = [sys.executable, "-m", "corella_edge", *map(str, commands["score"])]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and set(tmp_path.iterdir()) == before:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1].startswith("corella-edge: interrupted"), errors
