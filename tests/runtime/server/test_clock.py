"""The share of a request's time that is kept for the way out: bounded, quick to grow, slow to shrink."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.server.clock import FIRST, LEAST, MOST, STRAY, UP, WayOut

TIMES = st.lists(st.floats(-1.0, 1e6, allow_nan=False), max_size=200)
LIMITS = st.floats(0.0, 1e5)


@given(TIMES, LIMITS)
def test_it_is_never_negative_and_leaves_the_llm_its_part(times: list[float], limit: float) -> None:
    way_out = WayOut()
    for took in times:
        way_out.seen(took)
        assert LEAST <= way_out.seconds < math.inf
    assert 0.0 <= way_out.of(limit) <= MOST * limit
    assert way_out.of(-limit) == 0.0


@given(TIMES)
def test_it_stays_within_what_was_seen(times: list[float]) -> None:
    way_out = WayOut()
    for took in times:
        way_out.seen(took)
    assert way_out.seconds <= max([FIRST, *times])
    assert way_out.seconds >= min([FIRST, *[max(LEAST, took) for took in times]])


@given(TIMES, st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_a_longer_way_never_leads_to_a_smaller_share(times: list[float], one: float, other: float) -> None:
    found = []
    for last in sorted((one, other)):
        way_out = WayOut()
        for took in [*times, last]:
            way_out.seen(took)
        found.append(way_out.seconds)
    assert found[0] <= found[1]


def test_before_the_first_answer_a_short_time_is_not_eaten_up() -> None:
    assert WayOut().of(0.050) == FIRST
    assert WayOut().of(0.004) == pytest.approx(0.002)


@given(st.floats(2 * LEAST, 1.0), st.floats(1.5, 100.0))
def test_it_grows_within_a_few_answers_and_shrinks_within_many(usual: float, times: float) -> None:
    way_out, late = WayOut(usual), usual * times
    grown = 0
    while way_out.seconds < usual + 0.9 * (late - usual):
        way_out.seen(late)
        grown += 1
    assert grown < 25
    shrunk = 0
    while way_out.seconds > usual + 0.5 * (late - usual):
        way_out.seen(usual)
        shrunk += 1
    assert shrunk > 100


@given(st.floats(2 * LEAST, 1.0))
def test_one_stall_hardly_counts(usual: float) -> None:
    way_out = WayOut(usual)
    way_out.seen(1e9)
    assert way_out.seconds == pytest.approx(usual * (1.0 + (STRAY - 1.0) * UP))


@pytest.mark.parametrize("scale", [0.001, 0.010])
@pytest.mark.parametrize("seed", range(3))
def test_nearly_all_ways_out_fit(scale: float, seed: int) -> None:
    """Of a steady stream, whatever the machine's speed."""
    rng, way_out, fits = np.random.default_rng(seed), WayOut(), []
    for took in scale * rng.lognormal(0.0, 0.6, 8000):
        fits.append(took <= way_out.seconds)
        way_out.seen(float(took))
    assert 0.96 <= np.mean(fits[3000:]) <= 0.999
