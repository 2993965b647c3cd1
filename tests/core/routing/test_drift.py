"""Drift: nothing is said of traffic like the calibration's; a shift, unknown ids and an LLM that leaves are told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.routing import drift
from corella_edge.routing.drift import Batch, Drift
from corella_edge.routing.measure import LN2, entropy
from corella_edge.routing.policy import Calibration

RNG = np.random.default_rng(0)
CALIBRATION = Calibration.fit(entropy(RNG.beta(1, 6, 5000)))


def of(p: np.ndarray, histogram: drift.MeasureHistogram, llm: np.ndarray | None = None, new: int = 0) -> Batch:
    answers = np.full(len(p), np.nan) if llm is None else llm
    return drift.batch(entropy(p), ~np.isnan(answers), p, answers, new, 0, histogram)


def fed(p: np.ndarray, llm: np.ndarray | None = None, new: int = 0, now: float = 0.0) -> Drift:
    state = drift.begin(CALIBRATION)
    return drift.observed(state, of(p, state.histogram, llm, new), now)


def test_the_histogram_has_a_tenth_of_the_calibration_rows_in_each_bin() -> None:
    found = drift.histogram_of(CALIBRATION)
    assert len(found.expected) == drift.BINS
    assert found.expected == pytest.approx(np.full(drift.BINS, 0.1), abs=2e-3)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, LN2]) | st.floats(0, LN2), min_size=2, max_size=80))
def test_the_histogram_of_the_calibration_rows_themselves_is_what_is_expected(values: list[float]) -> None:
    s = np.asarray(values)
    found = drift.histogram_of(Calibration.fit(s))
    assert found.expected.sum() == pytest.approx(1.0)
    assert (found.expected >= -1e-12).all()
    # Quantiles are kept in steps of a thousandth, and a row may be anywhere within one.
    assert found.counts(s) / len(s) == pytest.approx(found.expected, abs=2e-3 + 1.0 / len(s))


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12), st.integers(0, 10**6))
def test_psi_is_never_negative_and_knows_no_order_of_bins(counts: list[int], seed: int) -> None:
    expected = np.random.default_rng(seed).dirichlet(np.ones(len(counts)))
    order = np.random.default_rng(seed).permutation(len(counts))
    found = drift.psi(expected, np.asarray(counts, float))
    assert found >= 0.0
    assert drift.psi(expected[order], np.asarray(counts, float)[order]) == pytest.approx(found, abs=1e-12)


def test_psi_by_hand_where_there_are_many_rows() -> None:
    expected, counts = np.array([0.5, 0.5]), np.array([9e6, 1e6])
    assert drift.psi(expected, counts) == pytest.approx(0.4 * math.log(9.0), rel=1e-4)
    assert drift.psi(expected, np.array([5e6, 5e6])) == pytest.approx(0.0, abs=1e-9)


def test_traffic_like_the_calibration_is_stable_and_harder_traffic_is_not() -> None:
    assert fed(RNG.beta(1, 6, 4000)).psi < 0.02
    assert fed(RNG.beta(3, 4, 4000)).psi > 0.25


def test_too_little_says_nothing() -> None:
    state = fed(RNG.beta(3, 4, 50), RNG.random(50))
    assert math.isnan(state.psi)
    assert math.isnan(state.llm_minus_base)
    assert math.isnan(drift.begin(CALIBRATION).share(drift.begin(CALIBRATION).slow))


def test_the_fast_share_leaves_the_slow_one_at_a_shift_and_both_meet_again() -> None:
    state = drift.begin(CALIBRATION)
    for second in range(0, 8 * 3600, 30):
        p = np.full(20, 0.2)
        llm = np.where(np.arange(20) < (2 if second < 4 * 3600 else 8), 0.3, np.nan)
        state = drift.observed(state, of(p, state.histogram, llm), float(second))
        if second == 4 * 3600 + 600:
            fast, slow = state.share(state.fast), state.share(state.slow)
    assert fast > 0.3 > 0.2 > slow
    assert state.share(state.fast) == pytest.approx(0.4, abs=1e-3)
    assert state.share(state.slow) == pytest.approx(0.4, abs=0.01)
    assert state.llm_minus_base == pytest.approx(0.1)


def test_unknown_ids_are_counted() -> None:
    assert fed(np.full(200, 0.2), new=50).unknown == {"item": 0.25, "user": 0.0}


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_batches_of_one_moment_may_be_cut_and_ordered_in_any_way(seed: int, cuts: int) -> None:
    rng = np.random.default_rng(seed)
    p, llm = rng.random(60), np.where(rng.random(60) < 0.5, rng.random(60), np.nan)
    whole, state = fed(p, llm), drift.begin(CALIBRATION)
    order = rng.permutation(60)
    for part in np.array_split(order, cuts):
        state = drift.observed(state, of(p[part], state.histogram, llm[part]), 0.0)
    assert state.slow.sums.counts.tolist() == whole.slow.sums.counts.tolist()
    assert state.slow.sums.apart == pytest.approx(whole.slow.sums.apart)
    assert state.share(state.fast) == whole.share(whole.fast)
