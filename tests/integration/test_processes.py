"""Two processes of `accelerate launch` train what one does, within rounding; their folder is a run like any other."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from corella_edge_export.training.checkpoint import load_tensors
from sessions import ONE, prepare_tiny, succeed

pytestmark = pytest.mark.slow
RECIPE = """
name = "two"
[crm]
batch_size = 256
epochs = 1
evaluations = 1
[crm.features]
history = 8
window = 16
[crm.dcnv2]
embedding_dim = 4
cross_layers = 2
hidden = [8]
dropout = 0.0
[llm]
vocab_size = 420
hidden = 16
layers = 2
heads = 2
kv_heads = 1
intermediate = 24
context = 768
batch_tokens = 1024
epochs = 1
evaluations = 2
valid_rows = 40
text_weight = 0.3
[joint]
rows = 200
batch_tokens = 200
epochs = 1
width = 8
[continuation]
rows = 100
batch_tokens = 1024
epochs = 1
[prompt]
item = "{title}:"
history_lines = 2
block = 2
[export]
calibration_rows = 20
sample_rows = 20
reference_rows = 8
"""
STAGES = ("crm", "llm", "joint", "continuation")
LAUNCHER = "accelerate.commands.launch"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    prepare_tiny(folder / "data")
    (folder / "two.toml").write_text(RECIPE)
    succeed(*arguments(folder, "one"))
    return folder


def arguments(place: Path, name: str) -> list[Any]:
    return ["train", place / "two.toml", "--data", place / "data", "--out", place / name]


def launched(place: Path, name: str, until: str = "") -> tuple[int, str]:
    """The exit code and errors of two processes; nothing of them outlives the call, or the file `until`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # `launch --cpu` would begin one process only.
    command = [sys.executable, "-m", LAUNCHER, "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
               "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port,
               "-m", "corella_edge", *arguments(place, name)]  # fmt: skip
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    errors = place / f"{name}.log"
    with errors.open("wb") as log:
        process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.DEVNULL, stderr=log, env=environment, start_new_session=True
        )
    seen, deadline = 0, time.monotonic() + 240
    try:
        while process.poll() is None and not (until and (place / name / until).exists()):
            seen = max(seen, len(workers(place / name)))
            assert time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        end_all(place / name)
        process.wait(30)
    assert seen == 2, errors.read_text()[-3000:]
    return process.returncode, errors.read_text()


def workers(out: Path) -> list[int]:
    """The processes that train into a folder, without their launcher."""
    found = {int(entry.parent.name): arguments_of(entry) for entry in Path("/proc").glob("[0-9]*/cmdline")}
    return [number for number, given in found.items() if str(out).encode() in given and LAUNCHER.encode() not in given]


def end_all(out: Path) -> None:
    """The launcher and its workers, which are in sessions of their own: whoever was given this folder.

    Returns when the folder's lock is free: a process that was killed lets go of it a moment later.
    """
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        if str(out).encode() in arguments_of(entry):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(entry.parent.name), signal.SIGKILL)
    lock = os.open(out, os.O_RDONLY)
    for _ in range(300):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        time.sleep(0.1)
    os.close(lock)


def arguments_of(entry: Path) -> list[bytes]:
    try:
        return entry.read_bytes().split(b"\0")
    except OSError:
        return []


def figures(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]


def same(place: Path, name: str) -> None:
    for stage in STAGES:
        ours, theirs = (load_tensors(place / run / stage / "best.safetensors") for run in (name, "one"))
        assert ours.keys() == theirs.keys()
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, rtol=1e-2, atol=2e-3, msg=f"{stage} {key}")
        lines = zip(figures(place / name / stage), figures(place / "one" / stage), strict=True)
        for found, expected in lines:
            assert found.keys() == expected.keys()
            assert (found["kind"], found["step"]) == (expected["kind"], expected["step"])
            assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)


def test_two_processes_train_what_one_does(place: Path) -> None:
    code, errors = launched(place, "both")
    assert code == 0, errors[-3000:]
    same(place, "both")
    succeed("export", place / "both", "--out", place / "bundle", "--llm-type", "F16", *ONE)
    succeed("verify", place / "bundle", *ONE)
    # A second launch has nothing to do.
    before = (place / "both" / "joint" / "best.safetensors").read_bytes()
    code, errors = launched(place, "both")
    assert code == 0, errors[-3000:]
    assert (place / "both" / "joint" / "best.safetensors").read_bytes() == before


@pytest.mark.parametrize("alone", [True, False])
def test_what_two_processes_left_goes_on(place: Path, alone: bool) -> None:
    """Ended in the middle of the work, and finished by one process or again by two."""
    name = f"cut-{alone}"
    launched(place, name, until="joint/metrics.jsonl")
    assert not (place / name / "summary.json").exists()
    if alone:
        succeed(*arguments(place, name))
    else:
        code, errors = launched(place, name)
        assert code == 0, errors[-3000:]
    same(place, name)
