"""The learned gate: a measure as any other, found where there is something to find, and dropped where there is not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression, Ridge

from corella_edge.errors import BundleError, InputError
from corella_edge.metrics import row_loss
from corella_edge.routing.fusion import REPLACE
from corella_edge.routing.gate import FIRST, INPUTS, KINDS, Gate, inputs_of
from corella_edge.routing.gate_fit import (
    AnsweredRows,
    first,
    fit,
    learn,
    out_of_fold,
    usable,
)
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.log_odds import logit, sigmoid
from corella_edge.routing.measure import BY_ENTROPY, entropy, is_routed, parse_measure

WEIGHT = st.floats(-5, 5)
NAMES = st.lists(st.sampled_from(sorted(INPUTS)), unique=True).map(tuple)
GATES = NAMES.flatmap(lambda names: st.builds(
    Gate, st.sampled_from(KINDS), st.just(names), st.tuples(*[WEIGHT] * len(names)),
    st.tuples(*[WEIGHT] * (FIRST + 2 * len(names))),
))  # fmt: skip
VALUE = st.floats(0, 1e6) | st.just(float("nan"))
ROWS = st.lists(st.tuples(st.floats(0, 1), *[VALUE] * len(INPUTS)), min_size=1, max_size=40)


def columns(rows: list[Any]) -> tuple[Any, dict[str, Any]]:
    p, *values = map(np.array, zip(*rows, strict=True))
    return p, dict(zip(INPUTS, values, strict=True))


@given(GATES, ROWS, st.randoms())
def test_a_row_s_value_is_its_own_whatever_stands_beside_it(gate: Gate, rows: list[Any], rng: Any) -> None:
    p, inputs = columns(rows)
    values = gate(p, inputs)
    assert np.isfinite(values).all()
    assert (values >= gate.least).all()
    assert is_routed(values, gate.least).all()
    order = np.array(rng.sample(range(len(p)), len(p)))
    mixed = gate(p[order], {name: column[order] for name, column in inputs.items()})
    assert mixed.tolist() == values[order].tolist()
    alone = [gate(p[i : i + 1], {name: v[i : i + 1] for name, v in inputs.items()})[0] for i in range(len(p))]
    assert values.tolist() == alone


@given(GATES)
def test_a_gate_survives_its_file(gate: Gate) -> None:
    assert parse_measure(json.loads(json.dumps(gate.to_json()))) == gate


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(sorted(INPUTS)),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)
GOOD = {"name": "gate", "kind": "ridge", "inputs": ["text"], "fill": [0.5], "weights": [0, 1, 0, 0, 0.5, 1]}


@given(st.sampled_from(["kind", "inputs", "fill", "weights"]).flatmap(
    lambda name: JSON.map(lambda value: GOOD | {name: value})))  # fmt: skip
@example(GOOD)
@example(GOOD | {"inputs": ["text", "text"]})
@example(GOOD | {"inputs": [["text"]]})
@example(GOOD | {"weights": [0, 1, 0, 0, 0.5, True]})
@example(GOOD | {"kind": []})
def test_any_json_is_a_gate_or_one_clear_error(data: Any) -> None:
    told = "routing.json: measure."
    try:
        found = parse_measure(data)
        assert np.isfinite(found(np.array([0.0, 0.5]), {name: np.ones(2) for name in INPUTS})).all()
    except BundleError as error:
        told = str(error)
    assert told.startswith("routing.json: measure.")
    assert "\n" not in told


def test_what_is_unknown_counts_as_the_mean_of_what_was_known() -> None:
    gate = Gate("ridge", ("popularity",), (2.0,), (0.0, 0.0, 0.0, 0.0, 1.0, 0.0))
    p = np.array([0.3, 0.3])
    assert gate(p, {"popularity": np.array([np.nan, 3.0])}).tolist() == [2.0, 3.0]


def made(n: int, seed: int, helps: str = "popularity", harm: float = 1.5) -> AnsweredRows:
    """Rows of 100 users. The LLM knows the truth where `helps` is high and nothing where it is low."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    label = (rng.random(n) < sigmoid(2 * truth)).astype(float)
    inputs = {"popularity": rng.random(n), "history": rng.integers(0, 50, n).astype(float), "text": np.ones(n)}
    noise = np.where(inputs.get(helps, rng.random(n)) > 0.5, 0.1, harm)
    after = sigmoid(1.5 * (truth + noise * rng.normal(size=n)))
    p = sigmoid(truth + rng.normal(size=n))
    return AnsweredRows(p, p, after, label, rng.integers(0, 100, n), inputs)


