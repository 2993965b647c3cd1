"""Gains are over the base model's own scores, and what nobody else puts in order keeps the base model's order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.judge import better, worse_order
from corella_edge.metrics import auc
from corella_edge.routing.calibrated import BEST, Wanted, calibrated, fused
from corella_edge.routing.fit import fit_fusion
from corella_edge.routing.fit_maps import fit_maps, isotonic
from corella_edge.routing.fusion import Fusion, fuse
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import logit, sigmoid
from corella_edge.routing.maps import KINDS, Map, Maps, PlattScaling
from corella_edge.routing.parts import by_time
from logs import labelled_log

LOG = labelled_log(600, 8, 150)
QUICK = Wanted(share=0.1, gain=0.05, draws=200, ratios=(0.1,))
COARSE: Map = isotonic(LOG.crm, (LOG.crm > 0.5).astype(np.float64))  # two steps
TIED = Fusion("replace", None, Maps(COARSE, PlattScaling(), COARSE))
WORSE = "order the candidates worse"


def in_order(p: np.ndarray, crm: np.ndarray) -> bool:
    """Whether p rises with the base model's score, but for the last digits, and ties nothing."""
    at = np.unique(crm, return_index=True)[1]
    return bool((np.diff(p[at]) > -1e-12).all()) and len(np.unique(p[at])) > 0.99 * len(at)


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_gain_is_over_the_base_model_s_own_scores(share: float) -> None:
    found = calibrated(LOG, replace(QUICK, share=share, fusion=TIED)).result
    for row in (found["policy"], *found["curve"]):
        for name, gain in row["over_crm"].items():
            own, base = row[name]["value"], found["models"]["crm"][name]["value"]
            assert gain["value"] == pytest.approx(own - base, abs=1e-12), name


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_maps_that_cost_the_order_are_told_even_where_nothing_is_asked(share: float) -> None:
    found = calibrated(LOG, replace(QUICK, share=share, fusion=TIED)).result
    assert worse_order(found["maps_over_crm"]) == ["auc", "ndcg@10"]
    assert sum(WORSE in said for said in found["warnings"]) == (1 if share == 0.0 else 2)
    assert not any(WORSE in said for said in calibrated(LOG, replace(QUICK, share=share)).result["warnings"])


def test_a_policy_that_orders_worse_by_the_llm_is_told() -> None:
    """Without maps it is the LLM's answers alone."""
    found = calibrated(replace(LOG, llm=1 - LOG.llm), replace(QUICK, share=0.5)).result
    (said,) = [said for said in found["warnings"] if WORSE in said]
    assert said.startswith("on the later rows the policy's scores ")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turned", [False, True])
def test_no_map_ties_what_stands_alone(kind: str, turned: bool) -> None:
    rows = replace(LOG, label=1 - LOG.label) if turned else LOG
    assert in_order(fit_maps(rows, rows.known, kind).alone(rows.crm), rows.crm)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.sampled_from(KINDS), st.sampled_from(["replace", "blend", "stack"]))
def test_where_nothing_is_asked_the_order_is_the_base_model_s(seed: int, kind: str, rule: str) -> None:
    rows = labelled_log(60, 6, 30, seed=seed)
    made = fit_fusion(rows, rows.known, rule, kind)
    p = fuse(rows.crm, rows.llm, np.zeros(len(rows), np.bool_), made)
    assert auc(p, rows.label) == pytest.approx(auc(rows.crm, rows.label), abs=1e-12)


def test_the_bundle_of_share_0_orders_as_before_whatever_the_fusion() -> None:
    sure = replace(LOG, crm=sigmoid(3 * logit(LOG.crm) + 1))
    for kind in KINDS:
        made = fit_fusion(sure, sure.known, "replace", kind)
        found = calibrated(sure, replace(QUICK, share=0.0, fusion=made)).result
        for name in ("auc", "ndcg@10", "uauc"):
            assert found["policy"]["over_crm"][name]["value"] == pytest.approx(0.0, abs=1e-12)
        assert not any(WORSE in said for said in found["warnings"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rule", ["stack", "stack, new items apart", "replace", "blend"])
def test_a_fusion_that_gives_the_llm_no_weight_keeps_the_base_model_s_order(kind: str, rule: str) -> None:
    rows, asked = against(LOG), np.arange(len(LOG)) % 3 == 0
    made = fit_fusion(rows, asked, rule, kind)
    if not made.deaf:
        assert (rule, kind) in {(name, one) for name in ("replace", "blend") for one in ("none", "isotonic")}
        return
    assert in_order(fuse(rows.crm, rows.llm, asked, made, rows.inputs), rows.crm)


def against(rows: LabelledRows) -> LabelledRows:
    """The LLM says the contrary, so that no fit weighs it."""
    new = (np.arange(len(rows)) % 2).astype(np.float64)
    return replace(rows, llm=1 - rows.llm, inputs={"new_item": new})


@pytest.mark.parametrize("rule", ["replace", "blend"])
def test_what_a_map_of_the_base_model_gains_is_not_the_llm_s(rule: str) -> None:
    off = replace(LOG, crm=sigmoid(4 * logit(LOG.crm)))
    same = replace(off, llm=off.crm)
    made = fit_fusion(by_time(same).fit, by_time(same).fit.known, rule, "temperature")
    found = calibrated(same, replace(QUICK, share=0.5, fusion=made)).result
    assert better(found["policy"]["over_crm"])
    assert not better(found["by_llm"])
    assert any("not shown to come from the LLM" in said for said in found["warnings"])


def test_a_choice_among_all_fusions_never_ties_what_is_not_asked() -> None:
    """As on a table whose labels know steps alone: an isotonic map has the lowest log-loss."""
    rng = np.random.default_rng(4)
    steps = np.select([LOG.crm < 0.3, LOG.crm < 0.7], [0.05, 0.5], 0.95)
    rows = replace(LOG, label=(rng.random(len(LOG)) < steps).astype(np.float64))
    wanted = fused(by_time(rows), replace(QUICK, share=0.0), BEST)[0]
    found: dict[str, Any] = calibrated(rows, wanted).result
    assert not worse_order(found["policy"]["over_crm"])
    assert in_order(wanted.fusion.alone(rows.crm), rows.crm)


def test_intervals_that_are_not_there_are_not_below_0() -> None:
    gain = {"value": -0.1, "low": -0.2, "high": -0.05}
    assert worse_order({"auc": gain, "ndcg@10": gain}) == ["auc", "ndcg@10"]
    assert worse_order({"auc": {**gain, "high": None}}) == []
    assert worse_order({"auc": {**gain, "high": 0.0}, "logloss": gain}) == []
    assert worse_order({}) == []
