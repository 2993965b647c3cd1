"""Benchmarks side by side: which figures differ by more than their intervals, and whether anything may be said at all.

A difference is shown where the two intervals have no value in common. Figures without an interval are not judged. Of
many figures some differ by chance, so a regression must also be seen with intervals that are wide enough for all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Literal

from corella_edge_runtime.bench.reports import shown
from corella_edge_runtime.bench.reports.facts import provenance
from corella_edge_runtime.bench.results.circumstances import Figure, Scenario
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import QualityPoint, Result

Verdict = Literal["faster", "slower", "better", "worse", "no difference shown", "not judged"]
Key = tuple[Scenario, str, str, bool]  # scenario, users, what was asked for, more than one process
LATENCIES = ("p50", "p90", "p95", "p99", "p999")
METRICS = {"auc": True, "uauc": True, "logloss": False, "ece": False}  # whether more is better
QUALITY = "Quality"  # where a row of quality stands
SAME_RATE = 0.05  # rates that differ by no more are the same load
# What two reports may differ in without a word: they are made at different times.
UNSAID = ("measured", "points", "other processes, other virtual machines")


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of every result.

    Attributes:
        where: scenario, users and what was asked for; `name` of the figure with its unit.
        figures: of each result, in their order; None where it has none.
        more: whether more is better; `speed` whether it is about time, and so can be a regression.
    """

    where: str
    name: str
    figures: tuple[Figure | None, ...]
    more: bool
    speed: bool

    def verdicts(self, factor: float = 1.0) -> tuple[Verdict, ...]:
        """Of each result after the first, against the first; `factor` widens all intervals."""
        base, *others = (widened(figure, factor) for figure in self.figures)
        return tuple(verdict(base, other, self.more, self.speed) for other in others)

    def slowdowns(self) -> tuple[float | None, ...]:
        """How much longer (or worse) than the first, of each after it, as a share: 0.05 is 5 % more time."""
        return tuple(slowdown(self.figures[0], other, self.more) for other in self.figures[1:])


@dataclass(frozen=True)
class Comparison:
    """Results against the first of them.

    Attributes:
        names: of the results, as people call them.
        differs: what differs in provenance: (what, its value in each).
        void: why nothing may be concluded; empty = it may. `warnings`: what a reader must know besides.
    """

    names: tuple[str, ...]
    results: tuple[Result, ...]
    differs: tuple[tuple[str, tuple[str, ...]], ...]
    void: tuple[str, ...]
    warnings: tuple[str, ...]
    rows: tuple[ComparedFigure, ...]
    most: float = field(default=0.05)

    def regressions(self) -> list[tuple[str, ComparedFigure, float]]:
        """Figures of time that are slower by more than `most`, even with widened intervals: (name of the result, row,
        slowdown)."""
        factor = widening(sum(row.speed for row in self.rows) * (len(self.names) - 1))
        return [(name, row, by) for row in self.rows if row.speed
                for name, said, by in zip(self.names[1:], row.verdicts(factor), row.slowdowns(), strict=True)
                if said == "slower" and by is not None and by > self.most]  # fmt: skip


def verdict(base: Figure | None, other: Figure | None, more: bool, speed: bool) -> Verdict:
    """Of `other` against `base`; with both exchanged it is the opposite. `more`: whether more is better."""
    if base is None or other is None or None in (base.low, base.high, other.low, other.high):
        return "not judged"
    above, below = _above(other, base), _above(base, other)
    if not above and not below:
        return "no difference shown"
    if above == more:
        return "faster" if speed else "better"
    return "slower" if speed else "worse"


def _above(a: Figure, b: Figure) -> bool:
    """Whether the whole interval of `a` lies above that of `b`."""
    return a.low is not None and b.high is not None and a.low > b.high


def widened(found: Figure | None, factor: float) -> Figure | None:
    """The same with both ends of the interval so many times as far from the value."""
    if found is None or found.value is None or found.low is None or found.high is None:
        return found
    return Figure(found.value, found.value - factor * (found.value - found.low),
                  found.value + factor * (found.high - found.value))  # fmt: skip


def widening(number: int) -> float:
    """By which factor 95 % intervals must be widened so that of so many pairs of them, all of equal things, one lies
    above the other in no more than one comparison in twenty (Bonferroni).

    Intervals of equal width whose ends are 1.96 standard errors away part at a difference of 2 * 1.96 of them, and a
    difference of two has a standard error of √2.
    """
    wanted = NormalDist().inv_cdf(1.0 - 0.05 / max(1, number))
    return max(1.0, wanted / (math.sqrt(2.0) * NormalDist().inv_cdf(0.975)))


def slowdown(base: Figure | None, other: Figure | None, more: bool) -> float | None:
    """By which share `other` is worse than `base`: of a time the time, of a rate what each one takes."""
    if base is None or other is None or not base.value or not other.value:
        return None
    return base.value / other.value - 1.0 if more else other.value / base.value - 1.0


def compare(names: Sequence[str], results: Sequence[Result], most: float = 0.05) -> Comparison:
    """All of them against the first; `most` is the slowdown from which on a slower figure is a regression."""
    rows = tuple(_rows(results))
    void = [*_unusable(names, results), *_unlike(results)]
    if not any(row.speed for row in rows):
        void.append("They have no point in common: the same scenario, users and threshold.")
    warnings = tuple(_warnings(results))
    return Comparison(tuple(names), tuple(results), differences(results), tuple(void), warnings, rows, most)


