"""A gate within a calibration, and promises of its threshold: what they may look at, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from corella_edge.errors import InputError
from corella_edge.routing.calibrated import Wanted, calibrated, routing_json
from corella_edge.routing.certified import upper_bound
from corella_edge.routing.forms import OWN, parse_threshold
from corella_edge.routing.gate import Gate
from corella_edge.routing.gated import INNER, gated
from corella_edge.routing.measure import BY_ENTROPY, Margin
from corella_edge.routing.parts import by_time
from corella_edge.routing.promised import Promise, promised, realised, wrong
from corella_edge.routing.routing_file import parse_routing
from logs import labelled_log, uneven_log

LOG = uneven_log()
QUICK = Wanted(share=0.1, gain=0.5, draws=100)
OLD = {"threshold": "ratio:0", "calibration": {"shares": [0, 1], "thresholds": [None, 0]}}


def test_a_gate_that_is_better_orders_the_candidates() -> None:
    wanted, told = gated(by_time(LOG), QUICK)
    assert isinstance(wanted.measure, Gate)
    assert told["taken"]
    assert all(row["gain"]["low"] > 0 for row in told["later"])
    found = calibrated(LOG, wanted)
    plain = calibrated(LOG, QUICK)
    assert found.result["policy"]["logloss"]["value"] < plain.result["policy"]["logloss"]["value"]
    routing = parse_routing(json.loads(json.dumps(routing_json(OLD, found, wanted))))
    policy = parse_threshold(OWN.prefix, routing)
    assert policy.measure == wanted.measure
    fit = found.parts.fit
    assert len(policy.route(fit.crm, fit.inputs)[0]) == (found.values >= found.threshold).sum()
    share = parse_threshold("ratio:0.2", routing)
    assert len(share.route(fit.crm, fit.inputs)[0]) / len(fit) == pytest.approx(0.2, abs=1e-3)


def test_a_gate_that_is_not_better_leaves_the_wanted_measure() -> None:
    rows = labelled_log(700, 8, 150, seed=3)
    wanted, told = gated(by_time(rows), replace(QUICK, measure=Margin()))
    assert wanted.measure == Margin()
    assert not told["taken"]
    assert "the entropy stays" in told["text"]
    assert "later" not in told


def test_the_later_part_decides_nothing() -> None:
    parts = by_time(LOG)
    held = replace(parts.held, label=1 - parts.held.label)
    one, two = gated(parts, QUICK)[0], gated(replace(parts, held=held), QUICK)[0]
    assert one.measure == two.measure


def test_a_promise_is_made_by_rows_that_the_gate_was_not_fitted_on() -> None:
    parts = by_time(LOG)
    promise = Promise(0.05)
    wanted, _ = gated(parts, replace(QUICK, promise=promise))
    inner = by_time(parts.fit, INNER)
    assert wanted.fresh is not None
    assert wanted.fresh.sha256() == inner.held.sha256()
    # Their labels tell whether the gate is taken, and nothing of what it is.
    late = parts.fit.time >= inner.held.time.min()
    turned = replace(parts.fit, label=np.where(late, 1 - parts.fit.label, parts.fit.label))
    again, told = gated(replace(parts, fit=turned), replace(QUICK, promise=promise))
    assert again.measure in (wanted.measure, BY_ENTROPY)
    assert told["forms"] == gated(parts, replace(QUICK, promise=promise))[1]["forms"]


@pytest.mark.parametrize("one_each", [False, True])
def test_a_risk_gives_the_smallest_share_that_keeps_it(one_each: bool) -> None:
    rows = labelled_log(3000, 4, 400, seed=5)
    found = calibrated(rows, replace(QUICK, promise=Promise(0.1, 0.15, one_each=one_each)))
    told = found.result["promise"]
    assert told["certified"]
    assert told["threshold"] == found.threshold
    assert told["rows"] == (told["users"] if one_each else len(found.parts.fit))
    assert upper_bound(told["missed"], told["rows"], 0.1) <= 0.15
    held = found.parts.held
    missed = (wrong(held) & (BY_ENTROPY(held.crm) < found.threshold)).mean()
    assert told["missed_later"]["value"] == missed
    assert missed < 0.15
    stricter = calibrated(rows, replace(QUICK, promise=Promise(0.1, 0.12, one_each=one_each)))
    assert stricter.share > found.share
    assert found.share == (found.values >= found.threshold).mean()


def test_what_cannot_be_promised_is_refused_with_the_rows_it_takes() -> None:
    with pytest.raises(InputError, match=r"needs about 6,90[0-9] rows, and there are .* No bundle is written"):
        calibrated(LOG, replace(QUICK, promise=Promise(0.001, 0.001)))
    with pytest.raises(InputError, match=r"takes a share of .* more than 5\.0%"):
        calibrated(labelled_log(3000, 4, 400, seed=5), replace(QUICK, promise=Promise(0.1, 0.1, largest=0.05)))
    with pytest.raises(InputError, match="the share 0 is no limit"):
        calibrated(LOG, replace(QUICK, share=0.0, promise=Promise(0.1)))


def test_a_share_as_a_limit_is_passed_in_at_most_delta_of_the_logs() -> None:
    limit, delta, passed = 0.2, 0.1, 0
    whole = labelled_log(20_000, 1, 20_000, seed=100)
    doubt = BY_ENTROPY(whole.crm)
    rng = np.random.default_rng(0)
    for _ in range(300):
        rows = whole.take(rng.integers(0, len(whole), 400))
        threshold, told = promised(Promise(delta), rows, BY_ENTROPY(rows.crm), limit)
        assert told["share"] < limit
        passed += bool((doubt >= threshold).mean() > limit)
    assert passed / 300 <= delta + 3 * np.sqrt(delta * (1 - delta) / 300)
    assert passed


def test_the_risk_of_later_rows_is_told_with_an_interval() -> None:
    rows = labelled_log(300, 4, 60)
    found = realised(rows, BY_ENTROPY(rows.crm), 0.5, 200)
    assert found["low"] < found["value"] < found["high"]
    assert found["value"] == (wrong(rows) & (BY_ENTROPY(rows.crm) < 0.5)).mean()


def test_the_bundle_says_how_far_asking_moves_a_score() -> None:
    found = calibrated(LOG, replace(QUICK, miss=0.1))
    made = routing_json({**OLD, "reach": {"of": "another fusion"}}, found, QUICK)
    reach = parse_routing(made).reach
    assert reach is not None
    rows = found.parts.held.take(found.parts.held.known)
    low, high = reach(rows.crm)
    assert ((low <= rows.llm) & (rows.llm <= high)).mean() == pytest.approx(0.9, abs=0.03)
    without = calibrated(LOG, QUICK)
    assert "reach" not in routing_json({**OLD, "reach": {}}, without, QUICK)
