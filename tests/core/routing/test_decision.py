"""Which candidates can change the k best: never one too few, and none where nothing is open."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corella_edge.errors import BundleError, InputError
from corella_edge.routing.decision import Reach, Weighting, can_change, exact, parse_reach, to_ask
from corella_edge.routing.fusion import REPLACE, Fusion
from corella_edge.routing.log_odds import logit, sigmoid

P = st.floats(0, 1) | st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0])
UNIT = st.floats(0, 1)
# p, whether routed, how far the interval goes down and up, where in it the true score lies
CANDIDATE = st.tuples(P, st.booleans(), UNIT, UNIT, UNIT, st.floats(0, 3), st.floats(-1, 1))
REQUEST = st.lists(CANDIDATE, min_size=1, max_size=25)
K = st.integers(1, 12)
FUSION = st.sampled_from([REPLACE, Fusion("blend"), Fusion("stack", (0.3, 0.7, -0.4))])


class Case:
    """A request: scores, intervals of the routed candidates, their true scores, and what ranks them."""

    def __init__(self, rows: list[Any], valued: bool) -> None:
        p, routed, down, up, at, weight, bonus = map(np.array, zip(*rows, strict=True))
        self.p, self.chosen = p.astype(float), np.flatnonzero(routed)
        low, high = np.maximum(0.0, self.p - down * self.p), np.minimum(1.0, self.p + up * (1 - self.p))
        self.fused = np.clip(low + at * (high - low), low, high)
        self.low, self.high = low[self.chosen], high[self.chosen]
        self.value = Weighting(weight, bonus) if valued else Weighting(np.ones(len(p)), np.zeros(len(p)))

    def asked(self, k: int, ordered: bool) -> Any:
        return to_ask(self.p, self.chosen, (self.low, self.high), k, ordered, self.value)

    def best(self, asked: Any, k: int, ordered: bool) -> list[int]:
        """The k best once these are asked."""
        final = self.p.copy()
        places = self.chosen[asked]
        final[places] = self.fused[places]
        top = np.argsort(-self.value(final), kind="stable")[:k].tolist()
        return top if ordered else sorted(top)


@given(REQUEST, K, st.booleans(), st.booleans(), st.randoms())
def test_the_k_best_are_those_of_asking_all(rows: list[Any], k: int, ordered: bool, valued: bool, rng: Any) -> None:
    case = Case(rows, valued)
    asked = case.asked(k, ordered)
    every = case.best(np.ones(len(case.chosen), bool), k, ordered)
    assert case.best(asked, k, ordered) == every
    more = asked | np.array([rng.random() < 0.5 for _ in asked], bool)
    assert case.best(more, k, ordered) == every


@given(REQUEST, K, st.booleans())
def test_a_set_is_known_from_fewer_than_a_list(rows: list[Any], k: int, valued: bool) -> None:
    case = Case(rows, valued)
    assert not (case.asked(k, False) & ~case.asked(k, True)).any()


@given(REQUEST, K, st.booleans())
def test_without_width_nobody_is_asked(rows: list[Any], k: int, ordered: bool) -> None:
    case = Case(rows, False)
    here = case.p[case.chosen]
    assert not to_ask(case.p, case.chosen, (here, here), k, ordered).any()


@given(st.lists(P, min_size=2, max_size=25), K)
def test_with_full_width_all_are_asked(values: list[float], k: int) -> None:
    p = np.array(values)
    chosen = np.arange(len(p))
    ends = np.zeros(len(p)), np.ones(len(p))
    assert to_ask(p, chosen, ends, k).all()
    assert to_ask(p, chosen, ends, k, ordered=False).all() == (k < len(p))


@given(REQUEST, K, st.booleans(), st.integers(1, 5))
def test_candidates_that_cannot_come_in_change_nothing(rows: list[Any], k: int, ordered: bool, extra: int) -> None:
    case = Case(rows, True)
    low, high = case.p.copy(), case.p.copy()
    low[case.chosen], high[case.chosen] = case.low, case.high
    out = np.full(extra, low.min() - 1.0)
    found = can_change(np.r_[low, out], np.r_[high, out + 0.5], k, ordered)
    if k <= len(low):
        assert found[: len(low)].tolist() == can_change(low, high, k, ordered).tolist()
        assert not found[len(low) :].any()


@given(REQUEST, K, st.booleans(), st.randoms())
def test_the_order_of_the_candidates_is_nothing(rows: list[Any], k: int, ordered: bool, rng: Any) -> None:
    case = Case(rows, False)
    low, high = case.p.copy(), case.p.copy()
    low[case.chosen], high[case.chosen] = case.low, case.high
    order = np.array(rng.sample(range(len(low)), len(low)))
    found = can_change(low[order], high[order], k, ordered)
    assert found.tolist() == can_change(low, high, k, ordered)[order].tolist()


def test_who_is_surely_in_or_out_is_not_asked() -> None:
    p = np.array([0.9, 0.6, 0.55, 0.1])
    chosen = np.arange(4)
    reach = p - 0.08, p + 0.08
    assert to_ask(p, chosen, reach, 2).tolist() == [False, True, True, False]
    assert to_ask(p, chosen, reach, 1).tolist() == [False] * 4
    assert to_ask(p, chosen, reach, 3).tolist() == [False, True, True, False]
    assert to_ask(p, chosen, reach, 3, ordered=False).tolist() == [False] * 4
    # What is worth more may come in, and what is worth less falls out.
    assert to_ask(p, chosen, reach, 2, value=Weighting(np.array([1.0, 1.0, 0.1, 6.0]))).tolist() == [
        True,
        True,
        False,
        True,
    ]
    assert to_ask(p, chosen, reach, 2, value=Weighting(bonus=np.array([0.0, 0.0, 0.3, 0.0]))).tolist() == [
        True,
        False,
        True,
        False,
    ]


@given(st.lists(st.tuples(P, P), min_size=1, max_size=20), FUSION)
def test_the_exact_interval_holds_every_answer(rows: list[Any], rule: Fusion) -> None:
    crm, llm = np.array(rows).T
    low, high = exact(rule, crm)
    assert ((low <= rule(crm, llm)) & (rule(crm, llm) <= high)).all()
    assert ((low <= crm) & (crm <= high)).all()


def scored(n: int, seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    at = rng.normal(size=n)
    return sigmoid(at), sigmoid(0.5 * at + rng.normal(0, 0.5 + 0.3 * np.abs(at), n))


@pytest.mark.parametrize("miss", [0.02, 0.1, 0.5])
def test_the_calibrated_interval_holds_as_many_later_scores_as_it_says(miss: float) -> None:
    held = []
    for seed in range(100):
        reach = Reach.fit(*scored(400, 2 * seed), miss)
        crm, fused = scored(2000, 2 * seed + 1)
        low, high = reach(crm)
        held.append(((low <= fused) & (fused <= high)).mean())
    assert np.mean(held) >= 1 - miss - 3 * np.std(held) / 10
    assert np.mean(held) <= 1 - miss + 0.06  # and is no wider than it need be; holding 0 makes it so in some bins


def test_a_smaller_miss_is_a_wider_interval() -> None:
    crm, fused = scored(3000, 5)
    low, high = zip(*(Reach.fit(crm, fused, miss)(crm) for miss in (0.02, 0.1, 0.4)), strict=True)
    assert (low[0] <= low[1]).all()
    assert (low[1] <= low[2]).all()
    assert (high[0] >= high[1]).all()
    assert (high[1] >= high[2]).all()


@given(st.lists(st.tuples(P, P), min_size=19, max_size=60))
@example([(0.5, 0.5)] * 30)
@example([(0.0, 1.0)] * 19)
def test_a_reach_survives_its_file(rows: list[Any]) -> None:
    crm, fused = np.array(rows).T
    reach = Reach.fit(crm, fused)
    assert parse_reach(json.loads(json.dumps(reach.to_json()))) == reach
    low, high = reach(crm)
    assert ((low <= crm) & (crm <= high)).all()


def test_too_few_rows_are_refused_with_the_number_it_takes() -> None:
    with pytest.raises(InputError, match="takes 39 asked rows, and there are 38"):
        Reach.fit(np.full(38, 0.5), np.full(38, 0.6), 0.05)
    with pytest.raises(InputError, match="miss: 1 is not between"):
        Reach.fit(np.full(38, 0.5), np.full(38, 0.6), 1.0)


GOOD = {"edges": [0.0], "down": [-1.0, -2], "up": [0.0, 1.5], "miss": 0.1}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=8,
)


@given(JSON | st.fixed_dictionaries(GOOD | dict.fromkeys(GOOD, JSON)) | st.sampled_from(sorted(GOOD)).flatmap(
    lambda name: JSON.map(lambda value: GOOD | {name: value})))  # fmt: skip
@example(GOOD)
@example(GOOD | {"up": [-1, 1.0]})
@example(GOOD | {"edges": [0, True]})
def test_any_json_is_a_reach_or_one_clear_error(data: Any) -> None:
    told, reach = "routing.json: reach", None
    try:
        reach = parse_reach(data)
    except BundleError as error:
        told = str(error)
    assert told.startswith("routing.json: reach")
    assert "\n" not in told
    if reach is not None:
        low, high = reach(np.array([0.0, 0.5, 1.0]))
        assert np.isfinite(low).all()
        assert np.isfinite(high).all()


def test_logits_beyond_the_edges_belong_to_the_outer_bins() -> None:
    reach = parse_reach(GOOD)
    low, high = reach(sigmoid(np.array([-3.0, 0.0, 3.0])))
    assert logit(low).tolist() == pytest.approx([-4.0, -2.0, 1.0])
    assert logit(high).tolist() == pytest.approx([-3.0, 1.5, 4.5])
