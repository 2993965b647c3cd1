"""Monotone maps, their fits against scikit-learn, and the choice of a fusion by rows that fitted none."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from corella_edge.errors import BundleError
from corella_edge.metrics import ece, row_loss
from corella_edge.routing.fit import WITH_INPUTS, choose, fit_fusion, fitting, routed, standing
from corella_edge.routing.fit_maps import fit_map, fit_maps, isotonic, pooled
from corella_edge.routing.fusion import Beside, Fusion, fuse, parse_fusion
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import logit, sigmoid
from corella_edge.routing.maps import IDENTITY, KINDS, MOST, PLAIN, Maps, PlattScaling, Steps, parse_map
from corella_edge.routing.measure import entropy
from corella_edge.routing.policy import Policy
from logs import labelled_log

P = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0, 1e-9])
LINES = st.builds(PlattScaling, st.floats(0, MOST) | st.floats(0, 3), st.floats(-MOST, MOST) | st.floats(-3, 3))


@st.composite
def steps(draw: st.DrawFn) -> Steps:
    xs = sorted(draw(st.lists(P, min_size=1, max_size=8, unique=True)))
    return Steps(tuple(xs), tuple(sorted(draw(st.lists(P, min_size=len(xs), max_size=len(xs))))))


MAPS = LINES | steps() | st.just(IDENTITY)
ROWS = st.lists(st.tuples(P, st.sampled_from([0.0, 1.0])), min_size=1, max_size=40)


@given(MAPS, st.lists(P, min_size=1, max_size=20))
def test_a_map_keeps_the_order_and_stays_a_probability(made: Any, p: list[float]) -> None:
    found = made(np.sort(p))
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= -1e-12).all()


@given(MAPS)
def test_a_map_survives_its_file(made: Any) -> None:
    read = parse_map(json.loads(json.dumps(made.to_json())), "llm")
    p = np.linspace(0, 1, 50)
    assert read(p).tolist() == made(p).tolist()


@given(st.lists(P, max_size=20))
def test_no_map_is_the_same_bits(p: list[float]) -> None:
    assert IDENTITY(np.array(p)).tobytes() == np.array(p, dtype=np.float64).tobytes()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(KINDS) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4), max_leaves=6,
)  # fmt: skip
ONE = st.fixed_dictionaries({"kind": JSON}, optional={"slope": JSON, "shift": JSON, "from": JSON, "to": JSON})


@given(JSON | ONE)
@example({"kind": "isotonic", "from": [0.5, 0.4], "to": [0, 1]})
@example({"kind": "isotonic", "from": [0.4, 0.5], "to": [1, 0]})
@example({"kind": "platt", "slope": -1, "shift": 0})
def test_any_json_is_a_map_or_one_clear_error(data: Any) -> None:
    made: Any = IDENTITY
    said = "routing.json: fusion.maps.crm"
    try:
        made = parse_map(data, "crm")
    except BundleError as error:
        said = str(error)
    assert said.startswith("routing.json: fusion.maps.crm")
    assert "\n" not in said
    assert np.isfinite(made(np.array([0.0, 1.0]))).all()


@given(st.sampled_from(KINDS), ROWS)
def test_any_rows_fit_a_rising_map(kind: str, rows: list[tuple[float, float]]) -> None:
    p, label = (np.array(column) for column in zip(*rows, strict=True))
    found = fit_map(kind, p, label)(np.linspace(0, 1, 101))
    assert (np.diff(found) >= -1e-12).all()
    assert ((found >= 0) & (found <= 1)).all()


@given(ROWS, st.randoms())
def test_the_order_of_rows_does_not_change_a_fit(rows: list[tuple[float, float]], rng: Any) -> None:
    moved = list(rows)
    rng.shuffle(moved)
    p = np.linspace(0, 1, 31)
    for kind in KINDS:
        one, other = (fit_map(kind, *(np.array(c) for c in zip(*some, strict=True)))(p) for some in (rows, moved))
        assert one == pytest.approx(other, abs=1e-6)


@given(ROWS)
def test_isotonic_is_scikit_learn_s_within_its_bounds(rows: list[tuple[float, float]]) -> None:
    p, label = (np.array(column) for column in zip(*rows, strict=True))
    p = np.round(p, 3)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(p, label).predict(p)
    most = 1 / (len(p) + 2)
    assert isotonic(p, label)(p) == pytest.approx(np.clip(theirs, most, 1 - most), abs=1e-9)


@given(st.lists(st.tuples(st.floats(-5, 5), st.floats(0.1, 5)), min_size=1, max_size=30))
def test_pooled_blocks_rise_and_keep_the_sum(points: list[tuple[float, float]]) -> None:
    means, weights = (np.array(column) for column in zip(*points, strict=True))
    blocks = pooled(means, weights)
    heights = [height for height, _ in blocks]
    assert all(a < b for a, b in pairwise(heights))
    spread = np.repeat(heights, [size for _, size in blocks])
    assert (spread * weights).sum() == pytest.approx((means * weights).sum(), abs=1e-6)


def distorted(n: int = 4000, seed: int = 0) -> tuple[Any, Any]:
    """Probabilities twice too sure and one log-odd too high, and labels."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 1.2, n)
    return sigmoid(2 * odds + 1), (rng.random(n) < sigmoid(odds)).astype(np.float64)


