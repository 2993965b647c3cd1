"""The CRM's path against its bare session, its INT8 form and torch; and how it fares beside a saturated LLM.

    python benchmarks/crm.py BUNDLE [BUNDLE ...] [--beside-llm] [--out benchmarks/results/crm.json]

Pairs alternate request by request in one run, so that both sides meet the same caches; a pair is the sum over a
few requests. A request is parsed from JSON just before, as in a server; those of the same user bring one `User` object
and other candidates. With --beside-llm, requests arrive in random moments whatever came of those before, and their time
counts from then.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import CorellaError, InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Feed
from corella_edge.request import Candidate, Request
from corella_edge.request_message import parse_request
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.crm import Crm
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.tune.workload import prompts_of
from harness.pairs import ratio_of
from harness.quiet import Watch, is_void
from harness.report import finish
from scenarios.crm_targets import TARGETS, targets

SIZES = (1, 20, 100, 1000)
INT8, INT8_SIZES = "crm.int8.onnx", (1, 20, 100, 256, 1000)
ENCODED = 2000  # requests of one candidate whose encoding is timed
RATE, CANDIDATES = 100.0, 20  # requests a second, and candidates of each, beside the LLM
Row = dict[str, Any]
Work = Callable[[], object]


@dataclass(frozen=True, slots=True)
class OpenedBundle:
    """An opened bundle: encoder, FP32 session, and the requests of its sample."""

    name: str
    bundle: Bundle
    encoder: FeatureEncoder
    crm: Crm
    rows: list[Request]

    @classmethod
    def open(cls, root: Path) -> OpenedBundle:
        bundle = Bundle.open(root)
        schema, catalog = bundle.schema()
        rows = [row.request for row in traffic.read(bundle, None)]
        return cls(bundle.label, bundle, FeatureEncoder(schema, catalog), Crm(bundle.path("crm.onnx"), schema), rows)

    def requests(self, n: int, count: int, same: bool, seed: int) -> list[Request]:
        """`count` requests of n catalogue items, of one user or of as many as there are."""
        rng, ids = np.random.default_rng([seed, n]), self.encoder.catalog.ids
        users = [self.rows[i].user for i in rng.choice(len(self.rows), 1 if same else count).tolist()] * count
        slates = (tuple(Candidate(ids[row]) for row in rng.choice(len(ids), n).tolist()) for _ in range(count))
        return [Request(user, slate) for user, slate in zip(users, slates, strict=False)]


def main() -> None:
    options = arguments()
    watch = Watch()
    found = [bundle(OpenedBundle.open(root), options) for root in options.bundles]
    load = watch.read()
    figures: Row = {"what": "CRM", "pairs": options.pairs, "load": load, "void": is_void(load), "bundles": found}
    figures["targets"] = targets(figures)
    print(table(figures))
    finish(figures, options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--requests", type=int, default=40, help="requests a pair, fewer for many candidates")
    parser.add_argument("--beside-llm", action="store_true")
    parser.add_argument("--llm", default="thread", help="thread (default) or process: where the LLM runs")
    parser.add_argument("--segment", type=float, default=4.0, help="seconds calm, then busy, of a pair beside the LLM")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def bundle(case: OpenedBundle, options: argparse.Namespace) -> Row:
    """Every measurement of one bundle; ceilings come first."""
    found: Row = {"bundle": case.name, "ceilings": ceilings(case)}
    print(f"{case.name}: ceilings {json.dumps(found['ceilings'])}", flush=True)
    found["encode_one_us"] = {kind: encoding(case, same) for kind, same in (("new", False), ("same", True))}
    found["paths"] = list(paths(case, options))
    found["skipped"] = []
    for name, other, sizes in (("int8", int8, INT8_SIZES), ("torch", torch_eager, SIZES)):
        try:
            found[name] = list(peers(case, other(case), sizes, options))
        except (InputError, ImportError) as error:
            found["skipped"].append(f"{name}: {error}")
    if options.beside_llm:
        found["beside_llm"] = beside_llm(case.bundle.root, options)
    return found


def ceilings(case: OpenedBundle) -> Row:
    """Median microseconds of a bare run by candidates, and float32 matrix multiplication of one thread."""
    runs = {}
    for n in SIZES:
        feeds = [case.encoder.encode(r.user, r.candidates or ())[0] for r in case.requests(n, 20, False, 1)]
        runs[n] = round(1e6 * float(np.median([seconds(partial(case.crm.logits, feed)) for feed in feeds * 3])), 1)
    a = np.ones((512, 512), dtype=np.float32)
    best = min(seconds(lambda: a @ a) for _ in range(30))
    return {"bare_run_us": runs, "numpy_matmul_gflops": round(2 * 512**3 / best / 1e9, 1)}


def seconds(work: Work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def encoding(case: OpenedBundle, same: bool) -> Row:
    """Microseconds of `FeatureEncoder.encode` for one candidate; the interval is that of the median."""
    times = []
    for request in case.requests(1, ENCODED, same, 2):
        asked = fresh(request, same)
        times.append(seconds(partial(case.encoder.encode, asked.user, asked.candidates or ())))
    interval = ratio_of([1e6 * one for one in times]).to_json()
    p50, p99 = (round(1e6 * found, 1) for found in np.quantile(times, [0.5, 0.99]).tolist())
    return {"p50": p50, "p99": p99, "interval": interval}


def fresh(request: Request, same: bool) -> Request:
    """`parsed`; of the same user, with the `User` object it had."""
    made = parsed(request)
    return replace(made, user=request.user) if same else made


def parsed(request: Request) -> Request:
    """The same request as it comes from outside: no object of an earlier one in it."""
    events = [{"item": e.item, "rating": e.rating, "time": e.time} for e in request.user.history]
    user = {"id": request.user.id, "features": dict(request.user.features), "history": events}
    items = [{"item": candidate.item} for candidate in request.candidates or ()]
    return parse_request(json.loads(json.dumps({"user": user, "candidates": items})))


def paths(case: OpenedBundle, options: argparse.Namespace) -> Iterator[Row]:
    """Encode and run against a bare run on prepared arrays."""
    for n in SIZES:
        for kind, same in (("new", False), ("same", True)):
            pairs = [path_pair(case, n, same, number, options) for number in range(options.pairs)]
            yield {"candidates": n, "user": kind, "target": TARGETS["path"], **compared(pairs)}


def path_pair(case: OpenedBundle, n: int, same: bool, number: int, options: argparse.Namespace) -> tuple[float, float]:
    total = np.zeros(2)
    for request in case.requests(n, per_pair(n, options), same, 100 + number):
        feed, _ = case.encoder.encode(request.user, request.candidates or ())
        total += both(partial(whole, case, fresh(request, same)), partial(case.crm.logits, feed), number)
    return float(total[0]), float(total[1])


def per_pair(n: int, options: argparse.Namespace) -> int:
    return max(5, int(options.requests) * 20 // max(20, n))


def whole(case: OpenedBundle, request: Request) -> None:
    feed, _ = case.encoder.encode(request.user, request.candidates or ())
    case.crm.probability(feed)


def both(ours: Work, other: Work, number: int) -> tuple[float, float]:
    """Seconds of each; every second pair begins with the other."""
    if number % 2:
        second = seconds(other)
        return seconds(ours), second
    return seconds(ours), seconds(other)


def compared(pairs: Sequence[tuple[float, float]]) -> Row:
    ratio = ratio_of([ours / other for ours, other in pairs])
    return {"ratio": ratio.to_json(), "totals_ms": [round(1e3 * sum(side), 2) for side in zip(*pairs, strict=True)]}


def int8(case: OpenedBundle) -> Callable[[Feed], object]:
    if not case.bundle.has(INT8):
        raise InputError(f"the bundle has no {INT8}")
    return Crm(case.bundle.path(INT8), case.encoder.schema).logits


def torch_eager(case: OpenedBundle) -> Callable[[Feed], object]:
    """A CRM of the bundle's shape with random weights, eager, one thread."""
    import torch

    from corella_edge_export.crm.ensemble import new_crm
    from corella_edge_export.recipe import recipe_of_run

    torch.set_num_threads(1)
    recipe = recipe_of_run(case.bundle.manifest.about["recipe"], "manifest.json")
    model = new_crm(case.encoder.schema, recipe.crm, case.encoder.catalog).eval()

    @torch.inference_mode()
    def run(feed: Feed) -> object:
        return model({name: torch.from_numpy(values) for name, values in feed.items()})

    return run


