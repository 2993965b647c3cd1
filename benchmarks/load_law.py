"""Does the law that `corella-edge plan` uses hold? Requests touched and p99 under open load, predicted and measured.

    python benchmarks/load_law.py runs/demo/bundle [--qps 20] [--out benchmarks/results/load-law.json]

Costs, times and correlation come from a benchmark of one half of the requests, one at a time and as far apart as
requests come on average: after a rest the processor's caches are cold. The other half is then sent at random moments
(Poisson) to the engine with its LLM in a process of its own, and latency counts from these moments. Requests are rows
of the sample with their histories in random order, so that no prompt begins as an earlier one did: these are new users.
The law is given the share that came of it, so that what is compared is the law and not the calibration. The target is
met where both figures are within 15 % of the prediction.

Both halves are measured in rounds, each of them at every ratio: whatever disturbs the machine for a while is then not
the p99 of one ratio. Twelve requests are the slowest hundredth of 1,200, and at 20 a second they come in 0.6 seconds.
So beside the p99 stand its interval, as `corella-edge benchmark` takes it over blocks of requests and over the rounds,
and what other processes took in the worst of the rounds. A run beside which something else took more than 5 % of the
machine is void and not kept. At the end it says, of each ratio, whether both figures are within 15 %.
"""

from __future__ import annotations

import argparse
import os
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
from corella_edge_runtime.bench.measure.machine import descendants
from corella_edge_runtime.bench.measure.supply import bodies
from corella_edge_runtime.bench.measure.target import InProcess, rest
from corella_edge_runtime.bench.results import figures as told
from corella_edge_runtime.bench.results import slo
from corella_edge_runtime.bench.results.circumstances import Noise
from corella_edge_runtime.bench.results.histogram import counted
from corella_edge_runtime.bench.results.seen import Meanwhile, Seen, Spot, sliced
from corella_edge_runtime.bench.results.slo import Measured, MeasuredShare
from corella_edge_runtime.engine import Engine
from harness.quiet import Watch, is_void
from harness.results import ended, write

RATIOS = (0.01, 0.05, 0.1, 0.2)
FITTED = (0.0, 0.01, 0.05, 0.1, 0.2, 1.0)
WITHIN = 0.15
Rounds = dict[float, list[Sequence[Seen]]]  # by ratio, what was seen in each round


def requests(engine: Engine, number: int, candidates: int, rng: np.random.Generator) -> list[Request]:
    """Rows of the sample, drawn with replacement, filled up with random items; each with a history of its own order."""
    rows = traffic.read(engine.bundle, None)
    return [traffic.as_new(traffic.fill(rows[int(place)].request, engine.encoder.catalog, candidates, rng), rng)
            for place in rng.integers(0, len(rows), number)]  # fmt: skip


def alone(target: InProcess, part: Sequence[Request], ratio: float, moments: Sequence[float]) -> list[Seen]:
    """These requests one at a time: each at its moment, or when the one before is answered if that is later."""
    target.forget()
    seen, began = list[Seen](), time.monotonic()
    for body, moment in zip(bodies(part, f"ratio:{ratio:g}"), moments, strict=True):
        rest(began + moment - time.monotonic())
        seen.append(target.ask(body))
    return seen


def under_load(target: InProcess, part: Sequence[Request], ratio: float, moments: Sequence[float]) -> list[Seen]:
    """These requests at their moments, from which latency counts, whatever became of those before."""
    target.forget()
    return target.stream(bodies(part, f"ratio:{ratio:g}"), moments)


def parts(half: Sequence[Request], rounds: int) -> list[Sequence[Request]]:
    """As many of the requests in each round."""
    return [half[place::rounds] for place in range(rounds)]


def row(rounds: Sequence[Sequence[Seen]], ratio: float) -> MeasuredShare:
    """What these requests say of a ratio."""
    spot = Spot(scenario="single", threshold=f"ratio:{ratio:g}")
    found = slo.of_slices([sliced(spot, i, seen, Meanwhile(1.0, Noise())) for i, seen in enumerate(rounds)], ratio)
    assert found is not None
    return found


def interval(rounds: Sequence[Sequence[Seen]]) -> tuple[float | None, float | None]:
    """Of the p99, seconds, at 95 %, over blocks of requests and over the rounds; none of too few requests."""
    each = [np.array([one.seconds for one in seen if one.seconds is not None]) for seen in rounds]
    found = told.latency(each, counted(np.concatenate(each))).p99
    return (None, None) if found.low is None or found.high is None else (found.low / 1000.0, found.high / 1000.0)


def compared(
    found: Measured, rounds: Sequence[Sequence[Seen]], ratio: float, load: Load, draws: Draws
) -> dict[str, Any]:
    """Prediction and measurement of one ratio, and how far apart they are; whether the p99 is of enough requests."""
    at = row(rounds, ratio)
    low, high = interval(rounds)
    seen = {name: getattr(at, name) for name in ("requests", "share", "touched", "p50", "p99")}
    said = asdict(reached(found.cold, load, at.share, draws))
    apart = {name: abs(seen[name] - said[name]) / max(said[name], 1e-9) for name in ("touched", "p99")}
    enough = at.requests >= told.needed("p99")
    return {"ratio": ratio, "measured": {**seen, "p99_low": low, "p99_high": high}, "predicted": said, "apart": apart,
            "enough": enough, "met": enough and max(apart.values()) <= WITHIN}  # fmt: skip


