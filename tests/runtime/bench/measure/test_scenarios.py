"""The three scenarios against a machine whose costs are known: what is measured is what it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from corella_edge.catalog import Catalog
from corella_edge.errors import InputError
from corella_edge.request import Candidate, Candidates, Event, Request, User
from corella_edge.routing.load import ends
from corella_edge.stopping import never
from corella_edge_runtime.bench.load.rates import (
    GRID,
    MOST_RATE,
    STRIDES,
    holds,
    largest_step,
    moved_step,
    nearest,
    on_grid,
)
from corella_edge_runtime.bench.load.schedule import poisson
from corella_edge_runtime.bench.measure.budget import SPAN, Share
from corella_edge_runtime.bench.measure.energy import Rapl
from corella_edge_runtime.bench.measure.scenarios import Bench
from corella_edge_runtime.bench.measure.search import Search
from corella_edge_runtime.bench.measure.supply import Source, Supply
from corella_edge_runtime.bench.results.points import Rates
from corella_edge_runtime.bench.results.seen import Seen, Spot
from corella_edge_runtime.bench.settings import as_thresholds, ratio_of

EACH = 0.010  # seconds that the stub works on a request, one after the other
CATALOG = Catalog([str(i) for i in range(60)], [{}] * 60)


class Stub:
    """One server, first come, first served; no time passes while it is asked. Attributes: what it was sent."""

    measured, controls = "a stub", True

    def __init__(self, each: float = EACH) -> None:
        self.each, self.sent, self.random, self.forgot = each, [], [], 0

    def ask(self, body: bytes) -> Seen:
        self.sent.append(json.loads(body))
        return Seen(0.0, self.each, 5, 2, stages={"prefill": 0.5 * self.each})

    def stream(
        self, bodies: Sequence[bytes], moments: Sequence[float], most: int | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[Seen]:  # fmt: skip
        done = ends(np.asarray(moments), np.full(len(bodies), self.each)) - np.asarray(moments)
        self.sent += map(json.loads, bodies)
        return [Seen(at, took, 5, 2) for at, took in zip(moments, done.tolist(), strict=True)]

    def at_random(self, share: float | None) -> None:
        self.random.append(share)

    def forget(self) -> bool:
        self.forgot += 1
        return True

    def llm_seconds(self) -> float | None:
        return 0.1 * len(self.sent)

    def memory(self) -> int | None:
        return 12345

    def close(self) -> None:
        pass


def bench(target: Stub, objective: tuple[float, float] | None = None, users: int = 8) -> Bench:
    history = [Event(str(i)) for i in range(6)]
    base = [Request(User(f"u{i}", {}, history), Candidates.of([Candidate("9")])) for i in range(users)]
    supply = Supply(Source("a test", [], base, 5), CATALOG, 0)
    ratios = {"ratio:0.5": 0.5}
    return Bench(target, supply, Rapl((), "none"), ratios, objective, 0, costs={"ratio:0.5": EACH})


def spot(scenario: str, **more: object) -> Spot:
    return Spot(scenario=scenario, threshold="ratio:0.5", **more)  # type: ignore[arg-type]


def test_one_at_a_time() -> None:
    target = Stub()
    found = bench(target).slice(spot("single"), Share(20, 1e9), 0)
    assert found.latency.tolist() == [EACH] * 20
    assert found.wall == pytest.approx(20 * EACH)
    assert found.llm_seconds == pytest.approx(2.0)
    assert found.memory == 12345
    assert {one["threshold"] for one in target.sent} == {"ratio:0.5"}
    assert target.forgot == 1


def test_a_slice_ends_early_when_its_time_is_up() -> None:
    assert len(bench(Stub()).slice(spot("single"), Share(1000, 0.0), 0).at) == 1


def test_requests_that_come_seldom_come_at_random_and_the_rests_count_for_nothing() -> None:
    own = bench(Stub())
    own.apart = 0.004
    found = own.slice(spot("single"), Share(100, 1e9), 0)
    gaps = np.diff(found.at)
    assert 0.5 * own.apart < gaps.mean() < 2.0 * own.apart
    assert gaps.std() > 0.3 * own.apart
    assert found.latency.tolist() == [EACH] * 100
    assert found.wall == pytest.approx(100 * EACH)


def test_new_users_are_others_and_who_comes_again_has_another_history() -> None:
    target = Stub()
    own = bench(target, users=8)
    own.slice(spot("single"), Share(20, 1e9), 0)
    users = [one["user"]["id"] for one in target.sent]
    assert users[:8] == [f"u{i}" for i in range(8)]
    assert users[8:16] == users[:8]
    histories = [json.dumps(one["user"]["history"]) for one in target.sent]
    assert len(set(histories[:8])) == 1
    assert histories[8] != histories[0]
    assert own.supply.varied == 12
    own.slice(spot("single"), Share(4, 1e9), 1)
    assert json.dumps(target.sent[-1]["user"]["history"]) == histories[0]  # all was forgotten in between


def test_returning_users_are_known_before_they_are_timed() -> None:
    target = Stub()
    found = bench(target).slice(spot("single", users="returning"), Share(6, 1e9), 0)
    assert len(found.at) == 6
    assert len(target.sent) == 12
    for first, timed in zip(target.sent[::2], target.sent[1::2], strict=True):
        assert (first["threshold"], timed["threshold"]) == ("ratio:1", "ratio:0.5")
        assert first["user"] == timed["user"]
        assert first["candidates"] != timed["candidates"]
        assert len(timed["candidates"]) == 5
    assert found.wall == pytest.approx(6 * EACH)
    assert found.llm_seconds == pytest.approx(6 * 0.5 * EACH)


def test_random_routing_is_a_share_without_a_threshold() -> None:
    target = Stub()
    bench(target).slice(spot("single", routing="random"), Share(3, 1e9), 0)
    assert target.random == [0.5, None]
    assert not [one for one in target.sent if "threshold" in one]


def test_a_server_without_an_objective_is_half_loaded() -> None:
    found = bench(Stub()).slice(spot("server"), Share(4000, 1e9), 0)
    assert found.rate == 0.5 / EACH
    assert found.rates is None
    assert len(found.at) / found.wall == pytest.approx(0.5 / EACH, rel=0.1)
    waits = found.latency - EACH
    # Pollaczek and Khinchine at half load, of equal services.
    assert waits.mean() == pytest.approx(EACH / 2, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0.030, 0.060])
def test_the_largest_rate_is_that_of_a_known_capacity(limit: float) -> None:
    def p99(rate: float) -> float:
        moments = np.asarray(poisson(rate, 40_000 / rate, 5))
        return float(np.quantile(ends(moments, np.full(len(moments), EACH)) - moments, 0.99))

    true = max(rate for rate in np.linspace(1.0, 100.0, 400) if p99(rate) <= limit)
    found = bench(Stub(), (0.99, limit)).slice(spot("server"), Share(5000, 1e9), 0)
    assert found.rates is not None
    assert found.rates.largest <= 1.05 * true
    assert found.rates.first_failed >= 0.95 * true
    assert nearest(found.rates.first_failed) == nearest(found.rates.largest) + 1
    assert found.rate == found.rates.largest
    assert not found.rates.cut
    held = {one.rate for one in found.rates.tries if one.held}
    assert all((one.rate in held) == (one.rate <= found.rates.largest) for one in found.rates.tries)


def test_the_rate_is_looked_for_once_and_then_looked_at_again() -> None:
    target = Stub()
    own = bench(target, (0.99, 0.05))
    first = own.slice(spot("server"), Share(500, 1e9), 0)
    sent = len(target.sent)
    again = own.slice(spot("server"), Share(500, 1e9), 1)
    assert again.rate == first.rate
    assert 2 <= len(again.rates.tries) < len(first.rates.tries)
    assert again.rates.tries[0].rate == first.rates.largest
    assert len(target.sent) - sent < 3 * 700
    assert again.at != first.at


def test_a_machine_that_became_slower_has_a_lower_largest_rate_and_is_sent_the_same() -> None:
    target = Stub()
    own = bench(target, (0.99, 0.05))
    first = own.slice(spot("server"), Share(500, 1e9), 0)
    target.each *= 1.5
    slower = own.slice(spot("server"), Share(500, 1e9), 1)
    assert slower.rate == first.rate
    assert slower.rates.largest < first.rates.largest
    assert slower.rates.largest < slower.rates.first_failed <= first.rates.largest
    target.each /= 2.0
    quicker = own.slice(spot("server"), Share(500, 1e9), 2)
    assert quicker.rates.largest > first.rates.largest


def test_a_try_is_long_enough_for_too_many_requests_to_show() -> None:
    """30 requests at once are answered within 0.3 s, however many a second they are said to be."""
    found = bench(Stub(), (0.99, 1.0)).slice(spot("server"), Share(30, 1e9), 0)
    assert 63.0 <= found.rates.largest <= 125.0
    assert all(one.requests > 0.7 * SPAN * one.rate for one in found.rates.tries)


def test_rates_of_the_grid_are_round_and_a_quarter_apart() -> None:
    assert [on_grid(step) for step in range(-1, 11)] == [0.8, *GRID, 10.0]
    for step in range(-30, 51):
        assert nearest(on_grid(step)) == step
        assert on_grid(step + 1) / on_grid(step) == pytest.approx(10**0.1, rel=0.02)
        assert on_grid(step + 3) == pytest.approx(2 * on_grid(step), rel=0.02)


@pytest.mark.parametrize("true", [0.02, 0.4, 3.0, 3.15, 100.0, 5000.0])
@pytest.mark.parametrize("first", [0, 7])
def test_a_step_of_the_grid_is_found_from_anywhere_within_reach(true: float, first: int) -> None:
    low, high = largest_step(lambda rate: rate <= true, first)
    if low is None:
        assert true < on_grid(high) <= on_grid(first) / 50
    else:
        assert high == low + 1
        assert on_grid(low) <= true < on_grid(high)


@pytest.mark.parametrize("held_up_to", range(-10, 31))
def test_a_search_begun_anew_finds_the_step_within_its_reach(held_up_to: int) -> None:
    tried: list[int] = []

    def served(rate: float) -> bool:
        tried.append(nearest(rate))
        return nearest(rate) <= held_up_to

    low, high = moved_step(served, 10, held_up_to >= 10)
    assert len(tried) == len(set(tried)) <= 8
    assert len(tried) == {9: 1, 10: 1, 8: 2, 11: 2}.get(held_up_to, len(tried))
    if held_up_to < 10 - STRIDES[-1]:
        assert (low, high) == (None, 10 - STRIDES[-1])
    elif held_up_to >= 10 + STRIDES[-1]:
        assert (low, high) == (10 + STRIDES[-1], None)
    else:
        assert (low, high) == (held_up_to, held_up_to + 1)


def test_a_search_begun_anew_sends_at_no_rate_above_the_highest() -> None:
    tried: list[float] = []
    low, high = moved_step(lambda rate: not tried.append(rate), nearest(MOST_RATE) - 2, True)
    assert (low, high, max(tried)) == (nearest(MOST_RATE), None, MOST_RATE)


def again(held_up_to: float, tries: int = 99) -> Rates:
    """What a search begun anew at 100 requests a second finds, with time for so many tries."""

    def seen(rate: float, number: int) -> list[Seen]:
        if number >= tries:
            search.end = 0.0
        return [Seen(0.0, 0.01 if rate <= held_up_to else 1.0)] * 30

    search = Search(seen, 0.99, 0.05)
    return search.again(100.0, seen(100.0, 0))


@pytest.mark.parametrize("held_up_to", [40.0, 4.0])
def test_a_largest_rate_far_below_the_last_one_is_measured_and_not_called_0(held_up_to: float) -> None:
    found = again(held_up_to)
    assert (found.largest, found.cut) == (held_up_to, False)
    assert found.first_failed == on_grid(nearest(held_up_to) + 1)


@pytest.mark.parametrize(("held_up_to", "tries"), [(0.0, 99), (40.0, 2), (1000.0, 2), (1e6, 99)])
def test_a_search_that_did_not_come_to_its_end_is_cut_and_names_no_rate_that_was_never_sent(
    held_up_to: float, tries: int
) -> None:
    found = again(held_up_to, tries)
    assert found.cut
    assert {found.largest, found.first_failed} - {0.0, None} <= {one.rate for one in found.tries}
    assert len(found.tries) <= 1 + tries


def test_later_rounds_end_with_their_time() -> None:
    own = bench(target := Stub(), (0.99, 0.05))
    assert not own.slice(spot("server"), Share(500, 1e9), 0).rates.cut
    target.each *= 100.0
    own.objective = (0.99, 0.0)  # for which nothing is kept, and no time is planned
    found = own.slice(spot("server"), Share(500, 0.0), 1).rates
    assert (found.largest, found.cut, len(found.tries)) == (0.0, True, 1)


def test_where_the_first_search_found_nothing_later_rounds_look_again() -> None:
    own = bench(target := Stub(), (0.99, EACH / 2))
    assert own.slice(spot("server"), Share(100, 1e9), 0).rates.largest == 0.0
    target.each /= 100.0
    later = own.slice(spot("server"), Share(100, 1e9), 1)
    assert later.rates.tries[0].rate == later.rate
    assert later.rates.largest > 0.0


def test_an_objective_that_nothing_keeps_is_told() -> None:
    found = bench(Stub(), (0.99, EACH / 2)).slice(spot("server"), Share(100, 1e9), 0)
    assert found.rates.largest == 0.0
    assert found.rate == 0.5 / EACH  # measured all the same


class Shedding(Stub):
    """A server whose LLM is not asked any more above 20 requests a second, so that it stays quick."""

    def stream(
        self, bodies: Sequence[bytes], moments: Sequence[float], most: int | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[Seen]:  # fmt: skip
        full = len(bodies) / max(moments[-1], 1e-9) > 20.0
        return [Seen(at, 0.001, 5, 0 if full else 2, degraded={"busy": 2} if full else {"no_text": 1})
                for at in moments]  # fmt: skip


def test_a_rate_at_which_the_llm_is_not_asked_is_not_held() -> None:
    found = bench(Shedding(), (0.99, 0.05)).slice(spot("server"), Share(2000, 1e9), 0)
    assert found.rates.largest == pytest.approx(20.0, rel=0.3)


def test_a_search_ends_with_its_time() -> None:
    search = Search(lambda rate, number: [Seen(0.0, 0.01)] * 30, 0.99, 0.05, end=0.0)
    found = search.first(50.0)
    assert (found.cut, found.largest, len(found.tries)) == (True, 50.0, 1)


def test_offline_is_all_at_once() -> None:
    found = bench(Stub()).slice(spot("offline"), Share(50, 1e9), 0)
    assert set(found.at) == {0.0}
    assert found.wall == pytest.approx(50 * EACH)


def test_offline_on_several_processes() -> None:
    own, given = bench(Stub()), []

    class Shared:
        count = 2

        def run(self, bodies: Sequence[bytes], stop: Callable[[], bool]) -> tuple[list[Seen], float, float]:
            given.extend(bodies)
            return [Seen(0.0, 0.2, 5, 1) for _ in bodies], 0.2, 0.1

        def memory(self) -> int:
            return 345

    own.shared = Shared()  # type: ignore[assignment]
    own.warm_up_shared()
    assert len(given) == 8
    found = own.slice(spot("offline", workers=2), Share(10, 1e9), 0)
    assert len(given) == 18
    assert (found.wall, found.llm_seconds, found.memory) == (0.2, 0.1, 12345)
    assert own.slice(spot("single"), Share(1, 1e9), 0).memory == 12000  # the processes wait


def test_a_queue_that_grows_keeps_no_objective() -> None:
    growing = np.linspace(0.001, 0.05, 300)
    assert not holds(growing, 0.99, 1.0)
    assert holds(np.full(300, 0.05), 0.99, 1.0)
    assert not holds(np.array([0.01, np.inf]), 0.99, 1.0)
    assert not holds(np.zeros(0), 0.99, 1.0)


@pytest.mark.parametrize(("text", "thresholds"), [
    ("0,5%,0.2,100%", ("ratio:0", "ratio:0.05", "ratio:0.2", "ratio:1")),
    ("0.2,20%,0", ("ratio:0", "ratio:0.2")), ("policy,margin:0.1,0", ("ratio:0", "policy", "margin:0.1")),
    ("ratio:0.3", ("ratio:0.3",)), ("band:0.4-0.6,ms:5", ("band:0.4-0.6", "ms:5")),
])  # fmt: skip
def test_ratios_in_any_unit(text: str, thresholds: tuple[str, ...]) -> None:
    assert as_thresholds(text) == thresholds
    assert [ratio_of(one) for one in thresholds if one.startswith("ratio")] == sorted(
        float(one.partition(":")[2]) for one in thresholds if one.startswith("ratio"))  # fmt: skip


@pytest.mark.parametrize("text", ["2", "101%", "x%", "margin:3", "", "0,,1", "nats:0.5"])
def test_what_is_no_threshold_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        as_thresholds(text)
