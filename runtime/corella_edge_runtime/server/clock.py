"""Where the time of one request went, as the `Server-Timing` header tells it."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future
from typing import Any

from corella_edge.scores import Trace

# How long an answer takes to leave.
FIRST = 0.010  # seconds, until answers were seen
LEAST = 0.0001
MOST = 0.5  # of a request's time
# A way out that is longer than expected counts at once, a shorter one bit by bit: 99 in 100 are shorter.
UP, DOWN = 0.25, 0.0025
STRAY = 4.0  # times what is expected; a longer one counts as so long, so that a single stall is soon forgotten


class Clock:
    """Started when the whole body is there.

    Attributes:
        arrived: when it was there, a time of `time.monotonic()`; None as an argument = now.
        seconds: by step; "turn" is what the event loop had to do before, "wait" hand-over to worker threads and back,
            and the queue before them.
    """

    def __init__(self, arrived: float | None = None) -> None:
        self._last = time.monotonic()
        self.seconds: dict[str, float] = {}
        self.arrived = self._last if arrived is None else arrived
        if arrived is not None:
            self.seconds["turn"] = self._last - arrived
        self._due: float | None = None
        self._done: list[float] = []

    def wait_for(self, future: Future[Any], deadline: float | None) -> None:
        """The LLM is waited for from now on, at most until `deadline`."""
        self._due = math.inf if deadline is None else deadline
        future.add_done_callback(lambda _: self._done.append(time.monotonic()))

    def waited_until(self) -> float | None:
        """When there was nothing more to wait for; None where the LLM was not waited for."""
        return None if self._due is None else min([self._due, *self._done[:1]])

    def lap(self, name: str, inside: float | None = None) -> None:
        """A step has ended; of it `inside` seconds were the work itself, the rest "wait"."""
        now = time.monotonic()
        took = now - self._last
        self._last = now
        work = took if inside is None else inside
        self.seconds[name] = self.seconds.get(name, 0.0) + work
        if inside is not None:
            self.seconds["wait"] = self.seconds.get("wait", 0.0) + max(0.0, took - work)

    def skip(self) -> None:
        """What passed since the last step is told by somebody else."""
        self._last = time.monotonic()

    def header(self, trace: Trace) -> str:
        """The value of `Server-Timing`, milliseconds; "prefill" says how many tokens were computed and reused."""
        told = [name for name in ("turn", "parse", "wait", "store") if name in self.seconds]
        parts = [_entry(name, self.seconds[name]) for name in told]
        parts += [_entry(name, took, _about(name, trace)) for name, took in trace.seconds.items()]
        parts += [_entry("serialise", self.seconds.get("serialise", 0.0)), _entry("total", self._last - self.arrived)]
        return ", ".join(parts)


def _entry(name: str, seconds: float, about: str = "") -> str:
    return f"{name};dur={1000.0 * seconds:.3f}" + (f';desc="{about}"' if about else "")


def _about(step: str, trace: Trace) -> str:
    return f"evaluated={trace.evaluated},reused={trace.reused}" if step == "prefill" else ""


class WayOut:
    """Learns from the answers themselves: from the moment that no more was waited for to the written answer.

    In it are the event loop's lateness, what else the loop had to do first, and the answer's own writing, as they are
    on this machine under this load.
    """

    def __init__(self, first: float = FIRST) -> None:
        self.seconds = first

    def seen(self, took: float) -> None:
        """An answer was written `took` seconds after the LLM had answered, or after its time was up."""
        off = min(max(0.0, took), STRAY * self.seconds) - self.seconds
        self.seconds = max(LEAST, self.seconds + off * (UP if off > 0.0 else DOWN))

    def of(self, limit: float) -> float:
        """Seconds of a request's `limit` that the LLM does not get."""
        return min(self.seconds, MOST * max(0.0, limit))
