"""What bounds a scorer here: llama-bench on the same file, and the matrix-multiply rate."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from corella_edge.errors import InputError
from harness.models import Subject
from peers.llama_server import binary

VARIABLE = "CORELLA_EDGE_LLAMA_BENCH"
PROMPT = 240
UBATCHES = (60, 120, 240)
ROWS = (240, 512)  # tokens that go through a matrix together


def llama_bench(model: Path, threads: int, ubatches: Sequence[int], repeats: int) -> dict[int, float]:
    """ubatch → prompt tokens a second of `llama-bench -p 240 -n 0`.

    Raises:
        InputError: llama-bench is not there, or fails.
    """
    count = str(threads)
    done = subprocess.run(
        [binary(VARIABLE), "-m", str(model), "-p", str(PROMPT), "-n", "0", "-t", count, "-b", str(PROMPT), "-ub",
         ",".join(map(str, ubatches)), "-r", str(repeats), "-o", "json"],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(f"{VARIABLE}: llama-bench ended with {done.returncode} on {model.name}: {last}")
    return speeds(done.stdout)


def speeds(output: str) -> dict[int, float]:
    """ubatch → tokens a second, from llama-bench's JSON."""
    return {int(row["n_ubatch"]): float(row["avg_ts"]) for row in json.loads(output)}


def best(found: dict[int, float]) -> tuple[int, float]:
    """The ubatch that is fastest, and its tokens a second."""
    return max(found.items(), key=lambda one: one[1])


class MatMul:
    """torch's matrix-multiply rate at a model's shapes, on the threads that torch has.

    Several copies of a layer's matrices take turns, so that they come from memory as a model's layers do.
    """

    def __init__(self, subject: Subject, dtype: torch.dtype, copies: int = 4) -> None:
        self._weights = [
            [torch.randn(inputs, outputs, dtype=torch.float32).to(dtype) for inputs, outputs in subject.layers]
            for _ in range(copies)
        ]
        self._dtype = dtype

    def rate(self, seconds: float) -> float:
        """Floating-point operations a second, the best of the row counts tried."""
        return max(self._rate(rows, seconds / len(ROWS)) for rows in ROWS)

    @torch.inference_mode()
    def _rate(self, rows: int, seconds: float) -> float:
        inputs = {w.shape[0]: torch.randn(rows, w.shape[0]).to(self._dtype) for w in self._weights[0]}
        self._pass(inputs)
        work = 2.0 * rows * sum(w.numel() for layer in self._weights for w in layer)
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds or not done:
            self._pass(inputs)
            done += 1
        return work * done / (time.perf_counter() - began)

    def _pass(self, inputs: dict[int, torch.Tensor]) -> None:
        for layer in self._weights:
            for weight in layer:
                torch.mm(inputs[weight.shape[0]], weight)