def test_a_gate_that_finds_something_beats_the_entropy_on_later_rows() -> None:
    found = learn(made(4000, 0), made(4000, 1), np.random.default_rng(0), draws=300)
    assert found.better
    assert found.measure is found.gate
    assert set(found.gate.needs) == {"popularity", "history"}  # a text that all have tells nothing
    assert all(one.gain.low > 0 for one in found.versus)
    assert all(one.auc.value > 0 for one in found.versus)
    assert [one.share for one in found.versus] == [0.05, 0.1, 0.2]
    assert "is taken" in found.text()
    again = learn(made(4000, 0), made(4000, 1), np.random.default_rng(0), draws=300)
    assert again == found


def test_a_gate_that_finds_nothing_falls_back_to_the_entropy() -> None:
    """The LLM is as good everywhere, so the benefit goes by the entropy alone, and inputs are noise."""
    better = [
        learn(made(1500, 2 * seed, "nothing", 0.1), made(1500, 2 * seed + 1, "nothing", 0.1),
              np.random.default_rng(seed), draws=200).better
        for seed in range(8)
    ]  # fmt: skip
    assert sum(better) <= 1


def test_a_gate_that_was_right_only_where_it_was_fitted_is_not_taken() -> None:
    rows = made(800, 7)
    turned = {**rows.inputs, "popularity": 1 - rows.inputs["popularity"]}
    later = AnsweredRows(rows.p, rows.p, rows.after, rows.label, rows.user, turned)
    found = learn(made(1500, 0), later, np.random.default_rng(0), draws=50)
    assert found.gate == learn(made(1500, 0), rows, np.random.default_rng(0), draws=50).gate  # later rows fit nothing
    assert not found.better
    assert found.measure is BY_ENTROPY
    assert "the entropy stays" in found.text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_fit_is_that_of_scikit_learn(kind: str) -> None:
    rows, needs = made(1500, 3), ("popularity", "history")
    gate = fit(kind, rows.p, rows.benefit, rows.inputs, needs, 0.01)
    s, at = entropy(rows.p), logit(rows.p)
    columns = [s, at, at * at]
    for x in (rows.inputs["popularity"], np.log1p(rows.inputs["history"])):
        columns += [x, s * x]
    x = np.stack(columns, axis=1)
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    if kind == "ridge":
        expected = Ridge(0.01 * len(z)).fit(z, rows.benefit).predict(z)
    else:
        model = LogisticRegression(C=1 / (0.01 * len(z)), tol=1e-9, max_iter=1000)
        expected = model.fit(z, rows.benefit > 0).decision_function(z)
    assert gate(rows.p, rows.inputs).tolist() == pytest.approx(expected.tolist(), abs=2e-4)


def test_rows_of_a_fold_are_valued_by_a_gate_that_has_not_seen_them() -> None:
    rows = made(600, 4)
    fold = rows.user % 3
    values = out_of_fold(rows, "ridge", 0.1, ("popularity",), fold)
    flipped = AnsweredRows(
        rows.p, rows.p, rows.after, np.where(fold == 1, 1 - rows.label, rows.label), rows.user, rows.inputs
    )
    again = out_of_fold(flipped, "ridge", 0.1, ("popularity",), fold)
    assert again[fold == 1].tolist() == values[fold == 1].tolist()
    assert again[fold != 1].tolist() != values[fold != 1].tolist()


@given(st.lists(st.sampled_from([0.0, 0.2, 0.7]), min_size=1, max_size=60), st.floats(0, 1))
def test_a_share_is_exact_to_one_row_whatever_is_equal(values: list[float], share: float) -> None:
    v = np.array(values)
    chosen = first(v, share, np.random.default_rng(0).random(len(v)))
    assert chosen.sum() == round(share * len(v))
    if chosen.any() and not chosen.all():
        assert v[chosen].min() >= v[~chosen].max()


