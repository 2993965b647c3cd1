"""Two parts of a log by time, whether they are enough, and the traps: logs that have them and logs that have not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t as student_t

from corella_edge.errors import InputError
from corella_edge.metrics import Bootstrap, Sampled, auc, sampled_auc
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import entropy
from corella_edge.routing.parts import (
    FEW_USERS,
    Parts,
    by_time,
    detectable,
    enough,
    even_users,
    rows_needed,
    student,
    traps,
    unequal,
    usable,
    whole_requests,
)
from logs import labelled_log

LOG = labelled_log(200, 6, 40)


@given(st.floats(0.01, 0.99), st.integers(0, 9), st.integers(1, 40))
def test_the_cut_is_in_time_and_tears_no_request(share: float, seed: int, moments: int) -> None:
    rows = labelled_log(40, 3, 7, seed=seed)
    rows = replace(rows, time=np.round(rows.time / 86400 * moments))  # many requests of one moment
    if len(np.unique(rows.time)) < 2:
        return
    parts = by_time(rows, share)
    assert len(parts.fit) + len(parts.held) == len(rows)
    assert len(parts.fit) > 0
    assert parts.fit.time.max() < parts.held.time.min()
    assert not set(parts.fit.request) & set(parts.held.request)
    sizes = np.unique(rows.time, return_counts=True)[1]
    assert abs(len(parts.fit) - share * len(rows)) <= max(sizes)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert set(by_time(rows.take(order), share).fit.request) == set(parts.fit.request)


def test_a_request_that_goes_on_after_the_cut_stays_whole() -> None:
    rows = replace(LOG, time=LOG.time + np.arange(len(LOG)) % 6 * 86400.0)
    parts = by_time(rows)
    assert not set(parts.fit.request) & set(parts.held.request)


def test_a_log_of_one_moment_has_no_later_part() -> None:
    with pytest.raises(InputError, match="time: all requests are of one moment"):
        by_time(replace(LOG, time=np.ones(len(LOG))))


def test_rows_without_a_score_count_unless_it_is_missing_by_chance() -> None:
    rows = labelled_log(20, 5, 5, known=0.5)
    assert usable(rows).tolist() == rows.known.tolist()
    assert usable(replace(rows, propensity=np.ones(len(rows)))).all()


@pytest.mark.parametrize(("freedom", "error"), [(1, 1e-9), (2, 1e-9), (3, 0.005), (5, 5e-4), (12, 1e-5), (400, 1e-9)])
@pytest.mark.parametrize("p", [0.8, 0.975])
def test_quantiles_of_student_are_those_of_scipy(p: float, freedom: int, error: float) -> None:
    assert student(p, freedom) == pytest.approx(student_t.ppf(p, freedom), abs=error)


def test_a_detectable_gain_is_found_four_times_in_five() -> None:
    """Simulated: a t test over users, whose mean gain is as large as is said to be detectable."""
    users, spread, trials = 12, 0.3, 4000
    error = spread / np.sqrt(users)
    # What a bootstrap over so few users gives is smaller than the true error by the factor that `detectable` restores.
    gain = detectable(error * np.sqrt((users - 1) / users), users)
    drawn = np.random.default_rng(1).normal(gain, spread, (trials, users))
    found = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / np.sqrt(users)) > student_t.ppf(0.975, users - 1)
    assert found.mean() == pytest.approx(0.8, abs=0.03)


@given(st.integers(10, 10_000), st.integers(2, 500), st.floats(1e-4, 0.2), st.floats(1e-3, 0.2))
def test_the_rows_that_are_needed_are_enough_and_half_of_them_are_not(
    rows: int, users: int, error: float, wanted: float
) -> None:
    needed = rows_needed(rows, users, error, wanted)

    def smallest(part: float) -> float:
        return detectable(error / np.sqrt(part), max(2, int(users * part)))

    assert smallest(1.01 * needed / rows) <= wanted
    if needed > max(100, 20 * rows / users):  # of few rows the half is not half of them, and users are whole
        assert smallest(0.5 * needed / rows) > wanted
    assert rows_needed(rows, users, error, wanted / 2) >= needed


def gain_of(rows: LabelledRows) -> Sampled:
    bootstrap = Bootstrap(rows.user, 200)
    llm, crm = (sampled_auc(p, rows.label, bootstrap) for p in (rows.llm, rows.crm))
    return Sampled(llm.value - crm.value, llm.draws - crm.draws)


def test_more_rows_show_smaller_gains() -> None:
    few, many = labelled_log(60, 6, 20), labelled_log(1500, 6, 500)
    less, more = (enough(rows, gain_of(rows), 0.02) for rows in (few, many))
    assert less.smallest > more.smallest
    assert not less.holds
    assert more.holds
    assert less.needed == pytest.approx(more.needed, rel=0.6)  # the same world: the same number is needed
    assert f"{less.needed:,} held-out rows of {less.of:,} users" in str(less)
    assert less.of / less.needed == pytest.approx(20 / 360, rel=0.05)  # of users with as many rows
    assert more.of <= 500


@pytest.mark.parametrize("users", [1, 30])
def test_rows_that_show_nothing_still_get_a_number(users: int) -> None:
    rows = replace(labelled_log(30, 4, users), label=np.ones(120))
    found = enough(rows, gain_of(rows), 0.01)
    assert not found.holds
    assert found.needed >= 20 * 120  # as if one user with a negative row had been seen
    assert found.advice == "collect more"
    assert "it takes 20 users with a positive row and 20 with a negative one" in str(found)


def test_a_few_users_are_no_measure_of_users_however_many_rows_they_have() -> None:
    rows = labelled_log(400, 6, 19)
    found = enough(rows, gain_of(rows), 0.01)
    assert not found.holds
    assert found.smallest == np.inf
    assert found.of >= FEW_USERS
    assert "it takes 20 users" in str(found)
    assert enough(labelled_log(400, 6, 25), gain_of(labelled_log(400, 6, 25)), 0.5).holds


def with_positives(rows: LabelledRows, number: int) -> LabelledRows:
    """The rows with so many positive ones, each of another user, where the LLM's score is highest."""
    label, best = np.zeros(len(rows)), np.argsort(-rows.llm)
    users = np.unique(rows.user[best], return_index=True)[1]
    label[best[np.sort(users)[:number]]] = 1.0
    return replace(rows, label=label)


