"""NDCG against LLM time: what is compared is the same lists, and the exact decision costs nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.ranking import Lists
from corella_edge.routing.decision import Reach, Weighting, exact
from corella_edge.routing.decision_curve import ALL, RequestLists, curve, ways_of
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import entropy
from corella_edge.routing.policy import AskCost

BLEND = Fusion("blend")
COST = AskCost(8.0, 0.5)


def log(n: int = 400, seed: int = 0, lists: int = 40) -> LabelledRows:
    """Rows of lists of about ten, mixed; the LLM has no answer for some."""
    rng = np.random.default_rng(seed)
    request = rng.integers(0, lists, n)
    truth = rng.normal(size=n)
    crm, llm = (1 / (1 + np.exp(-truth - rng.normal(size=n))) for _ in range(2))
    llm[rng.random(n) < 0.1] = np.nan
    label = (rng.random(n) < 1 / (1 + np.exp(-2 * truth))).astype(float)
    ids = np.array([f"r{r}" for r in request], object)
    users = np.array([f"u{r % 7}" for r in request], object)
    inputs = {"price": rng.random(n), "new": rng.random(n)}
    return LabelledRows(ids, users, ids, np.arange(n) * 1.0, label, crm, llm, np.ones(n), inputs)


@given(st.integers(0, 1000), st.integers(1, 12), st.floats(0, 0.7))
def test_ndcg_is_that_of_rankings_where_every_gain_is_one(seed: int, k: int, threshold: float) -> None:
    rows = log(120, seed, 12)
    lists = RequestLists.of(rows, BLEND, draws=5)
    asked = (entropy(lists.p) >= threshold) & lists.known
    plain = Lists(rows.request[lists.places], rows.label[lists.places])
    final = np.where(asked, lists.after, lists.p)
    expected = plain.ndcg(final, k)[plain.judged]
    assert lists.ndcg(asked, k).value == pytest.approx(expected.mean())


@given(st.integers(0, 1000), st.integers(1, 12), st.floats(0, 0.7), st.booleans(), st.booleans())
def test_the_exact_decision_never_changes_the_ndcg(
    seed: int, k: int, threshold: float, valued: bool, halves: bool
) -> None:
    rows = log(120, seed, 12)
    rule = Fusion("stack", (0.1, 0.8, 0.02)) if halves else BLEND
    extra = (rows.inputs["price"], rows.inputs["new"]) if valued else (None, None)
    lists = RequestLists.of(rows, rule, *extra, draws=5)
    chosen = (entropy(lists.p) >= threshold) & lists.known
    asked = lists.decided(chosen, k, exact(rule, rows.crm[lists.places]))
    assert not (asked & ~chosen).any()
    assert lists.ndcg(asked, k).value == lists.ndcg(chosen, k).value
    both = [np.where(mask, lists.after, lists.p) for mask in (asked, chosen)]
    for start, end in zip(lists.starts[:-1], lists.starts[1:], strict=True):
        span = slice(start, end)
        first, second = (
            np.argsort(-Weighting(lists.weight[span], lists.bonus[span])(v[span]), kind="stable")[:k].tolist()
            for v in both
        )
        assert first == second


def points(ways: Any, ratios: Any = (0.0, 0.2, 1.0)) -> list[Any]:
    rows = log()
    lists = RequestLists.of(rows, BLEND, draws=50)
    doubt = entropy(lists.p)
    thresholds = {r: math.inf if r == 0 else float(np.quantile(doubt, 1 - r)) for r in ratios}
    return list(curve(lists, doubt, thresholds, 3, ways(lists, rows), COST.of))


def test_a_curve_has_every_way_at_every_threshold_with_what_it_costs() -> None:
    rows = log(2000, 1)
    known = rows.known
    reaches = {miss: Reach.fit(rows.crm[known], BLEND(rows.crm[known], rows.llm[known]), miss) for miss in (0.05, 0.4)}
    found = points(lambda lists, held: ways_of(lists, held, BLEND, reaches))
    names = [ALL, "exact", "miss 0.05", "miss 0.05, as a set", "miss 0.4", "miss 0.4, as a set"]
    assert [(one.ratio, one.way) for one in found] == [(r, name) for r in (0.0, 0.2, 1.0) for name in names]
    for one in found:
        assert one.ms == pytest.approx(8.0 * one.touched + 0.5 * max(0.0, one.asked - one.touched))
        if one.way in (ALL, "exact") or one.ratio == 0.0:
            assert one.loss.value == 0.0
    whole = {one.way: one for one in found if one.ratio == 1.0}
    assert whole["miss 0.4, as a set"].asked < whole["miss 0.4"].asked < whole["miss 0.05"].asked < whole[ALL].asked
    assert whole["miss 0.05"].loss.value == pytest.approx(0.0, abs=0.01)
    assert found[0].asked == 0.0


def test_without_width_nothing_is_asked_and_the_base_model_s_order_stays() -> None:
    found = points(lambda lists, held: {"none": ((lists.p, lists.p), True)}, (0.0, 1.0))
    assert found[3].asked == 0.0
    assert found[3].ndcg == found[0].ndcg


def test_lists_of_one_candidate_and_bonuses_below_zero_are_refused() -> None:
    rows = log(30)
    alone = LabelledRows(**{**vars(rows), "request": np.array([f"r{i}" for i in range(30)], object)})
    with pytest.raises(InputError, match="no request of the log has two candidates"):
        RequestLists.of(alone, REPLACE)
    for bad in (-0.1, np.nan):
        with pytest.raises(InputError, match="at least 0 in every row"):
            RequestLists.of(rows, REPLACE, bonus=np.where(np.arange(30) == 3, bad, 1.0))
