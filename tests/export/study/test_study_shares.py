"""Fusion rules, the curve over routed shares and the point of operation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge import metrics
from corella_edge.routing.fusion import RULES, Fusion
from corella_edge.routing.log_odds import fit_agreeing, fit_logistic
from corella_edge.routing.policy import RATIOS, Calibration
from corella_edge_export.evaluation import shares
from corella_edge_export.evaluation.fusion import ENOUGH, fused, fusion, routed
from corella_edge_export.evaluation.scored import METRICS, ScoredJudge, ScoredRows, ScoredSplits
from draws import samples, weighted_auc
from study_rows import pair, rows

PAIR = pair()
JUDGE = ScoredJudge(PAIR.test, draws=60)


@pytest.fixture(scope="module")
def curve() -> list[Any]:
    return shares.curve(PAIR, JUDGE)


def close(found: Any, expected: float) -> bool:
    return bool(found["value"] == pytest.approx(expected, abs=1e-9))


def test_share_0_is_the_crm_and_share_1_the_llm(curve: list[Any]) -> None:
    assert [point["ratio"] for point in curve] == list(RATIOS)
    for line in shares.LINES:
        first = curve[0]["lines"][line]
        assert all(first[m]["value"] == JUDGE(PAIR.test.crm)[m].value for m in METRICS)
        assert all(first["over_crm"][m] == {"value": 0.0, "low": 0.0, "high": 0.0} for m in METRICS)
    llm = JUDGE(PAIR.test.llm_or_crm)
    for line in ("replace", "random", "oracle"):
        assert all(curve[-1]["lines"][line][m]["value"] == llm[m].value for m in METRICS)
    assert curve[-1]["share"] == PAIR.test.answered.mean()
    whole = pair(silent=0.0)
    assert (fused(whole.test, routed(whole.test, 0.0), Fusion("replace")) == whole.test.llm).all()


def by_hand(data: ScoredSplits, ratio: float, rule: str) -> tuple[list[float], float]:
    """Final scores row by row, and the realised share."""
    threshold = Calibration.fit(data.valid.entropies).threshold(ratio)
    weights = [0.0, 0.5, 0.5] if rule != "stack" else fusion("stack", data.valid, threshold).weights
    final, count = [], 0
    for crm, llm in zip(data.test.crm.tolist(), data.test.llm.tolist(), strict=True):
        s = -crm * math.log(crm) - (1 - crm) * math.log1p(-crm)
        if math.isnan(llm) or min(s, math.log(2)) < threshold:
            final.append(crm)
            continue
        count += 1
        z = weights[0] + weights[1] * math.log(crm / (1 - crm)) + weights[2] * math.log(llm / (1 - llm))
        final.append(llm if rule == "replace" else 1 / (1 + math.exp(-z)))
    return final, count / len(final)


@pytest.mark.parametrize("rule", RULES)
def test_every_point_equals_a_row_by_row_recomputation(curve: list[Any], rule: str) -> None:
    y, users = PAIR.test.labels, PAIR.test.users
    crm, base = metrics.quality(PAIR.test.crm, y), metrics.quality(PAIR.test.base, y)
    for point in curve:
        final, share = by_hand(PAIR, point["ratio"], rule)
        found, expected = point["lines"][rule], metrics.quality(final, y)
        assert point["share"] == share
        for metric in ("auc", "logloss", "accuracy"):
            assert close(found[metric], getattr(expected, metric))
            assert close(found["over_crm"][metric], getattr(expected, metric) - getattr(crm, metric))
            assert close(found["over_base"][metric], getattr(expected, metric) - getattr(base, metric))
        assert close(found["ece"], metrics.ece(final, y))
        assert close(found["uauc"], metrics.uauc(final, y, users))


def test_intervals_are_those_of_weighted_rows(curve: list[Any]) -> None:
    point = curve[RATIOS.index(0.3)]
    final = np.asarray(by_hand(PAIR, 0.3, "replace")[0])
    bootstrap = metrics.Bootstrap(PAIR.test.users, 60)
    routed_draws, crm_draws = (samples(bootstrap, weighted_auc(p, PAIR.test.labels)) for p in (final, PAIR.test.crm))
    low, high = np.percentile(routed_draws - crm_draws, [2.5, 97.5])
    gain = point["lines"]["replace"]["over_crm"]["auc"]
    assert (gain["low"], gain["high"]) == (pytest.approx(low, abs=1e-12), pytest.approx(high, abs=1e-12))


def test_the_oracle_has_the_lowest_loss_of_all_replacements(curve: list[Any]) -> None:
    for point in curve:
        lines = point["lines"]
        assert all(lines["oracle"]["logloss"]["value"] <= lines[o]["logloss"]["value"] for o in ("replace", "random"))


def test_random_and_oracle_route_as_many_rows() -> None:
    for count in (0, 1, 100):
        assert shares.hardest(PAIR.test, count).sum() == count
        assert (shares.hardest(PAIR.test, count) <= PAIR.test.answered).all()
    one = shares.random_line(JUDGE, 100, seed=1, draws=1)
    several = shares.random_line(JUDGE, 100, seed=1, draws=4)
    moved = several["auc"].value - one["auc"].value
    assert moved != 0
    np.testing.assert_allclose(several["auc"].draws - one["auc"].draws, moved)
    assert several["auc"].value == shares.random_line(JUDGE, 100, seed=1, draws=4)["auc"].value


def test_rows_without_an_answer_keep_the_crms_score() -> None:
    silent = ~PAIR.test.answered
    assert silent.any()
    for rule in RULES:
        p = fused(PAIR.test, routed(PAIR.test, 0.0), fusion(rule, PAIR.valid, 0.0))
        assert (p[silent] == PAIR.test.crm[silent]).all()
        assert np.isfinite(p).all()


def test_no_answer_at_all_leaves_the_crm() -> None:
    mute = replace(PAIR.test, llm=np.full(len(PAIR.test), np.nan))
    judge = ScoredJudge(mute, draws=10)
    point = shares.curve(ScoredSplits(PAIR.valid, mute), judge, (0.5,))[0]
    assert point["share"] == 0.0
    assert all(close(point["lines"][line]["auc"], judge(mute.crm)["auc"].value) for line in shares.LINES)


def test_equal_entropies_are_routed_together() -> None:
    data = rows(200, silent=0.0)
    data = replace(data, crm=np.where(np.arange(200) % 2 == 0, 0.5, 0.9))
    point = shares.curve(ScoredSplits(data, data), ScoredJudge(data, 5), (0.1,))[0]
    assert point["share"] == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_stack_equals_scikit_learn(seed: int) -> None:
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(seed)
    x = np.c_[np.ones(400), rng.normal(size=(400, 2)) @ [[1.0, 0.8], [0.0, 0.6]]]
    y = rng.random(400) < 1 / (1 + np.exp(0.4 - 1.3 * x[:, 1] + 0.5 * x[:, 2]))
    reference = linear.LogisticRegression(C=1000.0, tol=1e-10, max_iter=10_000).fit(x[:, 1:], y)
    expected = [reference.intercept_[0], *reference.coef_[0]]
    np.testing.assert_allclose(fit_logistic(x, y), expected, atol=1e-5)


def test_stack_of_equal_or_separating_scores_stays_finite() -> None:
    x = np.linspace(-2, 2, 100)
    for y in (x > 0, x > 5, np.arange(100) % 2 == 0):
        assert np.isfinite(fit_logistic(np.c_[np.ones(100), x, x], y)).all()


def test_stack_is_fitted_on_the_routed_validation_rows_if_they_suffice() -> None:
    valid = rows(3000)
    threshold = Calibration.fit(valid.entropies).threshold(0.2)
    near = valid.part(routed(valid, threshold))
    assert len(near) > ENOUGH

    def weights(data: ScoredRows, nats: float) -> Any:
        return fusion("stack", data, nats).weights

    np.testing.assert_allclose(weights(valid, threshold), weights(near, 0.0))
    everything = weights(valid, 0.0)
    few = Calibration.fit(valid.entropies).threshold(0.02)
    assert weights(valid, few) == everything
    one_class = replace(valid, labels=np.where(routed(valid, threshold), 1, valid.labels).astype(np.int8))
    assert weights(one_class, threshold) == weights(one_class, 0.0)


def test_the_point_of_operation_knows_validation_rows_alone() -> None:
    chosen = shares.operation(PAIR.valid)
    calibration = Calibration.fit(PAIR.valid.entropies)
    scores = {}
    for ratio in shares.CANDIDATES:
        nats = calibration.threshold(ratio)
        for rule in RULES:
            p = fused(PAIR.valid, routed(PAIR.valid, nats), fusion(rule, PAIR.valid, nats))
            scores[ratio, rule] = metrics.auc(p, PAIR.valid.labels)
    assert chosen.valid_auc == max(scores.values())
    assert scores[chosen.ratio, chosen.fusion.rule] == chosen.valid_auc
    found = shares.operating_point(PAIR, JUDGE, chosen)
    assert found["threshold"] == calibration.threshold(chosen.ratio)
    assert found["share"] == routed(PAIR.test, chosen.threshold).mean()
    system, base = JUDGE(chosen.scores(PAIR.test)), JUDGE(PAIR.test.base)
    for metric in METRICS:
        assert close(found[metric], system[metric].value)
        assert close(found["over_base_percent"][metric], 100 * (system[metric].value / base[metric].value - 1))


def test_an_unknown_rule_is_refused() -> None:
    with pytest.raises(ValueError, match="rule: vote"):
        fusion("vote", PAIR.valid, 0.5)


def test_rows_are_checked() -> None:
    data = PAIR.test
    with pytest.raises(ValueError, match="columns"):
        replace(data, llm=data.llm[1:])
    with pytest.raises(ValueError, match="columns"):
        data.part(np.zeros(len(data), dtype=bool))
    with pytest.raises(ValueError, match="base and crm"):
        replace(data, crm=data.llm)


@given(st.integers(0, 1000), st.floats(-2, 2), st.floats(-2, 2))
@settings(max_examples=30, deadline=None)
def test_a_fit_turns_no_model_s_order_round(seed: int, first: float, second: float) -> None:
    rng = np.random.default_rng(seed)
    x = np.c_[np.ones(300), rng.normal(size=(300, 2))]
    y = rng.random(300) < 1 / (1 + np.exp(-x @ [0.2, first, second]))
    free, found = fit_logistic(x, y), fit_agreeing(x, y)
    assert (found[1:] >= 0).all()
    if (free[1:] >= 0).all():
        np.testing.assert_array_equal(found, free)
    for column in (1, 2):
        if found[column] == 0:  # what is left is fitted as if the other had not been there
            others = [k for k in range(3) if k == 0 or found[k] > 0]
            np.testing.assert_allclose(found[others], fit_logistic(x[:, others], y), atol=1e-9)


def test_new_items_are_fused_by_weights_of_their_own_where_the_rows_tell_them() -> None:
    told = replace(made := rows(), new_items=np.arange(len(made)) % 3 == 0)
    chosen, known, new = told.answered, (0.1, 1.0, 0.2), (-0.3, 0.4, 1.5)
    both = fused(told, chosen, Fusion("stack", known, new_items=new))
    for weights, mask in ((known, ~told.new_items), (new, told.new_items)):
        assert np.array_equal(both[mask], fused(told, chosen, Fusion("stack", weights))[mask])
    assert np.array_equal(fused(made, chosen, Fusion("stack", known, new_items=new)),
                          fused(made, chosen, Fusion("stack", known)))  # fmt: skip
    assert not np.array_equal(both, fused(made, chosen, Fusion("stack", known)))
