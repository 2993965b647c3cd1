"""Tuning: the decisions as properties, the turns with a made-up clock, and what may be chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_runtime.tune import decide, measure
from corella_edge_runtime.tune.decide import MARGIN, Change, Duel, Setting, changes, objection, upper

START = Setting("llm.gguf", 3, 512)
ratio_lists = st.lists(st.floats(0.1, 10.0), min_size=1, max_size=41)


def fight(start: Setting, steps: Sequence[Change], cost: Any) -> tuple[Setting, list[Duel]]:
    """The whole search where a setting takes `cost(setting)` in every turn."""
    table: list[Duel] = []
    while (pair := decide.decide(start, steps, table))[1] is not None:
        best, challenger = pair[0], pair[1]
        table.append(Duel(str(challenger), str(best), {}, (cost(challenger) / cost(best),) * 9))
    return pair[0], table


settings = st.builds(Setting, st.sampled_from(["llm.gguf", "llm.Q4_0.gguf", "llm.F16.gguf"]),
                     st.sampled_from([1, 3, 7]), st.sampled_from([64, 128, 256, 512, 1024]))  # fmt: skip
STEPS = changes(START, [3, 1, 7], ["llm.gguf", "llm.Q4_0.gguf", "llm.F16.gguf"], [512, 256, 1024, 128, 64])


@given(st.dictionaries(settings, st.floats(0.5, 2.0)))
def test_the_search_ends_with_the_start_or_something_clearly_faster(costs: dict[Setting, float]) -> None:
    def cost(setting: Setting) -> float:
        return costs.get(setting, 1.0)

    best, table = fight(START, STEPS, cost)
    assert len(table) == len(STEPS) == 8
    wins = sum(duel.won() for duel in table)
    assert (best == START) == (wins == 0)
    assert cost(best) <= cost(START) * (1 - MARGIN) ** wins
    assert fight(START, STEPS, cost)[0] == best


@given(st.dictionaries(settings, st.floats(1.0, 1.03)))
def test_within_the_margin_the_default_stays(costs: dict[Setting, float]) -> None:
    assert fight(START, STEPS, lambda setting: 1.03 if setting == START else costs.get(setting, 1.03))[0] == START


def test_each_coordinate_finds_its_best() -> None:
    best, table = fight(START, STEPS, lambda s: s.threads * (s.file != "llm.F16.gguf") + s.batch / 64 + 1)
    assert best == Setting("llm.F16.gguf", 1, 64)
    assert table[0].challenger == "llm.gguf, 1 thread(s), batch 512"
    assert all("1 thread(s)" in duel.challenger for duel in table[2:])


@given(ratio_lists)
def test_the_upper_end_is_one_of_them_and_not_below_their_median(ratios: list[float]) -> None:
    assert upper(ratios) in ratios
    assert sum(ratio <= upper(ratios) for ratio in ratios) * 2 >= len(ratios)
    assert upper(ratios) == upper(ratios[::-1])


@pytest.mark.parametrize(("count", "place"), [(1, 1), (4, 4), (5, 5), (15, 12), (41, 27)])
def test_the_upper_end_is_the_sign_tests(count: int, place: int) -> None:
    assert upper(list(range(1, count + 1))) == place


def test_one_slow_turn_of_five_decides_nothing() -> None:
    assert Duel("a", "b", {}, (0.5,) * 5).won()
    assert not Duel("a", "b", {}, (0.5,) * 4 + (1.2,)).won()
    assert Duel("a", "b", {}, (0.5,) * 14 + (1.2,)).won()
    assert not Duel("a", "b", note="cannot run").won()


def test_int8_needs_more_than_the_margin_of_the_others() -> None:
    duel = Duel("a", "b", {"CRM": (0.92, 1.0)}, (0.92,) * 9)
    assert duel.won()
    assert not duel.won(decide.INT8_MARGIN)
    assert duel.to_json(decide.INT8_MARGIN) == {
        "challenger": "a", "incumbent": "b", "ms": {"CRM": [0.92, 1.0]}, "turns": 9, "won": False, "note": "",
        "ratio": 0.92, "ratio_upper": 0.92,
    }  # fmt: skip


METRICS = {"torch": {"auc": 0.75, "logloss": 0.5}, "Q8_0": {"auc": 0.7495, "logloss": 0.501},
           "Q4_0": {"auc": 0.748, "logloss": 0.5}, "Q2_K": {"auc": 0.75, "logloss": 0.51},
           "none": {"auc": None, "logloss": 0.5}, "nan": {"auc": float("nan"), "logloss": 0.5},
           "ranks": {"auc": None, "logloss": 0.5, "ndcg@10": 0.3}, "near": {"auc": None, "ndcg@10": 0.2995},
           "far": {"auc": None, "logloss": 0.5, "ndcg@10": 0.29}}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Q8_0", ""),
        ("torch", ""),
        ("Q4_0", "its AUC is 0.0020 lower, at most 0.001 is accepted"),
        ("Q2_K", "its log-loss is 0.0100 higher, at most 0.002"),
        ("F16", "no quality figures of F16 beside torch"),
        ("none", "no quality figures of none"),
        ("nan", "its AUC is nan lower"),
    ],
)
def test_a_file_that_loses_accuracy_is_not_tried(name: str, message: str) -> None:
    found = objection(METRICS, name, "torch")
    assert found.startswith(message)
    assert bool(found) == bool(message)


def test_what_ranks_is_judged_by_its_ranking() -> None:
    """Of likes alone there is no AUC."""
    assert objection(METRICS, "near", "ranks") == ""
    assert objection(METRICS, "far", "ranks") == "its NDCG@10 is 0.0100 lower, at most 0.001 is accepted"
    assert objection(METRICS, "none", "ranks").startswith("no quality figures of none beside ranks")


@given(st.integers(0, 3000))
def test_a_batch_holds_the_longest_item_twice(longest: int) -> None:
    assert all(batch >= 2 * longest for batch in decide.batches(longest))
    assert set(decide.batches(longest)) == {batch for batch in decide.BATCHES if batch >= 2 * longest}


class Clock:
    """Time that passes only where a turn says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def side(self, name: str, seconds: float, log: list[str]) -> measure.Turn:
        def turn(number: int) -> dict[str, float]:
            log.append(f"{name}{number}")
            self.now += seconds
            return {"w": seconds}

        return turn