def worst(read: Sequence[dict[str, float]]) -> dict[str, float]:
    """What others took in the worst of several stretches."""
    return {name: max(one[name] for one in read) for name in read[0]}


def figures(given: argparse.Namespace) -> dict[str, Any]:
    """The whole measurement."""
    watch, rng = Watch(), np.random.default_rng(given.seed)
    fit, seen, beside = Rounds(), Rounds(), dict[float, list[dict[str, float]]]()
    with Engine.open(given.bundle, llm="process", tuned=False, llm_threads=given.llm_threads) as engine:
        engine.warm_up()
        target, name = InProcess(engine), engine.name
        halves = [requests(engine, given.requests, given.candidates, rng) for _ in range(2)]
        for first, second in zip(*(parts(half, given.rounds) for half in halves), strict=True):
            moments = np.cumsum(rng.exponential(1.0 / given.qps, len(first))).tolist()
            for ratio in FITTED:
                fit.setdefault(ratio, []).append(alone(target, first, ratio, moments))
            for ratio in RATIOS:
                meanwhile = Watch(lambda: descendants(os.getpid()))
                seen.setdefault(ratio, []).append(under_load(target, second, ratio, moments))
                beside.setdefault(ratio, []).append(meanwhile.read())
    found = slo.fitted([row(rounds, ratio) for ratio, rounds in fit.items()])
    load, draws = Load(given.qps, given.candidates, found.correlations), Draws.of(rng)
    ratios = [{**compared(found, rounds, ratio, load, draws), "other": worst(beside[ratio])}
              for ratio, rounds in seen.items()]  # fmt: skip
    other = watch.read()
    return {"bundle": name, "load": asdict(load), "box": asdict(found), "requests": given.requests,
            "rounds": given.rounds, "ratios": ratios, "within": WITHIN, "other": other,
            "void": is_void(other)}  # fmt: skip


def off(one: dict[str, Any], name: str) -> float:
    """By how much of the prediction a figure, `touched` or `p99`, was measured above it."""
    seen, said = one["measured"][name], one["predicted"][name]
    return float((seen - said) / max(said, 1e-9))


def verdict(one: dict[str, Any], within: float) -> str:
    """Of one ratio: whether both figures are within that much of the prediction; of a p99 that is not, whether its
    interval reaches there."""
    if not one.get("enough", True):
        return "not known: too few requests for a p99"
    if one["met"]:
        return "yes"
    seen, said = one["measured"], one["predicted"]["p99"]
    reaches = seen.get("p99_low") is not None and (
        seen["p99_low"] <= said * (1.0 + within) and seen["p99_high"] >= said * (1.0 - within)
    )
    return "no, but the interval reaches it" if reaches and abs(off(one, "touched")) <= within else "no"


def conclusion(found: dict[str, Any]) -> str:
    """At how many ratios the law holds, and by how much the others are off."""
    within, ratios = found["within"], found["ratios"]
    missed = [
        f"ratio:{one['ratio']:g} ({', '.join(f'{name} {off(one, name):+.0%}' for name in ('touched', 'p99'))})"
        for one in ratios
        if not one["met"]
    ]
    held = f"Requests touched and p99 within {within:.0%} of the prediction at {len(ratios) - len(missed)} of"
    return f"{held} {len(ratios)} shares" + (f"; not shown at {', '.join(missed)}" if missed else "") + "."


def line(one: dict[str, Any], within: float) -> str:
    """Of one ratio, for a person."""
    seen, said = one["measured"], one["predicted"]
    known = seen["p99_low"] is not None
    sure = f" [{1000 * seen['p99_low']:.1f}, {1000 * seen['p99_high']:.1f}]" if known else ""
    return (f"ratio:{one['ratio']:g}: touched {seen['touched']:.1%}, predicted {said['touched']:.1%}; p99 "
            f"{1000 * seen['p99']:.1f}{sure} ms, predicted {1000 * said['p99']:.1f} ms, {off(one, 'p99'):+.0%}; others "
            f"took {one['other']['foreign']:.1%}; within {within:.0%}: {verdict(one, within)}")  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--qps", type=float, default=20.0)
    parser.add_argument("--candidates", type=int, default=20)
    parser.add_argument("--requests", type=int, default=1200, help="of each half; a p99 takes 1,000")
    parser.add_argument("--rounds", type=int, default=3, help="in each of which every ratio is measured")
    parser.add_argument("--llm-threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="only of a run that is not void")
    given = parser.parse_args()
    kept: dict[str, Any] = {}

    def once() -> dict[str, Any]:
        kept.update(figures(given))
        for one in kept["ratios"]:
            print(line(one, WITHIN), file=sys.stderr)
        print(conclusion(kept), file=sys.stderr)
        return kept

    code = ended("load_law", once, None)
    if code:
        return code
    if kept["void"]:
        print(f"load_law: void: others took {kept['other']['foreign']:.1%} of the machine's time, "
              f"{kept['other']['steal']:.1%} was stolen; nothing is kept", file=sys.stderr)  # fmt: skip
    elif given.out:
        write(given.out, kept)
    return int(bool(kept["void"]))


if __name__ == "__main__":
    sys.exit(main())
