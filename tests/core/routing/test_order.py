"""A measure that orders, one that does not, one the wrong way round, and one with a hole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.metrics import Bootstrap
from corella_edge.routing.order import BINS, order

RNG = np.random.default_rng(5)
VALUES = RNG.random(6000)
NOISE = RNG.normal(0, 1, 6000)
USERS = Bootstrap(RNG.integers(0, 300, 6000), 500)


@pytest.mark.parametrize(
    ("worth", "verdict"),
    [
        (VALUES + NOISE, "monotone"),
        (NOISE, "none"),
        (-VALUES + NOISE, "reversed"),
        (np.where((VALUES > 0.4) & (VALUES < 0.5), -1.0, VALUES) + 0.3 * NOISE, "in part"),
    ],
)
def test_the_verdict(worth: np.ndarray, verdict: str) -> None:
    found = order(VALUES, worth, USERS)
    assert found.verdict == verdict
    assert len(found.rows) == BINS
    assert found.rows.sum() == len(VALUES)
    assert np.allclose([mean.value for mean in found.means] @ found.rows, worth.sum())


def test_what_chance_makes_is_seldom_called_an_order() -> None:
    verdicts = [
        order(rng.random(400), rng.normal(0, 1, 400), Bootstrap(np.arange(400), 200)).verdict
        for rng in map(np.random.default_rng, range(60))
    ]
    assert verdicts.count("none") >= 51  # 95 % intervals: 3 of 60 are to be expected


@given(st.lists(st.sampled_from([0.1, 0.2, 0.5, 0.7]), min_size=2, max_size=60), st.integers(0, 99))
def test_equal_values_stay_together_and_the_order_of_rows_does_not_matter(values: list[float], seed: int) -> None:
    rng = np.random.default_rng(seed)
    v, worth, owner = np.array(values), rng.normal(0, 1, len(values)), rng.integers(0, 5, len(values))
    found = order(v, worth, Bootstrap(owner, 20))
    assert (found.high[:-1] < found.low[1:]).all()
    turned = rng.permutation(len(v))
    again = order(v[turned], worth[turned], Bootstrap(owner[turned], 20))
    assert np.array_equal(again.rows, found.rows)
    assert np.allclose([mean.value for mean in again.means], [mean.value for mean in found.means])


def test_one_value_has_one_part_and_no_order() -> None:
    found = order(np.ones(50), NOISE[:50], Bootstrap(np.arange(50) % 7, 50))
    assert (len(found.rows), found.verdict) == (1, "none")
    assert found.to_json()["deciles"][0]["rows"] == 50