def test_platt_is_logistic_regression_of_the_log_odds() -> None:
    p, label = distorted()
    theirs = LogisticRegression(C=1e9).fit(logit(p)[:, None], label)
    found = fit_map("platt", p, label)
    assert isinstance(found, PlattScaling)
    assert (found.slope, found.shift) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=1e-3)
    temperature = fit_map("temperature", p, label)
    assert isinstance(temperature, PlattScaling)
    assert temperature.shift == 0.0
    assert 0.3 < temperature.slope < 0.7


@pytest.mark.parametrize("kind", ["platt", "isotonic"])
def test_a_map_takes_the_error_of_calibration_away(kind: str) -> None:
    fit, (p, label) = distorted(), distorted(seed=1)
    made = fit_map(kind, *fit)
    assert ece(p, label) > 0.15
    assert ece(made(p), label) < 0.03
    assert row_loss(made(p), label).mean() < row_loss(p, label).mean() - 0.05


def test_a_model_that_is_wrong_way_round_is_not_turned_round() -> None:
    p, label = distorted()
    found = fit_map("platt", 1 - p, label)
    assert isinstance(found, PlattScaling)
    assert found.slope == 0.0
    assert found(np.array([0.1, 0.9])) == pytest.approx([label.mean()] * 2, abs=1e-6)


# Fusion behind maps.

STACKED = Fusion(
    "stack",
    (0.1, 0.5, 0.7),
    Maps(PlattScaling(2.0), PlattScaling(1.0, 0.3), PlattScaling(0.5)),
    (Beside("popularity", 2.0, 0.4),),
)


def test_the_llm_decides_on_mapped_scores_and_the_rest_is_mapped_alone() -> None:
    crm, llm = np.array([0.2, 0.6, 0.7]), np.array([0.9, np.nan, 0.4])
    chosen, popularity = ~np.isnan(llm), np.array([3.0, 9.0, np.nan])
    found = fuse(crm, llm, chosen, STACKED, {"popularity": popularity})
    first = 0.1 + 0.5 * 2 * logit(crm[:1]) + 0.7 * (logit(llm[:1]) + 0.3) + 0.4 * (3.0 - 2.0)
    last = 0.1 + 0.5 * 2 * logit(crm[2:]) + 0.7 * (logit(llm[2:]) + 0.3)
    expected = [*sigmoid(first), *sigmoid(0.5 * logit(crm[1:2])), *sigmoid(last)]
    assert found.tolist() == pytest.approx(expected)
    mapped = STACKED.mapped(crm, llm, chosen)
    assert mapped[0].tolist() == pytest.approx(
        [*sigmoid(2 * logit(crm[:1])), expected[1], *sigmoid(2 * logit(crm[2:]))]
    )
    assert np.isnan(mapped[1]).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "rule",
    [
        STACKED,
        replace(STACKED, beside=(), new_items=(0.0, 0.9, 0.2)),
        Fusion("replace", None, Maps(llm=PlattScaling(0.5))),
        Fusion("blend", None, Maps()),
    ],
)
def test_a_mapped_rule_survives_its_file_and_an_earlier_release_refuses_it(rule: Fusion) -> None:
    written = json.loads(json.dumps(rule.to_json()))
    assert parse_fusion(written) == rule
    assert written["rule"].startswith("mapped_")
    plain = json.loads(json.dumps(Fusion("stack", (0.1, 0.2, 0.3), PLAIN, STACKED.beside).to_json()))
    assert plain["rule"] == "stack"
    assert len(plain["weights"]) == 4  # of which an earlier release wants three
    assert parse_fusion(plain).beside == STACKED.beside


