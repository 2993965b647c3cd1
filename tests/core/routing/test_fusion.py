"""Fusion rules: what they make of two probabilities, and what routing.json may say of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corella_edge.errors import BundleError
from corella_edge.metrics import EPSILON
from corella_edge.routing.fusion import MOST, REPLACE, RULES, Fusion, Weights, fuse, parse_fusion
from corella_edge.routing.gate import NEW_ITEM

P = st.floats(0.0, 1.0) | st.sampled_from([0.0, 0.5, 1.0, 1e-9])
WEIGHT = st.floats(-MOST, MOST) | st.floats(-3.0, 3.0)
WEIGHTS = st.tuples(WEIGHT, WEIGHT, WEIGHT)
FUSIONS = st.sampled_from([REPLACE, Fusion("blend")]) | st.builds(
    lambda known, new: Fusion("stack", known, new_items=new), WEIGHTS, st.none() | WEIGHTS
)
NEW = st.sampled_from([0.0, 1.0, math.nan])  # nan: not known
ROWS = st.lists(st.tuples(P, st.none() | P), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(RULES),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
APART = st.fixed_dictionaries({"known_items": JSON, "new_items": JSON}, optional={"x": JSON})
ALMOST = st.fixed_dictionaries(
    {}, optional={"rule": st.sampled_from(RULES) | JSON, "weights": JSON | APART, "fit": JSON}
)


def columns(rows: list[Any]) -> tuple[Any, Any, Any]:
    """crm, llm (nan = not asked) and which rows have an answer."""
    crm = np.array([p for p, _ in rows], dtype=np.float64)
    llm = np.array([math.nan if q is None else q for _, q in rows], dtype=np.float64)
    return crm, llm, ~np.isnan(llm)


def by_hand(rule: Fusion, crm: float, llm: float) -> float:
    """The definition, in plain floats."""
    if rule.rule == "replace":
        return llm
    intercept, *slopes = rule.weights or (0.0, 0.5, 0.5)
    clipped = [min(max(p, EPSILON), 1 - EPSILON) for p in (crm, llm)]
    z = intercept + sum(w * math.log(p / (1 - p)) for w, p in zip(slopes, clipped, strict=True))
    return 1 / (1 + math.exp(-z)) if z > -700 else 0.0


@given(ROWS, FUSIONS)
@example([(0.0, 1.0), (1.0, 1.0), (1.0, None)], Fusion("stack", (MOST, -MOST, MOST)))
def test_routed_rows_have_the_rule_s_score_and_all_others_the_crm_s(rows: list[Any], rule: Fusion) -> None:
    crm, llm, asked = columns(rows)
    found = fuse(crm, llm, asked, rule)
    assert ((found >= 0) & (found <= 1)).all()
    for p, (by_crm, by_llm) in zip(found.tolist(), rows, strict=True):
        expected = by_crm if by_llm is None else by_hand(rule, by_crm, by_llm)
        assert p == (expected if by_llm is None or rule == REPLACE else pytest.approx(expected, rel=1e-6, abs=1e-9))


@given(ROWS, FUSIONS)
def test_nothing_routed_is_the_crm_bit_for_bit(rows: list[Any], rule: Fusion) -> None:
    crm, llm, asked = columns(rows)
    found = fuse(crm, llm, np.zeros_like(asked), rule)
    assert found.tobytes() == crm.tobytes()
    assert found is not crm


@given(ROWS)
def test_replace_is_what_was_served_before_bundles_had_a_rule(rows: list[Any]) -> None:
    crm, llm, asked = columns(rows)
    assert fuse(crm, llm, asked, REPLACE).tobytes() == np.where(asked, llm, crm).tobytes()


@given(ROWS, FUSIONS)
def test_together_is_one_by_one(rows: list[Any], rule: Fusion) -> None:
    crm, llm, asked = columns(rows)
    alone = [fuse(crm[i : i + 1], llm[i : i + 1], asked[i : i + 1], rule)[0] for i in range(len(rows))]
    assert fuse(crm, llm, asked, rule).tolist() == alone


@given(P, P, st.floats(0, 0.1), st.floats(0, 0.1), st.floats(-1, 1), st.floats(-1, 1), FUSIONS)
def test_bounds_hold_whatever_lies_between(
    crm: float, llm: float, crm_apart: float, llm_apart: float, a: float, b: float, rule: Fusion
) -> None:
    low, high = rule.bounds(crm, llm, crm_apart, llm_apart)
    near = [np.clip([p + part * apart], 0, 1) for p, part, apart in ((crm, a, crm_apart), (llm, b, llm_apart))]
    assert low - 1e-9 <= rule(near[0], near[1])[0] <= high + 1e-9


@given(FUSIONS)
def test_a_rule_survives_its_file(rule: Fusion) -> None:
    assert parse_fusion(json.loads(json.dumps(rule.to_json()))) == rule
    assert parse_fusion({**rule.to_json(), "fit": {"rows": 1}}) == rule


@given(JSON | ALMOST)
@example({"rule": "stack", "weights": [0, True, 1]})
@example({"rule": "stack", "weights": [0, 10**400, 1]})
@example({"rule": "stack", "weights": {"known_items": [0, 1, 1], "new_items": [0, 1, 1]}})
@example({"rule": "stack", "weights": {"known_items": [0, 1, 1], "new_items": [0, math.nan, 1]}})
@example({"rule": "blend", "weights": {"known_items": [0, 1, 1], "new_items": [0, 1, 1]}})
def test_any_json_is_a_rule_or_one_clear_error(data: Any) -> None:
    rule, told = REPLACE, "routing.json: fusion"
    try:
        rule = parse_fusion(data)
    except BundleError as error:
        told = str(error)
    assert told.startswith("routing.json: fusion")
    assert "\n" not in told
    assert rule.rule in RULES
    assert (rule.weights is None) == (rule.rule != "stack")
    assert np.isfinite(rule(np.array([0.0, 1.0]), np.array([1.0, 0.0]))).all()


@pytest.mark.parametrize("weights", [(0.0, 0.5, 0.5), (-0.04, 0.65, 0.14)])
def test_blend_is_the_stack_of_even_weights(weights: Weights) -> None:
    crm, llm = np.linspace(0.01, 0.99, 50), np.linspace(0.9, 0.2, 50)
    same = Fusion("stack", weights)(crm, llm).tolist() == Fusion("blend")(crm, llm).tolist()
    assert same == (weights == (0.0, 0.5, 0.5))


# Weights of their own for new items.

MARKED = st.lists(st.tuples(P, st.none() | P, NEW), max_size=40)


def marked(rows: list[Any]) -> tuple[Any, Any, Any, dict[str, Any]]:
    return *columns([row[:2] for row in rows]), {NEW_ITEM: np.array([new for *_, new in rows], np.float64)}


@given(MARKED, WEIGHTS)
def test_the_same_weights_for_new_and_known_items_are_plain_stack_bit_for_bit(rows: list[Any], weights: Any) -> None:
    crm, llm, asked, inputs = marked(rows)
    both = fuse(crm, llm, asked, Fusion("stack", weights, new_items=weights), inputs)
    assert both.tobytes() == fuse(crm, llm, asked, Fusion("stack", weights)).tobytes()


@given(MARKED, WEIGHTS, WEIGHTS)
def test_a_new_item_has_the_score_of_its_weights_and_any_other_that_of_the_rest(
    rows: list[Any], known: Any, new: Any
) -> None:
    crm, llm, asked, inputs = marked(rows)
    found = fuse(crm, llm, asked, Fusion("stack", known, new_items=new), inputs)
    of_known, of_new = (fuse(crm, llm, asked, Fusion("stack", weights)) for weights in (known, new))
    assert found.tobytes() == np.where(inputs[NEW_ITEM] == 1.0, of_new, of_known).tobytes()


@given(MARKED, WEIGHTS, WEIGHTS)
def test_new_and_known_items_together_are_one_by_one(rows: list[Any], known: Any, new: Any) -> None:
    crm, llm, asked, inputs = marked(rows)
    rule = Fusion("stack", known, new_items=new)
    alone = [fuse(crm[i : i + 1], llm[i : i + 1], asked[i : i + 1], rule, {NEW_ITEM: inputs[NEW_ITEM][i : i + 1]})[0]
             for i in range(len(rows))]  # fmt: skip
    assert fuse(crm, llm, asked, rule, inputs).tolist() == alone


@given(P, P, st.floats(0, 0.1), st.floats(0, 0.1), st.floats(-1, 1), WEIGHTS, WEIGHTS, NEW)
def test_bounds_are_of_the_item_s_own_weights(
    crm: float, llm: float, crm_apart: float, llm_apart: float, a: float, known: Any, new: Any, at: float
) -> None:
    rule, inputs = Fusion("stack", known, new_items=new), {NEW_ITEM: np.array([at])}
    own = Fusion("stack", new if at == 1.0 else known)
    assert rule.bounds(crm, llm, crm_apart, llm_apart, inputs) == own.bounds(crm, llm, crm_apart, llm_apart)


def test_weights_of_new_items_are_written_so_that_an_earlier_release_refuses_them() -> None:
    rule = Fusion("stack", (0.1, 0.5, 0.7), new_items=(0.2, 0.4, 0.0))
    written = rule.to_json()
    assert written == {"rule": "stack", "weights": {"known_items": [0.1, 0.5, 0.7], "new_items": [0.2, 0.4, 0.0]}}
    assert not isinstance(written["weights"], list)  # of three numbers, which it wants
    assert rule.needs == (NEW_ITEM,)
    assert Fusion("stack", (0.1, 0.5, 0.7)).needs == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"weights": {"known_items": [0, 1, 1]}}, "expected a list, or an object of known_items and new_items"),
     ({"weights": {"known_items": [0, 1, 1], "new_items": [0, 1]}}, "fusion.weights.new_items: expected three numbers"),
     ({"weights": {"known_items": [0, 1, 1e7], "new_items": [0, 1, 1]}}, "fusion.weights.known_items: expected three"),
     ({"inputs": ["age"], "fill": [0]}, "fusion.inputs: expected none where new items have weights of their own"),
     ({"rule": "blend"}, "fusion.weights: blend takes no weights")],
)  # fmt: skip
def test_bad_weights_of_new_items_are_refused_in_a_sentence(changes: Any, said: str) -> None:
    good = {"rule": "stack", "weights": {"known_items": [0, 1, 1], "new_items": [0, 1, 1]}}
    assert parse_fusion(good).new_items == (0.0, 1.0, 1.0)
    with pytest.raises(BundleError, match=said):
        parse_fusion({**good, **changes})