@pytest.mark.parametrize("number", [1, 5, 19])
def test_a_few_positive_rows_are_refused_with_the_number_that_is_needed(number: int) -> None:
    """However narrow the interval: it is that of a handful of rows."""
    rows = with_positives(labelled_log(400, 6, 100), number)
    found = enough(rows, gain_of(rows), 0.2)
    assert not found.holds
    assert found.positive == number
    assert found.negative > 60
    assert found.needed >= len(rows) * 20 / number  # as many as bring twenty users with a positive row
    assert f"the positive rows here are spread as over {number:.1f} users" in str(found)
    assert f"{found.needed:,} held-out rows of {found.of:,} users" in str(found)
    assert enough(with_positives(rows, 20), gain_of(with_positives(rows, 20)), 0.2).holds


def test_where_there_is_no_gain_to_be_shown_users_of_both_classes_are_needed_all_the_same() -> None:
    rows = labelled_log(400, 6, 100)
    assert enough(rows, None, 1e-9).holds
    few = with_positives(rows, 3)
    assert not enough(few, None, 0.5).holds
    assert "as over 3.0 users" in str(enough(few, None, 0.5))


def of_one_user(rows: LabelledRows, number: int = 600) -> LabelledRows:
    """The rows, of which the first belong to one user."""
    return replace(rows, user=np.where(np.arange(len(rows)) < number, "u0", rows.user).astype(object))


def test_positives_of_one_user_are_one_user_s() -> None:
    rows = of_one_user(labelled_log(400, 6, 100))
    label = ((rows.user == "u0") | (np.arange(len(rows)) % 97 == 0)).astype(np.float64)
    assert even_users(rows, label > 0) < 2.0
    assert not enough(replace(rows, label=label), gain_of(replace(rows, label=label)), 0.5).holds


def test_rows_that_stand_for_many_count_as_the_few_that_they_are() -> None:
    rows = of_one_user(labelled_log(1000, 6, 100), 60)
    plain = enough(rows, gain_of(rows), 0.5)
    heavy = replace(rows, propensity=np.where(rows.user == "u0", 0.01, 1.0))
    assert even_users(heavy, heavy.label > 0) < 5.0 < 40.0 < plain.positive
    assert not enough(heavy, gain_of(heavy), 0.5).holds


