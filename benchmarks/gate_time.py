"""Microseconds of routing by a learned gate, beside the entropy, by turns.

    python benchmarks/gate_time.py BUNDLE [--candidates 100] [--turns 400] [--out …/results/gate-time.json]

A gate of all inputs, with weights drawn at random, decides about requests of the bundle's catalogue. `measure` is the
gate alone, `whole` with the making of its inputs from encoder, catalogue and counts: what a request pays beyond the
entropy's path. A turn is the mean of 20 calls.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.request import Candidates
from corella_edge.routing.gate import FIRST, INPUTS, Gate
from corella_edge.routing.measure import entropy
from corella_edge_runtime.engine import Engine
from harness.judged import at_most
from harness.pairs import ratio_of
from harness.quiet import Watch, is_void
from harness.report import targets_table
from harness.results import ended

CALLS = 20
LIMIT = 50.0  # microseconds, 100 candidates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--turns", type=int, default=400)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    return ended("gate_time", lambda: measured(options.bundle, options.candidates, options.turns), options.out)


def measured(bundle: Path, n: int, turns: int) -> dict[str, Any]:
    """Microseconds of each way, and the targets."""
    watch = Watch()
    with Engine.open(bundle, llm=None) as engine:
        calls = ways(engine, n)
        times: dict[str, list[float]] = {name: [] for name in calls}
        for number in range(turns):
            for name in sorted(calls, reverse=bool(number % 2)):
                times[name].append(microseconds(calls[name]))
    load = watch.read()
    figures = {name: ratio_of(of).to_json() for name, of in times.items()}
    targets = [at_most(f"gate with its inputs, {n} candidates, µs", figures["whole"], LIMIT, is_void(load))]
    print(targets_table(targets), file=sys.stderr)
    return {"what": "gate-time", "candidates": n, "turns": turns, "us": figures, "load": load, "targets": targets}


def ways(engine: Engine, n: int) -> dict[str, Callable[[], object]]:
    """What is timed, on the same candidates."""
    rng = np.random.default_rng(0)
    weights = tuple(rng.normal(size=FIRST + 2 * len(INPUTS)).tolist())
    gate = Gate("ridge", INPUTS, (0.0,) * len(INPUTS), weights)
    ids = engine.encoder.catalog.ids
    rows = rng.integers(0, len(ids), n)
    candidates = Candidates([ids[row] for row in rows.tolist()], None, rows)
    p, unknown = rng.random(n), [("item",)[: place % 2] for place in range(n)]
    known = engine.routing_inputs
    inputs = known.of(p, candidates, 20, unknown, INPUTS)
    return {
        "entropy": lambda: entropy(p),
        "measure": lambda: gate(p, inputs),
        "whole": lambda: gate(p, known.of(p, candidates, 20, unknown, INPUTS)),
    }


def microseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.perf_counter() - started) / CALLS


if __name__ == "__main__":
    sys.exit(main())
