"""What became of measured requests, as it was seen: the raw data that all figures of a benchmark are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from corella_edge_runtime.bench.results.circumstances import Noise, Routing, Scenario, Users
from corella_edge_runtime.bench.results.points import Rates

Floats = npt.NDArray[np.float64]


class Spot(msgspec.Struct, frozen=True, kw_only=True):
    """A point that is to be measured; see `points.Point` for the fields."""

    scenario: Scenario
    threshold: str
    routing: Routing = "policy"
    users: Users = "new"
    workers: int = 1

    def __str__(self) -> str:
        parts = [self.scenario, self.threshold, f"{self.users} users"]
        parts += ["random routing"] if self.routing == "random" else []
        return ", ".join([*parts, f"{self.workers} processes"] if self.workers > 1 else parts)


@dataclass(slots=True)
class Seen:
    """One request.

    Attributes:
        seconds: latency; None = no answer came.
        candidates, routed, kept: how many; those in which the LLM's score counts; of these, by a kept answer.
        degraded: candidates that were to be asked about and have no answer of the LLM, by reason.
        stages: seconds by name of the part of the way.
        rejected: refused by a server that is full.
    """

    at: float
    seconds: float | None
    candidates: int = 0
    routed: int = 0
    kept: int = 0
    evaluated: int = 0
    reused: int = 0
    degraded: dict[str, int] = field(default_factory=dict)
    stages: dict[str, float] = field(default_factory=dict)
    rejected: bool = False


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of a spot: columns over its requests in the order of their moments, and what was seen beside.

    Attributes:
        at: seconds from its beginning at which each was due.
        seconds: latency of each; None = no answer.
        stages: seconds of each by name; None where a request did not pass the stage.
        wall: seconds from the first moment to the last answer; of several processes, what the requests take at the
            rate of all of them at work.
        llm_seconds: the LLM at work meanwhile; None where nobody tells.
        joules: of the whole CPU meanwhile; None where it cannot be read.
        memory: bytes; see `points.Point`.
        rate: requests a second that were sent, Server only; rates: what this repeat's search for the largest one found.
    """

    spot: Spot
    repeat: int
    at: tuple[float, ...]
    seconds: tuple[float | None, ...]
    candidates: tuple[int, ...]
    routed: tuple[int, ...]
    kept: tuple[int, ...]
    evaluated: tuple[int, ...]
    reused: tuple[int, ...]
    degraded: dict[str, int]
    stages: dict[str, tuple[float | None, ...]]
    rejected: int
    wall: float
    noise: Noise
    llm_seconds: float | None = None
    joules: float | None = None
    memory: int | None = None
    rate: float | None = None
    rates: Rates | None = None

    @property
    def latency(self) -> Floats:
        """Seconds, float64 [n]; inf where no answer came."""
        return np.array([np.inf if one is None else one for one in self.seconds], np.float64)


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """What passed while requests were measured; see `Slice`."""

    wall: float
    noise: Noise
    llm_seconds: float | None = None
    joules: float | None = None
    memory: int | None = None


def sliced(
    spot: Spot, repeat: int, seen: Sequence[Seen], beside: Meanwhile, rate: float | None = None,
    rates: Rates | None = None,
) -> Slice:  # fmt: skip
    """The columns of requests."""
    names = dict.fromkeys(name for one in seen for name in one.stages)
    degraded = Counter[str]()
    for one in seen:
        degraded.update(one.degraded)
    return Slice(
        spot=spot, repeat=repeat, at=tuple(one.at for one in seen), seconds=tuple(one.seconds for one in seen),
        candidates=tuple(one.candidates for one in seen), routed=tuple(one.routed for one in seen),
        kept=tuple(one.kept for one in seen), evaluated=tuple(one.evaluated for one in seen),
        reused=tuple(one.reused for one in seen), degraded=dict(degraded),
        stages={name: tuple(one.stages.get(name) for one in seen) for name in names},
        rejected=sum(one.rejected for one in seen), wall=max(beside.wall, 1e-9), noise=beside.noise,
        llm_seconds=beside.llm_seconds, joules=beside.joules, memory=beside.memory, rate=rate, rates=rates,
    )  # fmt: skip
