"""What the metrics say of drift: for each loaded version, `corella_edge.routing.drift` over what it has answered."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from corella_edge.routing import drift
from corella_edge.routing.drift import Drift
from corella_edge.routing.measure import Floats, Measure
from corella_edge.routing.policy import Routing
from corella_edge.scores import Scores
from corella_edge_runtime.server.fleet import Fleet

TOGETHER = 32  # requests that are looked at in one go: a hundredth of a millisecond each, instead of a tenth


class Signals:
    """The state of each version. Any thread may add and read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._states: dict[str, Drift] = {}
        self._measures: dict[str, Measure] = {}
        self._waiting: dict[str, list[tuple[Scores, Mapping[str, int]]]] = {}

    def add(self, version: str, routing: Routing, measure: Measure, scores: Scores, unknown: Mapping[str, int]) -> None:
        """One request's candidates, scored by a version whose bundle says this of routing and that goes by this
        measure; how many of them have an unseen value, by field."""
        with self._lock:
            if version not in self._states:
                self._measures[version] = measure
                self._states[version] = drift.begin(routing.calibration_of(measure))
            waiting = self._waiting.setdefault(version, [])
            waiting.append((scores, unknown))
            if len(waiting) >= TOGETHER:
                self._look(version)

    def of(self, version: str) -> Drift | None:
        """What was seen of a version until now; None: nothing."""
        with self._lock:
            if version in self._states:
                self._look(version)
            return self._states.get(version)

    def keep(self, versions: set[str]) -> None:
        """Forget all others."""
        with self._lock:
            for version in self._states.keys() - versions:
                del self._states[version], self._measures[version]
                self._waiting.pop(version, None)

    def _look(self, version: str) -> None:
        """Take in what waits; without any, time has passed all the same."""
        state, waiting = self._states[version], self._waiting.pop(version, [])
        crm = np.concatenate([scores.crm for scores, _ in waiting]) if waiting else np.empty(0)
        llm = np.concatenate([scores.llm for scores, _ in waiting]) if waiting else np.empty(0)
        routed = np.concatenate([scores.routed for scores, _ in waiting]) if waiting else np.empty(0, np.bool_)
        items, users = (sum(unknown.get(field, 0) for _, unknown in waiting) for field in ("item", "user"))
        value = _values(self._measures[version], [scores for scores, _ in waiting], crm)
        more = drift.batch(value, routed, crm, llm, items, users, state.histogram)
        self._states[version] = drift.observed(state, more, self._clock())


def _values(measure: Measure, requests: Sequence[Scores], crm: Floats) -> Floats:
    """The measure's values of all candidates whose requests hold what it looks at: those with a threshold of their own
    may not. `crm` float64 [n] is of all."""
    if not measure.needs:
        return measure(crm)
    known = [scores for scores in requests if all(name in scores.inputs for name in measure.needs)]
    return np.concatenate([measure(scores.crm, scores.inputs) for scores in known]) if known else np.empty(0)


class SignalCollector(Collector):
    """The signals of the loaded versions as gauges."""

    def __init__(self, fleet: Fleet, signals: Signals) -> None:
        self._fleet, self._signals = fleet, signals

    def collect(self) -> Iterator[Metric]:
        versions = [member.version for member in self._fleet.members]
        self._signals.keep(set(versions))
        share = GaugeMetricFamily(
            "corella_edge_routed_share", "Share of the candidates in which the LLM's score counted, over a window.",
            labels=["bundle", "window"],
        )  # fmt: skip
        psi = GaugeMetricFamily(
            "corella_edge_measure_psi",
            "Population stability index of the policy's measure against the calibration rows.",
            labels=["bundle"],
        )  # fmt: skip
        unknown = GaugeMetricFamily(
            "corella_edge_unknown_share", "Share of the candidates with an id that the CRM has never seen.",
            labels=["bundle", "field"],
        )  # fmt: skip
        apart = GaugeMetricFamily(
            "corella_edge_llm_minus_base", "Mean of the LLM's probability minus the CRM's, where the LLM answered.",
            labels=["bundle"],
        )  # fmt: skip
        for version in versions:
            state = self._signals.of(version)
            fast, slow = (math.nan, math.nan) if state is None else (state.share(state.fast), state.share(state.slow))
            share.add_metric([version, "fast"], fast)
            share.add_metric([version, "slow"], slow)
            psi.add_metric([version], math.nan if state is None else state.psi)
            for field in ("item", "user"):
                unknown.add_metric([version, field], math.nan if state is None else state.unknown[field])
            apart.add_metric([version], math.nan if state is None else state.llm_minus_base)
        yield from (share, psi, unknown, apart)
