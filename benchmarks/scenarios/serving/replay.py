"""What an LLM that wastes nothing could answer of a stream in time: the stream replayed against measured decode times.

One server decodes a batch after the other; a batch takes `DecodeCost.seconds` and holds at most a decode's tokens and
prompts. Of each request the hardest candidates come first; its prefix is computed once. A prompt goes into a batch only
if the batch then still ends by the deadlines of all that are in it, so nothing is computed in vain. Requests are taken
oldest first, or newest first: which of the two fits more is what is counted. Pure; no clock, no llama.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """Seconds of a decode: a fixed part, and one for each token and each prompt in it."""

    fixed: float
    token: float
    prompt: float

    def seconds(self, tokens: int, prompts: int) -> float:
        return self.fixed + self.token * tokens + self.prompt * prompts


@dataclass(frozen=True, slots=True)
class DecodeLimits:
    """What a decode may hold."""

    tokens: int
    prompts: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request's hard candidates: tokens of the prefix they share, and of each suffix, hardest first."""

    moment: float
    deadline: float
    prefix: int
    suffixes: tuple[int, ...]


def fitted(tokens: Sequence[float], prompts: Sequence[float], seconds: Sequence[float]) -> DecodeCost:
    """The cost that explains measured decodes best, by least squares; no part of it is negative.

    Raises:
        ValueError: fewer than three decodes.
    """
    if len(seconds) < 3:
        raise ValueError("three decodes are needed at least")
    columns = np.stack([np.ones(len(tokens)), np.asarray(tokens, np.float64), np.asarray(prompts, np.float64)], axis=1)
    kept = [0, 1, 2]
    while True:
        found = np.linalg.lstsq(columns[:, kept], np.asarray(seconds), rcond=None)[0].tolist()
        if min(found) >= 0.0 or len(kept) == 1:
            break
        kept.pop(int(np.argmin(found)))
    parts = dict(zip(kept, found, strict=True))
    return DecodeCost(*(max(0.0, parts.get(place, 0.0)) for place in range(3)))


def best(arrivals: Sequence[Arrival], cost: DecodeCost, room: DecodeLimits) -> list[int]:
    """How many prompts of each arrival are answered in time, in the better order of the two."""
    return max((replay(arrivals, cost, room, newest) for newest in (False, True)), key=sum)


def replay(arrivals: Sequence[Arrival], cost: DecodeCost, room: DecodeLimits, newest_first: bool) -> list[int]:
    """How many prompts of each arrival are answered in time.

    Args:
        arrivals: ascending by moment.
    """
    answered = [0] * len(arrivals)
    waiting: list[int] = []
    now, coming = 0.0, 0
    while coming < len(arrivals) or waiting:
        while coming < len(arrivals) and arrivals[coming].moment <= now:
            waiting.append(coming)
            coming += 1
        waiting = [i for i in waiting if _can(arrivals[i], answered[i], now, cost)]
        if waiting:
            order = waiting[::-1] if newest_first else waiting
            batch, seconds = _batch(arrivals, order, answered, now, cost, room)
            for i, count in batch.items():
                answered[i] += count
            now += seconds
        elif coming < len(arrivals):
            now = arrivals[coming].moment
    return answered


def _can(arrival: Arrival, answered: int, now: float, cost: DecodeCost) -> bool:
    """Whether one more of its prompts, decoded alone, ends in time."""
    if answered == len(arrival.suffixes):
        return False
    return now + cost.seconds(_tokens(arrival, answered), 1) <= arrival.deadline


def _tokens(arrival: Arrival, answered: int) -> int:
    return arrival.suffixes[answered] + (0 if answered else arrival.prefix)


def _batch(
    arrivals: Sequence[Arrival],
    order: Sequence[int],
    answered: Sequence[int],
    now: float,
    cost: DecodeCost,
    room: DecodeLimits,
) -> tuple[dict[int, int], float]:
    """How many prompts of which arrivals the next decode holds, and its seconds. Never none."""
    batch: dict[int, int] = {}
    tokens, prompts, until = 0, 0, float("inf")
    for i in order:
        for place in range(answered[i], len(arrivals[i].suffixes)):
            more = tokens + _tokens(arrivals[i], place)
            earliest = min(until, arrivals[i].deadline)
            full = prompts and (more > room.tokens or prompts == room.prompts)
            if full or now + cost.seconds(more, prompts + 1) > earliest:
                break
            batch[i] = batch.get(i, 0) + 1
            tokens, prompts, until = more, prompts + 1, earliest
    return batch, cost.seconds(tokens, prompts)
