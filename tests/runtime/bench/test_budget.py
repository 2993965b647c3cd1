"""How a time budget is spent: a pure function of what requests cost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.bench.budget import LEAST, MOST, WEIGHTS, _seconds, group, plan, smoothed, spots, told
from corella_edge_runtime.bench.seen import Spot
from corella_edge_runtime.bench.settings import RATIOS, SCENARIOS, USERS

THRESHOLDS = [f"ratio:{ratio:g}" for ratio in RATIOS]


def every(controls: bool = True, cores: int = 2) -> list[Spot]:
    return spots(THRESHOLDS, RATIOS, SCENARIOS, USERS, controls, cores)


def test_all_points_and_no_more() -> None:
    found = every()
    assert len(set(found)) == len(found)
    assert sum(spot.scenario == "single" and spot.routing == "policy" for spot in found) == 2 * len(RATIOS)
    assert [spot.threshold for spot in found if spot.routing == "random"] == THRESHOLDS[1:-1]
    assert {spot.users for spot in found if spot.scenario != "single"} == {"new"}
    assert {spot.workers for spot in found if spot.scenario == "offline"} == {1, 2}
    assert not [spot for spot in every(controls=False, cores=0) if spot.routing == "random" or spot.workers > 1]
    other = spots(["policy"], [None], ("single",), ("new",), True, 1)
    assert other == [Spot(scenario="single", threshold="policy")]


@given(st.floats(1e-4, 2.0), st.floats(1.0, 50.0), st.floats(20.0, 3600.0), st.integers(1, 5), st.booleans())
def test_the_budget_is_kept_where_the_least_of_requests_fits(
    alone: float, factor: float, seconds: float, repeats: int, searches: bool
) -> None:
    costs = {name: alone * (1 + ratio * (factor - 1)) for name, ratio in zip(THRESHOLDS, RATIOS, strict=True)}
    points = every()
    shares = plan(points, costs, seconds, repeats, searches)
    assert set(shares) == set(points)
    assert all(LEAST <= share.requests <= MOST for share in shares.values())
    spent = sum(repeats * share.requests * _seconds(spot, costs[spot.threshold]) for spot, share in shares.items()
                if share.requests > LEAST)  # fmt: skip
    assert spent <= seconds * 1.001
    for name in WEIGHTS:
        assert len({share.requests for spot, share in shares.items() if group(spot) == name}) == 1


def test_more_time_buys_more_and_it_is_said_what_it_tells() -> None:
    costs = dict.fromkeys(THRESHOLDS, 0.01)
    short, long = (plan(every(), costs, seconds, 3, False) for seconds in (60.0, 600.0))
    first = every()[0]
    assert long[first].requests > 5 * short[first].requests
    words = told(long, 3)
    assert words[0].startswith("one at a time: ")
    assert any("enough for p95 (p99 takes 1,000)" in line or "enough for p99 (p99.9 takes 10,000)" in line
               for line in words)  # fmt: skip


def test_a_few_trials_without_a_hard_candidate_do_not_make_a_share_cheap() -> None:
    ratios = dict(zip(THRESHOLDS, RATIOS, strict=True))
    costs = {**dict.fromkeys(THRESHOLDS, 0.001), "ratio:1": 0.101}
    found = smoothed(costs, ratios, 20)
    assert found["ratio:0"] == 0.001
    assert found["ratio:1"] == 0.101
    assert found["ratio:0.05"] == pytest.approx(0.001 + 0.5 * (1 - 0.95**20) * 0.1)
    assert smoothed({"policy": 0.5}, {"policy": None}, 20) == {"policy": 0.5}