@pytest.mark.parametrize(
    ("data", "part"),
    [({"rule": "mapped_stack", "weights": [0, 1, 1]}, "maps: expected"),
     ({"rule": "mapped_x"}, "fusion.rule"), ({"rule": "stack", "weights": [0, 1, 1, 1], "inputs": ["age2"]}, "inputs"),
     ({"rule": "stack", "weights": [0, 1, 1], "inputs": ["age"], "fill": [0]}, "expected 4 numbers"),
     ({"rule": "stack", "weights": [0, 1, 1, 1], "inputs": ["age"]}, "fusion.fill"),
     ({"rule": "stack", "weights": [0, 1, 1, 1, 1], "inputs": ["age", "age"], "fill": [0, 0]}, "twice")],
)  # fmt: skip
def test_a_wrong_rule_is_named(data: Any, part: str) -> None:
    with pytest.raises(BundleError, match=part):
        parse_fusion(data)


# The choice.

HALF = Policy(threshold=0.45)


def too_sure(seed: int = 0, **options: Any) -> Any:
    """A log whose LLM is three times too sure."""
    rows = labelled_log(400, 10, 80, seed=seed, **options)
    return type(rows)(**{**vars(rows), "llm": sigmoid(3 * logit(rows.llm) + 0.5)})


def test_the_best_on_rows_that_fitted_nothing_is_taken_and_all_are_told() -> None:
    rows, later = too_sure(), too_sure(seed=1)
    for held in (None, later):
        found = choose(rows, HALF, held)
        assert len(found.table) == len(KINDS) * 4  # `popularity` is among the inputs
        assert found.table[0]["rule"] == "replace"
        (best,) = (row for row in found.table if row["chosen"])
        assert best["logloss"] == min(row["logloss"] for row in found.table)
        assert best["logloss"] < found.table[0]["logloss"] - 0.01
        assert best["ece_llm"] < found.table[0]["ece_llm"]
        assert found.note == ""
        p = fuse(later.crm, later.llm, routed(later, HALF), found.policy.fusion, later.inputs)
        assert row_loss(p, later.label).mean() == pytest.approx(best["logloss"], abs=0.03)


def test_an_input_that_tells_something_is_taken() -> None:
    rows = labelled_log(400, 10, 80)
    rng = np.random.default_rng(2)
    told = np.where(rows.label > 0, rng.normal(1.0, 1.0, len(rows)), rng.normal(-1.0, 1.0, len(rows)))
    rows = type(rows)(**{**vars(rows), "inputs": {"popularity": told}})
    found = choose(rows, HALF)
    (best,) = (row for row in found.table if row["chosen"])
    assert best["rule"] == WITH_INPUTS
    assert found.policy.fusion.needs == ("popularity",)
    assert found.policy.fusion.beside[0].weight > 0.5


def test_rows_fit_no_prediction_of_their_own() -> None:
    rows = labelled_log(100, 5, 40)
    at = rows.user == rows.user[0]
    turned = type(rows)(**{**vars(rows), "label": np.where(at, 1 - rows.label, rows.label)})
    before, after = (choose(some, HALF).table for some in (rows, turned))
    assert [row["logloss"] for row in before] != [row["logloss"] for row in after]
    fold = np.unique(rows.user, return_inverse=True)[1] % 5
    mine = fold == fold[0]
    for some in (rows, turned):
        part = some.take(~mine)
        assert fit_fusion(part, fitting(part, HALF), "stack", "platt") == fit_fusion(
            rows.take(~mine), fitting(rows.take(~mine), HALF), "stack", "platt"
        )


