"""How a spot is measured: SingleStream, Server and Offline, after MLPerf Inference (arXiv 1911.02549, section IV)."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from corella_edge.routing.reasons import NoAnswer
from corella_edge.stopping import Stopped, never
from corella_edge_runtime.bench.load.rates import highest, holds
from corella_edge_runtime.bench.load.schedule import poisson
from corella_edge_runtime.bench.measure import machine, provenance
from corella_edge_runtime.bench.measure.budget import LEAST_TRY, TRIES, Share, rate
from corella_edge_runtime.bench.measure.energy import Rapl
from corella_edge_runtime.bench.measure.supply import Supply, bodies
from corella_edge_runtime.bench.measure.target import Target, rest
from corella_edge_runtime.bench.measure.worker import IN_FLIGHT
from corella_edge_runtime.bench.results.histogram import at_rank
from corella_edge_runtime.bench.results.points import Rates, Try
from corella_edge_runtime.bench.results.seen import Meanwhile, Seen, Slice, Spot, sliced

ALWAYS = "ratio:1"  # makes a new user a returning one: the prompt's beginning is read and kept
PRECISION = 0.1  # of the largest rate
LEFT_OUT = 0.01  # a rate at which more of the routed candidates go without the LLM is not held: it is not asked for
WHATEVER_THE_LOAD = (NoAnswer.NO_LLM, NoAnswer.NO_TEXT, NoAnswer.TOO_LONG)
PILOT = 4  # requests a threshold, untimed, whose cost says how many the budget allows
Measured = tuple[list[Seen], float, float | None]  # what was seen, wall seconds, the LLM's seconds


@dataclass
class Bench:
    """What slices are measured with.

    Attributes:
        objective: quantile from 0 to 1 and seconds; None = no search for a rate.
        foreign: whether other processes can be told from what is measured.
        stop: whether somebody wants the benchmark to end.
        apart: mean seconds between requests of SingleStream, see `BenchSettings`.
        shared: ranks requests on several processes: what was seen, wall seconds, the LLMs' seconds.
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
    shared: Callable[[Sequence[bytes], Callable[[], bool]], Measured] | None = None

    def slice(self, spot: Spot, share: Share, repeat: int) -> Slice:
        """Measure a spot once. Raises Stopped."""
        self.go_on()
        if self.target.forget():
            self.supply.forgotten()
        before, joules = machine.ticks(whole=True), self.rapl.read()
        with ExitStack() as stack:
            threshold = self._routing(spot, stack)
            measure = {"single": self._single, "server": self._server, "offline": self._offline}[spot.scenario]
            seen, wall, llm = measure(spot, threshold, share, repeat)
        used = None if spot.users == "returning" else self.rapl.joules(joules, self.rapl.read())
        beside = Meanwhile(wall, provenance.noise(before, self.foreign), llm, used, self.target.memory())
        rates = self.found.get(spot.threshold) if spot.scenario == "server" else None
        at = self._rate(spot.threshold) if spot.scenario == "server" else None
        return sliced(spot, repeat, seen, beside, at, rates)

    def pilot(self, thresholds: Sequence[str]) -> None:
        """Warm every path up, and learn what a request costs at each threshold. Raises Stopped."""
        for threshold in thresholds:
            took = []
            for body in bodies(self.supply.new(PILOT), threshold):
                self.go_on()
                took.append(self.target.ask(body).seconds)
            self.costs[threshold] = float(np.mean([one for one in took if one is not None] or [0.1]))

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
        threshold = spot.threshold
        if self.objective is not None and threshold not in self.found:
            self.found[threshold] = self._largest(threshold, share, *self.objective)
        llm = self.target.llm_seconds()
        seen = self._stream(threshold, self._rate(threshold), share.requests, 1000 + repeat)
        return seen, _last(seen), _since(llm, self.target.llm_seconds())

    def _rate(self, threshold: str) -> float:
        """The largest that was found; one at half load where none was looked for, or none holds."""
        found = self.found.get(threshold)
        return found.largest if found and found.largest else rate(self.costs[threshold])

    def go_on(self) -> None:
        """Raises Stopped: somebody wants the benchmark to end."""
        if self.stop():
            raise Stopped

    def _stream(self, threshold: str, per_second: float, count: int, seed: int) -> list[Seen]:
        self.go_on()
        moments = poisson(per_second, count / per_second, self.seed * 10_000 + seed) or [0.0]
        return self.target.stream(bodies(self.supply.new(len(moments)), threshold), moments, stop=self.stop)

    def _largest(self, threshold: str, share: Share, quantile: float, limit: float) -> Rates:
        """The search; it ends early where it takes longer than its part of the budget."""
        tries: list[Try] = []
        count = max(LEAST_TRY, share.requests)
        end = time.monotonic() + TRIES * share.seconds * count / share.requests

        def held(per_second: float) -> bool:
            if tries and time.monotonic() >= end:
                return False
            seen = self._stream(threshold, per_second, count, len(tries))
            latency = np.array([np.inf if one.seconds is None else one.seconds for one in seen])
            kept = holds(latency, quantile, limit) and left_out(seen) <= LEFT_OUT
            reached = at_rank(latency, quantile)
            told = 1000.0 * reached if np.isfinite(reached) else None
            tries.append(Try(rate=per_second, p99=told, held=kept, requests=len(seen)))
            return kept

        largest = highest(held, rate(self.costs[threshold]), PRECISION)
        above = [one.rate for one in tries if not one.held and one.rate > largest]
        return Rates(largest=largest, first_failed=min(above, default=None), tries=tuple(tries),
                     cut=time.monotonic() >= end)  # fmt: skip

    def _offline(self, spot: Spot, threshold: str | None, share: Share, repeat: int) -> Measured:
        """All at once: the next one as soon as there is room."""
        sent = bodies(self.supply.new(share.requests), threshold)
        if spot.workers > 1:
            assert self.shared is not None
            return self.shared(sent, self.stop)
        llm = self.target.llm_seconds()
        seen = self.target.stream(sent, [0.0] * len(sent), IN_FLIGHT, self.stop)
        return seen, _last(seen), _since(llm, self.target.llm_seconds())


def left_out(seen: Sequence[Seen]) -> float:
    """The share of the routed candidates that have no answer of the LLM because there was too much to do."""
    missing = sum(count for one in seen for reason, count in one.degraded.items() if reason not in WHATEVER_THE_LOAD)
    return missing / max(1, missing + sum(one.routed for one in seen))


def _last(seen: Sequence[Seen]) -> float:
    """When the last answer came, seconds from the beginning."""
    return max((one.at + (one.seconds or 0.0) for one in seen), default=0.0)


def _since(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
