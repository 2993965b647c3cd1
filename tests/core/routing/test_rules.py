"""Published rules: what each asks about first, that none sees its own row's label, and what rows cannot tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.routing.fusion import REPLACE
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import Margin, entropy
from corella_edge.routing.rules import RULES, orders
from logs import labelled_log

LOG = labelled_log(250, 8, 60)
LEARNED = ("learned win", "learned gain")


def test_every_rule_orders_every_row_that_was_answered() -> None:
    rows = replace(LOG, llm=np.where(np.arange(len(LOG)) % 7 == 0, np.nan, LOG.llm))
    found = orders(rows, REPLACE)
    assert list(found) == list(RULES)
    for values in found.values():
        assert np.isfinite(values[rows.known]).all()
        assert (values[~rows.known] == -np.inf).all()


def test_the_entropy_is_corellas_and_the_margins_order_is_the_same() -> None:
    values = orders(LOG, REPLACE)["entropy"]
    assert values.tolist() == entropy(LOG.crm).tolist()
    assert (np.diff(values[np.argsort(Margin()(LOG.crm))]) >= -1e-15).all()


def test_the_rarest_items_come_first_and_unknown_counts_with_them() -> None:
    counts = LOG.inputs["popularity"].copy()
    counts[:5] = np.nan
    values = orders(replace(LOG, inputs={"popularity": counts}), REPLACE)["rare items"]
    assert (values[:5] == values.max()).all()
    assert values[5:].tolist() == (-counts[5:]).tolist()
    assert "rare items" not in orders(replace(LOG, inputs={}), REPLACE)
    assert "rare items" not in orders(replace(LOG, inputs={"popularity": np.ones(len(LOG))}), REPLACE)


@given(st.integers(0, 59))
def test_what_is_predicted_of_a_user_was_not_fitted_on_his_rows(number: int) -> None:
    mine = LOG.user == np.unique(LOG.user)[number]
    turned = replace(LOG, label=np.where(mine, 1.0 - LOG.label, LOG.label))
    one, other = orders(LOG, REPLACE), orders(turned, REPLACE)
    for name in LEARNED:  # a fold's values are places among its own rows, so his rows keep theirs
        assert one[name][mine].tolist() == other[name][mine].tolist()


def test_what_is_learned_finds_where_asking_helps() -> None:
    rng = np.random.default_rng(0)
    n = 4000
    label, helps = (rng.random(n) < 0.5).astype(float), rng.random(n) < 0.5
    rows = LabelledRows(
        request=np.arange(n).astype(str).astype(object), user=(np.arange(n) % 100).astype(str).astype(object),
        item=np.array(["i"] * n, object), time=np.zeros(n), label=label, crm=rng.uniform(0.4, 0.6, n),
        llm=np.where(helps, 0.1 + 0.8 * label, 0.9 - 0.8 * label), propensity=np.ones(n),
        inputs={"text": helps.astype(float)},
    )  # fmt: skip
    found = orders(rows, REPLACE)
    for name in LEARNED:
        first = np.argsort(-found[name])[: n // 4]
        assert helps[first].mean() > 0.95
    assert helps[np.argsort(-found["entropy"])[: n // 4]].mean() == pytest.approx(0.5, abs=0.05)


def test_too_few_rows_or_none_that_differ_teach_nothing() -> None:
    assert not set(LEARNED) & set(orders(LOG.take(np.arange(400)), REPLACE))
    assert not set(LEARNED) & set(orders(replace(LOG, llm=LOG.crm), REPLACE))
    assert orders(replace(LOG, llm=np.full(len(LOG), np.nan)), REPLACE) == {}