@settings(max_examples=settings.default.max_examples // 5, deadline=None)  # each takes a tenth of a second
@given(st.randoms())
def test_the_order_of_rows_does_not_change_the_choice(rng: Any) -> None:
    rows = labelled_log(60, 5, 20)
    order = list(range(len(rows)))
    rng.shuffle(order)
    one, other = choose(rows, HALF), choose(rows.take(np.array(order)), HALF)
    assert [row["chosen"] for row in one.table] == [row["chosen"] for row in other.table]
    assert [row["logloss"] for row in one.table] == pytest.approx([row["logloss"] for row in other.table], abs=1e-6)


def test_without_answers_nothing_is_chosen() -> None:
    rows = labelled_log(50, 4, 10)
    mute = type(rows)(**{**vars(rows), "llm": np.full(len(rows), np.nan)})
    found = choose(mute, HALF)
    assert found.policy.fusion == Fusion()
    assert [row["rule"] for row in found.table] == ["replace"]
    assert "nothing can be fitted" in found.note


def test_few_routed_rows_are_fitted_on_all_answers() -> None:
    rows = labelled_log(50, 4, 10)
    assert fitting(rows, Policy()).tolist() == rows.known.tolist()
    many = labelled_log(400, 10, 80)
    assert fitting(many, Policy()).mean() == pytest.approx(0.28, abs=0.01)
    assert fit_maps(many, fitting(many, HALF), "none") == PLAIN


def by_chance(rows: LabelledRows, seed: int) -> LabelledRows:
    """The same log where the LLM was asked seldom about what the base model is sure of, and always about the rest."""
    chance = np.where(np.abs(rows.crm - 0.5) < 0.15, 1.0, 0.2)
    told = np.random.default_rng([seed, 7]).random(len(rows)) < chance
    return replace(rows, llm=np.where(told, rows.llm, np.nan), propensity=chance)


def test_rows_asked_by_chance_fit_the_map_of_a_log_where_all_are_asked() -> None:
    """The LLM is too sure of itself just where it is seldom asked: without weights the map would not know."""
    off = {"weighted": 0.0, "unweighted": 0.0}
    for seed in range(5):
        rows = labelled_log(2000, 10, 300, seed=seed)
        wrong = sigmoid(np.where(np.abs(rows.crm - 0.5) < 0.15, 1.0, 3.0) * logit(rows.llm))
        rows = replace(rows, llm=wrong)
        seen, at = by_chance(rows, seed), np.linspace(0.02, 0.98, 49)
        whole = fit_maps(rows, rows.known, "platt").llm(at)
        off["weighted"] += float(np.abs(fit_maps(seen, seen.known, "platt").llm(at) - whole).mean())
        plain = replace(seen, propensity=np.ones(len(seen)))
        off["unweighted"] += float(np.abs(fit_maps(plain, seen.known, "platt").llm(at) - whole).mean())
    assert off["weighted"] < 0.7 * off["unweighted"]


def test_one_chance_for_all_is_no_weight() -> None:
    rows = labelled_log(200, 6, 40, known=0.5)
    same = replace(rows, propensity=np.ones(len(rows)))
    at = np.linspace(0, 1, 31)
    for kind in KINDS:
        one, other = (fit_maps(some, rows.known, kind).llm(at) for some in (rows, same))
        assert one == pytest.approx(other, abs=1e-9)


@given(st.integers(1, 4), st.integers(0, 20))
def test_a_row_of_chance_one_in_n_counts_as_n_rows(n: int, seed: int) -> None:
    rows = labelled_log(40, 5, 10, seed=seed)
    part = np.random.default_rng(seed).random(len(rows)) < 0.4
    weighted = replace(rows, propensity=np.where(part, 1.0 / n, 1.0))
    many = rows.take(np.concatenate([np.arange(len(rows)), *[np.flatnonzero(part)] * (n - 1)]))
    at, every = np.linspace(0, 1, 31), np.ones(len(many), bool)
    least = 1.0 / (len(rows) + 2)  # isotonic maps stay that far from the ends, by the number of rows
    for kind in ("platt", "temperature", "isotonic"):
        one, other = fit_maps(weighted, rows.known, kind), fit_maps(many, every, kind)
        ours, theirs = (np.clip(found.llm(at), least, 1 - least) for found in (one, other))
        assert ours == pytest.approx(theirs, abs=5e-3)  # but for the ridge, which is of a row


def test_a_choice_is_judged_by_what_rows_stand_for() -> None:
    """What every row stands for sums up, in the mean, to the log where all were asked."""
    rows = labelled_log(2000, 10, 300)
    seen = by_chance(rows, 0)
    policy = Policy(threshold=0.3)
    stands = standing(seen, policy)
    assert stands.sum() == pytest.approx(len(rows), rel=0.05)
    assert (stands[~seen.known & (entropy(seen.crm) >= 0.3)] == 0).all()
    assert (stands[entropy(seen.crm) < 0.3] == 1).all()
    assert (standing(rows, policy) == 1).all()
    whole, weighted = (choose(some, policy).table[0]["logloss"] for some in (rows, seen))
    plain = choose(replace(seen, propensity=np.ones(len(seen))), policy).table[0]["logloss"]
    assert abs(weighted - whole) < abs(plain - whole)
