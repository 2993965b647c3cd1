"""Does the law that `corella-edge plan` uses hold? Requests touched and p99 under open load, predicted and measured.

    python benchmarks/load_law.py runs/demo/bundle [--qps 10] [--out benchmarks/results/load-law.json]

Costs and correlation come from a benchmark of one half of the requests, one at a time and as far apart as requests come
on average: after a rest the processor's caches are cold. The other half is then sent at random moments (Poisson), at
each ratio in turn, to the engine with its LLM in a process of its own, and latency counts from these moments. Requests
are rows of the sample with their histories in random order, so that no prompt begins as an earlier one did: these are
new users. The law is given the share that came of it, so that what is compared is the law and not the calibration. The
target is met where both figures are within 15 % of the prediction. A run beside which something else took more than 5 %
of the machine is void and not kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.request import Request
from corella_edge.routing.load import Draws, Load, reached
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.bench.measure.supply import bodies
from corella_edge_runtime.bench.measure.target import InProcess, rest
from corella_edge_runtime.bench.results import slo
from corella_edge_runtime.bench.results.circumstances import Noise
from corella_edge_runtime.bench.results.seen import Meanwhile, Seen, Spot, sliced
from corella_edge_runtime.bench.results.slo import Measured, MeasuredShare
from corella_edge_runtime.engine import Engine
from harness.quiet import Watch, is_void
from harness.results import ended

RATIOS = (0.01, 0.05, 0.1, 0.2)
FITTED = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
WITHIN = 0.15


def requests(engine: Engine, number: int, candidates: int, rng: np.random.Generator) -> list[Request]:
    """Rows of the sample, drawn with replacement, filled up with random items; each with a history of its own order."""
    rows = traffic.read(engine.bundle, None)
    return [traffic.as_new(traffic.fill(rows[int(place)].request, engine.encoder.catalog, candidates, rng), rng)
            for place in rng.integers(0, len(rows), number)]  # fmt: skip


def fitted(target: InProcess, half: Sequence[Request], seconds: float, pause: float) -> Measured:
    """Of these requests one at a time, with a pause before each; what is kept of their users is dropped between the
    ratios."""
    rows = []
    for ratio in FITTED:
        target.forget()
        seen, end = list[Seen](), time.monotonic() + seconds / len(FITTED)
        for body in bodies(half, f"ratio:{ratio:g}"):
            rest(pause)
            seen.append(target.ask(body))
            if time.monotonic() >= end:
                break
        rows.append(row(seen, ratio))
    return slo.fitted(rows)


def row(seen: Sequence[Seen], ratio: float) -> MeasuredShare:
    """What these requests say of a ratio."""
    spot = Spot(scenario="single", threshold=f"ratio:{ratio:g}")
    found = slo.of_slices([sliced(spot, 0, seen, Meanwhile(1.0, Noise()))], ratio, 0, 1)
    assert found is not None
    return found


def under_load(target: InProcess, half: Sequence[Request], ratio: float, qps: float, seed: int) -> MeasuredShare:
    """Latency from the moments of the requests, and what was asked."""
    target.forget()
    moments = np.cumsum(np.random.default_rng(seed).exponential(1.0 / qps, len(half))).tolist()
    return row(target.stream(bodies(half, f"ratio:{ratio:g}"), moments), ratio)


def compared(found: Measured, at: MeasuredShare, ratio: float, load: Load, draws: Draws) -> dict[str, Any]:
    """Prediction and measurement of one ratio, and how far apart they are."""
    seen = {name: getattr(at, name) for name in ("share", "touched", "p50", "p99")}
    said = asdict(reached(found.cold, load, at.share, draws))
    apart = {name: abs(seen[name] - said[name]) / max(said[name], 1e-9) for name in ("touched", "p99")}
    return {"ratio": ratio, "measured": seen, "predicted": said, "apart": apart, "met": max(apart.values()) <= WITHIN}


def figures(given: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement."""
    watch, rng = Watch(), np.random.default_rng(given.seed)
    with Engine.open(given.bundle, llm="process", tuned=False, llm_threads=given.llm_threads) as engine:
        engine.warm_up()
        halves = [requests(engine, given.requests, given.candidates, rng) for _ in range(2)]
        target = InProcess(engine)
        found = fitted(target, halves[0], given.seconds, 1.0 / given.qps)
        load, draws = Load(given.qps, given.candidates, found.correlations), Draws.of(rng)
        seen = [under_load(target, halves[1], ratio, given.qps, given.seed) for ratio in RATIOS]
        name = engine.name
    ratios = [compared(found, one, ratio, load, draws) for ratio, one in zip(RATIOS, seen, strict=True)]
    told = watch.read()
    return {"bundle": name, "load": asdict(load), "box": asdict(found), "requests": given.requests, "ratios": ratios,
            "within": WITHIN, "other": told, "void": is_void(told)}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--qps", type=float, default=10.0)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1000, help="of each half")
    parser.add_argument("--seconds", type=float, default=60.0, help="for the benchmark that the law is fitted on")
    parser.add_argument("--llm-threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="only of a run that is not void")
    given = parser.parse_args()
    kept: dict[str, Any] = {}

    def once() -> dict[str, Any]:
        kept.update(figures(given))
        for one in kept["ratios"]:
            seen, said = one["measured"], one["predicted"]
            print(f"ratio:{one['ratio']:g}: touched {seen['touched']:.1%}, predicted {said['touched']:.1%}; p99 "
                  f"{1000 * seen['p99']:.1f} ms, predicted {1000 * said['p99']:.1f} ms", file=sys.stderr)  # fmt: skip
        return kept

    code = ended("load_law", once, None)
    if not code and given.out and not kept["void"]:
        return ended("load_law", lambda: kept, given.out)
    return code or int(bool(kept["void"]))


if __name__ == "__main__":
    sys.exit(main())