@pytest.mark.parametrize(("positives", "least", "most"), [(20, 0.91, 0.98), (2, 0.5, 0.78)])
def test_twenty_users_with_a_positive_row_support_the_interval_and_two_do_not(
    positives: int, least: float, most: float
) -> None:
    """Simulated: how often the reported interval of a gain in AUC holds the true one (nominally 95 %)."""
    rng, held, worlds, users = np.random.default_rng(6), 0, 200, 120
    label = (np.arange(users) < positives).astype(np.float64)
    bootstrap = Bootstrap(np.arange(users), 200)

    def scores(n: int, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shared = rng.normal(size=n)
        return tuple(shift * label + shared + 0.7 * rng.normal(size=n) for shift in (1.0, 1.5))

    many = (np.arange(200_000) % 2).astype(np.float64)
    base, other = (auc(p, many) for p in scores(len(many), many))
    for _ in range(worlds):
        crm, llm = (sampled_auc(p, label, bootstrap) for p in scores(users, label))
        found = llm.gain(crm)
        held += found.low <= other - base <= found.high
    assert least <= held / worlds <= most


def test_equal_propensities_are_no_weights() -> None:
    assert unequal(labelled_log(20, 5, 5, known=0.5)) is None
    uneven = replace(LOG, propensity=np.where(LOG.crm > 0.5, 0.5, 1.0))
    assert unequal(uneven).tolist() == np.where(LOG.crm > 0.5, 2.0, 1.0).tolist()


def test_requests_are_whole_where_they_were_drawn_in_whole() -> None:
    drawn = np.array([int(name[1:]) % 3 == 0 for name in LOG.request])
    shadow = replace(LOG, llm=np.where(drawn, LOG.llm, np.nan), propensity=np.full(len(LOG), 1 / 3))
    assert whole_requests(shadow).tolist() == drawn.tolist()
    # An item without words has no answer to lose: its request stays whole, and says so by a propensity of 1.
    mute = np.arange(len(LOG)) % 7 == 0
    silent = replace(shadow, llm=np.where(mute, np.nan, shadow.llm), propensity=np.where(mute, 1.0, 1 / 3))
    assert whole_requests(silent).tolist() == drawn.tolist()
    assert whole_requests(LOG).all()


def test_requests_whose_candidates_were_drawn_one_by_one_are_no_whole_ones() -> None:
    hard = entropy(LOG.crm) >= 0.6
    told = hard | (np.random.default_rng(0).random(len(LOG)) < 0.3)
    explored = replace(LOG, llm=np.where(told, LOG.llm, np.nan), propensity=np.where(hard, 1.0, 0.3))
    assert not whole_requests(explored).any()
    assert not whole_requests(labelled_log(200, 6, 40, known=0.3)).any()


@given(st.integers(0, 30), st.floats(1e-4, 0.05))
def test_the_gain_that_is_advised_is_one_that_the_rows_show(seed: int, wanted: float) -> None:
    rows = labelled_log(100, 6, 60, seed=seed)
    found = enough(rows, gain_of(rows), wanted)
    if found.holds:
        return
    said = float(found.advice.partition("--gain ")[2].split()[0])
    assert found.smallest <= said <= 1.1 * found.smallest
    assert enough(rows, gain_of(rows), said).holds


def told(parts: Parts) -> str:
    return "; ".join(traps(parts, entropy(parts.held.crm)))


def test_a_log_as_it_was_shown_has_no_trap() -> None:
    assert told(by_time(LOG)) == ""


def test_a_random_split_is_told() -> None:
    drawn = np.random.default_rng(0).random(len(LOG)) < 0.5
    assert "as after a random split" in told(Parts(LOG.take(drawn), LOG.take(~drawn)))


def test_injected_positives_are_told() -> None:
    label = (np.arange(len(LOG)) % 6 == 0).astype(float)
    assert "exactly one positive" in told(by_time(replace(LOG, label=label)))
    single = replace(LOG, request=np.array([f"q{i}" for i in range(len(LOG))], dtype=object), label=label)
    assert told(by_time(single)) == ""


def test_a_log_that_a_policy_made_is_told() -> None:
    hard = entropy(LOG.crm)
    asked = replace(LOG, llm=np.where(hard >= np.quantile(hard, 0.7), LOG.llm, np.nan))
    assert "a policy chose them" in told(by_time(asked))
    assert told(by_time(labelled_log(200, 6, 40, known=0.3))) == ""


def test_chances_that_are_clipped_are_told() -> None:
    assert told(by_time(replace(LOG, propensity=np.where(LOG.crm > 0.5, 0.5, 1.0)))) == ""
    tiny = told(by_time(replace(LOG, propensity=np.where(LOG.crm > 0.5, 0.001, 1.0))))
    assert "below 0.01 in" in tiny
    assert "each stands for 100 rows" in tiny


def test_an_explored_log_is_none_that_a_policy_made() -> None:
    hard = entropy(LOG.crm) >= np.quantile(entropy(LOG.crm), 0.7)
    drawn = hard | (np.random.default_rng(0).random(len(LOG)) < 0.2)
    explored = replace(LOG, llm=np.where(drawn, LOG.llm, np.nan), propensity=np.where(hard, 1.0, 0.2))
    assert told(by_time(explored)) == ""
