"""A deadline of 50 ms on every request, and twice the load that the LLM can take.

What the LLM can take is measured first: the bundle's own scorer in this process, with the settings the server would
choose for this machine, decodes prompts of unknown users in batches of many sizes; from the times comes the cost of a
decode. The offered load is twice the prompts a second of full decodes. The offline replay (`replay.py`) puts the same
arrivals with the same hard candidates through these costs; each request has its 50 ms from the moment it is meant to be
sent until its decode ends, and nothing else takes time. The share asked is the server's number of LLM scores over that
of the replay, by stretches of the run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from corella_edge.request import Request
from corella_edge.routing.measure import entropy
from corella_edge_runtime.bench.load.mix import Mix, Stream, mix
from corella_edge_runtime.bench.load.outcome import Outcome
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.tune.workload import prompts_of
from harness.judged import at_least, none_of
from harness.load.setting import ServerUnderLoad, setting
from harness.load.summary import parts_of, percentiles, share
from harness.load.traffic import prepared
from harness.pairs import ratio_of
from scenarios.serving.replay import Arrival, DecodeCost, DecodeLimits, best, fitted

PARTS = 20  # stretches of the run whose ratios are compared
WITHIN = 0.060
SIZES = (1, 2, 4, 8, 16, 24, 32, 48, 64)  # prompts of a measured job
LIMITS = {"answered": 0.999, "asked": 0.8}
ROUTED = '"routed":true'
Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--timeout-ms", type=float, default=50.0)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--threshold", default="ratio:1", help="which of them are hard (default: %(default)s)")
    parser.add_argument("--overload", type=float, default=2.0, help="offered load, in what the LLM can take")
    parser.add_argument("--rounds", type=int, default=12, help="measured jobs of each size")


def measure(options: argparse.Namespace) -> Row:
    """The LLM's capacity, the server under twice of it, and the replay of the same stream."""
    with setting(options, ["--require-llm"]) as run:
        asked = run.source.strangers(400, options.candidates, options.seed, options.threshold)
        hard, cost, room = offline(asked, run, options)
        per_second = capacity(hard, cost, room)
        rate = options.overload * per_second / float(np.mean([len(one.suffixes) for one in hard]))
        requests = prepared([replace(request, timeout_ms=options.timeout_ms) for request in asked])
        stream = Stream("hard", rate, requests)
        run.put(mix([stream], 3.0, options.seed))
        run.quiet_from_now()
        load = mix([stream], options.seconds, options.seed + 1)
        before = run.server.outcomes()
        done = run.put(load, count=ROUTED)
        about: Row = {"timeout_ms": options.timeout_ms, "candidates": options.candidates, "overload": options.overload,
                      "threshold": options.threshold, "seconds": options.seconds, "rate_per_s": round(rate, 1),
                      "capacity_prompts_per_s": round(per_second), "decode_cost_us": {
                          name: round(1e6 * value, 3) for name, value in asdict(cost).items()}}  # fmt: skip
        about["candidates_by_outcome"] = dict(run.server.outcomes() - before)
        return {**about, **judged(done, load, hard, cost, room, options), **run.verdict()}


def offline(
    asked: Sequence[Request], run: ServerUnderLoad, options: argparse.Namespace
) -> tuple[list[Arrival], DecodeCost, DecodeLimits]:
    """The hard candidates of each request, and what decodes cost; measured while the server has nothing to do."""
    with Engine.open(options.bundle, require_llm=True) as engine:
        engine.warm_up()
        assert engine.llm
        assert engine.setup
        settings = engine.setup.llm
        hard = [hardest(engine, request) for request in asked]
        others = run.source.strangers(len(SIZES) * options.rounds, max(SIZES), options.seed + 7)
        jobs = [prompts_of(engine.llm.prompts, request) for request in others]
        cost = decode_cost(engine, jobs, DecodeLimits(settings.batch, settings.sequences), options.seed)
        return hard, cost, DecodeLimits(settings.batch, settings.sequences)


