"""A log decided again: shares, differences, and what nobody can know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.routing.labelled import LabelledRows
from corella_edge.routing.measure import NEVER, entropy
from corella_edge.routing.policy import Policy
from corella_edge.routing.replay import LoggedRows, replay, wants

THRESHOLDS = st.one_of(st.just(NEVER), st.floats(0.0, 0.69))


def log(seed: int = 0, n: int = 60, nats: float = 0.5) -> LoggedRows:
    rng = np.random.default_rng(seed)
    crm = rng.random(n)
    routed = entropy(crm) >= nats
    request = np.array([f"r{i}" for i in rng.integers(0, n // 4, n)], object)
    texts = np.array([f"i{i}" for i in range(n)], object)
    llm = np.where(routed, rng.random(n), np.nan)
    rows = LabelledRows(request, request, texts, np.zeros(n), np.full(n, np.nan), crm, llm, np.ones(n))
    return LoggedRows(rows, routed, np.where(routed, "entropy", "").astype(object), crm)


def test_the_same_policy_changes_nothing() -> None:
    found = replay(log(), Policy(threshold=0.5))
    assert (found.added, found.dropped, len(found.undecided)) == (0, 0, 0)
    assert found.share_now == found.share_then > 0
    assert found.touched_now == found.touched_then >= found.share_now


@given(THRESHOLDS, THRESHOLDS)
def test_a_lower_threshold_asks_at_least_what_a_higher_one_asks(a: float, b: float) -> None:
    low, high = (wants(Policy(threshold=t), log()) for t in sorted((a, b)))
    assert (low >= high).all()


def test_nothing_and_everything_are_exact() -> None:
    nothing, everything = (replay(log(), Policy(threshold=t)) for t in (NEVER, 0.0))
    assert (nothing.share_now, everything.share_now) == (0.0, 1.0)
    assert nothing.dropped == int(log().routed.sum())
    assert len(everything.undecided) == int((~log().routed).sum()) == everything.added
    assert (nothing.touched_now, everything.touched_now) == (0.0, 1.0)


@settings(max_examples=30)
@given(st.permutations(range(60)), st.floats(0.0, 0.69))
def test_the_order_of_rows_does_not_matter(order: list[int], nats: float) -> None:
    places = np.array(order)
    before, after = replay(log(), Policy(threshold=nats)), replay(log().take(places), Policy(threshold=nats))
    assert (after.wanted == before.wanted[places]).all()
    assert sorted(places[after.undecided].tolist()) == before.undecided.tolist()
    assert (after.added, after.dropped, after.share_now) == (before.added, before.dropped, before.share_now)
    assert after.touched_now == pytest.approx(before.touched_now)


def test_what_no_policy_can_ask_is_not_undecided() -> None:
    logged = log()
    mute = LoggedRows(logged.rows, logged.routed & False, np.full(60, "no_text", object), logged.final)
    found = replay(mute, Policy(threshold=0.0))
    assert found.share_now == 0.0
    assert len(found.undecided) == 0


def test_an_empty_log_has_no_share() -> None:
    found = replay(log().take(np.zeros(60, bool)), Policy(threshold=0.0))
    assert (found.share_now, found.touched_now, found.added) == (0.0, 0.0, 0)