@given(st.floats(0.0, 60.0), st.floats(0.01, 3.0))
def test_turns_alternate_and_keep_to_the_time(seconds: float, each: float) -> None:
    clock, log = Clock(), []
    made = list(measure.turns(clock.side("a", each, log), clock.side("b", each, log), seconds, lambda: clock.now))
    assert measure.FEWEST <= len(made) <= measure.MOST
    assert clock.now <= max(seconds + 2 * each, 2 * each * measure.FEWEST) * 1.001
    assert log[:4] == ["a0", "b0", "b1", "a1"]
    assert len(log) == 2 * len(made)


def test_the_summary_weighs_workloads_alike() -> None:
    pairs = [
        ({"new": 4.0, "again": 1.0}, {"new": 1.0, "again": 1.0}),
        ({"new": 1.0, "again": 2.0}, {"new": 2.0, "again": 1.0}),
    ]
    found = measure.summary("a", "b", pairs)
    assert found.ratios == pytest.approx((2.0, 1.0))
    assert found.ms == {"new": (2500.0, 1500.0), "again": (1500.0, 1000.0)}


def test_a_challenger_that_can_not_run_has_lost_and_the_default_must_run() -> None:
    @contextmanager
    def good() -> Iterator[measure.Turn]:
        yield lambda number: {"w": 1.0}

    @contextmanager
    def bad() -> Iterator[measure.Turn]:
        raise InputError("no memory")
        yield

    found = measure.duel("a", "b", (bad, good), 0.0)
    assert found.note == "cannot run: no memory"
    assert not found.won()
    with pytest.raises(InputError, match="no memory"):
        measure.duel("a", "b", (good, bad), 0.0)
