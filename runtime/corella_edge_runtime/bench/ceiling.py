"""What no serving code on this machine can beat: the bare CRM session, and how fast the LLM reads."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from corella_edge.request import Request
from corella_edge_runtime.bench.measure import latency
from corella_edge_runtime.crm import MAX_BATCH
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.asking import Llm
from corella_edge_runtime.llm.contract.messages import Prompt


def ceiling(engine: Engine, requests: Sequence[Request], seconds: float = 3.0) -> dict[str, Any]:
    """Both, measured on the given requests, about `seconds` each: median milliseconds of one bare session run, and the
    LLM's tokens a second over whole prompts."""
    crm, count = crm_run(engine, requests[0], seconds)
    speed, length = (None, None) if engine.llm is None else reading(engine.llm, requests, seconds)
    return {"crm_ms": crm, "crm_candidates": count, "llm_tokens_per_s": speed, "llm_prompt_tokens": length}


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
    return latency(times[len(times) // 10 :]).p50, len(candidates)


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
