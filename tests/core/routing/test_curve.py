"""The curve against the plainest calculation, its ends, its invariances, and the lines beside it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from corella_edge.metrics import row_loss
from corella_edge.ranking import Lists
from corella_edge.routing.curve import HeldOut, at_random, curve, cut, knee, oracle, point, won
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import entropy
from logs import labelled_log

LOG = labelled_log(250, 8, 60)
SHARES = st.floats(0.0, 1.0)
VALUES = st.lists(st.floats(-5, 5), min_size=1, max_size=40)


def held(rows: LabelledRows = LOG, draws: int = 40) -> HeldOut:
    return HeldOut(rows, entropy(rows.crm), REPLACE, draws)


@given(VALUES, SHARES, SHARES)
def test_a_cut_falls_with_the_share_and_its_ends_are_exact(values: list[float], one: float, other: float) -> None:
    v = np.array(values)
    low, high = sorted((one, other))
    assert cut(v, low) >= cut(v, high)
    assert not (v >= cut(v, 0.0)).any()
    assert (v >= cut(v, 1.0)).all()
    assert cut(v[::-1], one) == cut(v, one)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40, unique=True), st.floats(0.001, 0.999))
def test_without_equal_values_the_share_is_exact_to_one_row(values: list[float], share: float) -> None:
    v = np.array(values)
    assert abs(int((v >= cut(v, share)).sum()) - share * len(v)) <= 1


def test_the_ends_are_the_models_alone() -> None:
    made = held()
    never, always = point(made, math.inf), point(made, -math.inf)
    assert never["auc"]["value"] == pytest.approx(roc_auc_score(LOG.label, LOG.crm))
    assert always["auc"]["value"] == pytest.approx(roc_auc_score(LOG.label, LOG.llm))
    assert always["logloss"]["value"] == pytest.approx(log_loss(LOG.label, LOG.llm))
    assert (never["share"]["value"], always["share"]["value"]) == (0.0, 1.0)
    assert (never["asked_per_request"], always["asked_per_request"]) == (0.0, 8.0)
    assert (never["requests_touched"], always["requests_touched"]) == (0.0, 1.0)
    assert never["over_crm"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    for name in ("random", "oracle"):
        assert never[name]["auc"] == never["auc"]["value"]
        assert always[name]["auc"] == always["auc"]["value"]


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_a_point_is_what_a_row_by_row_calculation_gives(share: float) -> None:
    made, threshold = held(), cut(entropy(LOG.crm), share)
    found = point(made, threshold, lambda asked, touched: 10 * touched + asked)
    routed = entropy(LOG.crm) >= threshold
    final = np.where(routed, LOG.llm, LOG.crm)
    assert found["auc"]["value"] == pytest.approx(roc_auc_score(LOG.label, final))
    assert found["accuracy"]["value"] == ((final >= 0.5) == LOG.label).mean()
    lists = [np.flatnonzero(LOG.request == name) for name in np.unique(LOG.request)]
    mixed = [rows for rows in lists if 0 < LOG.label[rows].mean() < 1]
    scores = [ndcg_score([LOG.label[rows]], [final[rows]], k=10) for rows in mixed]
    assert found["ndcg@10"]["value"] == pytest.approx(np.mean(scores))
    touched = np.mean([routed[rows].any() for rows in lists])
    assert found["requests_touched"] == pytest.approx(touched)
    assert found["llm_ms"] == pytest.approx(10 * touched + routed.sum() / len(lists))
    assert found["auc"]["low"] < found["auc"]["value"] < found["auc"]["high"]


@given(st.integers(0, 99), SHARES)
def test_the_order_of_rows_does_not_matter(seed: int, share: float) -> None:
    rows = labelled_log(12, 4, 5, seed=1)
    turned = rows.take(np.random.default_rng(seed).permutation(len(rows)))
    threshold = cut(entropy(rows.crm), share)
    one, other = (point(held(part, 5), threshold) for part in (rows, turned))
    for name in ("auc", "logloss", "accuracy", "ece", "uauc", "ndcg@10"):
        assert other[name]["value"] == pytest.approx(one[name]["value"], abs=1e-12)
    assert other["requests_touched"] == one["requests_touched"]


def test_rows_without_an_answer_stay_with_the_base_model() -> None:
    rows = labelled_log(100, 6, 30, known=0.4)
    made = held(rows)
    assert len(made.judged) == rows.known.sum()
    sure = held(LabelledRows(**{**vars(rows), "propensity": np.ones(len(rows))}))
    assert len(sure.judged) == len(rows)
    final = np.where(rows.known, rows.llm, rows.crm)
    assert point(sure, -math.inf)["auc"]["value"] == pytest.approx(roc_auc_score(rows.label, final))
    assert point(sure, -math.inf)["asked_per_request"] < 6 == point(made, -math.inf)["asked_per_request"]


@given(st.integers(0, 300), st.integers(0, 50))
def test_no_choice_of_as_many_rows_has_a_lower_loss_than_the_oracle(count: int, seed: int) -> None:
    made = held(labelled_log(60, 5, 20))
    best = oracle(made, count)
    assert best.sum() == count
    drawn = np.zeros(300, dtype=bool)
    drawn[np.random.default_rng(seed).permutation(300)[:count]] = True
    loss = [row_loss(made.answer(chosen), made.judged.label).mean() for chosen in (best, drawn)]
    assert loss[0] <= loss[1] + 1e-12


def test_asking_at_random_gains_by_the_share() -> None:
    made = held()
    ends = [at_random(made, count)["logloss"] for count in (0, len(LOG))]
    half = at_random(made, len(LOG) // 2)["logloss"]
    assert half == pytest.approx(np.mean(ends), abs=0.003)


def test_the_area_that_a_measure_wins() -> None:
    shares = np.linspace(0, 1, 11)

    def apgr(values: np.ndarray, rows: LabelledRows = LOG) -> dict:
        made = HeldOut(rows, values, REPLACE, 100)
        return won(made, [cut(values, share) for share in shares])

    by_entropy, by_chance = apgr(entropy(LOG.crm)), apgr(np.random.default_rng(0).random(len(LOG)))
    assert by_entropy["logloss"]["low"] > 0.6
    assert by_chance["logloss"]["value"] == pytest.approx(0.5, abs=0.06)
    best = apgr(HeldOut(LOG, entropy(LOG.crm), REPLACE).helped)
    assert best["logloss"]["value"] > 1.0 > by_entropy["logloss"]["value"]
    useless = apgr(entropy(LOG.crm), LabelledRows(**{**vars(LOG), "llm": 1 - LOG.llm}))
    assert useless["auc"]["value"] is None
    assert "not better" in useless["auc"]["reason"]


def test_the_knee_is_where_asking_stops_to_pay() -> None:
    rows = labelled_log(1500, 8, 200)
    values = entropy(rows.crm)
    bend = knee(HeldOut(rows, values, REPLACE))
    assert bend is not None
    assert 0.1 < bend < 0.6
    worse = LabelledRows(**{**vars(rows), "llm": np.full(len(rows), 0.5)})
    assert knee(HeldOut(worse, -values, REPLACE)) is None


def test_the_fusion_rule_is_applied_where_routed() -> None:
    made = HeldOut(LOG, entropy(LOG.crm), Fusion("blend"), 10)
    chosen = made.chosen(0.6)
    blended = Fusion("blend")(LOG.crm, LOG.llm)
    assert np.array_equal(made.answer(chosen), np.where(chosen, blended, LOG.crm))


def test_a_curve_is_plain_json() -> None:
    thresholds = {ratio: cut(entropy(LOG.crm), ratio) for ratio in (0.0, 0.1, 1.0)}
    found = curve(held(draws=5), thresholds)
    assert [row["ratio"] for row in json.loads(json.dumps(found, allow_nan=False))] == [0.0, 0.1, 1.0]


def test_equal_scores_of_a_list_are_in_the_worst_order() -> None:
    lists = Lists(["a", "a", "b", "b"], [1, 0, 1, 1])
    assert lists.judged.tolist() == [True, False]
    assert lists.ndcg([0.5, 0.5, 0.9, 0.1])[0] == pytest.approx(1 / np.log2(3))


@given(st.integers(0, 30))
def test_a_log_of_a_few_rows_gives_figures_or_null(seed: int) -> None:
    rows = labelled_log(4, 2, 2, seed=seed)
    made = held(rows, 20)
    found = [curve(made, {0.5: cut(made.values, 0.5)}), won(made, [math.inf, cut(made.values, 0.5), -math.inf])]
    json.dumps(found, allow_nan=False)
