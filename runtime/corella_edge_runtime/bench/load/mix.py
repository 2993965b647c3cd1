"""Several streams of requests at once, each of its own kind and rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.bench.load.plan import LoadPlan
from corella_edge_runtime.bench.load.schedule import fixed, in_turn, merged, poisson


@dataclass(frozen=True, slots=True)
class Stream:
    """`rate` requests a second, `requests` in turn: a Poisson stream, or at even gaps."""

    kind: str
    rate: float
    requests: Sequence[bytes]
    even: bool = False

    def moments(self, seconds: float, seed: int) -> list[float]:
        """When they are sent; never, if there are none."""
        if not self.requests:
            return []
        return fixed(self.rate, seconds) if self.even else poisson(self.rate, seconds, seed)


@dataclass(frozen=True, slots=True)
class Mix:
    """What is sent when, and of which kind each request is."""

    requests: list[bytes]
    kinds: list[str]
    moments: list[float]
    which: list[int]

    def plan(self, port: int, **more: Any) -> LoadPlan:
        """For the generator; `more` are fields of `LoadPlan`."""
        return LoadPlan(port, self.moments, self.which, **more)

    def of(self, kind: str) -> npt.NDArray[np.bool_]:
        """Which moments are of that kind, [n]."""
        mine = np.array([name == kind for name in self.kinds], dtype=np.bool_)
        return mine[np.asarray(self.which, np.int64)]


def mix(streams: Sequence[Stream], seconds: float, seed: int) -> Mix:
    """All streams for so many seconds; a stream without requests, or whose rate is 0, sends none."""
    requests: list[bytes] = []
    kinds: list[str] = []
    sent: list[tuple[list[float], list[int]]] = []
    for number, stream in enumerate(streams):
        moments = stream.moments(seconds, 1000 * seed + number)
        sent.append((moments, in_turn(len(moments), len(stream.requests), len(requests))))
        requests += stream.requests
        kinds += [stream.kind] * len(stream.requests)
    moments, which = merged(*sent) if sent else ([], [])
    return Mix(requests, kinds, moments, which)
