"""A policy fitted on the earlier part and reported on the later: what it may look at, what is refused and kept."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from corella_edge.errors import InputError
from corella_edge.metrics import row_loss
from corella_edge.routing.calibrated import BEST, KEEP, Wanted, about, calibrated, fused, routing_json
from corella_edge.routing.forms import OWN, parse_threshold
from corella_edge.routing.fusion import Fusion, fuse
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import logit, sigmoid
from corella_edge.routing.measure import Band, Disagreement, Entropy, Margin, Measure, entropy
from corella_edge.routing.parts import FEW_USERS, Parts, by_time, moment
from corella_edge.routing.routing_file import parse_routing
from logs import DAY, labelled_log

LOG = labelled_log(600, 8, 150)
QUICK = Wanted(share=0.1, gain=0.05, draws=60, ratios=(0.1,))


def changed(rows: LabelledRows, **columns: np.ndarray) -> LabelledRows:
    return replace(rows, **columns)


def test_labels_of_the_later_part_change_no_choice() -> None:
    parts = by_time(LOG)
    later = LOG.time >= parts.held.time.min()
    other = changed(LOG, label=np.where(later, 1 - LOG.label, LOG.label), llm=np.where(later, 1 - LOG.llm, LOG.llm))
    one, two = (calibrated(rows, replace(QUICK, share=None)) for rows in (LOG, other))
    assert (one.threshold, one.share, one.result["knee"]) == (two.threshold, two.share, two.result["knee"])


def test_every_figure_is_of_the_later_part() -> None:
    found = calibrated(LOG, QUICK)
    held = found.parts.held
    routed = entropy(held.crm) >= found.threshold
    assert found.result["policy"]["share"]["value"] == routed.mean()
    assert found.result["policy"]["rows_asked"] == routed.sum()
    assert found.result["parts"]["held_out"] == about(held)
    assert found.result["parts"]["fit"]["sha256"] != found.result["parts"]["held_out"]["sha256"]
    fitted = (entropy(found.parts.fit.crm) >= found.threshold).mean()
    assert fitted == pytest.approx(0.1, abs=1 / len(found.parts.fit))


def test_a_later_log_may_be_given_apart() -> None:
    parts = by_time(LOG, 0.3)
    one, two = calibrated(LOG, replace(QUICK, part=0.3)), calibrated(parts.fit, QUICK, parts.held)
    assert one.result == two.result


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_shares_0_and_1_are_exact(share: float) -> None:
    found = calibrated(LOG, replace(QUICK, share=share))
    assert found.result["policy"]["share"]["value"] == share
    assert found.threshold == (-math.inf if share else math.inf)


def test_too_few_rows_are_refused_with_the_number_that_is_needed() -> None:
    few = labelled_log(40, 8, 20)
    earlier = changed(LOG, request="of the fit " + LOG.request, time=LOG.time - 40 * DAY)
    with pytest.raises(InputError, match="too few rows: ") as refused:
        calibrated(earlier, replace(QUICK, gain=0.01), few)
    needed = int(re.findall(r"takes about ([\d,]+) held-out rows", str(refused.value))[0].replace(",", ""))
    assert needed > 160
    enough = labelled_log(math.ceil(2.5 * needed / 8), 8, math.ceil(20 * 2.5 * needed / 160))
    assert calibrated(enough, replace(QUICK, gain=0.01)).result["power"]["smallest"] <= 0.01


@pytest.mark.parametrize("label", [0.0, 1.0])
@pytest.mark.parametrize("share", [0.0, 0.1, None])
def test_labels_of_one_class_are_refused_before_any_number_is_named(label: float, share: float | None) -> None:
    one = changed(LOG, label=np.full(len(LOG), label))
    late = changed(LOG, label=np.where(LOG.time >= by_time(LOG).held.time.min(), label, LOG.label))
    for rows, part in ((one, "earlier"), (late, "later")):
        said = f"label: it is {label:g} in every row of the {part} part; rows with label 1 and rows with label 0 are"
        with pytest.raises(InputError, match=said):
            calibrated(rows, replace(QUICK, share=share))


def test_a_policy_that_asks_about_nothing_needs_no_rows_that_show_a_gain() -> None:
    few = labelled_log(40, 8, 20)
    found = calibrated(few, replace(QUICK, gain=1e-6, share=0.0))
    assert found.threshold == math.inf
    assert found.result["power"] is None
    for wanted in (replace(QUICK, gain=1e-6), replace(QUICK, gain=1e-6, share=None)):
        with pytest.raises(InputError, match="too few rows"):
            calibrated(few, wanted)


def needed_to_fit(rows: LabelledRows, wanted: Wanted) -> int:
    """How many rows the refusal of the earlier part says are needed."""
    said = r"^too few rows: the earlier part, which is fitted on, has [\d,]+ rows: .*; that is about ([\d,]+) rows; "
    with pytest.raises(InputError, match=said) as refused:
        calibrated(rows, wanted)
    found = re.search(said, str(refused.value))
    assert found is not None
    return int(found[1].replace(",", ""))


@pytest.mark.parametrize("part", [0.0001, 0.01, 0.03])
def test_too_few_rows_to_fit_on_are_refused_with_the_number_that_is_needed(part: float) -> None:
    needed = needed_to_fit(LOG, replace(QUICK, part=part))
    assert len(LOG) > needed > part * len(LOG)
    assert needed >= FEW_USERS
    assert calibrated(LOG, replace(QUICK, part=3 * needed / len(LOG))).threshold > 0.0


def test_few_answers_and_few_users_are_too_few_to_fit_on() -> None:
    later = LOG.time >= by_time(LOG).held.time.min()
    hidden = ~later & (np.arange(len(LOG)) % 100 > 0)
    asked = changed(LOG, llm=np.where(hidden, np.nan, LOG.llm), propensity=np.where(later, 1.0, 0.01))
    assert needed_to_fit(asked, QUICK) > len(LOG) // 2
    alone = changed(LOG, user=np.where(later, LOG.user, "one of 19 " + (np.arange(len(LOG)) // 8 % 19).astype(str)))
    assert needed_to_fit(changed(alone, user=alone.user.astype(object)), QUICK) > len(LOG) // 2


def test_the_threshold_of_a_small_share_takes_as_many_rows_as_have_one_above_it() -> None:
    for share in (1e-4, 1 - 1e-4):
        assert needed_to_fit(LOG, replace(QUICK, share=share)) in (10_000, 10_001)  # as 1 - share rounds
    assert calibrated(LOG, replace(QUICK, share=1e-3)).threshold > 0.0
    assert calibrated(LOG, replace(QUICK, share=0.0, part=0.01)).threshold == math.inf  # asks about nothing


def test_rows_that_were_fitted_on_can_not_judge() -> None:
    parts = by_time(LOG)
    for held in (parts.fit, LOG, parts.fit.take(np.arange(8))):
        with pytest.raises(InputError, match=r"^[\d,]+ of the [\d,]+ held-out rows are among those of the fit, too \("):
            calibrated(parts.fit, QUICK, held)


def test_an_earlier_log_can_not_judge_a_later_fit() -> None:
    parts = by_time(LOG)
    with pytest.raises(InputError, match=r"^the held-out rows, until 2023-.*, are all earlier than those of the fit"):
        calibrated(parts.held, QUICK, parts.fit)


def test_a_log_without_the_llm_is_refused() -> None:
    with pytest.raises(InputError, match="no row of the earlier part has the LLM's score"):
        calibrated(changed(LOG, llm=np.full(len(LOG), np.nan)), QUICK)


def test_too_few_rows_for_a_reach_are_told() -> None:
    found = calibrated(LOG, replace(QUICK, miss=1e-4)).result
    assert found["reach"] is None
    assert any("takes 19,999 rows" in text for text in found["warnings"])
    assert not any("top_k" in text for text in calibrated(LOG, replace(QUICK, miss=0.1)).result["warnings"])


def test_rows_of_which_some_stand_for_more_fit_no_reach() -> None:
    chances = np.where(np.arange(len(LOG)) % 2, 0.5, 1.0)
    found = calibrated(changed(LOG, propensity=chances), replace(QUICK, miss=0.1)).result
    assert found["reach"] is None
    assert any("some stand for more than others" in text for text in found["warnings"])


def test_what_a_measure_looks_at_must_be_there() -> None:
    with pytest.raises(InputError, match=r"disagreement looks at the column input\.kept"):
        calibrated(replace(LOG, inputs={}), replace(QUICK, measure=Disagreement()))


def test_the_top_s_curve_is_of_the_later_requests_and_asks_no_more_than_all() -> None:
    found = calibrated(
        LOG, replace(QUICK, miss=0.1, ratios=(0.1, 0.5), cost=lambda asked, touched: 8 * touched + asked)
    )
    top = found.result["top"]
    assert top["k"] == 4  # of requests of 8
    assert 0 < top["judged"] <= top["lists"] <= len(np.unique(found.parts.held.request))
    every, open_ = ([row for row in top["points"] if row["way"] == way] for way in ("all", "open"))
    assert [row["ratio"] for row in every] == [row["ratio"] for row in open_] == [0.0, 0.1, 0.5, 1.0]
    assert every[0]["asked"] == open_[0]["asked"] == 0.0
    assert every[-1]["asked"] == 8.0
    for more, less in zip(every, open_, strict=True):
        assert less["asked"] <= more["asked"]
        assert less["llm_ms"] <= more["llm_ms"]
        assert less["loss"]["value"] == pytest.approx(less["ndcg"]["value"] - more["ndcg"]["value"])
    assert open_[-1]["asked"] < every[-1]["asked"]


def test_without_a_reach_the_top_is_that_of_asking_all_and_without_a_cost_there_is_no_time() -> None:
    top = calibrated(LOG, replace(QUICK, ratios=(0.3,))).result["top"]
    assert top["miss"] is None
    assert all(row["llm_ms"] is None for row in top["points"])
    assert {row["loss"]["value"] for row in top["points"]} == {0.0}


def test_requests_of_one_candidate_have_no_top() -> None:
    single = replace(LOG, request=np.array([f"q{i}" for i in range(len(LOG))], dtype=object))
    assert calibrated(single, QUICK).result["top"] is None


def test_a_request_whose_answers_are_missing_by_chance_says_nothing_of_the_top() -> None:
    """As in the log of a shadow, which asks about a sample of the requests."""
    drawn = np.array([int(name[1:]) % 3 == 0 for name in LOG.request])
    log = replace(LOG, llm=np.where(drawn, LOG.llm, np.nan), propensity=np.full(len(LOG), 1 / 3))
    found = calibrated(log, replace(QUICK, gain=0.5, ratios=(0.5,)))
    top, held = found.result["top"], found.parts.held
    assert 0 < top["lists"] <= len(np.unique(held.request[held.known])) < len(np.unique(held.request))
    assert top["points"][-1]["asked"] == 8.0


DEAF = Fusion("stack", (0.1, 0.8, 0.0))


def test_a_fusion_without_the_llm_is_told_and_not_taken_for_too_few_rows() -> None:
    """Its routed scores are others, but their order is not: no number of rows shows a gain."""
    found = calibrated(LOG, replace(QUICK, fusion=DEAF, gain=1e-6))
    assert found.result["policy"]["over_crm"]["auc"]["value"] == pytest.approx(0.0, abs=0.02)
    assert found.result["power"]["smallest"] == 0.0
    assert any("gives the LLM's score no weight" in said for said in found.result["warnings"])
    assert not any("no weight" in said for said in calibrated(LOG, QUICK).result["warnings"])


def test_where_nothing_is_gained_nothing_is_asked() -> None:
    rows = changed(LOG, llm=np.clip(0.5 + 0 * LOG.crm, 0, 1))
    found = calibrated(rows, replace(QUICK, share=None))
    assert found.share in (0.0, found.result["knee"])
    if found.result["knee"] is None:
        assert found.threshold == math.inf
        assert any("asks it about nothing" in text for text in found.result["warnings"])


@pytest.mark.parametrize("measure", [Entropy(), Entropy(0.2), Margin(), Band(0.3, 0.7), Disagreement()])
@pytest.mark.parametrize("share", [0.0, 0.07, 1.0])
def test_a_bundle_routes_what_was_reported(measure: Measure, share: float) -> None:
    """Read back from routing.json, the policy chooses the very rows that the figures are of."""
    wanted = replace(QUICK, measure=measure, share=share, fusion=Fusion("blend"))
    found = calibrated(LOG, wanted)
    old = {"threshold": "ratio:0.5", "kept": 1, "reach": {}, "calibrated_on": "another@1"}
    made = json.loads(json.dumps(routing_json(old, found, wanted), allow_nan=False))
    routing = parse_routing(made)
    policy = parse_threshold(OWN.prefix, routing)
    held = found.parts.held
    places, _ = policy.route(held.crm, held.inputs_for(measure.needs))
    assert len(places) == found.result["policy"]["rows_asked"]
    assert policy.fusion == Fusion("blend")
    assert made["kept"] == 1
    assert "calibrated_on" not in made
    assert [row["ratio"] for row in made["table"]] == [0.0, 0.1, 1.0]
    assert "calibrated_on" not in made  # its thresholds are of a log of its own now
    assert made["calibrated"]["parts"]["fit"]["rows"] == len(found.parts.fit)
    realised = float((found.values >= found.threshold).mean())
    assert routing.share(policy) == pytest.approx(realised, abs=2 / len(found.parts.fit))
    if measure != Disagreement():  # ranks of eight candidates have many ties
        assert realised == pytest.approx(share, abs=2 / len(found.parts.fit))


def test_kept_answers_are_ranked_within_their_request_as_they_are_served() -> None:
    found = calibrated(LOG, replace(QUICK, measure=Disagreement()))
    told = float((found.values >= found.threshold).mean()), found.result["policy"]["share"]["value"]
    for part, share in zip((found.parts.fit, found.parts.held), told, strict=True):
        asked = 0
        for request in np.unique(part.request.astype(str)):
            one = part.take(part.request == request)
            asked += int((Disagreement()(one.crm, one.inputs) >= found.threshold).sum())
        assert asked / len(part) == share


def test_moments_beyond_the_calendar_are_numbers() -> None:
    assert moment(0.0) == "1970-01-01T00:00:00+00:00"
    assert moment(1e18) == "1e+18"


def test_the_fusion_that_the_earlier_part_likes_best_is_taken_and_the_later_part_only_reports() -> None:
    rows = labelled_log(400, 10, 80)
    sure = replace(rows, llm=sigmoid(3 * logit(rows.llm) + 0.5))
    parts = by_time(sure, 0.5)
    taken, told = fused(parts, Wanted(), BEST)
    assert taken.fusion != Wanted().fusion
    assert told["taken"] == taken.fusion.to_json()
    (best,) = (row for row in told["earlier"] if row["chosen"])
    assert best["logloss"] == min(row["logloss"] for row in told["earlier"])
    (later,) = (row for row in told["later"] if row["chosen"])
    assert (later["rule"], later["maps"]) == (best["rule"], best["maps"])
    assert later["logloss"] < told["later"][0]["logloss"]
    assert fused(parts, Wanted(fusion=Fusion("blend")), KEEP)[0].fusion == Fusion("blend")
    assert fused(parts, Wanted(), "stack")[0].fusion.rule == "stack"
    turned = Parts(parts.fit, replace(parts.held, label=1 - parts.held.label))
    assert fused(turned, Wanted(), BEST)[0].fusion == taken.fusion


def test_figures_of_a_mapped_fusion_are_of_what_is_served() -> None:
    rows = labelled_log(300, 10, 60)
    wanted = fused(by_time(rows, 0.5), Wanted(share=0.2, gain=0.05, draws=50), BEST)[0]
    found = calibrated(rows, wanted)
    held = found.parts.held
    chosen = (wanted.measure(held.crm, held.inputs) >= found.threshold) & held.known
    p = fuse(held.crm, held.llm, chosen, wanted.fusion, held.inputs)
    assert found.result["policy"]["logloss"]["value"] == pytest.approx(row_loss(p, held.label).mean())


def test_what_the_llm_brings_of_a_fitted_fusion_is_told_apart_from_what_inputs_bring() -> None:
    rng = np.random.default_rng(7)
    helps = fused(by_time(LOG), QUICK, "stack")[0]
    found = calibrated(LOG, helps).result
    assert found["by_llm"]["auc"]["low"] > 0.0
    assert found["by_llm"]["auc"]["value"] == pytest.approx(found["policy"]["over_crm"]["auc"]["value"], abs=0.01)
    assert not any("not shown to come from the LLM" in said for said in found["warnings"])
    # An LLM that says nothing, beside an input that tells the outcome.
    told = LOG.label + rng.normal(0, 1, len(LOG))
    mute = changed(LOG, llm=np.clip(0.5 + 0.01 * rng.normal(size=len(LOG)), 0, 1), inputs={"popularity": told})
    wanted = fused(by_time(mute), replace(QUICK, share=0.5, draws=400), BEST)[0]
    assert wanted.fusion.beside
    other = calibrated(mute, wanted).result
    assert other["policy"]["over_crm"]["auc"]["low"] > 0.0
    assert other["by_llm"]["auc"]["value"] == pytest.approx(0.0, abs=0.005)
    assert any("not shown to come from the LLM" in said for said in other["warnings"])


NO_GAIN = "shows no gain over the base model"


@pytest.mark.parametrize("name", ["replace", "blend", "stack", BEST, KEEP])
def test_an_llm_that_repeats_the_base_model_is_told_to_gain_nothing_whatever_the_rule(name: str) -> None:
    same = changed(LOG, llm=LOG.crm)
    found = calibrated(same, fused(by_time(same), replace(QUICK, draws=400), name)[0]).result
    gain = found["policy"]["over_crm"]
    assert not gain["auc"]["low"] > 0.0
    assert not gain["logloss"]["high"] < 0.0
    assert any(NO_GAIN in said or "no weight" in said for said in found["warnings"])
    helped = calibrated(LOG, fused(by_time(LOG), QUICK, name)[0]).result
    assert not any(NO_GAIN in said for said in helped["warnings"])


def test_a_policy_that_asks_about_nothing_is_not_told_to_ask_about_nothing() -> None:
    for fusion in (DEAF, Fusion()):
        found = calibrated(changed(LOG, llm=LOG.crm), replace(QUICK, share=0.0, fusion=fusion))
        assert not any("--share 0" in said for said in found.result["warnings"])


@pytest.mark.parametrize("name", ["replace", "blend", KEEP])
def test_a_fusion_that_weighs_nothing_has_no_part_without_the_llm(name: str) -> None:
    assert calibrated(LOG, fused(by_time(LOG), QUICK, name)[0]).result["by_llm"] is None
