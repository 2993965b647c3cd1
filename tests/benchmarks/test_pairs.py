"""Who stands beside whom, and what the pairs say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.pairs import OURS, Pair, alternate, partners, ratio, ratio_of, round_of

PEERS = st.lists(st.sampled_from([f"peer {i}" for i in range(12)]), unique=True)


@given(peers=PEERS, number=st.integers(0, 3))
def test_every_peer_runs_once_a_round_beside_ours(peers: list[str], number: int) -> None:
    steps = round_of(peers, number)
    beside = partners(steps)
    assert sorted(name for name in steps if name != OURS) == sorted(peers)
    assert set(beside) == set(peers)
    for name, place in beside.items():
        assert steps[place] == OURS
        assert abs(steps.index(name) - place) == 1


@given(peers=PEERS)
def test_two_rounds_put_ours_before_a_peer_as_often_as_after(peers: list[str]) -> None:
    order = [0, 0]
    for number in (0, 1):
        steps = round_of(peers, number)
        for name, place in partners(steps).items():
            order[place > steps.index(name)] += 1
    assert order[0] == order[1]


@given(peers=PEERS, rounds=st.integers(1, 40))
def test_every_round_is_run_in_its_own_order(peers: list[str], rounds: int) -> None:
    order: list[str] = []

    def run(_: int, steps: Sequence[str]) -> list[float]:
        order.extend(steps)
        return [1.0] * len(steps)

    alternate(peers, rounds, run)
    assert order == [name for number in range(rounds) for name in round_of(peers, number)]


def test_a_slow_phase_of_the_machine_hits_both_sides_of_a_pair() -> None:
    base = {OURS: 1.0, "a": 2.0, "b": 4.0}
    pairs, own = alternate(
        ["a", "b"], 4, lambda number, steps: [base[name] * (1 + 9 * (number == 2)) for name in steps]
    )
    assert [pair.ours / pair.peer for pair in pairs["a"]] == [0.5] * 4
    assert [pair.ours / pair.peer for pair in pairs["b"]] == [0.25] * 4
    assert len(own) == 8
    assert max(own) == 10.0


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40))
def test_the_interval_holds_the_median_and_lies_within_the_values(values: list[float]) -> None:
    found = ratio_of(values)
    assert min(values) <= found.low <= found.median <= found.high <= max(values)
    assert found.pairs == len(values)


def test_the_interval_covers_the_true_median_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    runs = [ratio_of(rng.lognormal(0.0, 0.3, 15).tolist(), seed) for seed in range(200)]
    covered = sum(run.low <= 1.0 <= run.high for run in runs)
    assert 0.88 <= covered / 200 <= 1.0


def test_ours_over_the_peer() -> None:
    assert ratio([Pair(1.0, 4.0)]).median == 0.25


def test_no_pairs_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="no pairs"):
        ratio_of([])
