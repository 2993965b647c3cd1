"""Does the law that `corella-edge plan` uses hold? Requests touched and p99 under open load, predicted and measured.

    python benchmarks/load_law.py runs/demo/bundle [--qps 10] [--out benchmarks/results/load-law.json]

Costs and correlation come from a benchmark of one half of the requests, one at a time. The other half is then sent at
random moments (Poisson), at each ratio in turn, to the engine with its LLM in a process of its own, and latency counts
from these moments. Requests are rows of the sample with their histories in random order, so that no prompt begins as
an earlier one did: these are new users. The law is given the share that came of it, so that what is compared is the
law and not the calibration. The target is met where both figures are within 15 % of the prediction. A run beside which
something else took more than 5 % of the machine is void and not kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.request import Request, User
from corella_edge.routing.load import Draws, Load, reached
from corella_edge_runtime.bench import traffic
from corella_edge_runtime.bench.measure import as_threshold, measure
from corella_edge_runtime.bench.run import summary
from corella_edge_runtime.bench.slo import Measured, measured
from corella_edge_runtime.engine import Engine
from harness.quiet import Watch, is_void
from harness.results import ended

RATIOS = (0.01, 0.05, 0.1, 0.2)
FITTED = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
WITHIN = 0.15


def requests(engine: Engine, number: int, candidates: int, rng: np.random.Generator) -> list[Request]:
    """Rows of the sample, drawn with replacement, filled up with random items; each with a history of its own order."""
    rows = traffic.read(engine.bundle, None)
    return [as_new(traffic.fill(rows[int(place)].request, engine.encoder.catalog, candidates, rng), rng)
            for place in rng.integers(0, len(rows), number)]  # fmt: skip


def as_new(request: Request, rng: np.random.Generator) -> Request:
    """The same with the history in random order."""
    user, events = request.user, list(request.user.history)
    return replace(request, user=User(user.id, user.features, [events[i] for i in rng.permutation(len(events))]))


def fitted(engine: Engine, half: Sequence[Request], seconds: float) -> Measured:
    """Of a benchmark of these requests; what is kept of their users is dropped between the ratios."""
    rows = []
    for ratio in FITTED:
        engine.forget()
        timed = measure(engine.rank, engine.stats, half, [ratio], 1, seconds / len(FITTED), 0, lambda *_: None)
        rows.append({"ratio": ratio, **summary(timed)})
    return measured({"ratios": rows, "ceiling": {}})


def under_load(engine: Engine, half: Sequence[Request], ratio: float, qps: float, seed: int) -> dict[str, float]:
    """Seconds from the moment of each request to its last answer, and what was asked."""
    engine.forget()
    moments = np.cumsum(np.random.default_rng(seed).exponential(1.0 / qps, len(half)))
    done, futures, asked, began = np.zeros(len(half)), list[Future[Any]](), 0, time.monotonic()
    hit = np.zeros(len(half), bool)
    for place, request in enumerate(half):
        time.sleep(max(0.0, began + moments[place] - time.monotonic()))
        draft = engine.begin(replace(request, threshold=as_threshold(ratio), timeout_ms=None))
        done[place] = time.monotonic()
        hit[place], asked = len(draft.routed.chosen) > 0, asked + len(draft.routed.chosen)
        if draft.asking is not None and draft.asking.future is not None:
            draft.asking.future.add_done_callback(partial(_ended, done, place))
            futures.append(draft.asking.future)
    wait(futures)
    seconds = done - (began + moments)
    candidates = sum(len(request.candidates or ()) for request in half)
    return {"share": asked / candidates, "touched": float(hit.mean()), "p50": float(np.percentile(seconds, 50)),
            "p99": float(np.percentile(seconds, 99))}  # fmt: skip


def _ended(done: npt.NDArray[np.float64], place: int, _: Future[Any]) -> None:
    done[place] = time.monotonic()


def compared(found: Measured, seen: dict[str, float], ratio: float, load: Load, draws: Draws) -> dict[str, Any]:
    """Prediction and measurement of one ratio, and how far apart they are."""
    said = asdict(reached(found.cold, load, seen["share"], draws))
    apart = {name: abs(seen[name] - said[name]) / max(said[name], 1e-9) for name in ("touched", "p99")}
    return {"ratio": ratio, "measured": seen, "predicted": said, "apart": apart, "met": max(apart.values()) <= WITHIN}


def figures(given: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement."""
    watch, rng = Watch(), np.random.default_rng(given.seed)
    with Engine.open(given.bundle, llm="process", tuned=False, llm_threads=given.llm_threads) as engine:
        engine.warm_up()
        halves = [requests(engine, given.requests, given.candidates, rng) for _ in range(2)]
        found = fitted(engine, halves[0], given.seconds)
        load, draws = Load(given.qps, given.candidates, found.correlations), Draws.of(rng)
        seen = [under_load(engine, halves[1], ratio, given.qps, given.seed) for ratio in RATIOS]
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
