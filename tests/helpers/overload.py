"""A stream of requests at twice the rate the LLM can take, and what a perfect server could have asked of it."""

from __future__ import annotations

import math
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from corella_edge.request import Event, User
from corella_edge_runtime.llm.asking import Asking, Llm
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.binding import Model
from corella_edge_runtime.llm.llama.kept import KeptPrefixes
from corella_edge_runtime.llm.llama.scorer import YesNoScorer

DEADLINE = 0.05


@dataclass
class Arrival:
    """One request: when it comes, in seconds from the first, its prompts, hardest first, and what became of them."""

    at: float
    prompts: list[Prompt]
    reasons: list[str] = field(default_factory=list)


def stream(llm: Llm, rate: float, seconds: float, seed: int = 0) -> list[Arrival]:
    """Poisson arrivals; half of the users come back. 1 to 60 candidates, each with some 10 to 120 tokens of its own."""
    draw = np.random.default_rng(seed)
    times = np.cumsum(draw.exponential(1.0 / rate, max(1, int(rate * seconds))))
    return [Arrival(at, _prompts(llm, draw)) for at in times.tolist()]


def _prompts(llm: Llm, draw: np.random.Generator) -> list[Prompt]:
    number = int(draw.integers(200 if draw.random() < 0.5 else 10**6))
    events = np.random.default_rng(number).integers(0, 38, 5).tolist()
    user = User(f"v{number}", {}, tuple(Event(f"i{i}", float(1 + i % 5)) for i in events))
    prefix = tuple(llm.prompts.prefix(user))
    suffixes = [draw.integers(33, 120, draw.integers(10, 120)).tolist() for _ in range(draw.integers(1, 61))]
    return [Prompt(prefix, tuple(suffix)) for suffix in suffixes]


def batch_cost(root: Path, llm: Llm, arrivals: list[Arrival]) -> float:
    """Seconds a token, of the bundle's LLM with nothing else to do and full decodes; the best of three."""
    model = Model(root / "llm.gguf")
    scorer = YesNoScorer(model, llm.prompts.tokens, LlmSettings())
    prompts = [prompt for arrival in arrivals for prompt in arrival.prompts]
    best = math.inf
    for _ in range(3):
        scorer.forget()
        before, started = scorer.counters.evaluated_tokens, time.perf_counter()
        for first in range(0, len(prompts), 500):
            scorer.score(prompts[first : first + 500])
        best = min(best, (time.perf_counter() - started) / (scorer.counters.evaluated_tokens - before))
    scorer.close()
    model.close()
    return best


def tokens_a_request(arrivals: list[Arrival]) -> float:
    """Without what is kept from request to request."""
    news = [len(a.prompts[0].prefix) + sum(len(prompt.suffix) for prompt in a.prompts) for a in arrivals]
    return sum(news) / len(news)


def replay(arrivals: list[Arrival], per_token: float) -> int:
    """Prompts that end by their deadline if one server takes the requests in the order they came, each hardest first,
    knows what it cannot do in time, and pays for tokens alone, those of a kept prefix excepted."""
    free, count, kept = 0.0, 0, KeptPrefixes(LlmSettings().kept_tokens)
    for arrival in arrivals:
        free = max(free, arrival.at)
        prefix = arrival.prompts[0].prefix
        new, done = len(prefix) - kept.find(prefix)[1], 0
        for prompt in arrival.prompts:
            ends = free + per_token * (new + len(prompt.suffix))
            if ends > arrival.at + DEADLINE:
                break
            free, new, done = ends, 0, done + 1
        if done and not kept.touch(prefix):
            kept.put(prefix, np.empty(0, np.uint8))
        count += done
    return count


def offer(llm: Llm, arrivals: list[Arrival]) -> list[Arrival]:
    """The same, asked for real; `at` is then when each was really asked."""
    start, asked, ended = time.monotonic(), deque[tuple[float, Arrival, Asking]](), []
    for arrival in arrivals:
        _collect(asked, start + arrival.at)
        begun = time.monotonic()
        deadline = begun + DEADLINE
        asked.append((deadline, arrival, llm.begin_prompts(arrival.prompts, deadline)))
        ended.append(Arrival(begun - start, arrival.prompts))
        asked[-1] = (deadline, ended[-1], asked[-1][2])
    _collect(asked, math.inf)
    return ended


def _collect(asked: deque[tuple[float, Arrival, Asking]], until: float) -> None:
    """Take the answers of those whose deadline comes before `until`, each at its deadline."""
    while True:
        due = asked[0][0] if asked else math.inf
        if min(due, until) == math.inf:
            return
        time.sleep(max(0.0, min(due, until) - time.monotonic()))
        if due > until:
            return
        _, arrival, asking = asked.popleft()
        arrival.reasons = [answer.reason for answer in asking.answers()]
