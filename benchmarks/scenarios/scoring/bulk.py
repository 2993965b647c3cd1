"""Shape (b): many unrelated prompts. Tokens a second against llama-bench, and as a share of the multiply rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.models import Subject
from harness.ours import Ours
from harness.pairs import ratio_of
from harness.quiet import Watch, is_void, undisturbed
from harness.shapes import SHAPES, PromptStream
from harness.vocabulary import answer_tokens
from peers.ceilings import UBATCHES, MatMul, best, llama_bench
from scenarios.scoring.blocks import MeasuringPlan

RATE_SECONDS = 1.5
SCAN_REPEATS = 3  # of every ubatch
REPEATS = 32  # as many prompts before and after as ours has in between: a short burst runs at a higher clock


def bulk(subject: Subject, ceilings: dict[str, Any], plan: MeasuringPlan, say: Callable[[str], None]) -> dict[str, Any]:
    """One row a GGUF type; all rounds at BF16, whose share of the bfloat16 rate is a target, and at the fastest."""
    full = {"BF16", max(plan.types, key=lambda kind: float(ceilings["llama_bench"][kind]["tokens_per_s"]))}
    rows = []
    for kind in plan.types:
        rounds = plan.pairs if kind in full else plan.scan
        say(f"{subject.name} b: {kind}, {rounds} rounds")
        ubatch = int(ceilings["llama_bench"][kind]["ubatch"])
        measure = partial(bulk_row, subject, kind, ubatch, rounds, plan.threads)
        rows.append(undisturbed(measure, itemgetter("load"), plan.retries))
    return {"model": subject.name, "shape": "b", "rows": rows}


def bulk_row(subject: Subject, kind: str, ubatch: int, rounds: int, threads: int) -> dict[str, Any]:
    """Ours between two runs of llama-bench and of the bfloat16 multiply, so that a machine that drifts is no matter."""
    stream, shape = PromptStream(subject.vocab, seed=13), SHAPES["b"]
    multiply = MatMul(subject, torch.bfloat16)
    found = []
    watch = Watch()
    for _ in range(rounds):
        ours = Ours(subject.files[kind], answer_tokens(), threads)
        ours.score(stream.batch(shape))
        before = bounds(subject.files[kind], ubatch, threads, multiply)
        own = read(ours, stream.batch(shape))
        after = bounds(subject.files[kind], ubatch, threads, multiply)
        found.append((own, *(0.5 * (a + b) for a, b in zip(before, after, strict=True))))
        ours.close()
    load = watch.read()
    work = 2.0 * subject.blocks
    return {
        "model": subject.name, "shape": "b", "stage": "best", "peer": "llama-bench", "ours_type": kind,
        "peer_type": kind, "ubatch": ubatch, "prompts": shape.prompts,
        "ours_tokens_per_s": _middle([own for own, _, _ in found]),
        "peer_tokens_per_s": _middle([bench for _, bench, _ in found]),
        "bf16_gflops": _middle([rate / 1e9 for _, _, rate in found]),
        "speed": ratio_of([own / bench for own, bench, _ in found]).to_json(),
        "share_of_bf16": ratio_of([work * own / rate for own, _, rate in found]).to_json(),
        "peer_share_of_bf16": ratio_of([work * bench / rate for _, bench, rate in found]).to_json(),
        "load": load, "void": is_void(load),
    }  # fmt: skip


def bounds(model: Path, ubatch: int, threads: int, multiply: MatMul) -> tuple[float, float]:
    """llama-bench's tokens a second, and the multiply rate."""
    return llama_bench(model, threads, [ubatch], REPEATS)[ubatch], multiply.rate(RATE_SECONDS)


def read(ours: Ours, prompts: list[Any]) -> float:
    """Evaluated tokens a second."""
    ours.reset()
    before, began = ours.evaluated(), time.perf_counter()
    ours.score(prompts)
    return (ours.evaluated() - before) / (time.perf_counter() - began)


def ceilings_of(subject: Subject, plan: MeasuringPlan) -> dict[str, Any]:
    """llama-bench at its best ubatch for every type, and torch's multiply rates at the model's shapes."""
    found: dict[str, Any] = {}
    for kind in plan.types:
        ubatch, speed = best(llama_bench(subject.files[kind], plan.threads, UBATCHES, SCAN_REPEATS))
        found[kind] = {"ubatch": ubatch, "tokens_per_s": round(speed, 1)}
    rates = {name: MatMul(subject, dtype).rate(2 * RATE_SECONDS)
             for name, dtype in (("bf16", torch.bfloat16), ("f32", torch.float32))}  # fmt: skip
    return {
        "model": subject.name, "blocks": subject.blocks, "llama_bench": found,
        "gflops": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "tokens_per_s_by_multiply": {name: round(rate / 2 / subject.blocks) for name, rate in rates.items()},
    }  # fmt: skip


def _middle(values: list[float]) -> float:
    return round(float(np.median(values)), 2)
