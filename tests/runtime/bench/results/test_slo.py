"""The law fitted on requests one at a time, held against a simulated machine under load."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corella_edge.routing.load import Draws, Load, reached
from corella_edge_runtime.bench.reports import report, shown
from corella_edge_runtime.bench.results import slo
from corella_edge_runtime.bench.results.histogram import at_rank
from corella_edge_runtime.bench.results.result import read
from corella_edge_runtime.bench.results.seen import Spot
from corella_edge_runtime.bench.results.slo import Measured, MeasuredShare
from known_machine import KnownMachine

RATIOS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
QPS = 20.0
COLD = KnownMachine(prefix=0.005, suffix=0.0004, cold=0.4)
DRAWS = Draws.of(np.random.default_rng(5))


def rows(machine: KnownMachine, requests: int, seed: int = 0) -> list[MeasuredShare]:
    """A benchmark of it, one request at a time, as far apart as those to come."""
    rng = np.random.default_rng(seed)
    found = []
    for ratio in RATIOS:
        spot = Spot(scenario="single", threshold=f"ratio:{ratio:g}")
        row = slo.of_slices([machine.slice(rng, spot, ratio, requests, QPS)], ratio, 0, 1)
        assert row is not None
        found.append(row)
    return found


def p99(machine: KnownMachine, share: float, qps: float = QPS, requests: int = 40_000) -> float:
    rng = np.random.default_rng(99)
    return at_rank(machine.latencies(rng, machine.asked(rng, share, requests), qps), 0.99)


def said(found: Measured, share: float, qps: float = QPS) -> float:
    return reached(found.cold, Load(qps, COLD.n, found.correlations), share, DRAWS).p99


@pytest.fixture(scope="module")
def cold() -> Measured:
    return slo.fitted(rows(COLD, 6000))


@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2])
def test_a_tail_that_depends_on_the_rest_is_predicted(cold: Measured, share: float) -> None:
    assert said(cold, share) == pytest.approx(p99(COLD, share), rel=0.15)


def test_such_a_tail_is_no_small_thing() -> None:
    warm = replace(COLD, cold=0.0)
    assert p99(COLD, 0.02) > 1.5 * p99(warm, 0.02)


def test_what_is_measured_alone_comes_back_alone() -> None:
    measured = rows(KnownMachine(), 2000)
    found = slo.fitted(measured)
    for row in measured:
        alone = reached(found.cold, Load(slo.ALONE, 20, found.correlations), row.share, DRAWS)
        assert alone.p99 == pytest.approx(row.p99, rel=0.04), row.ratio
        assert alone.p50 == pytest.approx(row.p50, rel=0.05), row.ratio


def test_a_share_of_few_requests_borrows_the_times_of_its_neighbours() -> None:
    """Of 150 requests at 1 % some 25 ask: the slowest one would be their p99."""
    machine = KnownMachine()
    true = p99(machine, 0.01)
    off = [said(slo.fitted(rows(machine, 150, seed)), 0.01) / true for seed in range(12)]
    assert max(off) < 1.3
    assert min(off) > 0.75
    assert np.std(off) < 0.12


def test_the_fewest_requests_of_a_share_are_told(cold: Measured) -> None:
    few = rows(KnownMachine(), 100)
    assert slo.fitted(few).cold.requests == 100
    assert cold.cold.requests == 6000


KEPT = sorted((Path(__file__).parents[4] / "benchmarks/results").glob("*/benchmark-*/benchmark.json"))


@pytest.mark.parametrize("path", KEPT, ids=[path.parent.name for path in KEPT])
def test_the_law_is_fitted_on_reports_of_earlier_versions(path: Path) -> None:
    kept = read(path)
    assert "## The law against measurement" in report.markdown(kept)
    found = slo.measured(kept)
    assert 0.0 < found.cold.crm < found.cold.prefix + COLD.n * found.cold.suffix < 10.0
    for point in shown.headline(kept):
        if "p99" in point.latency.supported and (point.share.value or 0.0) > 0.0:
            alone = Load(slo.ALONE, COLD.n, found.correlations)
            said = reached(found.cold, alone, point.share.value or 0.0, DRAWS).p99
            assert 1000.0 * said == pytest.approx(point.latency.p99.value, rel=0.05), point.threshold
