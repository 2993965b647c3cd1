"""Where the time of one request went, as the `Server-Timing` header tells it."""

from __future__ import annotations

import time

from corella_edge.scores import Trace


class Clock:
    """Started when the whole body is there.

    Attributes:
        arrived: a time of `time.monotonic()`.
        seconds: by step; "wait" is hand-over to worker threads and back, and the queue before them.
    """

    def __init__(self) -> None:
        self.arrived = self._last = time.monotonic()
        self.seconds: dict[str, float] = {}

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
        told = [name for name in ("parse", "wait", "store") if name in self.seconds]
        parts = [_entry(name, self.seconds[name]) for name in told]
        parts += [_entry(name, took, _about(name, trace)) for name, took in trace.seconds.items()]
        parts += [_entry("serialise", self.seconds.get("serialise", 0.0)), _entry("total", self._last - self.arrived)]
        return ", ".join(parts)


def _entry(name: str, seconds: float, about: str = "") -> str:
    return f"{name};dur={1000.0 * seconds:.3f}" + (f';desc="{about}"' if about else "")


def _about(step: str, trace: Trace) -> str:
    return f"evaluated={trace.evaluated},reused={trace.reused}" if step == "prefill" else ""