def peers(
    case: OpenedBundle, run: Callable[[Feed], object], sizes: Sequence[int], options: argparse.Namespace
) -> Iterator[Row]:
    """A peer's run against the FP32 session's on the same arrays: above 1 the session is faster."""
    for n in sizes:
        pairs = []
        for number in range(options.pairs):
            total = np.zeros(2)
            for request in case.requests(n, per_pair(n, options), False, 300 + number):
                feed, _ = case.encoder.encode(request.user, request.candidates or ())
                total += both(partial(run, feed), partial(case.crm.logits, feed), number)
            pairs.append((float(total[0]), float(total[1])))
        yield {"candidates": n, **compared(pairs)}


def beside_llm(root: Path, options: argparse.Namespace) -> Row:
    """`Engine.rank` without routed rows, the LLM idle and saturated by turns."""
    with Engine.open(root, threshold="ratio:0", require_llm=True, llm=options.llm) as engine:
        engine.warm_up()
        case = OpenedBundle.open(root)
        asked = [parsed(r) for r in case.requests(CANDIDATES, 500, False, 5)]
        jobs = prompts(engine, asked)
        calm, busy, read = [], [], engine.stats()["evaluated_tokens"]
        for number in range(options.pairs):
            calm.append(arrivals(engine, asked, options.segment, number))
            with Saturated(engine, jobs):
                busy.append(arrivals(engine, asked, options.segment, number))
        tokens = (engine.stats()["evaluated_tokens"] - read) / (options.segment * options.pairs)
        plan = repr(engine.setup)
    ratio = ratio_of([float(np.quantile(b, 0.99) / np.quantile(c, 0.99)) for c, b in zip(calm, busy, strict=True)])
    both_ms = {name: percentiles([*chain(*times)]) for name, times in (("calm", calm), ("busy", busy))}
    about = {"llm": options.llm, "plan": plan, "segment_s": options.segment, "llm_tokens_per_s": round(tokens)}
    return {"p99_ratio": ratio.to_json(), "target": TARGETS["beside"], **both_ms, **about}


