"""Estimates of a policy that did not log: right on average over many simulated logs, none where nothing speaks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge import metrics
from corella_edge.metrics import Bootstrap, row_loss
from corella_edge.routing import offpolicy
from corella_edge.routing.fusion import REPLACE, fuse, sigmoid
from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import entropy

N = 4000


def world(rng: np.random.Generator, n: int = N) -> LabelledRows:
    """Rows of which both models' scores are known: the LLM is the better model, and most where the CRM is unsure."""
    truth = rng.normal(0.0, 1.5, n)
    label = (rng.random(n) < sigmoid(truth)).astype(np.float64)
    crm, llm = sigmoid(truth + rng.normal(0.0, 1.2, n)), sigmoid(truth + rng.normal(0.0, 0.6, n))
    users = np.array([f"u{i}" for i in rng.integers(0, n // 10, n)], object)
    rows = np.arange(n).astype(str).astype(object)
    return LabelledRows(rows, users, rows, np.zeros(n), label, crm, llm, np.ones(n))


def log_of(rows: LabelledRows, rng: np.random.Generator, nats: float = 0.66, explore: float = 0.1) -> LabelledRows:
    """What a server with `--explore` would have logged of them."""
    hard = entropy(rows.crm) >= nats
    propensity = np.where(hard, 1.0, explore)
    seen = rng.random(len(rows)) < propensity
    return replace(rows, llm=np.where(seen, rows.llm, np.nan), propensity=propensity)


@pytest.mark.parametrize("nats", [0.0, 0.4, 0.6, 0.68, 1.0])
def test_both_estimators_are_unbiased_over_simulated_logs(nats: float) -> None:
    rng = np.random.default_rng(3)
    rows = world(rng)
    wanted = entropy(rows.crm) >= nats
    final = fuse(rows.crm, rows.llm, wanted, REPLACE)
    true, true_auc = float(row_loss(final, rows.label).mean()), metrics.auc(final, rows.label)
    weighted, robust, aucs = [], [], []
    bootstrap = Bootstrap(rows.user, draws=1)
    for _ in range(80):
        log = log_of(rows, rng)
        found = offpolicy.evidence(log.known, log.propensity, wanted)
        loss = row_loss(fuse(log.crm, log.llm, wanted & log.known, REPLACE), log.label)
        weighted.append(offpolicy.snips(loss, found, bootstrap).value)
        robust.append(offpolicy.doubly_robust(loss, log, found, bootstrap).value)
        final_seen = fuse(log.crm, log.llm, wanted & log.known, REPLACE)
        aucs.append(offpolicy.weighted_auc(final_seen, log.label, found, bootstrap).value)
    for draws, value in ((weighted, true), (robust, true), (aucs, true_auc)):
        error = np.std(draws) / np.sqrt(len(draws))
        assert np.mean(draws) == pytest.approx(value, abs=4.0 * error + 5e-4)
    if nats == 0.0:  # the plain mean of what happens to be known is another figure
        naive = [float(row_loss(log.llm[log.known], log.label[log.known]).mean()) for log in (log_of(rows, rng),) * 20]
        assert abs(np.mean(naive) - true) > 0.03
        assert np.std(robust) < np.std(weighted)


def test_without_chance_both_are_the_plain_mean() -> None:
    rows = world(np.random.default_rng(0), 500)
    wanted = entropy(rows.crm) >= 0.5
    found = offpolicy.worth(rows, wanted, REPLACE, Bootstrap(rows.user, draws=50))
    final = fuse(rows.crm, rows.llm, wanted, REPLACE)
    plain = metrics.quality(final, rows.label)
    assert found.effective == pytest.approx(wanted.sum())
    for interval in (found.logloss, found.logloss_robust):
        assert interval is not None
        assert interval.value == pytest.approx(plain.logloss)
        assert interval.low <= interval.value <= interval.high
    assert found.auc is not None
    assert found.auc.value == pytest.approx(plain.auc)


def test_answers_lost_to_a_deadline_do_not_count_as_zero() -> None:
    rng = np.random.default_rng(5)
    rows = world(rng)
    wanted = np.ones(len(rows), bool)
    true = float(row_loss(rows.llm, rows.label).mean())
    bootstrap = Bootstrap(rows.user, draws=1)
    for estimate in ("snips", "doubly_robust"):
        found = []
        for _ in range(40):
            log = log_of(rows, rng, explore=0.3)
            log = replace(log, llm=np.where(rng.random(len(log)) < 0.7, log.llm, np.nan))
            of = offpolicy.evidence(log.known, log.propensity, wanted)
            loss = row_loss(np.where(log.known, log.llm, log.crm), log.label)
            given = (loss, of, bootstrap) if estimate == "snips" else (loss, log, of, bootstrap)
            found.append(getattr(offpolicy, estimate)(*given).value)
        assert np.mean(found) == pytest.approx(true, abs=0.015)


def test_what_the_log_cannot_speak_for_has_no_estimate() -> None:
    rows = world(np.random.default_rng(1), 400)
    hard = entropy(rows.crm) >= 0.6
    silent = replace(rows, llm=np.where(hard, rows.llm, np.nan))
    bootstrap = Bootstrap(rows.user, draws=20)
    none = offpolicy.worth(silent, np.ones(400, bool), REPLACE, bootstrap)
    assert none.undecided == pytest.approx((~hard).mean())
    assert (none.auc, none.logloss, none.logloss_robust) == (None, None, None)
    assert offpolicy.worth(silent, hard, REPLACE, bootstrap).auc is not None
    assert offpolicy.worth(silent, np.zeros(400, bool), REPLACE, bootstrap).auc is not None
    mute = replace(rows, llm=np.full(400, np.nan), propensity=np.full(400, 0.5))
    assert offpolicy.worth(mute, hard, REPLACE, bootstrap).auc is None


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=50), st.floats(1.0, 50.0))
def test_weights_are_clipped_and_the_effective_size_bounded(chances: list[float], clip: float) -> None:
    propensity = np.array(chances)
    known = np.ones(len(chances), bool)
    found = offpolicy.evidence(known, propensity, known, clip)
    assert found.weight.max() <= clip
    assert 1.0 - 1e-9 <= found.effective <= len(chances) + 1e-9
    assert found.undecided == 0.0


@given(st.permutations(range(60)))
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    rng = np.random.default_rng(9)
    log = log_of(world(rng, 60), rng, explore=0.5)
    for rows in (log, log.take(np.array(order))):
        wanted = entropy(rows.crm) >= 0.3
        found = offpolicy.evidence(rows.known, rows.propensity, wanted)
        loss = row_loss(fuse(rows.crm, rows.llm, wanted & rows.known, REPLACE), rows.label)
        value = offpolicy.snips(loss, found, Bootstrap(rows.user, draws=1)).value
        if rows is log:
            first = value
    assert value == pytest.approx(first)


def test_weighted_pairs_are_repeated_rows() -> None:
    rng = np.random.default_rng(4)
    p, label = rng.random(80).round(1), (rng.random(80) < 0.4).astype(float)
    times = rng.integers(1, 5, 80)
    owner = np.arange(80)
    pairs = metrics.WeightedPairs(p, label, owner, times.astype(float))
    assert pairs.auc(np.ones(80)) == pytest.approx(metrics.auc(np.repeat(p, times), np.repeat(label, times)))
