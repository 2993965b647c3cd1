from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.metrics import (
    Bootstrap,
    auc,
    auc_error,
    calibration_curve,
    ece,
    mass_bins,
    quality,
    row_hit,
    row_loss,
    sampled_auc,
    sampled_ece,
    sampled_mean,
    sampled_uauc,
    uauc,
)
from draws import samples, weighted_auc

SCORES = st.sampled_from([0.0, 0.2, 0.5, 1.0]) | st.floats(0, 1)
ROWS = st.lists(st.tuples(SCORES, st.integers(0, 1), st.integers(0, 3)), min_size=1, max_size=30)


@given(ROWS)
def test_auc_is_the_share_of_pairs_in_order(rows: list[Any]) -> None:
    p, y, w = (np.asarray(column, dtype=np.float64) for column in zip(*rows, strict=True))
    pairs = [
        (a * b, 1.0 if q > r else 0.5 if q == r else 0.0)
        for q, one, a in zip(p, y, w, strict=True)
        if one
        for r, two, b in zip(p, y, w, strict=True)
        if not two
    ]
    total = sum(weight for weight, _ in pairs)
    found = weighted_auc(p, y)(w)
    if total:
        assert found == pytest.approx(sum(weight * win for weight, win in pairs) / total, abs=1e-12)
    else:
        assert math.isnan(found)


def test_auc_equals_scikit_learn() -> None:
    reference = pytest.importorskip("sklearn.metrics").roc_auc_score
    rng = np.random.default_rng(0)
    p = np.round(rng.random(5000), 2)
    y = (rng.random(5000) < p).astype(np.int8)
    w = rng.integers(0, 5, 5000).astype(np.float64)
    assert auc(p, y) == pytest.approx(reference(y, p), abs=1e-12)
    assert weighted_auc(p, y)(w) == pytest.approx(reference(y, p, sample_weight=w), abs=1e-12)


def test_one_class_or_no_row_has_no_auc() -> None:
    assert all(math.isnan(x) for x in (auc([0.1, 0.2], [1, 1]), auc([0.1, 0.2], [0, 0]), auc([], [])))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=20))
def test_loss_and_hits_of_rows(rows: list[Any]) -> None:
    p, y = (list(column) for column in zip(*rows, strict=True))
    clipped = [min(max(x, 1e-7), 1 - 1e-7) for x in p]
    expected = [-math.log(x if label else 1 - x) for x, label in zip(clipped, y, strict=True)]
    np.testing.assert_allclose(row_loss(p, y), expected, rtol=1e-6, atol=1e-9)
    assert row_hit(p, y).tolist() == [float((x >= 0.5) == (label == 1)) for x, label in zip(p, y, strict=True)]
    found = quality(p, y)
    assert found.logloss == pytest.approx(np.mean(expected), rel=1e-6, abs=1e-9)


def sample() -> tuple[Any, Any, Any, Any]:
    """300 users with 5 rows each; `better` knows more of the truth than `worse`."""
    rng = np.random.default_rng(1)
    users = np.repeat(np.arange(300), 5)
    truth = rng.normal(size=1500)
    y = (truth + rng.normal(size=1500) > 0).astype(np.int8)
    better, worse = truth + 0.3 * rng.normal(size=1500), truth + 1.5 * rng.normal(size=1500)
    return users, y, 1 / (1 + np.exp(-better)), 1 / (1 + np.exp(-worse))


def test_an_interval_holds_its_value_and_repeats() -> None:
    users, y, better, _ = sample()
    found = sampled_auc(better, y, Bootstrap(users, draws=200, seed=3)).interval()
    assert found.value == auc(better, y)
    assert found.low < found.value < found.high
    assert 0.01 < found.high - found.low < 0.1
    assert found == sampled_auc(better, y, Bootstrap(users, draws=200, seed=3)).interval()
    assert found != sampled_auc(better, y, Bootstrap(users, draws=200, seed=4)).interval()


def test_a_paired_difference_is_narrower_than_the_unpaired() -> None:
    users, y, better, worse = sample()
    bootstrap = Bootstrap(users, draws=200)
    drawn = sampled_auc(better, y, bootstrap)
    gain = drawn.gain(sampled_auc(worse, y, bootstrap))
    assert gain.value == pytest.approx(auc(better, y) - auc(worse, y))
    assert gain.low > 0
    same = drawn.gain(sampled_auc(better, y, bootstrap))
    assert (same.low, same.value, same.high) == (0.0, 0.0, 0.0)
    close = drawn.gain(sampled_auc(np.clip(better + 0.001, 0, 1), y, bootstrap))
    alone = drawn.interval()
    assert close.high - close.low < 0.1 * (alone.high - alone.low)