def log(n: int, seed: int = 0) -> LabelledRows:
    rows = made(n, seed)
    ids = np.array([f"u{u}" for u in rows.user], object)
    llm = np.where(np.arange(n) % 2, rows.after, np.nan)
    inputs = {**rows.inputs, "age": np.ones(n), "weather": np.ones(n)}
    return LabelledRows(ids, ids, ids, np.arange(n) * 1.0, rows.label, rows.p, llm, np.ones(n), inputs)


def test_a_log_s_asked_rows_with_the_inputs_that_serving_knows() -> None:
    rows = log(1400)
    asked = AnsweredRows.of(rows, REPLACE)
    assert len(asked.p) == 700
    assert asked.benefit.tolist() == (row_loss(rows.crm, rows.label) - row_loss(rows.llm, rows.label))[1::2].tolist()
    assert usable(asked.inputs) == ("popularity", "history")
    with pytest.raises(InputError, match=r"takes 500 rows that the LLM was asked about, of 20 users.*here are 400 of"):
        AnsweredRows.of(log(800), REPLACE)


def test_without_a_difference_there_is_nothing_to_learn() -> None:
    rows = made(100, 0)
    with pytest.raises(InputError, match="makes a difference"):
        fit("ridge", rows.p, np.zeros(100), rows.inputs, ())


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(0, 500))
def test_what_a_request_tells(values: list[float], history: int) -> None:
    p = np.array(values)
    unknown = [("item", "genre")[: i % 3] for i in range(len(p))]
    found = inputs_of(p, history, unknown, np.arange(len(p)), np.ones(len(p)))
    assert list(found) == list(INPUTS)
    assert all(column.shape == p.shape for column in found.values())
    assert found["unknown"].tolist() == [i % 3 for i in range(len(p))]
    assert found["history"][0] == history
    assert found["dispersion"].tolist() == pytest.approx([np.std(logit(p))] * len(p), abs=1e-9)
    assert np.expm1(found["popularity"]).tolist() == pytest.approx(list(range(len(p))))
    assert np.isnan(found["age"]).all()
    bare = inputs_of(p, history, unknown, needs=("popularity", "text"))
    assert list(bare) == ["popularity", "text"]
    assert np.isnan(bare["text"]).all()


@pytest.mark.parametrize("kind", ["ridge", "logistic"])
@pytest.mark.parametrize("n", [2, 20])
def test_a_row_of_chance_one_in_n_counts_as_n_rows(kind: str, n: int) -> None:
    rows = made(400, n)
    part = np.flatnonzero(np.abs(rows.p - 0.5) > 0.3)
    weight = np.ones(400)
    weight[part] = n
    many = rows.take(np.concatenate([np.arange(400), *[part] * (n - 1)]))
    one = fit(kind, rows.p, rows.benefit, rows.inputs, ("popularity",), 1e-9, weight / weight.mean())
    other = fit(kind, many.p, many.benefit, many.inputs, ("popularity",), 1e-9)
    plain = fit(kind, rows.p, rows.benefit, rows.inputs, ("popularity",), 1e-9)
    ours, theirs, without = (gate(rows.p, rows.inputs) for gate in (one, other, plain))
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert np.abs(without - theirs).mean() > 0.01


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.7]), st.floats(1, 20)), min_size=1, max_size=60), st.floats(0, 1)
)
def test_a_share_of_what_rows_stand_for_is_exact_to_one_row(rows: list[tuple[float, float]], share: float) -> None:
    v, weight = (np.array(column) for column in zip(*rows, strict=True))
    chosen = first(v, share, np.random.default_rng(0).random(len(v)), weight)
    assert abs(weight[chosen].sum() - share * weight.sum()) <= weight.max()
    if chosen.any() and not chosen.all():
        assert v[chosen].min() >= v[~chosen].max()


def test_a_log_of_one_chance_has_no_weights() -> None:
    rows = log(1400)
    assert AnsweredRows.of(rows, REPLACE).weight is None
    assert AnsweredRows.of(replace(rows, propensity=np.full(1400, 0.5)), REPLACE).weight is None
    uneven = AnsweredRows.of(replace(rows, propensity=np.where(np.arange(1400) < 700, 0.5, 1.0)), REPLACE)
    assert uneven.weight is not None
    assert uneven.weight.mean() == pytest.approx(1.0)
    assert uneven.weight[0] == pytest.approx(2 * uneven.weight[-1])
