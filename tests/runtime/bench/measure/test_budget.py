"""How a time budget is spent: a pure function of what requests cost."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.bench.measure.budget import (
    AGAIN,
    ENOUGH,
    FEWEST,
    LEAST,
    LEAST_TRY,
    MOST,
    SPAN,
    TRIES,
    WEIGHTS,
    Share,
    _seconds,
    affordable,
    group,
    in_turn,
    plan,
    smoothed,
    spots,
    spread_out,
    told,
)
from corella_edge_runtime.bench.results.seen import Spot
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


@given(st.floats(1e-4, 2.0), st.floats(1.0, 50.0), st.floats(20.0, 3600.0), st.integers(1, 15),
       st.none() | st.floats(0.001, 2.0))  # fmt: skip
def test_the_budget_is_kept_where_the_least_of_requests_fits(
    alone: float, factor: float, seconds: float, repeats: int, limit: float | None
) -> None:
    costs = {name: alone * (1 + ratio * (factor - 1)) for name, ratio in zip(THRESHOLDS, RATIOS, strict=True)}
    points, short = affordable(every(), costs, seconds, repeats, limit)
    assert points[0] == every()[0]
    assert bool(short) == (points != every())
    shares = plan(points, costs, seconds, repeats, limit)
    assert set(shares) == set(points)
    assert all(LEAST <= share.requests <= MOST for share in shares.values())
    spent, searches = {group(spot): 0.0 for spot in points}, limit is not None
    for spot, share in shares.items():
        rounds, searched = len(share.rounds), searches and spot.scenario == "server"
        tries = TRIES + AGAIN * (rounds - 1) if searched else 0
        long = max(share.requests * _seconds(spot, costs), SPAN * limit if searched else 0.0)
        spent[group(spot)] += (rounds + tries) * long
        assert min(FEWEST, repeats) <= rounds <= repeats
        assert rounds == min(FEWEST, repeats) or share.requests >= ENOUGH[group(spot)]
        assert share.requests >= LEAST_TRY or not searched
    lowest = {name: LEAST_TRY if searches and name == "server" else LEAST for name in spent}
    least = {name for name in spent if all(s.requests == lowest[name] for p, s in shares.items() if group(p) == name)}
    assert sum(took for name, took in spent.items() if name not in least) <= seconds * 1.001
    if least != {"single"}:
        assert sum(took for name, took in spent.items() if name in least) <= seconds * 1.001
    assert set(spent) <= set(WEIGHTS)
    for name in spent:
        assert len({(share.requests, share.rounds) for spot, share in shares.items() if group(spot) == name}) == 1


@given(st.integers(1, 40), st.integers(1, 40))
def test_fewer_slices_are_spread_over_all_rounds(rounds: int, of: int) -> None:
    found = spread_out(min(rounds, of), of)
    assert len(found) == min(rounds, of)
    assert found[0] == 0
    if len(found) > 1:
        assert found[-1] == of - 1
        gaps = [b - a for a, b in pairwise(found)]
        assert max(gaps) - min(gaps) <= 1


def test_in_each_round_what_is_due_comes_in_another_order() -> None:
    often, seldom = every()[:8], every()[8:16]
    shares = {**dict.fromkeys(often, Share(5, 1.0, (0, 1, 2))), **dict.fromkeys(seldom, Share(5, 1.0, (0, 2)))}
    found = list(in_turn(shares, 0))
    assert [number for number, _ in found] == [0] * 16 + [1] * 8 + [2] * 16
    orders = [[spot for number, spot in found if number == one] for one in range(3)]
    assert set(orders[0]) == set(orders[2]) == {*often, *seldom}
    assert orders[0] != orders[2]
    assert set(orders[1]) == set(often)
    assert found == list(in_turn(shares, 0)) != list(in_turn(shares, 1))


def test_more_time_buys_more_and_it_is_said_what_it_tells() -> None:
    costs = dict.fromkeys(THRESHOLDS, 0.01)
    short, long = (plan(every(), costs, seconds, 3) for seconds in (60.0, 600.0))
    first = every()[0]
    assert long[first].requests > 5 * short[first].requests
    words = told(long)
    assert words[0].startswith("one at a time: ")
    assert " requests a point in 3 rounds, enough for " in words[0]
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


def test_what_a_budget_has_no_room_for_is_left_out_and_said() -> None:
    slow = dict.fromkeys(THRESHOLDS, 2.0)
    points, short = affordable(every(), slow, 300.0, 3, 0.03)
    assert {group(spot) for spot in points} == {"single"}
    assert short.startswith(
        "the 300 s for latency have no room for: Server, returning users, random routing, Offline; all"
    )
    enough = float(short.rpartition("at least ")[2].removesuffix(" s"))
    assert affordable(every(), slow, enough + 1, 3, 0.03) == (every(), "")


def test_what_an_interrupted_run_has_begun_is_never_left_out() -> None:
    slow = dict.fromkeys(THRESHOLDS, 2.0)
    points, short = affordable(every(), slow, 300.0, 3, 0.03, {"random"})
    assert {group(spot) for spot in points} == {"single", "random"}
    assert "no room for: Server, returning users, Offline; all" in short
