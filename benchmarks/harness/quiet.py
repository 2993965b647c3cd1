"""Was the machine ours while it was measured? The children's work counts as our own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from corella_edge_runtime.bench.measure.machine import Ticks, disturbance, ticks

LIMIT = 0.05
Found = TypeVar("Found")


class Watch:
    """Load that was not ours from the start on.

    Args:
        children: processes of ours that run all the time, or who tells them at each reading; those that ended and
            were waited for are known.
    """

    def __init__(self, children: Iterable[int] | Callable[[], Iterable[int]] = ()) -> None:
        known = () if callable(children) else tuple(children)
        self._children = children if callable(children) else lambda: known
        self._start = self._now()

    def read(self) -> dict[str, float]:
        """Shares "foreign" and "steal" of the usable cores' time."""
        return {name: round(share, 4) for name, share in disturbance(self._start, self._now()).items()}

    def _now(self) -> Ticks:
        now, times = ticks(), os.times()
        ended = times.children_user + times.children_system
        return replace(now, own=now.own + ended + sum(map(cpu_seconds, self._children())))


def cpu_seconds(process: int) -> float:
    """CPU seconds that a process has used, and those children of it that ended and were waited for; 0 if it is gone."""
    try:
        # The name in brackets may hold spaces.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def is_void(load: dict[str, float]) -> bool:
    """Steal or foreign load passes the limit."""
    return max(load["foreign"], load["steal"]) > LIMIT


def undisturbed(measure: Callable[[], Found], load: Callable[[Found], dict[str, float]], retries: int) -> Found:
    """What was measured on a quiet machine, or the last of `retries` further tries. `load` tells what ran beside it."""
    found = measure()
    for _ in range(retries):
        if not is_void(load(found)):
            break
        found = measure()
    return found
