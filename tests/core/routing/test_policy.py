"""Policies: what is routed by each measure, budgets, what routing.json may say, what a start tells."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from corella_edge.errors import BundleError, InputError
from corella_edge.routing.forms import needs_cost, parse_threshold
from corella_edge.routing.fusion import Fusion
from corella_edge.routing.measure import (
    BY_ENTROPY,
    LN2,
    NEVER,
    Band,
    Disagreement,
    Entropy,
    Margin,
    Measure,
    centred,
    entropy,
    parse_measure,
)
from corella_edge.routing.policy import (
    MOST_POINTS,
    UNASKABLE,
    USUAL,
    AskCost,
    Budget,
    Calibration,
    Policy,
    Routing,
    probability_points,
)
from corella_edge.routing.routing_file import calibration_json, parse_policy, parse_routing, policy_json
from corella_edge.routing.told import margin_of, told, too_slow

P = st.floats(0, 1) | st.sampled_from([0.0, 0.5, 1.0, 1e-300, 0.3])
CENTRE = st.floats(1e-6, 1 - 1e-6) | st.just(0.5)
WINDOW = st.tuples(P, P).map(sorted).map(lambda ends: Band(*ends))
ALONE = st.just(BY_ENTROPY) | CENTRE.map(Entropy) | CENTRE.map(Margin) | WINDOW
MEASURES = ALONE | st.just(Disagreement())
ROWS = st.lists(st.tuples(P, st.none() | P, st.integers(0, 2)), max_size=30)
COST = st.builds(AskCost, st.floats(0, 1e4), st.floats(0, 1e4))


def columns(rows: list[Any]) -> tuple[Any, dict[str, Any]]:
    p = np.array([row[0] for row in rows], dtype=np.float64)
    kept = np.array([math.nan if row[1] is None else row[1] for row in rows], dtype=np.float64)
    return p, {"kept": kept, "request": np.array([row[2] for row in rows], dtype=np.float64)}


@given(MEASURES, ROWS, st.randoms())
def test_the_order_of_the_rows_decides_nothing(measure: Measure, rows: list[Any], rng: Any) -> None:
    order = list(range(len(rows)))
    rng.shuffle(order)
    p, inputs = columns(rows)
    values = measure(p, inputs)
    assert (values >= measure.least).all()
    moved = measure(p[order], {name: column[order] for name, column in inputs.items()})
    assert moved.tolist() == values[order].tolist()


@given(ALONE, st.lists(P, max_size=20))
def test_a_row_s_value_is_its_own(measure: Measure, p: list[float]) -> None:
    assert [measure(np.array([one]))[0] for one in p] == measure(np.array(p)).tolist()


@given(MEASURES, ROWS, st.lists(st.floats(-1, 1), min_size=2, max_size=4))
def test_a_lower_threshold_routes_no_less_and_the_ends_all_and_none(
    measure: Measure, rows: list[Any], thresholds: list[float]
) -> None:
    p, inputs = columns(rows)
    sets = [set(Policy(measure, t).route(p, inputs)[0].tolist()) for t in sorted(thresholds)]
    assert all(lower >= higher for lower, higher in pairwise(sets))
    assert Policy(measure, measure.least).route(p, inputs)[0].tolist() == list(range(len(p)))
    assert Policy(measure, NEVER).route(p, inputs)[0].tolist() == []


@given(st.lists(P, max_size=30), st.floats(0, LN2))
def test_the_fast_path_is_the_definition(p: list[float], threshold: float) -> None:
    rows, priority = Policy(threshold=threshold).route(np.array(p))
    s = entropy(p)
    assert rows.tolist() == np.flatnonzero(s >= threshold).tolist()
    assert priority.tolist() == s[rows].tolist()


@given(P, CENTRE)
def test_a_centred_entropy_is_greatest_at_its_centre(p: float, centre: float) -> None:
    measure = Entropy(centre)
    value, top = float(measure(np.array([p]))[0]), float(measure(np.array([centre]))[0])
    assert value <= top + 1e-12
    assert top == pytest.approx(LN2, abs=1e-9)
    assert float(centred(p, 0.5)) == pytest.approx(p, abs=1e-15)


@given(st.integers(0, 1000), st.integers(0, 1000), st.lists(st.integers(0, 1000), max_size=20))
def test_a_band_routes_what_lies_between_its_ends(low: int, high: int, others: list[int]) -> None:
    low, high = sorted((low, high))
    thousandths = np.array([low, high, *others])
    policy = parse_threshold(f"band:{low / 1000:.3f}-{high / 1000:.3f}")
    found = set(policy.route(thousandths / 1000)[0].tolist())
    assert found == set(np.flatnonzero((thousandths >= low) & (thousandths <= high)).tolist())
    assert policy == parse_threshold(f"band:{high / 1000:.3f}-{low / 1000:.3f}")
    assert (policy.reason, policy.nats) == ("band", None)


def test_disagreement_is_the_distance_in_rank_within_a_request() -> None:
    p = np.array([0.1, 0.5, 0.9, 0.2, 0.4])
    kept = np.array([0.9, 0.5, 0.1, math.nan, 0.3])
    found = Disagreement()(p, {"kept": kept, "request": np.array([1.0, 1.0, 1.0, 1.0, 2.0])})
    assert found.tolist() == pytest.approx([1.0, 0.0, 1.0, float(entropy(0.2)) / LN2, 0.0])
    tied = Disagreement()(np.array([0.1, 0.2, 0.3]), {"kept": np.array([0.5, 0.5, 0.5])})
    assert tied.tolist() == [0.5, 0.0, 0.5]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60, unique=True), st.floats(0, 1))
def test_without_ties_the_realised_share_is_exact_to_one_row(values: list[float], share: float) -> None:
    s = np.array(values)
    calibration = Calibration.fit(s)
    threshold = calibration.threshold(share)
    count = int((s >= threshold).sum())
    assert abs(count - share * len(s)) <= 1.0
    assert calibration.share(threshold) == pytest.approx(count / len(s), abs=1.0 / len(s))


@given(st.lists(st.floats(0, 1) | st.just(0.5), min_size=1, max_size=60), st.floats(0, 1))
def test_what_must_not_be_passed_is_not_ties_or_not(values: list[float], share: float) -> None:
    s = np.array(values)
    threshold = Calibration.fit(s).threshold_within(share)
    assert (s >= threshold).mean() <= share + 1e-12


@pytest.mark.parametrize(("rows", "most"), [(97_003, 1.0), (250_003, 250_003 / MOST_POINTS)])
def test_of_many_rows_the_share_is_exact_to_one_row_or_to_one_in_a_hundred_thousand(rows: int, most: float) -> None:
    s = np.random.default_rng(0).permutation(rows) / rows
    calibration = Calibration.fit(s)
    assert len(calibration.shares) == min(rows, MOST_POINTS) + 1
    for share in (0.00007, 0.0001, 0.0123, 0.05, 0.12345, 0.33333, 0.9):
        assert abs((s >= calibration.threshold(share)).sum() - share * rows) <= most + 1e-6


@given(st.lists(P, min_size=1, max_size=60), st.tuples(P, P).map(sorted), st.floats(0, 0.5))
def test_the_share_of_a_band_is_that_of_the_rows(values: list[float], ends: list[float], inside: float) -> None:
    p = np.array(values)
    routing = parse_routing(routing_data(p, probability_points(p)))
    for policy in (Policy(Band(*ends), 0.0), Policy(Band(*ends), inside), Policy(Margin(0.3), inside)):
        share = routing.share(policy)
        assert routing.counts(policy.measure)
        assert share is not None
        assert round(share * len(p), 6) == len(policy.route(p)[0])


def routing_data(p: Any, points: Any) -> dict[str, Any]:
    """routing.json of calibration rows with these probabilities."""
    calibration = calibration_json(Calibration.fit(entropy(p)))
    return json.loads(json.dumps({"calibration": calibration, "rows": len(p), "probabilities": points.tolist()}))


@pytest.mark.parametrize("ends", [(0.1, 0.3), (0.0, 0.123456), (0.5, 0.5), (0.25, 0.25), (0.0, 1.0), (0.997, 1.0)])
def test_between_quantiles_the_share_of_a_band_is_told_as_about(ends: tuple[float, float]) -> None:
    """As of more rows than probabilities are kept, and as in bundles of before, which hold 1,001."""
    rng = np.random.default_rng(0)
    p = np.where(rng.random(23_000) < 0.1, 0.25, rng.beta(2, 5, 23_000))
    within = float(((p >= ends[0]) & (p <= ends[1])).mean())
    for points in (probability_points(p), np.quantile(p, np.linspace(0, 1, 1001))):
        routing = parse_routing(routing_data(p, points))
        policy = Policy(Band(*ends), 0.0)
        assert len(points) < len(p)
        assert not routing.counts(policy.measure)
        assert routing.share(policy) == pytest.approx(within, abs=2.5 / len(points))
        said = told(policy, routing, "band")[0]
        assert within == 0.0 or "(about " in said
        assert "(about" not in told(parse_threshold("ratio:0.1", routing), routing, "ratio:0.1")[0]


@given(COST, st.integers(1, 200), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_cost_never_falls_with_the_share(cost: AskCost, n: int, shares: list[float]) -> None:
    found = [cost.expected(share, n) for share in sorted(shares)]
    assert all(b >= a - 1e-6 * (1 + a) for a, b in pairwise(found))
    assert cost.expected(0.0, n) == 0.0
    assert cost.expected(1.0, n) == pytest.approx(cost.first + cost.further * (n - 1))


@given(COST, st.floats(0.01, 1e4), st.integers(1, 200))
def test_a_budget_is_kept_and_used_up(cost: AskCost, milliseconds: float, n: int) -> None:
    budget = Budget(milliseconds, cost, Calibration.fit(np.linspace(0, LN2, 200)))
    share = budget.share(n)
    assert share == 1.0 or cost.expected(share, n) <= milliseconds
    assert share == 1.0 or cost.expected(min(1.0, share + 1e-6), n) >= milliseconds * (1 - 1e-3)
    assert budget.calibration.share(budget.threshold(n)) <= share + 1e-12


def test_a_budget_raises_the_threshold_with_the_candidates() -> None:
    routing = Routing(calibration=Calibration.fit(np.linspace(0, LN2, 1000)), cost=AskCost(10.0, 2.0))
    policy = parse_threshold("ms:10", routing)
    assert policy.reason == "ms"
    thresholds = [policy.least(n) for n in (1, 5, 20, 100)]
    assert thresholds == sorted(thresholds)
    assert thresholds[0] == 0.0
    assert parse_threshold("ms:0", routing).least(5) == NEVER
    assert parse_threshold("ms:5", Routing(calibration=routing.calibration, cost=UNASKABLE)).least(5) == NEVER
    with pytest.raises(InputError, match="no engine has measured it"):
        parse_threshold("ms:5", Routing(calibration=routing.calibration))
    with pytest.raises(InputError, match="calibrated"):
        parse_threshold("ms:5", Routing(cost=AskCost(1.0, 1.0)))


@given(MEASURES, st.floats(-5, 5) | st.just(NEVER), st.sampled_from([Fusion(), Fusion("blend")]))
def test_a_policy_survives_its_file(measure: Measure, threshold: float, fusion: Fusion) -> None:
    policy = Policy(measure, threshold, fusion, None, "policy")
    assert parse_policy(json.loads(json.dumps(policy_json(policy)))) == policy


PLAIN = {"threshold": "ratio:0.5", "calibration": {"shares": [0, 0.5, 1], "thresholds": [None, 0.4, 0.1]}}


def test_a_bundle_of_an_earlier_release_means_what_it_meant() -> None:
    routing = parse_routing(PLAIN)
    assert (routing.measure, routing.own, routing.probabilities, routing.fusion) == (BY_ENTROPY, None, None, Fusion())
    own = parse_threshold("policy", routing)
    assert own == parse_threshold("ratio:0.5", routing)
    assert (own.nats, own.reason) == (0.4, "ratio")


def test_a_policy_of_the_bundle_orders_what_ratio_asks_for() -> None:
    policy = {"measure": {"name": "entropy", "centre": 0.1}, "threshold": 0.6, "shares": [0, 0.5, 1],
              "thresholds": [None, 0.3, 0.0]}  # fmt: skip
    routing = parse_routing({**PLAIN, "policy": policy, "base_rate": 0.1, "rows": 10})
    assert parse_threshold("policy", routing) == Policy(Entropy(0.1), 0.6, reason="policy")
    assert parse_threshold("ratio:0.5", routing) == Policy(Entropy(0.1), 0.3, reason="ratio")
    assert parse_threshold("margin:0.1", routing).measure is BY_ENTROPY
    assert parse_threshold(0.5, routing).nats == 0.5
    assert routing.share(parse_threshold("ratio:0.5", routing)) == 0.5
    assert parse_threshold("ratio:1", routing).threshold == 0.0


NUMBER = st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([10**400, -1, 0.5])
ANY = st.recursive(NUMBER | st.text(max_size=6), lambda inner: st.lists(inner, max_size=4), max_leaves=6)
NAMES = st.sampled_from(["entropy", "margin", "band", "disagreement", "gate", "x"])
MEASURE_JSON = st.fixed_dictionaries({"name": NAMES | ANY}, optional={"centre": ANY, "low": ANY, "high": ANY})
POLICY_JSON = st.fixed_dictionaries(
    {}, optional={"measure": MEASURE_JSON | ANY, "threshold": ANY, "shares": ANY, "thresholds": ANY, "fusion": ANY}
)


@given(
    st.fixed_dictionaries(
        {},
        optional={"policy": POLICY_JSON | ANY, "probabilities": ANY, "base_rate": ANY, "rows": ANY, "threshold": ANY},
    )
)
@example({"policy": {"threshold": 10**400}})
@example({"policy": {"measure": {"name": "band", "low": 10**400, "high": 1}}})
@example({"threshold": "policy"})
def test_any_json_is_a_routing_or_one_clear_error(data: dict[str, Any]) -> None:
    routing, said = Routing(), "routing.json: "
    try:
        routing = parse_routing({**PLAIN, **data})
    except BundleError as error:
        said = str(error)
    assert said.startswith("routing.json: ")
    assert "\n" not in said
    assert routing.measure(np.array([0.0, 0.4, 1.0]), {"kept": np.zeros(3)}).shape == (3,)


@pytest.mark.parametrize(
    ("data", "part"),
    [(3, "expected an object"), ({}, "measure.name"), ({"name": "entropy", "centre": 0}, "centre"),
     ({"name": "band", "low": 0.5, "high": 0.4}, "low not above high"), ({"name": "band", "low": 0.5}, "low and high")],
)  # fmt: skip
def test_a_wrong_measure_is_named(data: Any, part: str) -> None:
    with pytest.raises(BundleError, match=part):
        parse_measure(data)


def test_a_calibration_survives_its_file() -> None:
    fitted = Calibration.fit(np.linspace(0, LN2, 7))
    read = parse_routing({"calibration": json.loads(json.dumps(calibration_json(fitted)))}).calibration
    assert read is not None
    assert (read.shares.tolist(), read.thresholds.tolist()) == (fitted.shares.tolist(), fitted.thresholds.tolist())


@given(st.floats(0, LN2))
def test_a_margin_and_its_entropy_are_the_same(nats: float) -> None:
    assert float(entropy(0.5 - margin_of(nats))) == pytest.approx(nats, abs=1e-9)


def test_a_start_tells_every_form_share_and_cost() -> None:
    p = np.linspace(0.01, 0.99, 1000)
    routing = Routing("ratio:0.05", Calibration.fit(entropy(p)), rows=1000, cost=AskCost(12.0, 2.0), base_rate=0.4,
                      probabilities=p)  # fmt: skip
    text = " ".join(told(parse_threshold("ratio:0.05", routing), routing, "ratio:0.05"))
    assert "asked about 5.00% of the calibration rows (50 of 1,000)" in text
    assert all(part in text for part in ("ratio:0.05", "nats", "margin:0.02", "band:0.47"))
    touched = 1 - 0.95**USUAL
    assert f"{touched:.0%} ask it" in text
    assert f"ms:{12 * touched + 2 * (1 - touched):.3g}" in text
    band = " ".join(told(parse_threshold("band:0.2-0.3", routing), routing, "band:0.2-0.3"))
    assert "probabilities from 0.2 to 0.3" in band
    assert "10.20%" in band
    ms = " ".join(told(parse_threshold("ms:10", routing), routing, "ms:10"))
    assert f"in requests of {USUAL} candidates" in ms
    assert told(Policy(), routing, "ratio:0") == ["threshold ratio:0: the LLM is never asked"]


def test_a_start_names_rare_positives_and_what_is_not_known() -> None:
    routing = Routing("ratio:0.5", Calibration.fit(np.linspace(0, LN2, 9)), base_rate=0.02)
    text = " ".join(told(parse_threshold("ratio:0.5", routing), routing, "ratio:0.5"))
    assert "2.0% of the calibration rows are positive" in text
    assert "exported with `--measure centred`, or calibrated with `--centre`, orders" in text
    assert "is not known" in text
    assert told(Policy(), routing, "ratio:0") == ["threshold ratio:0: the LLM is never asked"]
    assert "does not tell" in " ".join(told(parse_threshold("band:0.1-0.2", routing), routing, "band"))


def test_what_needs_a_cost_says_so() -> None:
    assert needs_cost("ms:20", Routing())
    assert needs_cost("policy", Routing("ms:20"))
    assert not needs_cost("policy", Routing("ms:20", own=0.5))
    assert not any(needs_cost(text, Routing("ms:20")) for text in (0.6, "ratio:0.1", "band:0.1-0.2"))


@pytest.mark.parametrize(
    ("text", "part"),
    [("band:0.6", "band: '0.6' is not the lowest"), ("band:0.4-1.5", "band"), ("band:a-b", "band"),
     ("ms:-1", "ms: -1 is not milliseconds"), ("ms:60001", "(0 to 60000)"), ("ms:", "ms"), ("policy:1", "not one of"),
     ("policyx", "not an entropy")],
)  # fmt: skip
def test_a_bad_threshold_is_named(text: str, part: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_threshold(text)
    assert part in str(caught.value)


@given(st.one_of(st.none(), COST, st.just(UNASKABLE)), st.floats(0, 1e5))
def test_an_llm_that_is_too_slow_for_its_requests_is_told(cost: AskCost | None, milliseconds: float) -> None:
    found = too_slow(Routing(cost=cost), milliseconds)
    late = cost is not None and cost.finite and cost.first > milliseconds
    assert bool(found) == late
    assert not late or ("--timeout-ms" in found and f"{cost.first:.0f} ms" in found)