def differences(results: Sequence[Result]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What differs in provenance: (what, its value in each result)."""
    columns = [dict(provenance(result)) for result in results]
    found = [(what, tuple(column[what] for column in columns)) for what in columns[0] if what not in UNSAID]
    return tuple((what, values) for what, values in found if len(set(values)) > 1)


def _unusable(names: Sequence[str], results: Sequence[Result]) -> list[str]:
    """Results whose own figures must not be used."""
    states = [(name, shown.state(result)) for name, result in zip(names, results, strict=True)]
    return [f"{name}: {words}. {reasons[0]}" for name, (kind, words, reasons) in states if kind != "quiet"]


def _unlike(results: Sequence[Result]) -> list[str]:
    """Results that measure different things."""
    found = []
    if len({round(result.data.candidates, 2) for result in results}) > 1:
        counts = ", ".join(f"{result.data.candidates:.4g}" for result in results)
        found.append(f"Requests have different numbers of candidates ({counts}), and so cost different times.")
    if len({result.settings.transport for result in results}) > 1:
        found.append("Some were measured in process and others over HTTP.")
    return found


def _warnings(results: Sequence[Result]) -> list[str]:
    found = []
    if len({result.data.sha256 for result in results}) > 1:
        found.append("The requests are not the same ones.")
    if len({result.settings.slo for result in results}) > 1:
        found.append("The objectives differ: goodput and the largest rate are left out.")
    if not all(result.complete for result in results):
        found.append("A run was interrupted: what all of them have measured is compared.")
    for key, points in _common(results):
        if _differ(points[0].share, points[1:]):
            shares = ", ".join(shown.percent(point.share) for point in points)
            found.append(f"{_where(key, points[0])}: realised shares differ ({shares}), and with them the LLM's work.")
        if key[0] == "server" and not _same_load(points):
            sent = ", ".join(shown.digits(point.rate) for point in points)
            found.append(f"{_where(key, points[0])}: sent at different rates ({sent}/s); its latencies are left out.")
    return found


def _differ(base: Figure, others: Iterable[Point]) -> bool:
    return any(verdict(base, other.share, True, False) in ("better", "worse") for other in others)


def _same_load(points: Sequence[Point]) -> bool:
    rates = [point.rate for point in points if point.rate]
    return not rates or (len(rates) == len(points) and max(rates) <= (1 + SAME_RATE) * min(rates))


def _common(results: Sequence[Result]) -> list[tuple[Key, list[Point]]]:
    """The points of the policy that all results have, one of each result, in the first one's order."""
    columns = [{_key(point): point for point in result.points if point.routing == "policy"} for result in results]
    return [(key, [column[key] for column in columns]) for key in columns[0] if all(key in one for one in columns)]


def _key(point: Point) -> Key:
    return point.scenario, point.users, shown.asked(point), point.workers > 1


def _where(key: Key, point: Point) -> str:
    cores = ", all cores" if key[3] else ""
    return f"{shown.SCENARIOS[point.scenario]}, {shown.USERS[point.users]}{cores}, {shown.asked(point)}"


def _rows(results: Sequence[Result]) -> Iterable[ComparedFigure]:
    held = len({result.settings.slo for result in results}) == 1
    for key, points in _common(results):
        yield from _point_rows(_where(key, points[0]), key, points, held)
    yield from _quality_rows(results)


def _point_rows(where: str, key: Key, points: Sequence[Point], held: bool) -> Iterable[ComparedFigure]:
    # At once: what a request waits there is the length of the queue, which throughput tells.
    if key[0] != "offline" and _same_load(points):
        for name in LATENCIES:
            if all(name in point.latency.supported for point in points):
                found = tuple(shown.spread(point, name) for point in points)
                yield ComparedFigure(where, f"{shown.PERCENTILES[name]} ms", found, more=False, speed=True)
    if key[0] != "server":
        rates = tuple(shown.spread(point, "requests_per_s") for point in points)
        yield ComparedFigure(where, "requests/s", rates, more=True, speed=True)
    if held and any(point.rates for point in points):  # a step of the grid is a quarter: no regression by itself
        yield ComparedFigure(where, "largest rate/s", tuple(map(shown.largest, points)), more=True, speed=False)
    work = tuple(Figure(point.llm_ms_per_thousand) for point in points)
    yield ComparedFigure(where, "LLM ms per 1,000 requests", work, more=False, speed=True)
    yield ComparedFigure(where, "memory MiB", tuple(map(_memory, points)), more=False, speed=False)


def _memory(point: Point) -> Figure | None:
    return None if point.memory_bytes is None else Figure(point.memory_bytes / 2**20)


def _quality_rows(results: Sequence[Result]) -> Iterable[ComparedFigure]:
    columns = [{shown.asked(point): point for point in result.quality.points if point.line == "policy"}
               for result in results]  # fmt: skip
    for asked in columns[0]:
        same = [column[asked] for column in columns if asked in column]
        for name, more in METRICS.items():
            if len(same) == len(columns) and all(_known(one, name) for one in same):
                found = tuple(one.metrics[name] for one in same)
                yield ComparedFigure(f"{QUALITY}, {asked}", shown.METRICS[name], found, more, speed=False)


def _known(point: QualityPoint, name: str) -> bool:
    return name in point.metrics and point.metrics[name].value is not None
