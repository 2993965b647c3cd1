"""Which rule an export ships, and on which rows it fits it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from corella_edge.errors import ExportError, RecipeError
from corella_edge.metrics import quality
from corella_edge.routing.forms import parse_threshold
from corella_edge.routing.fusion import REPLACE, Fusion, fuse, parse_fusion
from corella_edge.routing.gate import NEW_ITEM
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import Entropy
from corella_edge.routing.policy import Calibration
from corella_edge.routing.routing_file import parse_routing
from corella_edge_export.bundling.routing import FIT_SHARE, routing, rule_for
from corella_edge_export.evaluation.fusion import fusion, routed
from corella_edge_export.recipe import load_recipe, recipe_from
from corella_edge_export.training.run import deciding
from study_rows import rows

VALID = rows(3000)
CALIBRATION = Calibration.fit(VALID.entropies)


def test_replace_is_told_by_saying_nothing() -> None:
    assert rule_for("replace", "ratio:0.05", VALID) == (REPLACE, {})
    assert rule_for("blend", "ratio:0.05", VALID) == (Fusion("blend"), {"fusion": {"rule": "blend"}})


@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_stack_is_fitted_on_what_the_bundle_s_own_threshold_routes(share: float) -> None:
    nats = CALIBRATION.threshold(share)
    for policy in (f"ratio:{share}", repr(nats)):
        rule, about = rule_for("stack", policy, VALID)
        assert rule == fusion("stack", VALID, nats)
        assert about["fusion"]["fit"] == {
            "split": "valid", "rows": int(routed(VALID, nats).sum()), "threshold": nats,
        }  # fmt: skip


@pytest.mark.parametrize("policy", ["ratio:0", "ratio:0.05", "ratio:0.28", "0.693"])
def test_stack_is_never_fitted_on_less_than_the_study_s_largest_share(policy: str) -> None:
    nats = CALIBRATION.threshold(FIT_SHARE)
    rule, about = rule_for("stack", policy, VALID)
    assert rule == fusion("stack", VALID, nats)
    assert about["fusion"]["fit"]["threshold"] == nats
    assert parse_fusion(json.loads(json.dumps(about["fusion"], allow_nan=False))) == rule


def test_too_few_rows_near_the_boundary_are_all_rows() -> None:
    few = rows(300)
    _, about = rule_for("stack", "ratio:0.3", few)
    assert about["fusion"]["fit"] == {"split": "valid", "rows": int(few.answered.sum()), "threshold": 0.0}


def test_stack_without_rows_of_both_classes_is_refused() -> None:
    mute = replace(VALID, llm=np.full(len(VALID), np.nan))
    one_class = replace(VALID, labels=np.ones_like(VALID.labels))
    for data in (mute, one_class):
        with pytest.raises(ExportError, match=r"fusion: stack needs .* take blend"):
            rule_for("stack", "ratio:0.3", data)
        assert rule_for("blend", "ratio:0.3", data)[0].rule == "blend"


def test_recipes_name_the_rule() -> None:
    rules = {name: load_recipe(name).export.fusion for name in ("demo", "ml-1m-tiny", "ml-1m-small", "collm-ml-1m")}
    assert rules == {"demo": "replace", "ml-1m-tiny": "replace", "ml-1m-small": "stack", "collm-ml-1m": "stack"}
    with pytest.raises(RecipeError, match="'stack', 'best', got 'vote'"):
        recipe_from({"name": "x", "export": {"fusion": "vote"}}, "x")


def test_a_run_that_was_begun_before_the_key_goes_on() -> None:
    assert deciding({"export": {"fusion": "replace", "threshold": "0.6"}}) == {"export": {"threshold": "0.6"}}
    assert deciding({"export": {"fusion": "stack"}}) == {"export": {"fusion": "stack"}}


LOG = LabelledRows(
    **{name: np.array([f"{name}{i}" for i in range(len(VALID))], dtype=np.object_) for name in ("request", "item")},
    user=VALID.users.astype(np.object_), time=np.zeros(len(VALID)), label=VALID.labels.astype(np.float64),
    crm=VALID.crm, llm=VALID.llm, propensity=np.ones(len(VALID)),
)  # fmt: skip


def test_routing_json_shows_every_fusion_and_carries_the_best_where_it_is_asked_for() -> None:
    made = json.loads(json.dumps(routing("ratio:0.3", "best", VALID, LOG), allow_nan=False))
    table = made["fusions"]
    assert len(table) == 12  # three rules behind four maps; the log has no inputs
    (best,) = (row for row in table if row["chosen"])
    assert best["logloss"] == min(row["logloss"] for row in table)
    read = parse_routing(made)
    assert read.fusion.rule == best["rule"]
    assert (read.rows, read.base_rate) == (len(VALID), VALID.labels.mean())
    at = next(row for row in made["table"] if row["ratio"] == 0.3)
    policy = parse_threshold("policy", read)
    assert at["threshold"] == policy.nats
    assert at["share"] == pytest.approx(0.3, abs=0.02)
    assert made["fusion"]["fit"]["new_items"] == (
        "new items have no weights of their own: the rows tell of no new item (input.new_item)"
    )
    plain = routing("ratio:0.3", "replace", VALID, LOG)
    assert "fusion" not in plain
    assert plain["fusions"] == table


def test_weights_of_new_items_are_carried_where_they_are_the_best() -> None:
    """The LLM says of new items the opposite of what it says of others."""
    new = np.random.default_rng(0).random(len(VALID)) < 0.4
    valid = replace(VALID, llm=np.where(new, 1 - VALID.llm, VALID.llm))
    users = (np.arange(len(VALID)) % 100).astype(np.object_)
    log = replace(LOG, llm=valid.llm, user=users, inputs={NEW_ITEM: new.astype(np.float64)})
    made = json.loads(json.dumps(routing("ratio:0.3", "best", valid, log), allow_nan=False))
    rule = parse_routing(made).fusion
    assert rule.weights is not None
    assert rule.new_items is not None
    assert rule.new_items[2] < rule.weights[2]
    whole = made["table"][-1]
    every = quality(fuse(valid.crm, valid.llm, valid.answered, rule, log.inputs), valid.labels)
    assert (whole["ratio"], whole["logloss"]) == (1.0, pytest.approx(every.logloss, abs=1e-9))


def test_a_centred_measure_orders_what_ratio_asks_for_and_releases_without_it_go_by_the_entropy() -> None:
    made = json.loads(json.dumps(routing("ratio:0.3", "replace", VALID, LOG, "centred")))
    read = parse_routing(made)
    assert read.measure == Entropy(float(VALID.labels.mean()))
    policy = parse_threshold("policy", read)
    assert len(policy.route(VALID.crm)[0]) == pytest.approx(0.3 * len(VALID), abs=3)  # ties
    assert read.share(policy) == pytest.approx(0.3, abs=3 / len(VALID))
    assert made["calibration"] == routing("ratio:0.3", "replace", VALID, LOG)["calibration"]
    with pytest.raises(ExportError, match="both classes"):
        routing("ratio:0.3", "replace", replace(VALID, labels=np.ones_like(VALID.labels)), LOG, "centred")
