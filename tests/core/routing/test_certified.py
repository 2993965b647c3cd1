"""Promises about thresholds: exact tails, and over a thousand drawn logs as often broken as they say at most."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapie.risk_control._base_controller import ltt_procedure
from mapie.risk_control.methods import compute_hoeffding_bentkus_p_value
from scipy import stats

from corella_edge.errors import InputError
from corella_edge.routing.certified import (
    ALWAYS,
    binomial_tail,
    bounded_tail,
    certify,
    certify_expected,
    most_within,
    one_row_each,
    rows_needed,
    upper_bound,
    within_budget,
)
from corella_edge.routing.measure import NEVER, entropy

DRAWS = 1000
RATE = st.floats(0.001, 0.999)
COUNTS = st.integers(1, 5000).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n)))


@given(COUNTS, RATE)
def test_the_tail_is_the_binomial_s(counts: tuple[int, int], rate: float) -> None:
    rows, most = counts
    assert binomial_tail(most, rows, rate) == pytest.approx(stats.binom.cdf(most, rows, rate), rel=1e-8, abs=1e-12)


def test_the_tail_of_a_million_rows() -> None:
    for most in (0, 49_000, 50_000, 50_400, 999_999, 1_000_000):
        assert binomial_tail(most, 10**6, 0.05) == pytest.approx(stats.binom.cdf(most, 10**6, 0.05), rel=1e-6)
    assert [binomial_tail(-1, 5, 0.5), binomial_tail(2, 5, 0.0), binomial_tail(2, 5, 1.0)] == [0.0, 1.0, 0.0]


@given(COUNTS, st.floats(0.001, 0.5))
def test_the_upper_bound_is_clopper_and_pearson_s(counts: tuple[int, int], delta: float) -> None:
    rows, wrong = counts
    expected = 1.0 if wrong == rows else stats.beta.ppf(1 - delta, wrong + 1, rows - wrong)
    assert upper_bound(wrong, rows, delta) == pytest.approx(expected, rel=1e-7)


@given(st.integers(1, 3000), RATE, st.floats(0.001, 0.5))
def test_the_most_within_a_limit_is_the_last_count_whose_bound_is(rows: int, limit: float, delta: float) -> None:
    most = most_within(rows, limit, delta)
    assert most == -1 or upper_bound(most, rows, delta) <= limit * (1 + 1e-9)
    assert upper_bound(most + 1, rows, delta) >= limit * (1 - 1e-9)


def test_rows_needed() -> None:
    assert rows_needed(0.05, 0.05) == 59 == math.ceil(math.log(0.05) / math.log(0.95))
    assert most_within(58, 0.05, 0.05) == -1
    assert most_within(59, 0.05, 0.05) == 0
    assert rows_needed(0.05, 0.05, 0.05) is None
    some = rows_needed(0.05, 0.05, 0.04)
    assert some is not None
    assert upper_bound(math.ceil(0.04 * some), some, 0.05) <= 0.05


@given(COUNTS, RATE)
def test_the_p_value_of_bounded_losses_is_that_of_mapie(counts: tuple[int, int], limit: float) -> None:
    rows, whole = counts
    mean = whole / rows
    # MAPIE rounds rows times their mean up to a whole number, and what a quotient loses may then count as one more.
    expected = compute_hoeffding_bentkus_p_value(np.array([np.nextafter(mean, 0.0)]), rows, limit)[0, 0]
    assert bounded_tail(mean, rows, limit) == pytest.approx(min(1.0, expected), rel=1e-7, abs=1e-12)


def test_learn_then_test_of_mapie_takes_the_same_threshold() -> None:
    """Fixed sequence testing, from asking about every row on."""
    rng, risk, delta, rows = np.random.default_rng(0), 0.1, 0.1, 400
    for _ in range(20):
        measure, wrong = log(rng, rows)
        thresholds = np.append(np.unique(measure), NEVER)
        losses = np.array([[(wrong & (measure < threshold)).mean() for threshold in thresholds]])
        (passed,), _ = ltt_procedure(
            losses, np.array([[risk]]), delta, np.full_like(losses, rows), binary=True, fwer_method="fixed_sequence"
        )
        assert certify(measure, wrong, risk, delta).threshold == thresholds[max(passed)]


MEASURE = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.3, 0.6]) | st.floats(0, 0.69), st.booleans()), min_size=1,
                   max_size=400)  # fmt: skip


@given(MEASURE, st.floats(0.01, 0.5), st.floats(0.01, 0.5), st.randoms())
def test_a_certificate_says_what_its_threshold_does(rows: list[Any], risk: float, delta: float, rng: Any) -> None:
    measure, wrong = np.array([m for m, _ in rows]), np.array([w for _, w in rows])
    found = certify(measure, wrong, risk, delta)
    routed = measure >= found.threshold
    assert found.share == pytest.approx(routed.mean())
    assert found.missed == (wrong & ~routed).sum()
    assert not found.certified or upper_bound(found.missed, len(rows), delta) <= risk * (1 + 1e-9)
    # No higher threshold would do.
    above = np.append(np.unique(measure[measure > found.threshold]), NEVER)
    if found.threshold < NEVER:
        assert (wrong & (measure < above[0])).sum() > most_within(len(rows), risk, delta)
    order = np.array(rng.sample(range(len(rows)), len(rows)))
    assert certify(measure[order], wrong[order], risk, delta) == found
    looser = certify(measure, wrong, min(0.9, 1.5 * risk), delta)
    assert looser.threshold >= found.threshold
    json.dumps(found.to_json(), allow_nan=False)
    assert found.text().startswith("Certified" if found.certified else "Not certified")


def log(rng: np.random.Generator, n: int) -> tuple[Any, Any]:
    """Entropies and errors of a base model; rounded, so that many are equal."""
    p = np.round(1 / (1 + np.exp(-1.5 * rng.normal(size=n))), 2)
    return entropy(p), rng.random(n) < np.minimum(p, 1 - p)


def truth(thresholds: Any) -> Any:
    """P(wrong and below the threshold) of that base model, and the share that is routed, from very many rows."""
    measure, wrong = log(np.random.default_rng(99), 2_000_000)
    order = np.argsort(measure)
    below = np.searchsorted(measure[order], thresholds)
    return np.append(0, np.cumsum(wrong[order]))[below] / len(order), 1 - below / len(order)


def test_a_certified_bound_is_broken_in_at_most_delta_of_the_logs() -> None:
    rng = np.random.default_rng(1)
    delta, risk = 0.1, 0.05
    found = [certify(*log(rng, 500), risk, delta) for _ in range(DRAWS)]
    assert all(one.certified for one in found)
    missed, shares = truth([one.threshold for one in found])
    broken = (missed > risk).mean()
    assert broken <= delta + 3 * math.sqrt(delta * (1 - delta) / DRAWS)
    assert broken > delta / 10  # and the bound is no empty one
    assert 0.2 < shares.mean() < 0.8


def test_the_expectation_of_conformal_risk_control_keeps_the_risk() -> None:
    rng = np.random.default_rng(2)
    risk = 0.05
    found = [certify_expected(*log(rng, 200), risk) for _ in range(DRAWS)]
    missed, _ = truth([one.threshold for one in found])
    assert missed.mean() <= risk + 3 * missed.std() / math.sqrt(DRAWS)
    assert missed.mean() > 0.7 * risk


def test_a_budget_is_passed_in_at_most_delta_of_the_logs() -> None:
    rng = np.random.default_rng(3)
    delta, budget = 0.1, 0.2
    thresholds = [within_budget(log(rng, 400)[0], budget, delta) for _ in range(DRAWS)]
    _, shares = truth(thresholds)
    broken = (shares > budget).mean()
    assert broken <= delta + 3 * math.sqrt(delta * (1 - delta) / DRAWS)
    assert shares.mean() > 0.6 * budget


def test_a_budget_in_milliseconds_of_dependent_rows_is_kept_too() -> None:
    """Users have their own level of doubt, and 1 to 9 rows of 1 to 4 ms each."""
    rng = np.random.default_rng(4)
    delta, budget, most = 0.1, 0.5, 4.0

    def users(n: int) -> tuple[Any, Any, Any]:
        owner = np.repeat(np.arange(n), rng.integers(1, 10, n))
        measure = 0.3 * (rng.random(n)[owner] + rng.random(len(owner)))
        return measure, rng.integers(1, 5, len(owner)).astype(float), owner

    thresholds = np.array([
        within_budget(measure, budget, delta, cost, owner, most) for measure, cost, owner in
        (users(150) for _ in range(DRAWS // 2))
    ])  # fmt: skip
    measure, cost, owner = users(100_000)
    order = np.argsort(measure)
    part = (cost / np.bincount(owner)[owner])[order]
    above = np.append(np.cumsum(part[::-1])[::-1], 0.0)[np.searchsorted(measure[order], thresholds)] / 100_000
    assert (above > budget).mean() <= delta + 3 * math.sqrt(delta * (1 - delta) / len(thresholds))
    assert np.isfinite(thresholds).all()


@given(MEASURE, st.floats(0.01, 0.9), st.floats(0.01, 0.5))
def test_a_budget_s_threshold_routes_no_more_than_the_count_allows(
    rows: list[Any], budget: float, delta: float
) -> None:
    measure = np.array([m for m, _ in rows])
    threshold = within_budget(measure, budget, delta)
    allowed = most_within(len(rows), budget, delta)
    assert (measure >= threshold).sum() <= max(0, allowed)
    lower = measure[measure < threshold]
    if len(lower):
        assert (measure >= lower.max()).sum() > allowed
    # Hoeffding and Bentkus know less than the binomial distribution, so they route no more.
    assert within_budget(measure, budget, delta, np.ones(len(rows))) >= threshold


def test_what_cannot_be_certified_is_said_with_the_rows_it_takes() -> None:
    few = certify(np.linspace(0, 0.6, 40), np.zeros(40, bool), 0.05, 0.05)
    assert (few.certified, few.threshold, few.share, few.needed) == (False, ALWAYS, 1.0, 59)
    assert "needs about 59 rows, and there are 40" in few.text()
    assert few.to_json()["threshold"] is None

    measure, wrong = log(np.random.default_rng(9), 2000)
    tight = certify(measure, wrong, 0.05, 0.05, largest=0.1)
    assert (tight.certified, tight.needed) == (False, None)
    assert "More rows do not help" in tight.text()

    measure, wrong = log(np.random.default_rng(9), 150)
    small = certify(measure, wrong, 0.05, 0.05, largest=0.7)
    assert not small.certified
    assert small.needed is not None
    assert small.needed > 150
    times = math.ceil(small.needed / 150)  # of the same rows: what was observed stays
    assert certify(np.tile(measure, times), np.tile(wrong, times), 0.05, 0.05, largest=0.7).certified

    blind = certify(np.zeros(1000), np.arange(1000) % 3 == 0, 0.05, 0.05)
    assert (blind.certified, blind.share, blind.needed) == (False, 1.0, None)
    assert "only if every row is asked" in blind.text()
    assert certify_expected(np.zeros(10), np.zeros(10, bool), 0.05).needed == 19


def test_a_base_model_that_is_never_wrong_needs_no_llm() -> None:
    found = certify(np.linspace(0, 0.6, 100), np.zeros(100, bool), 0.05, 0.05)
    assert (found.certified, found.threshold, found.share, found.missed) == (True, NEVER, 0.0, 0)


@pytest.mark.parametrize(("risk", "delta"), [(0.0, 0.1), (1.0, 0.1), (0.1, 0.0), (0.1, math.nan)])
def test_impossible_promises_are_refused(risk: float, delta: float) -> None:
    with pytest.raises(InputError, match="is not between 0 and 1"):
        certify(np.zeros(3), np.zeros(3, bool), risk, delta)
    with pytest.raises(InputError, match="is not between 0 and 1"):
        within_budget(np.zeros(3), risk, delta)


def test_no_rows_and_negative_costs_are_refused() -> None:
    with pytest.raises(InputError, match="no labelled row"):
        certify(np.zeros(0), np.zeros(0, bool), 0.05, 0.05)
    with pytest.raises(InputError, match="cost"):
        within_budget(np.zeros(2), 0.1, 0.1, np.array([0.5, -0.1]))


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30), st.integers(0, 2**32))
def test_one_row_of_each_user(users: list[str], seed: int) -> None:
    places = one_row_each(users, np.random.default_rng(seed))
    assert sorted(users[i] for i in places) == sorted(set(users))
    assert (np.diff(places) > 0).all()


def test_every_row_of_a_user_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    places = np.concatenate([one_row_each(np.array([7, 7, 7, 3]), rng) for _ in range(3000)])
    assert np.bincount(places, minlength=4).tolist() == pytest.approx([1000, 1000, 1000, 3000], rel=0.1)