def test_users_are_drawn_whole() -> None:
    users = np.asarray(["b", "a", "b", "c", "a"])
    seen: list[Any] = []
    samples(Bootstrap(users, draws=20), lambda w: float(len(seen)) if seen.append(w.copy()) is None else 0.0)
    assert len(seen) == 20
    for weight in seen:
        assert weight[0] == weight[2]
        assert weight[1] == weight[4]
        assert weight[0] + weight[1] + weight[3] == 3


def test_draws_without_one_class_do_not_count() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = sampled_auc([0.2, 0.8, 0.6], [0, 1, 0], Bootstrap([1, 2, 3], draws=50)).interval()
    assert found.low <= found.value <= found.high


@given(st.lists(st.tuples(SCORES, st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=40))
def test_every_draw_equals_the_metric_with_weighted_rows(rows: list[Any]) -> None:
    """Ties, users with one class and a single user included."""
    p, y, users = (np.asarray(column) for column in zip(*rows, strict=True))
    bootstrap, ranked, place = Bootstrap(users, draws=20), weighted_auc(p, y), mass_bins(p)
    same = {"atol": 1e-12, "rtol": 0}
    found = sampled_auc(p, y, bootstrap)
    np.testing.assert_allclose(found.draws, samples(bootstrap, ranked), **same)
    np.testing.assert_allclose(found.value, ranked(np.ones(len(p))), **same)
    loss = row_loss(p, y)
    weighted = samples(bootstrap, lambda w: float(np.average(loss, weights=w)))
    np.testing.assert_allclose(sampled_mean(loss, bootstrap).draws, weighted, **same)
    errors = samples(bootstrap, lambda w: float(np.abs(np.bincount(place, w * (p - y))).sum() / w.sum()))
    np.testing.assert_allclose(sampled_ece(p, y, bootstrap).draws, errors, **same)
    alone = {user: auc(p[users == user], y[users == user]) for user in np.unique(users).tolist()}
    first = {user: int(np.flatnonzero(users == user)[0]) for user in alone if not math.isnan(alone[user])}

    def mean(w: Any) -> float:
        times = [w[row] for row in first.values()]
        return float(np.average([alone[user] for user in first], weights=times)) if sum(times) else math.nan

    np.testing.assert_allclose(sampled_uauc(p, y, bootstrap).draws, samples(bootstrap, mean), **same)
    np.testing.assert_allclose(uauc(p, y, users), mean(np.ones(len(p))), **same)


def test_draws_are_the_same_kept_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    users, y, better, _ = sample()
    kept = sampled_auc(better, y, Bootstrap(users, draws=50)).draws
    monkeypatch.setattr(Bootstrap, "_KEEP", 0)
    monkeypatch.setattr(Bootstrap, "_BLOCK", 1000)
    assert kept.tolist() == sampled_auc(better, y, Bootstrap(users, draws=50)).draws.tolist()


def test_bins_hold_equal_mass_and_equal_scores() -> None:
    p = np.random.default_rng(2).permutation(100) / 100
    assert np.bincount(mass_bins(p, 15)).tolist() == np.diff(np.arange(16) * 100 // 15).tolist()
    assert mass_bins([0.5, 0.5, 0.5, 0.9], 2).tolist() == [1, 1, 1, 1]
    assert mass_bins([0.1, 0.5, 0.5, 0.9], 2).tolist() == [0, 1, 1, 1]
    assert mass_bins([]).tolist() == []


def test_calibration_by_hand() -> None:
    p, y = [0.1, 0.2, 0.6, 0.8], [0, 1, 1, 1]
    score, rate, rows = calibration_curve(p, y, 2)
    np.testing.assert_allclose(score, [0.15, 0.7])
    assert (rate.tolist(), rows.tolist()) == ([0.5, 1.0], [2, 2])
    assert ece(p, y, 2) == pytest.approx((2 * 0.35 + 2 * 0.3) / 4)
    assert math.isnan(ece([], []))
    assert calibration_curve([0.5, 0.5], [0, 1], 2)[2].tolist() == [0, 2]


def test_a_calibrated_score_has_almost_no_ece() -> None:
    rng = np.random.default_rng(4)
    p = rng.random(100_000)
    y = rng.random(100_000) < p
    assert ece(p, y) < 0.01
    assert ece(np.clip(p + 0.1, 0, 1), y) == pytest.approx(0.1, abs=0.02)


def test_gains_in_percent() -> None:
    users, y, better, worse = sample()
    bootstrap = Bootstrap(users, draws=100)
    a, b = sampled_auc(better, y, bootstrap), sampled_auc(worse, y, bootstrap)
    found = a.percent(b)
    assert found.value == pytest.approx(100 * (a.value / b.value - 1))
    assert found.low == pytest.approx(np.percentile(100 * (a.draws / b.draws - 1), 2.5))


def test_no_user_with_both_classes_has_no_uauc() -> None:
    found = sampled_uauc([0.1, 0.9], [0, 1], Bootstrap([1, 2], draws=10)).interval()
    assert all(math.isnan(x) for x in (found.value, found.low, found.high, uauc([0.1, 0.9], [0, 1], [1, 2])))


def test_the_error_of_an_auc_is_that_of_repeated_samples() -> None:
    """Hanley and McNeil's formula against the spread of AUCs of exponential scores, the model that it rests on."""
    rng = np.random.default_rng(0)
    area, positive, negative = 0.75, 40, 60
    rate = area / (1 - area)  # P(positive above negative) of exponentials with means rate and 1 is rate / (1 + rate)
    labels = np.repeat([1, 0], [positive, negative])
    draws = [auc(np.r_[rng.exponential(rate, positive), rng.exponential(1.0, negative)], labels) for _ in range(2000)]
    assert np.mean(draws) == pytest.approx(area, abs=0.005)
    assert auc_error(positive, negative, area) == pytest.approx(np.std(draws), rel=0.06)


def test_the_error_of_an_auc_of_one_class_is_infinite() -> None:
    assert auc_error(0, 5) == auc_error(5, 0) == float("inf")
    assert auc_error(400, 400) == pytest.approx(auc_error(100, 100) / 2, rel=0.02)


@given(st.lists(st.tuples(SCORES, st.integers(0, 1), st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=30))
def test_a_row_of_a_whole_weight_counts_as_if_it_were_there_so_often(rows: list[Any]) -> None:
    p, y, users, times = (np.asarray(column) for column in zip(*rows, strict=True))
    weight = times.astype(np.float64)
    if not times.any():
        assert math.isnan(quality(p, y, weight).logloss)
        return
    again = [np.repeat(column, times) for column in (p, y, users)]
    one, other = quality(p, y, weight), quality(*again[:2])
    assert (one.auc, one.logloss, one.accuracy) == pytest.approx(
        (other.auc, other.logloss, other.accuracy), nan_ok=True
    )
    assert ece(p, y, weight=weight) == pytest.approx(ece(*again[:2]))
    kept = times > 0
    assert mass_bins(p[kept], weight=weight[kept]).tolist() == mass_bins(again[0])[_first_of(times)].tolist()
    assert uauc(p, y, users, weight) == pytest.approx(uauc(*again), nan_ok=True)


def _first_of(times: Any) -> Any:
    """Where each row that is repeated begins among the repeated ones."""
    return (np.cumsum(times) - times)[times > 0]


def test_draws_of_weighted_rows_are_draws_of_repeated_ones() -> None:
    rng = np.random.default_rng(2)
    p, y, users = rng.random(200).round(2), (rng.random(200) < 0.4).astype(np.float64), rng.integers(0, 12, 200)
    times = rng.integers(1, 5, 200)
    weight, again = times.astype(np.float64), [np.repeat(column, times) for column in (p, y, users)]
    one, other = Bootstrap(users, 50), Bootstrap(again[2], 50)
    pairs = [
        (sampled_auc(p, y, one, weight), sampled_auc(*again[:2], other)),
        (sampled_mean(row_loss(p, y), one, weight), sampled_mean(row_loss(*again[:2]), other)),
        (sampled_ece(p, y, one, weight=weight), sampled_ece(*again[:2], other)),
        (sampled_uauc(p, y, one, weight), sampled_uauc(*again[:2], other)),
    ]
    for weighted, repeated in pairs:
        assert weighted.value == pytest.approx(repeated.value)
        assert weighted.draws == pytest.approx(repeated.draws)
