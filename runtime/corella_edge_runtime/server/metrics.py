"""What the server counts. Every instance has its own registry, so that two apps in a process do not mix.

docs/serve.md has a table of these; a test compares the two.
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from corella_edge import __version__
from corella_edge.routing.measure import Measure
from corella_edge.routing.policy import Routing
from corella_edge.routing.reasons import KEPT
from corella_edge.scores import Scores
from corella_edge_runtime.llm.contract.endings import EXITS
from corella_edge_runtime.server.fleet import Fleet, Member
from corella_edge_runtime.server.guard.connections import ConnectionCounters
from corella_edge_runtime.server.signals import SignalCollector, Signals

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
LLM_TOTALS = {
    "prompts": "Prompts that got a probability from the LLM.",
    "evaluated_tokens": "Prompt tokens the LLM has computed.",
    "reused_tokens": "Prompt tokens the LLM took from kept or shared prefixes instead.",
    "decodes": "Calls of llama.cpp's decode.",
    "prefix_hits": "Prefixes of a decode that were kept in whole.",
    "prefix_misses": "Prefixes of a decode of which some was computed.",
    "evictions": "Kept prefixes that left because the budget was full.",
    "aborted": "Decodes given up because nobody waited any more.",
    "not_asked": "Prompts that were not asked because they would not have been answered in time.",
    "expired": "Requests to the LLM that their deadline or caller ended.",
    "refused": "Requests to the LLM refused because its queue was full, in tokens or in time.",
    "errors": "Decodes that failed or returned NaN.",
    "renewals": "Contexts of the LLM that were replaced because they were broken.",
    "breaker_opened": "Times the circuit breaker opened because the LLM failed or was silent.",
    "restarts": "Times the LLM's process was started again.",
    "busy_seconds": "Seconds the LLM's thread was at work.",
}
LLM_NOW = {
    "queued_tokens": "Prompt tokens that wait for the LLM or are at work.",
    "waiting_seconds": "Seconds of work, as estimated, that wait for the LLM or are in hand.",
    "breaker_open": "1 while the circuit breaker is open and the LLM is not asked, else 0.",
    "kept_prefixes": "Prefixes kept for users who return.",
    "kept_tokens": "Tokens of the kept prefixes.",
    "kept_bytes": "Memory of the kept prefixes.",
    "tokens_per_second": "Rate at which full decodes compute prompt tokens, a running mean.",
}

HELD_NOW = {
    "target_share": "The share of the candidates that --target-ratio asks for; NaN without it.",
    "target_llm_seconds": "LLM seconds a second that --target-ms allows this version; NaN without it.",
    "held_share": "Share of the candidates that the LLM was asked about, over the target's window; NaN without one.",
    "held_llm_seconds": "LLM seconds a second over the target's window; NaN without one.",
    "held_level": "Share of the calibration rows at which the target has put the threshold; NaN without one.",
    "held_frozen": "1 while the target moves nothing because data are missing, 0 while it does; NaN without one.",
}
KEPT_TOTALS = {
    "kept_answer_hits": "Routed candidates that got a kept answer of the LLM.",
    "kept_answer_misses": "Routed candidates for which no answer was kept.",
}
KEPT_NOW = {"kept_answers": "Answers of the LLM that are kept."}

CRM_TOTALS = {
    "crm_events_read": "Events of users that the CRM has read.",
    "crm_events_reused": "Events of users that the CRM had read for an earlier request, and kept.",
    "crm_history_hits": "Histories that were kept in whole.",
    "crm_history_misses": "Histories of which some event was read.",
    "crm_evictions": "Kept histories that left because the budget was full.",
}
CRM_NOW = {
    "crm_kept_histories": "Histories whose events the CRM has read and keeps.",
    "crm_kept_bytes": "Memory of the kept histories.",
}


class Metrics:
    """Counters of one server; what is counted for each loaded version has the label `bundle`, the version's id."""

    def __init__(self, fleet: Fleet) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "corella_edge_requests", "HTTP requests answered.", ["route", "status"], registry=registry
        )
        self.seconds = Histogram(
            "corella_edge_request_seconds", "From a request's headers to the end of its answer.",
            ["route"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.candidates = Counter(
            "corella_edge_candidates",
            "Candidates scored, by outcome: easy (the CRM's score; the LLM was not wanted), llm (the LLM's), "
            "kept (the LLM's of earlier), or why the LLM was wanted and did not answer.",
            ["bundle", "outcome"], registry=registry,
        )  # fmt: skip
        self.rank_seconds = Histogram(
            "corella_edge_rank_seconds", "From the arrival of a request's body to its scores, by version.",
            ["bundle"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.unknown = Counter(
            "corella_edge_unknown", "Candidates with a value the CRM has never seen, by field.",
            ["bundle", "field"], registry=registry,
        )  # fmt: skip
        self.refused_unknown = Counter(
            "corella_edge_unknown_refused", "Requests refused for a value the CRM has never seen, by field.",
            ["bundle", "field"], registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge("corella_edge_rank_in_flight", "Rank requests being read, waiting or running.",
                               registry=registry)  # fmt: skip
        self.ready = Gauge("corella_edge_ready", "1 when the server is ready, else 0.", registry=registry)
        self.refused = Gauge("corella_edge_version_refused", "1 while what the site asks for was refused, else 0.",
                             registry=registry)  # fmt: skip
        self.store_lost = Gauge("corella_edge_store_lost", "1 while the store's file is not the one opened, else 0.",
                                registry=registry)  # fmt: skip
        self.decisions_lost = Gauge(
            "corella_edge_decisions_lost", "Decisions that the log did not keep: it was too slow, or its disk failed.",
            registry=registry,
        )  # fmt: skip
        self.slo_factor = Gauge(
            "corella_edge_slo_factor", "Of the share that would be asked about, what --slo leaves; 1 = all.",
            registry=registry,
        )  # fmt: skip
        self.shadow_requests = Counter(
            "corella_edge_shadow_requests", "Requests drawn for the LLM beside their answer, by outcome: asked, or why "
            "not (budget, busy, full).", ["outcome"], registry=registry,
        )  # fmt: skip
        for outcome in ("asked", "budget", "busy", "full"):
            self.shadow_requests.labels(outcome)
        self.shadow_answers = Counter(
            "corella_edge_shadow_answers", "Candidates that the LLM scored beside the requests.", registry=registry
        )
        self.connections = ConnectionCounters()
        self._children: dict[tuple[Any, ...], Any] = {}
        self.signals = Signals()
        registry.register(_Versions(fleet))
        registry.register(SignalCollector(fleet, self.signals))
        registry.register(_Connections(self.connections))
        ProcessCollector(registry=registry)

    def answered(self, route: str, status: int, seconds: float) -> None:
        """One HTTP request is done."""
        self._of(self.requests, route, str(status)).inc()
        self._of(self.seconds, route).observe(seconds)

    def scored(
        self, scores: Scores, version: str, seconds: float, routing: tuple[Routing, Measure] | None = None
    ) -> None:
        """One request's candidates are scored; `routing`: what the bundle says of it and the measure that the version
        goes by, where they tell of drift."""
        self._of(self.rank_seconds, version).observe(seconds)
        for outcome, number in _outcomes(scores).items():
            self._of(self.candidates, version, outcome).inc(number)
        unknown = _unknown(scores)
        for field, number in unknown.items():
            self._of(self.unknown, version, field).inc(number)
        if routing is not None:
            self.signals.add(version, *routing, scores, unknown)

    def unknown_refused(self, version: str, field: str) -> None:
        """One request is refused because of an unseen value of a field."""
        self._of(self.refused_unknown, version, field).inc()

    def shadowed(self, outcome: str, answers: int) -> None:
        """A request was drawn for the LLM beside its answer. Any thread may say so."""
        self.shadow_requests.labels(outcome).inc()
        self.shadow_answers.inc(answers)

    def _of(self, metric: Any, *labels: str) -> Any:
        """The metric with these labels; asked for by itself it is looked up under a lock, label by label."""
        key = (metric, *labels)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = metric.labels(*labels)
        return found

    def text(self, accept: str) -> tuple[bytes, str]:
        """All metrics and their content type, in the form the `Accept` header asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


def _outcomes(scores: Scores) -> Mapping[str, int]:
    if not any(scores.reason):
        return {"easy": len(scores.reason)}
    return collections.Counter(map(_outcome, scores.routed.tolist(), scores.reason))


def _unknown(scores: Scores) -> Mapping[str, int]:
    """Candidates by field that has a value never seen; mostly the same fields, the user's own, for all of them."""
    found = scores.unknown
    if found and found.count(found[0]) == len(found):
        return dict.fromkeys(found[0], len(found))
    return collections.Counter(chain.from_iterable(found))


def _outcome(routed: bool, reason: str) -> str:
    return (KEPT if reason == KEPT else "llm") if routed else reason or "easy"


class _Versions(Collector):
    """What the loaded versions say of themselves when asked, so that nothing is counted twice."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet

    def collect(self) -> Iterator[Metric]:
        live, canary, members = self.fleet.live, self.fleet.canary, self.fleet.members
        build = InfoMetricFamily("corella_edge_build", "Version in use, and the live bundle's.")
        build.add_metric([], {"version": __version__, "bundle": live.version if live else ""})
        yield build
        share = GaugeMetricFamily("corella_edge_version_share", "Share of users a version answers.", labels=["bundle"])
        for member in members:
            given = {id(live): 1.0 - self.fleet.share, id(canary): self.fleet.share}.get(id(member), 0.0)
            share.add_metric([member.version], given)
        yield share
        stats = [(member.version, member.ranker.stats()) for member in members]
        yield _exits(stats)
        yield _kernels(members)
        yield from _families(LLM_TOTALS, CounterMetricFamily, stats, "llm_")
        yield from _families(LLM_NOW, GaugeMetricFamily, stats, "llm_")
        yield from _families(CRM_TOTALS, CounterMetricFamily, stats)
        yield from _families(CRM_NOW, GaugeMetricFamily, stats)
        yield from _families(HELD_NOW, GaugeMetricFamily, stats, absent=math.nan)
        yield from _families(KEPT_TOTALS, CounterMetricFamily, stats)
        yield from _families(KEPT_NOW, GaugeMetricFamily, stats)


def _exits(stats: Sequence[tuple[str, Mapping[str, float]]]) -> Metric:
    metric = CounterMetricFamily(
        "corella_edge_llm_exits",
        "Times the LLM's process ended, by cause: a signal's name, its exit status, or silent.",
        labels=["bundle", "cause"],
    )
    for version, found in stats:
        for name, number in found.items():
            if name.startswith(EXITS):
                metric.add_metric([version, name.removeprefix(EXITS)], number)
    return metric


def _kernels(members: Sequence[Member]) -> Metric:
    metric = InfoMetricFamily(
        "corella_edge_llm_kernels", "Which of llama.cpp's libraries computes, and whether all its kernels are used.",
        labels=["bundle"],
    )  # fmt: skip
    for member in members:
        llm = member.ranker.llm
        verdict = None if llm is None else llm.verdict
        if verdict is not None:
            metric.add_metric([member.version], {"variant": verdict.variant, "kernels": verdict.kernels})
    return metric


def _families(
    texts: Mapping[str, str], family: type[CounterMetricFamily | GaugeMetricFamily],
    stats: Sequence[tuple[str, Mapping[str, float]]], side: str = "", absent: float = 0.0,
) -> Iterator[Metric]:  # fmt: skip
    for name, text in texts.items():
        metric = family(f"corella_edge_{side}{name}", text, labels=["bundle"])
        for version, found in stats:
            metric.add_metric([version], found.get(name, absent))
        yield metric


class _Connections(Collector):
    def __init__(self, counters: ConnectionCounters) -> None:
        self.counters = counters

    def collect(self) -> Iterator[Metric]:
        found = self.counters
        yield GaugeMetricFamily("corella_edge_connections", "Open connections.", value=found.open)
        yield CounterMetricFamily(
            "corella_edge_connections_refused", "Connections refused: too many were open.", value=found.refused
        )
        yield CounterMetricFamily(
            "corella_edge_connections_timed_out", "Connections ended: the client was too slow.", value=found.timed_out
        )
