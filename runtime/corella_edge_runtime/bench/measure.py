"""Time `Engine.rank` at several thresholds, interleaved, one request at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from corella_edge.request import Request
from corella_edge.scores import Scores

Rank = Callable[[Request], Scores]
Stats = Callable[[], dict[str, float]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Timed:
    """One timed request: which ratio, seconds, candidates, routed ones, tokens the LLM computed and took over."""

    ratio: int
    seconds: float
    candidates: int
    routed: int
    evaluated: int
    reused: int
    new_user: bool


def measure(
    rank: Rank, stats: Stats, requests: Sequence[Request], ratios: Sequence[float], repeat: int, limit: float,
    seed: int, progress: Progress,
) -> list[Timed]:  # fmt: skip
    """A round puts one request to every ratio, in random order; neighbours in time are of different users.

    It ends after `repeat` passes over the requests, or with the round in which `limit` seconds are over.
    """
    rng = np.random.default_rng([seed, 3])
    plan = [[replace(request, threshold=as_threshold(ratio)) for request in requests] for ratio in ratios]
    stride = max(1, len(requests) // len(ratios))
    rounds = len(requests) * repeat
    timed: list[Timed] = []
    before: object = None
    end = time.perf_counter() + limit
    for step in range(rounds):
        for ratio in rng.permutation(len(ratios)).tolist():
            place = (step + ratio * stride) % len(requests)
            user = requests[place].user.id or place
            timed.append(_one(rank, stats, plan[ratio][place], ratio, user != before))
            before = user
        progress("latency", step + 1, rounds)
        if time.perf_counter() >= end:
            break
    return timed


def _one(rank: Rank, stats: Stats, request: Request, ratio: int, new_user: bool) -> Timed:
    start = stats()
    began = time.perf_counter()
    scores = rank(request)
    seconds = time.perf_counter() - began
    evaluated, reused = (int(_grown(start, stats(), name)) for name in ("evaluated_tokens", "reused_tokens"))
    return Timed(ratio, seconds, len(scores.items), int(scores.routed.sum()), evaluated, reused, new_user)


def _grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


def warm_up(rank: Rank, requests: Sequence[Request], ratios: Sequence[float], count: int = 3) -> None:
    """Let every code path and model page be touched before anything is timed."""
    for request in requests[:count]:
        for ratio in ratios:
            rank(replace(request, threshold=as_threshold(ratio)))


def as_threshold(ratio: float) -> str:
    """A routed share as a threshold."""
    return f"ratio:{ratio!r}"


@dataclass(frozen=True, slots=True)
class Latency:
    """Percentiles of a set of times, in milliseconds."""

    p50: float
    p90: float
    p99: float
    mean: float


def latency(seconds: Sequence[float]) -> Latency:
    """Percentiles of times given in seconds."""
    ms = np.asarray(seconds) * 1000.0
    p50, p90, p99 = np.percentile(ms, [50, 90, 99]).tolist()
    return Latency(p50, p90, p99, float(ms.mean()))
