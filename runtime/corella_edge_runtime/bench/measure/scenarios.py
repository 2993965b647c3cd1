"""How a spot is measured: SingleStream, Server and Offline, after MLPerf Inference (arXiv 1911.02549, section IV)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from corella_edge.stopping import Stopped, never
from corella_edge_runtime.bench.load.rates import nearest, on_grid
from corella_edge_runtime.bench.load.schedule import poisson
from corella_edge_runtime.bench.measure import machine, provenance
from corella_edge_runtime.bench.measure.budget import AGAIN, OVER, SPAN, TRIES, Share, rate
from corella_edge_runtime.bench.measure.energy import Rapl
from corella_edge_runtime.bench.measure.search import Search
from corella_edge_runtime.bench.measure.supply import Supply, bodies
from corella_edge_runtime.bench.measure.target import Target, rest
from corella_edge_runtime.bench.measure.worker import IN_FLIGHT, Workers
from corella_edge_runtime.bench.results.points import Rates
from corella_edge_runtime.bench.results.seen import Meanwhile, Seen, Slice, Spot, sliced

ALWAYS = "ratio:1"  # makes a new user a returning one: the prompt's beginning is read and kept
PILOT = 4  # requests a threshold, at the least, first to warm up and again to learn what they cost
Measured = tuple[list[Seen], float, float | None]  # what was seen, wall seconds, the LLM's seconds


@dataclass
class Bench:
    """What slices are measured with.

    Attributes:
        objective: quantile from 0 to 1 and seconds; None = no search for a rate.
        foreign: whether other processes can be told from what is measured.
        stop: whether somebody wants the benchmark to end.
        apart: mean seconds between requests of SingleStream, see `BenchSettings`.
        costs: seconds a request, by threshold; found: the first search for the largest rate, by threshold.
        shared: processes that rank together; None = not opened yet. While they wait, their memory is not counted.
    """

    target: Target
    supply: Supply
    rapl: Rapl
    ratios: dict[str, float | None]
    objective: tuple[float, float] | None
    seed: int
    foreign: bool = True
    costs: dict[str, float] = field(default_factory=dict)
    found: dict[str, Rates] = field(default_factory=dict)
    stop: Callable[[], bool] = never
    apart: float = 0.0
    shared: Workers | None = None

    def slice(self, spot: Spot, share: Share, repeat: int) -> Slice:
        """Measure a spot once. Raises Stopped."""
        self.go_on()
        if self.target.forget():
            self.supply.forgotten()
        first = self._searched(spot, share, repeat)
        before, joules = machine.ticks(whole=True), self.rapl.read()
        with ExitStack() as stack:
            threshold = self._routing(spot, stack)
            measure = {"single": self._single, "server": self._server, "offline": self._offline}[spot.scenario]
            seen, wall, llm = measure(spot, threshold, share, repeat)
        used = None if spot.users == "returning" else self.rapl.joules(joules, self.rapl.read())
        beside = Meanwhile(wall, provenance.noise(before, self.foreign), llm, used, self._memory(spot))
        at = self._rate(spot.threshold) if spot.scenario == "server" else None
        return sliced(spot, repeat, seen, beside, at, first or self._still(spot, share, repeat, seen))

    def _memory(self, spot: Spot) -> int | None:
        """Greatest resident bytes so far, without processes that had no part in it."""
        found = self.target.memory()
        idle = self.shared.memory() if self.shared is not None and spot.workers == 1 else 0
        return None if found is None else found - idle

    def pilot(self, thresholds: Sequence[str], seconds: float = 0.0) -> None:
        """Warm every path up, and learn what a request costs at each threshold, for so many seconds of each.

        Raises:
            Stopped: somebody wants the end.
        """
        for threshold in thresholds:
            self._asked(threshold, 0.0)
        self.costs |= {threshold: self._asked(threshold, seconds) for threshold in thresholds}

    def _asked(self, threshold: str, seconds: float) -> float:
        """Seconds of a request, in the mean of `PILOT` and of as many as so many seconds allow."""
        took, began = list[float](), time.monotonic()
        while len(took) < PILOT or time.monotonic() - began < seconds:
            self.go_on()
            found = self.target.ask(bodies(self.supply.new(1), threshold)[0]).seconds
            took.append(0.1 if found is None else found)
        return float(np.mean(took))

    def warm_up_shared(self) -> None:
        """Warm up processes that were just opened. Raises Stopped."""
        assert self.shared is not None
        self.shared.run(bodies(self.supply.new(PILOT * self.shared.count), ALWAYS), self.stop)

    def _routing(self, spot: Spot, stack: ExitStack) -> str | None:
        """The threshold to send; none where a share is drawn at random."""
        if spot.routing == "policy":
            return spot.threshold
        self.target.at_random(self.ratios[spot.threshold])
        stack.callback(self.target.at_random, None)
        return None

    def _single(self, spot: Spot, threshold: str | None, share: Share, repeat: int) -> Measured:
        """Each request when the one before is answered, or at its moment if that is later."""
        seen: list[Seen] = []
        llm, began = self.target.llm_seconds(), time.monotonic()
        due, rng = began, np.random.default_rng([self.seed, repeat, 12])
        for request in self.supply.new(share.requests):
            if spot.users == "returning":
                self.target.ask(bodies([request], ALWAYS)[0])
                request = self.supply.again(request)
            self.go_on()
            (body,) = bodies([request], threshold)
            due += rng.exponential(self.apart) if self.apart else 0.0
            rest(due - time.monotonic())
            at = time.monotonic() - began
            seen.append(self.target.ask(body))
            seen[-1].at = at
            if time.monotonic() - began >= share.seconds:
                break
        wall = sum(one.seconds or 0.0 for one in seen)
        if spot.users == "returning":  # what made them returning users is not to count
            return seen, wall, sum(one.stages.get("prefill", 0.0) for one in seen)
        return seen, wall, _since(llm, self.target.llm_seconds())

    def _server(self, spot: Spot, threshold: str | None, share: Share, repeat: int) -> Measured:
        """At random moments, whatever became of those before."""
        llm = self.target.llm_seconds()
        seen = self._stream(spot.threshold, self._rate(spot.threshold), share.requests, 10_000 + repeat)
        return seen, _last(seen), _since(llm, self.target.llm_seconds())

    def _rate(self, threshold: str) -> float:
        """The largest that was found; one at half load where none was looked for, or none holds."""
        found = self.found.get(threshold)
        return found.largest if found and found.largest else on_grid(nearest(rate(self.costs[threshold])))

    def go_on(self) -> None:
        """Raises Stopped: somebody wants the benchmark to end."""
        if self.stop():
            raise Stopped

    def _stream(self, threshold: str, per_second: float, count: int, seed: int) -> list[Seen]:
        self.go_on()
        if self.objective is not None:
            count = max(count, math.ceil(SPAN * self.objective[1] * per_second))
        moments = poisson(per_second, count / per_second, self.seed * 20_000 + seed) or [0.0]
        return self.target.stream(bodies(self.supply.new(len(moments)), threshold), moments, stop=self.stop)

    def _search(self, spot: Spot, share: Share, repeat: int, tries: int) -> Search | None:
        """For the largest rate, which ends early where it takes longer than its part of the budget, so many tries; None
        where none is looked for."""
        if spot.scenario != "server" or self.objective is None:
            return None

        def send(per_second: float, number: int) -> list[Seen]:
            return self._stream(spot.threshold, per_second, share.requests, 100 * repeat + number)

        limit = self.objective[1]
        return Search(send, *self.objective, time.monotonic() + tries * max(share.seconds, OVER * SPAN * limit))

    def _searched(self, spot: Spot, share: Share, repeat: int) -> Rates | None:
        """The first search; None where there was one."""
        search = self._search(spot, share, repeat, TRIES)
        if search is None or spot.threshold in self.found:
            return None
        found = self.found[spot.threshold] = search.first(rate(self.costs[spot.threshold]))
        return found

    def _still(self, spot: Spot, share: Share, repeat: int, seen: Sequence[Seen]) -> Rates | None:
        """The largest rate now, by requests that were sent at what was the largest."""
        search = self._search(spot, share, repeat, AGAIN)
        return None if search is None else search.again(self._rate(spot.threshold), seen)

    def _offline(self, spot: Spot, threshold: str | None, share: Share, repeat: int) -> Measured:
        """All at once: the next one as soon as there is room."""
        sent = bodies(self.supply.new(share.requests), threshold)
        if spot.workers > 1:
            assert self.shared is not None
            return self.shared.run(sent, self.stop)
        llm = self.target.llm_seconds()
        seen = self.target.stream(sent, [0.0] * len(sent), IN_FLIGHT, self.stop)
        return seen, _last(seen), _since(llm, self.target.llm_seconds())


def _last(seen: Sequence[Seen]) -> float:
    """When the last answer came, seconds from the beginning."""
    return max((one.at + (one.seconds or 0.0) for one in seen), default=0.0)


def _since(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
