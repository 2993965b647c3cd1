"""Ours and the peers by turns, and what the pairs say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

OURS = "ours"
DRAWS = 2000
ENOUGH = 15  # pairs; fewer meet no target


def round_of(peers: Sequence[str], number: int) -> list[str]:
    """The order of one round: ours stands beside every peer; odd rounds run backwards, so that drift cancels."""
    steps = [OURS]
    for start in range(0, len(peers), 2):
        chunk = list(peers[start : start + 2])
        steps += [*chunk, OURS] if len(chunk) == 2 else chunk
    return steps[::-1] if number % 2 else steps


def partners(steps: Sequence[str]) -> dict[str, int]:
    """Peer → the place of the run of ours that stands beside it."""
    beside = {}
    for i, name in enumerate(steps):
        if name != OURS:
            beside[name] = i - 1 if i and steps[i - 1] == OURS else i + 1
    return beside


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of ours and of the peer, next to each other in time."""

    ours: float
    peer: float


def alternate(
    peers: Sequence[str], rounds: int, run: Callable[[int, Sequence[str]], list[float]]
) -> tuple[dict[str, list[Pair]], list[float]]:
    """Pairs of each peer over `rounds` rounds, and every time of ours. `run(round, steps)` gives seconds a step."""
    pairs: dict[str, list[Pair]] = {name: [] for name in peers}
    own: list[float] = []
    for number in range(rounds):
        steps = round_of(peers, number)
        seconds = run(number, steps)
        own += [seconds[i] for i, name in enumerate(steps) if name == OURS]
        for name, place in partners(steps).items():
            pairs[name].append(Pair(seconds[place], seconds[steps.index(name)]))
    return pairs, own


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of per-pair ratios and its 95 % bootstrap interval."""

    median: float
    low: float
    high: float
    pairs: int

    def to_json(self) -> dict[str, float]:
        return {"median": round(self.median, 4), "low": round(self.low, 4), "high": round(self.high, 4),
                "pairs": self.pairs}  # fmt: skip


def ratio_of(values: Sequence[float], seed: int = 0) -> Ratio:
    """Of per-pair ratios.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no pairs were measured")
    found = np.asarray(values, np.float64)
    rng = np.random.default_rng(seed)
    medians = np.median(rng.choice(found, (DRAWS, len(found))), axis=1)
    low, high = np.percentile(medians, [2.5, 97.5]).tolist()
    return Ratio(float(np.median(found)), low, high, len(found))


def ratio(pairs: Sequence[Pair]) -> Ratio:
    """Ours over the peer's."""
    return ratio_of([pair.ours / pair.peer for pair in pairs])


def median_ms(seconds: Sequence[float]) -> float:
    """Milliseconds, to two places."""
    return round(float(np.median(seconds)) * 1e3, 2)
