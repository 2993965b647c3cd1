"""What is routed at random: what the policy routes stays routed, and chances are what the log says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.routing.exploring import explore


@given(st.integers(0, 60), st.floats(0.001, 1.0), st.integers(0, 99))
def test_it_adds_to_what_is_chosen_and_takes_nothing_away(n: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chosen = np.flatnonzero(rng.random(n) < 0.3)
    drawn, propensity = explore(chosen, n, share, rng)
    assert not set(drawn.tolist()) & set(chosen.tolist())
    assert (np.diff(drawn) > 0).all()
    assert (propensity[chosen] == 1.0).all()
    assert (np.delete(propensity, chosen) == share).all()


def test_everything_is_asked_at_share_1_and_draws_come_true() -> None:
    rng, none = np.random.default_rng(0), np.empty(0, np.int64)
    assert explore(none, 5, 1.0, rng)[0].tolist() == [0, 1, 2, 3, 4]
    hits = sum(len(explore(none, 100, 0.02, rng)[0]) for _ in range(2000))
    assert hits / 200_000 == pytest.approx(0.02, rel=0.05)
