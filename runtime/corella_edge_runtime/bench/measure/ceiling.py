"""What no serving code on this machine can beat: the bare CRM session, how fast the LLM reads, matrix products."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from corella_edge.errors import BundleError
from corella_edge.request import Request
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.bench.results.circumstances import Ceilings
from corella_edge_runtime.crm import MAX_BATCH
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.asking import Llm
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.llama.dangers import weights_in

EDGE = 768  # rows and columns of the matrices that are multiplied: as large as the products of a small Llama


def ceilings(engine: Engine, requests: Sequence[Request], seconds: float = 3.0) -> Ceilings:
    """All of them, on the given requests, about `seconds` each."""
    found = [traffic.resolve(request, engine.encoder.catalog) for request in requests[:500]]
    crm, count = crm_run(engine, found[0], seconds)
    speed, length = (None, None) if engine.llm is None else reading(engine.llm, found, seconds)
    weights = sum(size for name, _, size in matrices(engine) if name.startswith("blk."))
    gflops = 2e-9 * weights * speed if weights and speed is not None else None
    return Ceilings(crm_ms=crm, crm_candidates=count, llm_tokens_per_s=speed, llm_prompt_tokens=length,
                    multiply_gflops=multiply(min(1.0, seconds)), llm_gflops=gflops)  # fmt: skip


def matrices(engine: Engine) -> list[tuple[str, str, int]]:
    """Name, type and size of the LLM's matrices; empty where there is no LLM, or it computes elsewhere."""
    if engine.llm is None or engine.setup is None or not engine.bundle.has(engine.setup.llm_file):
        return []
    try:
        return weights_in(engine.bundle.path(engine.setup.llm_file))
    except BundleError:
        return []


def crm_run(engine: Engine, request: Request, seconds: float, runs: int = 300) -> tuple[float, int]:
    """Median milliseconds of `session.run` on ready-made inputs, and for how many candidates."""
    candidates = (request.candidates or ())[:MAX_BATCH]
    feed, _ = engine.encoder.encode(request.user, candidates)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < runs and (len(times) < 10 or time.perf_counter() < end):
        began = time.perf_counter()
        engine.crm.logits(feed)
        times.append(time.perf_counter() - began)
    return 1000.0 * float(np.median(times[len(times) // 10 :])), len(candidates)


def reading(llm: Llm, requests: Sequence[Request], seconds: float) -> tuple[float | None, float | None]:
    """Tokens evaluated a second, and tokens a prompt, over whole prompts of one candidate, user after user."""
    prompts = [prompt for prompt in (_prompt(llm, request) for request in requests[:500]) if prompt]
    before = llm.backend.stats()
    end = time.perf_counter() + seconds
    for done, prompt in enumerate(prompts):
        if done >= 3 and time.perf_counter() >= end:
            break
        llm.backend.submit([prompt]).result()
    after = llm.backend.stats()
    tokens, prompts_read, busy = (after[key] - before[key] for key in ("evaluated_tokens", "prompts", "seconds"))
    return (tokens / busy, tokens / prompts_read) if prompts_read and busy else (None, None)


def _prompt(llm: Llm, request: Request) -> Prompt | None:
    suffixes = (llm.prompts.suffix(candidate) for candidate in request.candidates or ())
    suffix = next((found for found in suffixes if found), None)
    return None if suffix is None else Prompt(tuple(llm.prompts.prefix(request.user)), tuple(suffix))


def multiply(seconds: float, edge: int = EDGE) -> float:
    """Float32 products of square matrices by numpy, on as many threads as its library takes: thousand millions of
    operations a second, the best of the tries."""
    a, b = np.ones((edge, edge), np.float32), np.ones((edge, edge), np.float32)
    times, end = list[float](), time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - began)
    return 2e-9 * edge**3 / min(times)
