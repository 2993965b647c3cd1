"""`train`, `export`, `evaluate` and `demo` ended by signals at random moments, and run again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from sessions import ONE, RECIPE, start, succeed

# What each command writes last.
LAST = {"train": "summary.json", "export": "manifest.json", "evaluate": "evaluation.md", "demo": "benchmark"}
SCRIPT = Path(__file__).parents[1] / "helpers" / "under_fire.py"


def under_fire(number, seed, seconds, out, *args):
    """What became of each start but the last, which got through."""
    command = [sys.executable, SCRIPT, number, seed, seconds, out, *args]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=500, env=environment)
    assert done.returncode == 0, done.stderr
    *ended, _ = json.loads(done.stdout)
    if number == "SIGKILL":
        assert all(end["code"] == -signal.SIGKILL for end in ended)
    else:
        for end in ended:
            check_stopped(end["code"], end["stderr"])
    return ended


def check_stopped(code, errors):
    """Ctrl-C: exit code 130, one line of ours at the end, nothing of Python's or of native code."""
    assert code == 130, (code, errors)
    assert "Traceback" not in errors, errors
    assert "ignored" not in errors, errors
    assert errors.splitlines()[-1].rpartition("\r")[2].startswith("corella-edge: "), errors


def same_run(found, expected):
    for model in ("crm", "llm"):
        ours, theirs = (load_file(run / model / "best.safetensors") for run in (found, expected))
        assert ours.keys() == theirs.keys()
        assert all(ours[name].equal(theirs[name]) for name in ours), model
        assert figures(found / model) == figures(expected / model)
    for file in ("schema.json", "catalog.jsonl", "tokenizer/tokenizer.json"):
        assert (found / file).read_bytes() == (expected / file).read_bytes(), file
    assert (found / "summary.json").exists()


def figures(folder):
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name != "seconds"} for line in lines]


def same_bundle(found, expected):
    succeed("verify", found, *ONE)
    ours, theirs = (json.loads((b / "manifest.json").read_text("utf-8"))["files"] for b in (found, expected))
    assert ours == theirs
    assert [path.name for path in found.parent.iterdir()] == [found.name]


def train(tiny, out):
    return ["train", RECIPE, "--data", tiny.data, "--out", out]


def export(tiny, out):
    return ["export", tiny.run, "--out", out, "--llm-type", "Q8_0", "--llm-type", "F16", *ONE]


@pytest.mark.slow
def test_killed_and_complete(tiny, tmp_path):
    """The quick one, with a shorter training; those below take more moments."""
    recipe = tmp_path / "short.toml"
    recipe.write_text(RECIPE.read_text("utf-8").replace("epochs = 7", "epochs = 1"), "utf-8")
    args = ["train", recipe, "--data", tiny.data, "--out"]
    succeed(*args, tmp_path / "whole")
    assert under_fire("SIGKILL", 1, 0.6, "-", *args, tmp_path / "run")
    same_run(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_train_under_fire(tiny, tmp_path, number, seed):
    out = tmp_path / "run"
    under_fire(number, seed, 0.5, "-", *train(tiny, out))
    same_run(out, tiny.run)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3, 4])
@pytest.mark.parametrize("number", ["SIGINT", "SIGKILL"])
def test_export_under_fire(tiny, tmp_path, number, seed):
    out = tmp_path / "bundles" / "new"
    ended = under_fire(number, seed, 0.3, out, *export(tiny, out))
    assert ended
    assert not any(end["there"] for end in ended)
    same_bundle(out, tiny.bundle)


@pytest.mark.slow
def test_evaluate_under_fire(tiny, tmp_path):
    out = tmp_path / "out"
    command = ["evaluate", tiny.bundle, "--data", tiny.data, "--out", out, *ONE]
    assert under_fire("SIGINT", 2, 0.1, "-", *command)
    assert json.loads((out / "evaluation.json").read_text("utf-8"))["rows"] > 100


def work_for(process, seconds):
    """Wait until the process has computed for so long: a busy machine starts nothing in time."""
    stat, tick = Path(f"/proc/{process.pid}/stat"), os.sysconf("SC_CLK_TCK")
    while process.poll() is None:
        user, system = stat.read_text().rpartition(")")[2].split()[11:13]
        if int(user) + int(system) >= seconds * tick:
            break
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "export", "evaluate", "demo"])
def test_ctrl_c_of_a_fresh_process_is_one_line(tiny, tmp_path, command):
    """At moments of the imports and of the work."""
    out = tmp_path / "out"
    args = {
        "train": train(tiny, out),
        "export": export(tiny, out),
        "evaluate": ["evaluate", tiny.bundle, "--data", tiny.data, "--out", out, *ONE],
        "demo": ["demo", "--out", out],
    }[command]
    rng = random.Random(command)
    for moment in sorted(rng.uniform(0.3, 5.0) for _ in range(10)):
        with start(*args, environment={"OMP_NUM_THREADS": "1"}) as process:
            work_for(process, moment)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=120)
        if (out / LAST[command]).exists():
            # The work was done: the signal met an interpreter that was being taken down, or nobody.
            assert process.returncode in (0, 130, -signal.SIGINT)
            assert "Traceback" not in errors
            break
        check_stopped(process.returncode, errors)
