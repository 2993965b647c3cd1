"""The latest ranked requests, for people who look on: share asked, latency, and what asking the LLM costs now. Pure."""

from __future__ import annotations

import heapq
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median
from typing import Any

KEPT = 4096
WINDOW = 60.0
COUNTS = 40  # of asked candidates, that a line is fitted to


@dataclass(frozen=True, slots=True)
class Finished:
    """One answered request: monotonic seconds at its end, how long it took, and how many candidates the LLM scored."""

    at: float
    seconds: float
    candidates: int
    routed: int


class Recent:
    """A ring of the latest requests. Any thread may add; a full ring forgets the oldest."""

    def __init__(self, kept: int = KEPT, clock: Callable[[], float] = time.monotonic) -> None:
        self._ranked: deque[Finished] = deque(maxlen=kept)
        self._clock = clock

    def add(self, seconds: float, candidates: int, routed: int) -> None:
        """A request with so many candidates, of which the LLM scored `routed`, took `seconds`."""
        self._ranked.append(Finished(self._clock(), seconds, candidates, routed))

    def summary(self, window: float = WINDOW) -> dict[str, Any]:
        """`summarise` the requests that ended in the last `window` seconds; the cost is of all that are kept."""
        ranked = list(self._ranked)
        since = self._clock() - window
        return {"seconds": window, **summarise([r for r in ranked if r.at >= since]), "cost": cost(ranked)}


def summarise(ranked: Sequence[Finished]) -> dict[str, Any]:
    """Totals, share of the candidates that the LLM scored, and latency in ms; null where there were none."""
    candidates, routed = sum(r.candidates for r in ranked), sum(r.routed for r in ranked)
    seconds = sorted(r.seconds for r in ranked)
    return {
        "requests": len(ranked), "candidates": candidates, "asked": routed,
        "share": routed / candidates if candidates else None,
        "p50_ms": quantile_ms(seconds, 0.5), "p99_ms": quantile_ms(seconds, 0.99),
    }  # fmt: skip


def quantile_ms(ascending: Sequence[float], share: float) -> float | None:
    """The smallest of the given seconds that at least `share` of them do not exceed, in ms; None of none."""
    if not ascending:
        return None
    place = max(0, -int(-share * len(ascending) // 1) - 1)
    return 1000.0 * ascending[place]


def cost(ranked: Sequence[Finished]) -> dict[str, float | None]:
    """What a request takes, in ms: `crm` where nothing is asked, else `llm` + `asked` for each candidate asked.

    Null where no such request was seen.
    """
    easy = [r.seconds for r in ranked if not r.routed]
    crm = median(easy) if easy else None
    line = _line([r for r in ranked if r.routed], crm or 0.0)
    found = {"crm": crm, "llm": line and line[0], "asked": line and line[1]}
    return {name: None if seconds is None else 1000.0 * seconds for name, seconds in found.items()}


def _line(hard: Sequence[Finished], least: float) -> tuple[float, float] | None:
    """Intercept and slope of seconds by candidates asked; from `least` on where no line can be fitted, or it falls."""
    if not hard:
        return None
    points = _middle(hard)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2)]
    if slopes and (slope := median(slopes)) >= 0.0:
        # Theil and Sen's line: a few odd times, such as the very first request's, do not move it.
        intercept = median(seconds - slope * count for count, seconds in points)
        if intercept >= least:
            return intercept, slope
    return least, median(max(0.0, seconds - least) / count for count, seconds in points)


def _middle(hard: Sequence[Finished]) -> list[tuple[int, float]]:
    """Counts in order, each with the median of its times; the commonest counts alone, where there are many."""
    times: defaultdict[int, list[float]] = defaultdict(list)
    for r in hard:
        times[r.routed].append(r.seconds)
    common = heapq.nlargest(COUNTS, times.items(), key=lambda item: len(item[1]))
    return sorted((count, median(seconds)) for count, seconds in common)