def percentiles(times: list[float]) -> Row:
    p50, p99 = (round(1e3 * found, 3) for found in np.quantile(times, [0.5, 0.99]).tolist())
    return {"p50_ms": p50, "p99_ms": p99, "requests": len(times)}


def arrivals(engine: Engine, asked: Sequence[Request], length: float, seed: int) -> list[float]:
    """Seconds from each arrival to its scores; arrivals are a Poisson stream that waits for nothing."""
    rng = np.random.default_rng([seed, 7])
    moments = np.cumsum(rng.exponential(1.0 / RATE, int(RATE * length)))
    began, times = time.perf_counter(), []
    for number, moment in enumerate(moments.tolist()):
        time.sleep(max(0.0, began + moment - time.perf_counter()))
        engine.rank(asked[number % len(asked)])
        times.append(time.perf_counter() - began - moment)
    return times


class Saturated:
    """While entered, the LLM always has one request's prompts in hand and another's waiting."""

    def __init__(self, engine: Engine, jobs: Sequence[list[Prompt]]) -> None:
        self._engine, self._jobs = engine, jobs
        self._stop, self._thread = threading.Event(), threading.Thread(target=self._feed, daemon=True)

    def _feed(self) -> None:
        assert self._engine.llm
        submit = self._engine.llm.backend.submit
        jobs = cycle(self._jobs)
        running = [submit(next(jobs)), submit(next(jobs))]
        while not self._stop.is_set():
            running.pop(0).result()
            running.append(submit(next(jobs)))
        for job in running:
            job.result()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def prompts(engine: Engine, asked: Sequence[Request]) -> list[list[Prompt]]:
    """Each request's prompts, made beforehand: making them is no part of the LLM's load."""
    assert engine.llm
    made = [prompts_of(engine.llm.prompts, request) for request in asked]
    return [job for job in made if job]


def table(figures: Row) -> str:
    """The figures for reading."""
    lines = []
    for found in figures["bundles"]:
        lines.append(f"\n{found['bundle']}   encode, 1 candidate (p50, µs): " + ", ".join(
            f"{kind} user {times['p50']}" for kind, times in found["encode_one_us"].items()
        ))  # fmt: skip
        lines += [line(f"encode + run / bare, {r['user']} user", r) for r in found["paths"]]
        for name in ("int8", "torch"):
            lines += [line(f"{name} / FP32 run", r) for r in found.get(name, ())]
        lines += [f"  skipped: {reason}" for reason in found["skipped"]]
        if beside := found.get("beside_llm"):
            lines.append(f"  beside the LLM: calm {beside['calm']}, busy {beside['busy']}, p99 {beside['p99_ratio']}")
    return "\n".join(lines)


def line(what: str, row: Row) -> str:
    r = row["ratio"]
    return f"  {what:34s} {row['candidates']:5d} candidates  {r['median']:7.3f}  [{r['low']:.3f}, {r['high']:.3f}]"


if __name__ == "__main__":
    try:
        main()
    except CorellaError as error:
        sys.exit(str(error))
