"""Groups, boundary, the whole analysis, ablation, seeds; tables and plots of them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from corella_edge import metrics
from corella_edge_export.evaluation import boundary, groups, plots, tables
from corella_edge_export.evaluation.fusion import routed
from corella_edge_export.evaluation.scored import ScoredSplits, doubts, few_users
from corella_edge_export.study import analysis
from draws import samples
from study_rows import pair, rows

PAIR = pair()


@pytest.fixture(scope="module")
def found() -> Any:
    return analysis.analyse(PAIR, "full", draws=40)


@pytest.fixture(scope="module")
def seeds() -> Any:
    return {str(seed): analysis.analyse(pair(seed=seed), "full", draws=40) for seed in (1, 2, 3)}


@pytest.fixture(scope="module")
def ablation() -> Any:
    unaligned = replace(PAIR.test, llm=np.clip(PAIR.test.llm**3, 1e-6, 1 - 1e-6))
    return analysis.ablation({"full": PAIR, "without stage 2": ScoredSplits(PAIR.valid, unaligned)}, draws=40)


def test_thirds_hold_a_third_each_by_confidence(found: Any) -> None:
    group = groups.confidence_group(np.arange(99.0))
    assert np.bincount(group).tolist() == [0, 33, 33, 33]
    assert group[0] == 1
    assert len(set(groups.confidence_group(np.full(9, 0.5)).tolist())) == 1
    assert [part["group"] for part in found["groups"]] == [1, 2, 3]
    assert sum(part["rows"] for part in found["groups"]) == len(PAIR.test)
    assert found["groups"][0]["entropy"][1] < found["groups"][2]["entropy"][0]


def test_a_third_equals_its_rows(found: Any) -> None:
    data = PAIR.test.part(groups.confidence_group(PAIR.test.entropies) == 3)
    crm, llm = (metrics.quality(p, data.labels) for p in (data.crm, data.llm_or_crm))
    part = found["groups"][2]
    assert part["crm"]["auc"]["value"] == pytest.approx(crm.auc, abs=1e-12)
    assert part["llm_over_crm"]["accuracy"]["value"] == pytest.approx(llm.accuracy - crm.accuracy, abs=1e-12)


def test_seen_and_unseen_users_apart(found: Any) -> None:
    parts = found["users"]
    assert parts["seen"]["rows"] + parts["unseen"]["rows"] == parts["all"]["rows"] == len(PAIR.test)
    seen = PAIR.test.part(PAIR.test.seen)
    assert parts["seen"]["base"]["auc"]["value"] == pytest.approx(metrics.auc(seen.base, seen.labels), abs=1e-12)
    assert parts["all"]["routed"]["auc"] == found["operating_point"]["auc"]
    assert parts["all"]["share"] == found["operating_point"]["share"]
    everyone = replace(PAIR.test, seen=np.ones(len(PAIR.test), dtype=bool))
    assert set(analysis.analyse(ScoredSplits(PAIR.valid, everyone), "x", draws=5, ratios=(0.0,))["users"]) == {
        "all",
        "seen",
    }


def test_rows_of_unseen_items_apart_where_they_are_told() -> None:
    told = replace(PAIR.test, new_items=np.arange(len(PAIR.test)) % 7 == 0)
    found = analysis.analyse(ScoredSplits(PAIR.valid, told), "full", draws=40)["users"]
    cold = PAIR.test.part(np.arange(len(PAIR.test)) % 7 == 0)
    assert list(found) == ["all", "seen", "unseen", "unseen items"]
    assert found["unseen items"]["rows"] == len(cold)
    assert found["unseen items"]["crm"]["auc"]["value"] == pytest.approx(metrics.auc(cold.crm, cold.labels), abs=1e-12)
    none = replace(PAIR.test, new_items=np.zeros(len(PAIR.test), dtype=bool))
    assert list(groups.parts(none)) == ["all", "seen", "unseen"]
    with pytest.raises(ValueError, match="columns must be"):
        replace(PAIR.test, new_items=np.zeros(3, dtype=bool))


def test_the_boundary_shift_by_hand() -> None:
    found = boundary.boundary(PAIR, 0.5, draws=40, bins=4)
    data = PAIR.test.part(routed(PAIR.test, found["threshold"]))
    assert found["rows"] == len(data)
    assert found["mean_score"]["value"] == pytest.approx(np.mean(data.llm - data.crm))
    errors = []
    for p in (data.llm, data.crm):
        place = metrics.mass_bins(p, 4)
        errors.append([np.mean(p[place == k]) - np.mean(data.labels[place == k]) for k in range(4)])
    assert found["calibration"]["value"] == pytest.approx(np.mean(np.abs(np.subtract(*errors))))
    same = boundary.boundary(ScoredSplits(PAIR.valid, replace(PAIR.test, llm=PAIR.test.crm)), 0.5, draws=10)
    assert all(same[name] == {"value": 0.0, "low": 0.0, "high": 0.0} for name in ("mean_score", "calibration", "flips"))


def test_a_shifted_llm_shows_in_the_boundary() -> None:
    data = rows(4000, users=100, silent=0.0)
    odds = np.log(data.llm / (1 - data.llm))
    shifted = replace(data, llm=1 / (1 + np.exp(-odds - 1.0)))
    near, far = (boundary.boundary(ScoredSplits(data, test), 0.3, draws=100) for test in (data, shifted))
    assert far["mean_score"]["low"] > near["mean_score"]["high"]
    assert far["calibration"]["value"] > near["calibration"]["value"]


def test_draws_of_the_curve_difference_weigh_rows() -> None:
    data = PAIR.test.part(PAIR.test.answered)
    bootstrap = metrics.Bootstrap(data.users, 20)
    places = [metrics.mass_bins(p, 5) for p in (data.llm, data.crm)]

    def statistic(w: Any) -> float:
        errors = [
            [np.average((p - data.labels)[place == k], weights=w[place == k]) for k in range(5)]
            for p, place in zip((data.llm, data.crm), places, strict=True)
        ]
        return float(np.mean(np.abs(np.subtract(*errors))))

    found = boundary.curve_difference(data, bootstrap, 5)
    np.testing.assert_allclose(found.draws, samples(bootstrap, statistic), atol=1e-12)
    assert found.value == pytest.approx(statistic(np.ones(len(data))), abs=1e-12)


def test_nothing_routed_has_no_boundary() -> None:
    mute = replace(PAIR.test, llm=np.full(len(PAIR.test), np.nan))
    found = analysis.analyse(ScoredSplits(PAIR.valid, mute), "mute", draws=5)
    assert found["boundary"]["rows"] == 0
    assert "## Boundary" in tables.markdown(found)
    assert plots.calibration(found)


def test_the_analysis_is_plain_json(found: Any) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    claim = found["claim"]
    assert claim["auc"]["gain"] == found["operating_point"]["over_base"]["auc"]
    assert claim["auc"]["above_zero"] == (claim["auc"]["percent"]["low"] > 0)
    assert found == analysis.analyse(PAIR, "full", draws=40)


def test_the_curve_of_sizes_names_them_and_does_not_change_from_run_to_run() -> None:
    ms = {"value": 5.0, "low": 4.0, "high": 7.0}
    rows = [{"name": name, "valid_auc": 0.7, "new_user_ms": ms, "returning_user_ms": ms} for name in ("XS", "L")]
    drawn = plots.sizes(rows)
    assert drawn.count(">XS<") == drawn.count(">L<") == 2
    assert drawn == plots.sizes(rows)


def test_one_class_is_null_not_nan() -> None:
    zeros = replace(PAIR.test, labels=np.zeros(len(PAIR.test), dtype=np.int8))
    found = analysis.analyse(ScoredSplits(PAIR.valid, zeros), "one class", draws=5)
    json.dumps(found, allow_nan=False)
    assert found["operating_point"]["auc"] == {"value": None, "low": None, "high": None}
    assert found["claim"]["auc"]["reached"] is False
    assert "n/a" in tables.markdown(found)
    assert all(plots.draw(found).values())


def test_the_ablation_is_paired_with_the_full_system(ablation: Any, found: Any) -> None:
    names = [row["name"] for row in ablation]
    assert names == ["full", "without stage 2", "without routing", "LLM alone", "stage-1 CRM"]
    full, unaligned, crm, _, base = ablation
    assert full["auc"] == found["operating_point"]["auc"]
    assert full["over_full"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert unaligned["over_full"]["logloss"]["value"] > 0
    assert crm["auc"]["value"] == pytest.approx(metrics.auc(PAIR.test.crm, PAIR.test.labels), abs=1e-12)
    assert crm["over_full"]["auc"]["value"] == -full["over_crm"]["auc"]["value"]
    assert (crm["share"], base["over_base"]["auc"]["value"]) == (0.0, 0.0)


def test_both_models_of_a_variant_alone_and_replaced_without_a_fit(found: Any) -> None:
    unaligned = replace(PAIR.test, llm=np.clip(PAIR.test.llm**3, 1e-6, 1 - 1e-6))
    both = {"full": PAIR, "without stage 2": ScoredSplits(PAIR.valid, unaligned)}
    alone = analysis.by_variant(both, draws=40, share=0.2)
    assert list(alone) == list(both)
    full, other = alone.values()
    assert all(part["over_full"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0} for part in full.values())
    at = next(point["lines"]["replace"] for point in found["curve"] if point["ratio"] == 0.2)
    assert full["replace"]["auc"] == at["auc"]
    assert full["replace"]["over_base"]["auc"] == at["over_base"]["auc"]
    assert full["llm"]["auc"]["value"] == found["curve"][-1]["lines"]["replace"]["auc"]["value"]
    assert other["crm"] == full["crm"]
    # A power keeps the order of scores: alone nothing is lost, among the CRM's scores it is.
    assert other["llm"]["over_full"]["logloss"]["value"] > 0
    assert other["replace"]["over_full"]["auc"]["value"] < 0
    assert "### " not in (text := tables.markdown({**found, "models_by_variant": alone}))
    assert "## Models by variant\n" in text
    with pytest.raises(ValueError, match="same test rows"):
        analysis.by_variant({"full": PAIR, "other": pair(seed=9)}, draws=5)


def test_an_ablation_refuses_other_rows() -> None:
    with pytest.raises(ValueError, match="same test rows"):
        analysis.ablation({"full": PAIR, "other": pair(seed=9)}, draws=5)
    with pytest.raises(ValueError, match="needs a variant"):
        analysis.ablation({})


def test_seeds_become_mean_and_deviation(seeds: Any, ablation: Any) -> None:
    combined = analysis.combine(seeds)
    values = [one["operating_point"]["auc"]["value"] for one in seeds.values()]
    auc = combined["operating_point"]["auc"]
    assert auc["value"] == pytest.approx(np.mean(values))
    assert auc["sd"] == pytest.approx(np.std(values, ddof=1))
    assert combined["seeds"] == {seed: one["claim"] for seed, one in seeds.items()}
    assert [point["ratio"] for point in combined["curve"]] == [point["ratio"] for point in seeds["1"]["curve"]]
    json.dumps(combined, allow_nan=False)
    alone = analysis.combine({"1": seeds["1"]})
    assert alone["operating_point"]["auc"]["sd"] is None
    rows_of = analysis.combine_ablations([ablation, ablation])
    assert [row["name"] for row in rows_of] == [row["name"] for row in ablation]
    assert rows_of[0]["auc"]["sd"] == 0.0


def test_tables_show_every_seed_of_the_claim(seeds: Any, ablation: Any, found: Any) -> None:
    text = tables.markdown(analysis.combine(seeds), analysis.combine_ablations([ablation, ablation]))
    claims = text.split("## ")[1].splitlines()
    assert [line.split(" | ")[0] for line in claims if line.startswith("| ")][1:] == ["| 1", "| 2", "| 3", "| mean"]
    single = tables.markdown(found, ablation)
    assert "without stage 2" in text
    for lines in (text.splitlines(), single.splitlines()):
        for here, there in pairwise(lines):
            if here.startswith("|") and there.startswith("|"):
                assert here.count("|") == there.count("|")
    assert tables.figure(found["users"]["all"]["base"]["auc"]) in single


def test_figures_read_alike_for_one_and_several_seeds() -> None:
    assert tables.figure(None) == tables.figure({"value": None, "sd": None}) == "n/a"
    assert tables.figure(0.5) == "0.5000"
    assert tables.figure({"value": 0.1, "low": -0.2, "high": 0.3}, "+", 1) == "+0.1 [-0.2, +0.3]"
    assert tables.figure({"value": 0.1, "sd": 0.02, "low": 0.0, "high": 1.0}, digits=2) == "0.10 ± 0.02"
    assert tables.figure({"value": 0.1, "sd": 0.02, "low": 0.0, "high": 1.0}, "+", 2) == "+0.10 ± 0.02 [+0.00, +1.00]"
    assert tables.figure({"value": 0.1, "sd": None}) == "0.1000"


def test_plots_are_the_same_text_each_time(seeds: Any, found: Any) -> None:
    for result in (found, analysis.combine(seeds)):
        drawn = plots.draw(result)
        assert set(drawn) == {
            f"{n}.svg" for n in ("curve-auc", "curve-accuracy", "curve-logloss", "calibration", "groups")
        }
        assert all(ET.fromstring(text).tag.endswith("svg") for text in drawn.values())
        assert plots.curve(result) == drawn["curve-auc.svg"]
        assert all(line in drawn["curve-auc.svg"] for line in ("replace", "oracle", "stage-1 CRM"))


@pytest.mark.parametrize(
    ("liked", "others", "told"),
    [(40, 57, "97 test rows (40 liked): intervals are wide, an AUC of 0.75 is known to ± 0.10 at best"),
     (0, 30, "30 test rows, none of them liked: there is no AUC"), (30, 0, "30 test rows, all of them liked"),
     (9000, 9000, "")],
)  # fmt: skip
def test_few_rows_are_told(liked: int, others: int, told: str) -> None:
    found = doubts(np.repeat([1, 0], [liked, others]).astype(np.int8), "test rows")
    assert "".join(found).startswith(told)
    assert len(found) == bool(told)


def test_intervals_over_few_users_are_doubted() -> None:
    assert few_users(np.arange(10).repeat(3)) == []
    assert few_users(np.zeros(5, dtype=np.int64)) == [
        "the rows are of 1 user: intervals, drawn among them, say little of others"
    ]