def hardest(engine: Engine, request: Request) -> Arrival:
    """Tokens of a request's hard candidates, hardest first; without a time as yet."""
    assert engine.llm
    draft = engine.begin(request, refusal="offline")
    order = draft.routed.chosen[np.argsort(-entropy(draft.crm)[draft.routed.chosen], kind="stable")].tolist()
    prompts = prompts_of(
        engine.llm.prompts, replace(request, candidates=request.candidates and request.candidates.at(order))
    )
    return Arrival(0.0, 0.0, len(prompts[0].prefix) if prompts else 0, tuple(len(p.suffix) for p in prompts))


def decode_cost(engine: Engine, jobs: Sequence[list[Prompt]], room: DecodeLimits, seed: int) -> DecodeCost:
    """From jobs of users the LLM does not know, each one decode, in random order of sizes; the median of each size."""
    assert engine.llm
    sizes = [size for size in SIZES if size <= room.prompts]
    order = np.random.default_rng([seed, 31]).permutation(np.resize(sizes, len(jobs))).tolist()
    rows: dict[int, list[tuple[int, float]]] = {}
    for size, prompts in zip(order, jobs, strict=True):
        job = prompts[:size]
        tokens = len(job[0].prefix) + sum(len(prompt.suffix) for prompt in job)
        if tokens > room.tokens:
            continue
        began = time.perf_counter()
        engine.llm.backend.submit(job).result()
        rows.setdefault(size, []).append((tokens, time.perf_counter() - began))
    middle = {size: np.median(np.asarray(times), axis=0).tolist() for size, times in rows.items()}
    return fitted([tokens for tokens, _ in middle.values()], list(middle), [seconds for _, seconds in middle.values()])


def capacity(hard: Sequence[Arrival], cost: DecodeCost, room: DecodeLimits) -> float:
    """Prompts a second when every decode is full."""
    prefix = float(np.mean([one.prefix for one in hard]))
    count = float(np.mean([len(one.suffixes) for one in hard]))
    tokens = prefix + float(np.mean([sum(one.suffixes) for one in hard]))
    decodes = max(tokens / room.tokens, count / room.prompts)
    return count / (decodes * cost.fixed + cost.token * tokens + cost.prompt * count)


def judged(
    done: Outcome, load: Mix, hard: Sequence[Arrival], cost: DecodeCost, room: DecodeLimits, options: argparse.Namespace
) -> Row:
    """What was answered in time, and what was asked against the replay."""
    patience = options.timeout_ms / 1e3
    arrivals = [replace(hard[which], moment=moment, deadline=moment + patience)
                for moment, which in zip(load.moments, load.which, strict=True)]  # fmt: skip
    fits, scored = np.asarray(best(arrivals, cost, room)), np.asarray(done.happened.counted)
    parts = [[float(part.sum()) for part in parts_of(done.moments, values.astype(float), PARTS, options.seconds)]
             for values in (scored, fits)]  # fmt: skip
    return {
        "requests": len(arrivals), "failed": int((done.status != 200).sum()),
        "answered": share(int((done.latency <= WITHIN).sum()), len(arrivals)).to_json(),
        "asked": ratio_of([ours / other for ours, other in zip(*parts, strict=True) if other]).to_json(),
        "prompts": {"hard": sum(len(one.suffixes) for one in arrivals), "scored": int(scored.sum()),
                    "replay": int(fits.sum())},
        "latency": percentiles(done.latency),
    }  # fmt: skip


def targets(part: Row) -> list[Row]:
    """Nothing failed, nearly all in time, most of what could be asked was."""
    void = part["void"]
    return [
        none_of("deadline: failed requests", part["failed"], void),
        at_least(f"deadline: answered within {1e3 * WITHIN:.0f} ms", part["answered"], LIMITS["answered"], void),
        at_least("deadline: LLM scores, to those of the offline replay", part["asked"], LIMITS["asked"], void),
    ]
