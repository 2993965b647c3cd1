"""Figures of a log that was made by chance: with weights they are those of all rows, and without they are not."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from corella_edge.metrics import auc
from corella_edge.routing.calibrated import BEST, Wanted, calibrated, fused
from corella_edge.routing.curve import HeldOut, curve, cut, knee, oracle
from corella_edge.routing.fit import choose
from corella_edge.routing.fusion import REPLACE
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import entropy
from corella_edge.routing.order import order
from corella_edge.routing.parts import by_time, usable
from corella_edge.routing.policy import Policy
from corella_edge_runtime.calibrate import report
from logs import labelled_log

LOG = labelled_log(400, 10, 50, skew=-0.7)
SHARES = (0.0, 0.1, 0.3, 1.0)
METRICS = ("auc", "logloss", "accuracy")


def explored(rows: LabelledRows, rng: np.random.Generator, chance: float = 0.2) -> LabelledRows:
    """What `serve --explore` would have logged: all that the policy routes, and a few of the others."""
    propensity = np.where(entropy(rows.crm) >= 0.6, 1.0, chance)
    told = rng.random(len(rows)) < propensity
    return replace(rows, llm=np.where(told, rows.llm, np.nan), propensity=propensity)


def shadowed(rows: LabelledRows, rng: np.random.Generator) -> LabelledRows:
    """What `serve --shadow` would have logged whose share was raised on the way: whole requests."""
    _, request = np.unique(rows.request, return_inverse=True)
    late = rows.time > np.median(rows.time)
    propensity = np.where(late, 0.6, 0.2)
    told = (rng.random(request.max() + 1)[request]) < propensity
    return replace(rows, llm=np.where(told, rows.llm, np.nan), propensity=propensity)


def held(rows: LabelledRows, draws: int = 1) -> HeldOut:
    return HeldOut(rows, entropy(rows.crm), REPLACE, draws)


def thresholds(rows: LabelledRows) -> dict[float, float]:
    return {share: cut(entropy(rows.crm), share) for share in SHARES}


@pytest.mark.parametrize(("thin", "metrics"), [(explored, METRICS), (shadowed, (*METRICS, "uauc", "ndcg@10"))])
def test_the_weighted_curve_of_a_biased_log_is_that_of_the_full_one(thin, metrics) -> None:
    """In the mean over many logs of the same traffic; every figure, and the gain over the base model."""
    rng, full = np.random.default_rng(0), curve(held(LOG), thresholds(LOG))
    made = [curve(held(thin(LOG, rng)), thresholds(LOG)) for _ in range(40)]
    for place, whole in enumerate(full):
        assert {one[place]["share"]["value"] for one in made} == {whole["share"]["value"]}  # of all rows
        for name in metrics:
            for of in (lambda row, name=name: row[name], lambda row, name=name: row["over_crm"][name]):
                found = np.array([of(one[place])["value"] for one in made])
                error = found.std() / math.sqrt(len(found))
                assert found.mean() == pytest.approx(of(whole)["value"], abs=4 * error + 2e-3), (place, name)


def test_without_weights_the_figures_of_an_explored_log_are_other_ones() -> None:
    rng, full = np.random.default_rng(0), curve(held(LOG), thresholds(LOG))
    plain = [explored(LOG, rng) for _ in range(20)]
    plain = [rows.take(rows.known) for rows in plain]
    naive = [curve(held(replace(rows, propensity=np.ones(len(rows)))), {0.0: math.inf}) for rows in plain]
    assert np.mean([one[0]["auc"]["value"] for one in naive]) < full[0]["auc"]["value"] - 0.05


def test_intervals_of_a_biased_log_hold_the_full_log_s_figure() -> None:
    rng, full = np.random.default_rng(3), curve(held(LOG), thresholds(LOG))
    hits = []
    for _ in range(20):
        made = curve(held(explored(LOG, rng), 150), thresholds(LOG))
        for one, whole in zip(made, full, strict=True):
            hits += [one[name]["low"] <= whole[name]["value"] <= one[name]["high"] for name in METRICS]
    assert np.mean(hits) > 0.9


def test_where_candidates_were_drawn_one_by_one_there_is_no_ndcg() -> None:
    rng = np.random.default_rng(0)
    made, whole = (curve(held(thin(LOG, rng)), {0.0: math.inf}) for thin in (explored, shadowed))
    assert "ndcg@10" not in made[0]
    assert "ndcg@10" in whole[0]


def test_rows_of_whole_weights_are_rows_that_are_there_so_often() -> None:
    """Oracle, random, knee, deciles and fusions, too."""
    rows, rng = LOG.take(np.arange(2000)), np.random.default_rng(4)
    times = rng.integers(1, 5, len(rows))
    weighted, again = replace(rows, propensity=1.0 / times), rows.take(np.repeat(np.arange(len(rows)), times))
    one, other = held(weighted, 30), held(again, 30)
    assert knee(one) == knee(other)
    chosen = oracle(one, one.mass(one.chosen(0.6)))
    saved = float(one.weight @ np.where(chosen, one.helped, 0.0))
    best = oracle(other, other.mass(other.chosen(0.6)))
    assert saved == pytest.approx(float(np.where(best, other.helped, 0.0).sum()), rel=2e-3)
    parts = [
        order(made.judged_values, made.helped, made.judge.bootstrap, weight=made.weight).to_json()
        for made in (one, other)
    ]
    for a, b in zip(parts[0]["deciles"], parts[1]["deciles"], strict=True):
        assert [a[name] for name in ("from", "to", "value", "low")] == pytest.approx(
            [b[name] for name in ("from", "to", "value", "low")]
        )
    policy = Policy(threshold=0.0)
    tables = [choose(made, policy, made).table for made in (weighted, again)]
    assert [row["rule"] for row in tables[0]] == [row["rule"] for row in tables[1]]
    for name in ("logloss", "auc", "ece", "ece_llm", "ece_alone"):
        assert tables[0][0][name] == pytest.approx(tables[1][0][name])


def test_a_report_of_a_biased_log_says_that_it_weighs() -> None:
    rows = explored(labelled_log(1200, 10, 150, skew=-0.7), np.random.default_rng(1))
    wanted = fused(by_time(rows), Wanted(share=0.2, gain=0.1, draws=60, ratios=(0.1,)), BEST)[0]
    found = calibrated(rows, wanted)
    judged = found.parts.held.take(usable(found.parts.held))
    weights = found.result["weights"]
    assert weights["rows"] == len(judged)
    assert weights["largest"] == 5.0
    assert 0.2 * len(judged) < weights["effective"] < 0.9 * len(judged)
    assert found.result["policy"]["auc"]["value"] != pytest.approx(
        auc(wanted.fusion.alone(judged.crm), judged.label), abs=0.01
    )
    made = {**found.result, "fusions": None, "gate": None, "bundle": "b@1", "cost": None}
    told = " ".join(" ".join(section.said) for section in report.sections(made))
    assert f"They tell as much as {weights['effective']:,.0f} rows of equal weight" in told
    assert "NDCG@10 is missing" in told
    plain = calibrated(labelled_log(600, 8, 150), Wanted(share=0.1, gain=0.05, draws=60, ratios=(0.1,))).result
    assert plain["weights"] is None
