"""Schedules, figures with their uncertainty, the search for saturation, and the file that keeps the parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.bench.load.mix import Stream, mix
from corella_edge_runtime.bench.load.outcome import Outcome
from corella_edge_runtime.bench.load.plan import Happened
from corella_edge_runtime.bench.load.schedule import fixed, poisson
from corella_edge_runtime.bench.load.timing import spans, total
from harness.judged import at_least, at_most, none_of
from harness.load.saturation import highest, keeps_up
from harness.load.summary import parts_of, percentile, percentiles, share, slope
from harness.parts import merged
from harness.report import targets_table


@given(seed=st.integers(0, 1000))
def test_a_schedule_depends_on_nothing_but_its_seed(seed: int) -> None:
    moments = poisson(200.0, 2.0, seed)
    assert moments == poisson(200.0, 2.0, seed) == sorted(moments)
    assert moments != poisson(200.0, 2.0, seed + 1)
    assert all(0.0 <= moment < 2.0 for moment in moments)
    assert abs(len(moments) - 400) < 6 * 20


def test_arrivals_are_as_uneven_as_a_poisson_stream() -> None:
    gaps = np.diff(poisson(500.0, 40.0, 3))
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.05)


def test_a_fixed_schedule_has_one_gap() -> None:
    assert fixed(4.0, 1.0) == [0.0, 0.25, 0.5, 0.75]


def test_every_stream_of_a_mix_has_its_rate_and_its_own_requests() -> None:
    streams = [Stream("a", 300.0, [b"1", b"2"]), Stream("b", 100.0, [b"3"]), Stream("none", 50.0, [])]
    found = mix(streams, 10.0, 1)
    assert found.moments == sorted(found.moments)
    for kind, rate in (("a", 300.0), ("b", 100.0)):
        assert found.of(kind).sum() == pytest.approx(10 * rate, rel=0.2)
    assert {found.requests[i] for i, mine in zip(found.which, found.of("a"), strict=True) if mine} == {b"1", b"2"}
    assert not found.of("none").any()
    assert len(found.plan(1).moments) == len(found.plan(1).which)


def outcome(latency: list[float], status: int = 200) -> Outcome:
    n = len(latency)
    moments = np.arange(n) / 100.0
    end = (moments + np.array(latency)).tolist()
    happened = Happened(moments.tolist(), end, end, [status] * n, [""] * n, [""] * n, [0] * n, [b""] * n)
    return Outcome(moments, np.zeros(n, np.int64), happened)


@pytest.mark.parametrize(("latency", "kept"), [
    ([0.002] * 300, True), ([0.002] * 290 + [0.3] * 10, False), (np.linspace(0.002, 0.09, 300).tolist(), False),
    ([0.001] * 100 + [0.004] * 200, True), ([], False),
])  # fmt: skip
def test_a_rate_is_served_when_nothing_is_late_and_no_queue_grows(latency: list[float], kept: bool) -> None:
    assert keeps_up(outcome(latency)) is kept


def test_a_rate_at_which_a_request_fails_is_not_served() -> None:
    assert not keeps_up(outcome([0.002] * 300, status=503))


@given(limit=st.floats(4.0, 5000.0))
def test_the_search_ends_just_below_the_limit(limit: float) -> None:
    found = highest(lambda rate: rate <= limit, 200.0)
    assert limit / 1.06 <= found <= limit


def test_a_server_that_serves_nothing_has_no_saturation() -> None:
    assert highest(lambda rate: False, 200.0) == 0.0


def test_one_bad_trial_does_not_end_the_search() -> None:
    seen: dict[float, int] = {}

    def served(rate: float) -> bool:
        seen[rate] = seen.get(rate, 0) + 1
        return rate <= 1000.0 and seen[rate] > 1

    assert 950.0 <= highest(served, 200.0) <= 1000.0


@given(hits=st.integers(0, 500), more=st.integers(0, 500))
def test_a_share_lies_in_its_interval(hits: int, more: int) -> None:
    found = share(hits, hits + more)
    assert 0.0 <= found.low <= found.high <= 1.0
    if hits + more:
        assert found.low <= found.median <= found.high
        assert (found.low == 0.0) == (hits == 0)
        assert (found.high == 1.0) == (more == 0)


def test_a_share_is_as_uncertain_as_the_textbook_says() -> None:
    found = share(10_000, 10_000)
    assert found.low == pytest.approx(1 - 3.84 / 10_004, abs=1e-5)
    assert share(1, 2).high - share(1, 2).low > 0.8


@given(rise=st.floats(-5.0, 5.0))
def test_the_slope_of_a_line_is_exact(rise: float) -> None:
    x = np.arange(60.0)
    found = slope(x, 3.0 + rise * x, 12)
    assert found.median == pytest.approx(rise, abs=1e-9)
    assert found.high - found.low < 1e-9


def test_the_interval_of_a_slope_covers_the_true_one_although_neighbours_hang_together() -> None:
    rng, x = np.random.default_rng(7), np.arange(240) / 12.0
    covered = 0
    for seed in range(40):
        noise = np.convolve(rng.normal(size=240 + 11), np.ones(12) / 12, "valid")
        found = slope(x, 0.3 * x + noise, 12, seed)
        covered += found.low <= 0.3 <= found.high
    assert covered >= 33


def test_percentiles_are_values_that_occurred() -> None:
    found = percentiles(np.arange(1, 1001) / 1e3)
    assert (found["p50_ms"], found["p99_ms"], found["max_ms"], found["count"]) == (500.0, 990.0, 1000.0, 1000)
    assert percentiles(np.array([])) == {"count": 0}
    assert percentiles(np.array([0.5, np.inf, np.nan])) == {**percentiles(np.array([0.5])), "count": 1}


def test_the_interval_of_a_percentile_is_of_parts_not_of_requests() -> None:
    calm, storm = np.full(1000, 1.0), np.full(1000, 9.0)
    found = percentile([calm] * 10 + [storm], 50.0)
    assert found.median == 1.0
    assert found.pairs == 11
    assert percentile([calm] * 5 + [storm] * 5, 50.0).high == 9.0
    with pytest.raises(ValueError, match="nothing"):
        percentile([np.array([])], 50.0)


def test_values_are_parted_by_their_moments() -> None:
    parts = parts_of(np.array([0.0, 0.9, 1.1, 9.99]), np.array([1.0, 2.0, 3.0, 4.0]), 10, 10.0)
    assert [part.tolist() for part in parts if len(part)] == [[1.0, 2.0], [3.0], [4.0]]
    assert len(parts) == 10


def test_the_servers_timing_is_read() -> None:
    header = 'parse;dur=0.123, wait;dur=1, prefill;dur=2.5;desc="evaluated=3,reused=4", miss, serialise;dur=0.4'
    found = spans(header)
    assert {name: found[name] for name in ("parse", "wait", "prefill", "serialise")} == {
        "parse": 0.123, "wait": 1.0, "prefill": 2.5, "serialise": 0.4}  # fmt: skip
    assert "miss" not in found
    assert total(found, ("parse", "wait", "absent")) == pytest.approx(1.123)


@given(header=st.text(max_size=60))
def test_whatever_the_header_says_there_are_spans_or_none(header: str) -> None:
    assert all(length >= 0.0 for length in spans(header).values())


def figure(low: float, median: float, high: float) -> dict[str, float]:
    return {"low": low, "median": median, "high": high, "pairs": 20}


def test_targets_are_met_by_the_far_end_of_the_interval_and_shown() -> None:
    rows = [at_most("a", figure(1, 2, 3), 3, False), at_most("a", figure(1, 2, 3.1), 3, False),
            at_least("b", figure(0.8, 0.9, 1), 0.8, False), at_least("b", figure(0.79, 0.9, 1), 0.8, False),
            none_of("c", 0, False), none_of("c", 1, False)]  # fmt: skip
    assert [row["met"] for row in rows] == [True, False] * 3
    assert targets_table(rows).count("NOT MET") == 3


def test_a_few_pairs_meet_no_target() -> None:
    assert not at_most("a", {**figure(1, 2, 3), "pairs": 14}, 4, False)["met"]


def test_a_failure_counts_on_a_busy_machine_as_well() -> None:
    assert none_of("c", 0, True)["void"]
    assert not none_of("c", 1, True)["void"]


def test_the_result_file_grows_by_parts(tmp_path: Path) -> None:
    path = tmp_path / "serving.json"

    def part(met: bool) -> dict[str, Any]:
        return {"targets": [{"target": "x", "met": met}]}

    path.write_text(json.dumps(merged(path, "spans", part(False))), "utf-8")
    path.write_text(json.dumps(merged(path, "soak", part(True))), "utf-8")
    found = merged(path, "spans", part(True))
    assert sorted(found["parts"]) == ["soak", "spans"]
    assert found["targets"] == [
        {"part": "soak", "target": "x", "met": True},
        {"part": "spans", "target": "x", "met": True},
    ]
