"""Shape (d): `Engine.rank` with 100 candidates at ratio:0.05, new and returning users, against CRM and llama-server."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.request import Request
from corella_edge.scores import Scores
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.contract.messages import Prompt
from harness.pairs import ratio_of
from harness.quiet import Watch, is_void
from peers.llama_server import LlamaServer, ServerPeer

CANDIDATES = 100
PAUSE = 0.03  # seconds: threads of the side before still wait awake for some milliseconds
SHARE = "ratio:0.05"
SEED = 23


@dataclass(slots=True)
class Times:
    """Seconds of requests with hard rows, by what was run; places match: one request each."""

    engine: list[float] = field(default_factory=list)
    crm: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    hard: list[int] = field(default_factory=list)
    difference: float = 0.0


def open_engine(bundle: Path, threads: int) -> Engine:
    """The engine as it is used in process; the CRM has one thread."""
    return Engine.open(bundle, llm_threads=threads, threshold=SHARE, require_llm=True, tuned=False)


def product(bundle: Path, threads: int, users: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Latencies over `users` users of the bundle's sample, each asking twice with different candidates."""
    say(f"product: {users} users, {CANDIDATES} candidates, {SHARE}")
    with open_engine(bundle, threads) as engine:
        requests = asked(engine, users)
        server = LlamaServer(bundle / "llm.gguf", threads)
        try:
            return {**_measure(engine, server, requests), "llm_threads": threads}
        finally:
            server.close()


def asked(engine: Engine, users: int) -> list[tuple[Request, Request]]:
    """For each of up to `users` users a request, and another with other candidates."""
    rows, rng = traffic.read(engine.bundle, None), np.random.default_rng(SEED)
    chosen = [rows[i].request for i in traffic.one_per_user(rows, users, SEED)]
    catalog = engine.encoder.catalog
    return [(traffic.fill(one, catalog, CANDIDATES, rng), traffic.fill(one, catalog, CANDIDATES, rng))
            for one in chosen]  # fmt: skip


def _measure(engine: Engine, server: LlamaServer, requests: list[tuple[Request, Request]]) -> dict[str, Any]:
    assert engine.llm is not None
    prompt = engine.bundle.prompt()
    assert prompt is not None
    peer = ServerPeer("server", server, prompt[1])
    new, again = Times(), Times()
    for first, second in requests[:3]:  # every path is touched once; these users count as known from here on
        one(engine, peer, first, Times())
        one(engine, peer, second, Times())
    watch = Watch(peer.processes())
    for first, second in requests[3:]:
        peer.reset()
        one(engine, peer, first, new)
        one(engine, peer, second, again)
    load = watch.read()
    return {"shape": "d", "bundle": engine.name, "candidates": CANDIDATES, "threshold": SHARE, "new": figures(new),
            "returning": figures(again), "load": load, "void": is_void(load)}  # fmt: skip


def one(engine: Engine, peer: ServerPeer, request: Request, times: Times) -> None:
    """A request through the engine, through the CRM alone, and its hard rows through the server; each after a pause."""
    time.sleep(PAUSE)
    began = time.perf_counter()
    scores = engine.rank(request)
    whole = time.perf_counter() - began
    if not scores.routed.any():
        return
    time.sleep(PAUSE)
    began = time.perf_counter()
    engine.rank(replace(request, threshold="ratio:0"))
    crm = time.perf_counter() - began
    prompts = hard_prompts(engine, request, scores)
    time.sleep(PAUSE)
    began = time.perf_counter()
    found = peer.score(prompts)
    times.engine.append(whole)
    times.crm.append(crm)
    times.server.append(time.perf_counter() - began)
    times.hard.append(len(prompts))
    times.difference = max(times.difference, float(np.abs(np.asarray(found) - scores.llm[scores.routed]).max()))


def hard_prompts(engine: Engine, request: Request, scores: Scores) -> list[Prompt]:
    """Prompts of the candidates that the LLM answered, in their order."""
    assert engine.llm is not None
    encoder = engine.llm.prompts
    prefix = tuple(encoder.prefix(request.user))
    assert request.candidates is not None
    chosen = request.candidates.at(np.flatnonzero(scores.routed).tolist())
    return [Prompt(prefix, tuple(encoder.suffix(candidate) or ())) for candidate in chosen]


def figures(times: Times) -> dict[str, Any]:
    """Milliseconds at p50 and p99; `server` is the CRM plus llama-server on the same hard rows."""
    both = [crm + server for crm, server in zip(times.crm, times.server, strict=True)]
    sides = {"engine": times.engine, "crm_alone": times.crm, "server": both}
    shown = {name: {f"p{q}": round(1e3 * float(np.percentile(seconds, q)), 3) for q in (50, 99)}
             for name, seconds in sides.items()}  # fmt: skip
    return {
        **shown, "requests": len(times.engine), "hard_rows": round(float(np.mean(times.hard)), 2),
        "to_server": ratio_of([a / b for a, b in zip(times.engine, both, strict=True)]).to_json(),
        "difference": round(times.difference, 6),
    }  # fmt: skip
