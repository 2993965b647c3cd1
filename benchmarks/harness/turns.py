"""A checkout's engine that ranks by turns with another's: for each line it reads, one turn, answered in one line.

python -m harness.turns BUNDLE BACKEND      the package that PYTHONPATH names; runs with checkouts older than this file
"""

from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.request import Request, User
from corella_edge_runtime.bench.measure import traffic
from corella_edge_runtime.engine import Engine
from harness.checkout import module

USERS, SEED = 40, 29
# What llama.cpp does for a decode outside of it: which sequence holds which cells, prefixes out and in.
CELLS = ("llama_memory_seq_cp", "llama_memory_seq_rm", "llama_memory_seq_keep", "llama_memory_clear",
         "llama_state_seq_get_data", "llama_state_seq_set_data")  # fmt: skip
spent: dict[str, float] = defaultdict(float)


def main(bundle: Path, backend: str) -> None:
    library = module("corella_edge_runtime.llm.llama.binding", "corella_edge_runtime.llm.binding").C
    for name in ("llama_decode", *CELLS):
        setattr(library, name, timed(name, getattr(library, name)))
    with Engine.open(bundle, llm=backend, llm_threads=1, crm_threads=1, require_llm=True, tuned=False) as engine:
        # An item's text is tokenised when it is asked about first: here, not in what is timed.
        engine.rank(Request(User(), None, threshold="ratio:1"))
        requests = {count: asked(engine, count) for count in (1, 8, 100)}
        for line in sys.stdin:
            count, number = map(int, line.split())
            print(json.dumps(turn(engine, *requests[count][number % USERS])), flush=True)


def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """`call`, adding its seconds to `spent`."""

    def measured(*given: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*given)
        finally:
            spent[name] += time.perf_counter() - began

    return measured


def asked(engine: Engine, count: int) -> list[tuple[Request, Request]]:
    """Of each user a request, and another with other candidates."""
    rows, rng = traffic.read(engine.bundle, None), np.random.default_rng(SEED)
    chosen = [rows[i].request for i in traffic.one_per_user(rows, USERS, SEED)]
    chosen = [chosen[i % len(chosen)] for i in range(USERS)]
    catalog = engine.encoder.catalog
    drawn = [cut(one) for one in chosen]
    return [
        (traffic.fill(one, catalog, count, rng), traffic.fill(again, catalog, count, rng))
        for one, again in zip(chosen, drawn, strict=True)
    ]


def cut(request: Request, most: int = 0) -> Request:
    """The request with its first candidates alone."""
    assert request.candidates is not None
    return replace(request, candidates=request.candidates[:most])


def turn(engine: Engine, first: Request, second: Request) -> dict[str, dict[str, float]]:
    """Seconds of a user who is new to the LLM, and of the same user's next request."""
    assert engine.llm is not None
    engine.llm.backend.forget()
    # What is forgotten leaves only with the next decode.
    engine.rank(replace(cut(first, 1), user=User(), threshold="ratio:1"))
    return {"new": one(engine, first), "returning": one(engine, second)}


def one(engine: Engine, request: Request) -> dict[str, float]:
    """One request with every candidate routed, and the CRM's part of it alone.

    `decode` and `cells`: inside llama.cpp, if it runs in this process; `python`: all the rest.
    """
    began = time.perf_counter()
    engine.rank(replace(request, threshold="ratio:0"))
    crm = time.perf_counter() - began
    spent.clear()
    began = time.perf_counter()
    scores = engine.rank(replace(request, threshold="ratio:1"))
    whole = time.perf_counter() - began
    decode, cells = spent["llama_decode"], sum(spent[name] for name in CELLS)
    return {"whole": whole, "crm": crm, "decode": decode, "cells": cells, "python": whole - crm - decode - cells,
            "routed": float(scores.routed.sum())}  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
