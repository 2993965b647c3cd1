"""Weights of their own for new items: when they are fitted, when they are taken, and what is told of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from corella_edge.metrics import row_loss
from corella_edge.routing.calibrated import BEST, Wanted, calibrated, fused, routing_json
from corella_edge.routing.fit import (
    BASE,
    ENOUGH,
    NEW_APART,
    choose,
    few_new_items,
    fit_fusion,
    fitting,
    is_new,
    without_llm,
)
from corella_edge.routing.fusion import Fusion, fuse
from corella_edge.routing.gate import NEW_ITEM, new_items
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.parts import FEW_USERS, by_time
from corella_edge.routing.policy import Policy
from corella_edge.routing.routing_file import parse_routing
from logs import labelled_log, new_item_log

POLICY = Policy(threshold=0.45)
LOG = new_item_log()
QUICK = Wanted(share=0.4, gain=0.05, draws=40, ratios=(0.4,))


def test_new_is_what_an_answer_lists_as_an_unknown_item() -> None:
    assert new_items([(), ("user",), ("item",), ("user", "item", "genres"), ("items",)]).tolist() == [0, 0, 1, 1, 0]
    assert new_items([]).tolist() == []


def test_they_are_taken_where_the_llm_knows_less_of_new_items() -> None:
    later = new_item_log(seed=1)
    for held in (None, later):
        found, judged = choose(LOG, POLICY, held), LOG if held is None else held
        (best,) = (row for row in found.table if row["chosen"])
        assert best["rule"] == NEW_APART
        rule = found.policy.fusion
        assert rule.weights is not None
        assert rule.new_items is not None
        assert rule.new_items[2] < 0.1 < 0.5 < rule.weights[2]
        assert found.about_new_items.startswith("new items have weights of their own: the lowest log-loss")
        of_new = {row["rule"]: row for row in found.of_new if row["rule"] == BASE or row["maps"] == best["maps"]}
        assert of_new[NEW_APART]["logloss"] < of_new["stack"]["logloss"] - 0.01
        mask = is_new(judged)
        assert of_new[BASE]["logloss"] == pytest.approx(row_loss(judged.crm, judged.label)[mask].mean(), abs=1e-6)


def test_either_part_fits_its_own_weights() -> None:
    fitted = fitting(LOG, POLICY)
    rule = fit_fusion(LOG, fitted, NEW_APART, "none")
    for weights, of in ((rule.weights, ~is_new(LOG)), (rule.new_items, is_new(LOG))):
        assert weights == fit_fusion(LOG.take(of), fitted[of], "stack", "none").weights


def test_a_part_with_few_fitted_rows_is_fitted_on_all_its_answers() -> None:
    rows = new_item_log(800, share=0.035, knows=0.5)
    fitted, new = fitting(rows, POLICY), is_new(rows)
    assert (fitted & new).sum() < ENOUGH <= new.sum()
    rule = fit_fusion(rows, fitted, NEW_APART, "none")
    assert rule.new_items == fit_fusion(rows, new, "stack", "none").weights


def few(rows: LabelledRows, at_most: int) -> LabelledRows:
    """Of the new items so many rows."""
    places = np.flatnonzero(is_new(rows))
    return replace(rows, inputs={NEW_ITEM: np.isin(np.arange(len(rows)), places[:at_most]).astype(np.float64)})


def of_users(rows: LabelledRows, number: int) -> LabelledRows:
    """New items are met by so many users alone."""
    chosen = np.isin(rows.user.astype(str), np.unique(rows.user.astype(str))[:number])
    return replace(rows, inputs={NEW_ITEM: (is_new(rows) & chosen).astype(np.float64)})


@pytest.mark.parametrize(
    ("rows", "said"),
    [(few(LOG, ENOUGH - 1), f"it takes {ENOUGH} answered rows of new items, with positive ones of {FEW_USERS} users"),
     (of_users(new_item_log(share=0.9), FEW_USERS - 1), "answered rows of new items"),
     (new_item_log(share=0.99), "answered rows of known items"),
     (few(LOG, 0), "the rows tell of no new item (input.new_item)"),
     (labelled_log(), "the rows tell of no new item (input.new_item)")],
)  # fmt: skip
def test_too_few_rows_leave_plain_stack_and_the_reason_is_told(rows: LabelledRows, said: str) -> None:
    found = choose(rows, POLICY)
    assert not [row for row in found.table if row["rule"] == NEW_APART]
    assert found.policy.fusion.new_items is None
    assert found.about_new_items.startswith("new items have no weights of their own: ")
    assert said in found.about_new_items
    assert said in few_new_items(rows, fitting(rows, POLICY))


def test_where_they_are_no_better_plain_stack_stays_and_that_is_told() -> None:
    """The LLM knows as much of new items as of others."""
    rows = new_item_log(knows=1.0, seed=3)
    found = choose(rows, POLICY)
    (best,) = (row for row in found.table if row["chosen"])
    lowest = min(row["logloss"] for row in found.table if row["rule"] == NEW_APART)
    assert best["logloss"] <= lowest
    assert found.policy.fusion.new_items is None
    assert found.about_new_items.endswith(f"that of {best['rule']} (maps: {best['maps']})")


def test_without_the_llm_the_same_weights_are_fitted_and_its_own_are_0() -> None:
    fitted = fitting(LOG, POLICY)
    mute = without_llm(LOG, fitted, fit_fusion(LOG, fitted, NEW_APART, "platt"))
    assert mute is not None
    assert mute.weights is not None
    assert mute.new_items is not None
    assert mute.weights[2] == mute.new_items[2] == 0.0
    assert mute.weights[:2] != mute.new_items[:2]


def test_what_calibrate_reports_is_what_its_bundle_answers() -> None:
    parts = by_time(LOG)
    wanted, told = fused(parts, QUICK, BEST)
    assert wanted.fusion.new_items is not None
    found = calibrated(LOG, wanted)
    made = json.loads(json.dumps(routing_json({}, found, wanted), allow_nan=False))
    routing, held = parse_routing(made), parts.held
    assert routing.fusion == wanted.fusion
    chosen = wanted.measure(held.crm) >= found.threshold
    final = fuse(held.crm, held.llm, chosen, routing.fusion, held.inputs)
    reported = found.result["policy"]["logloss"]["value"]
    assert row_loss(final, held.label).mean() == pytest.approx(reported, abs=1e-9)
    rows = {part: {row["rule"]: row["logloss"] for row in told["new_items"][part]} for part in ("earlier", "later")}
    for losses in rows.values():
        assert list(losses) == [BASE, "stack", NEW_APART]
        assert losses[NEW_APART] < losses["stack"]
    assert told["new_items"]["told"].startswith("new items have weights of their own")
    assert fused(parts, QUICK, "stack")[1]["new_items"]["told"] == ""


@pytest.mark.parametrize(("known", "new", "said"), [(1.0, 0.0, "new"), (0.0, 1.0, "known"), (1.0, 1.0, "")])
def test_where_the_llm_has_no_weight_for_one_kind_of_items_that_is_told(known: float, new: float, said: str) -> None:
    rule = Fusion("stack", (0.0, 1.0, known), new_items=(0.0, 1.0, new))
    warnings = calibrated(LOG, replace(QUICK, fusion=rule)).result["warnings"]
    told = [text for text in warnings if "gives the LLM's score no weight" in text]
    assert [f"where the item is a {said} one" in text for text in told] == [True] * bool(said)
