"""The controller under a simulated clock: a step, drift, silence, a burst; and what holds for any traffic."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.routing import budget
from corella_edge.routing.budget import BudgetTarget, Caps, RequestSeen, Scale
from corella_edge.routing.measure import LN2, NEVER, entropy, is_routed
from corella_edge.routing.policy import Calibration
from held import Run, Traffic

N = 20
CALIBRATION = Calibration.fit(entropy(np.random.default_rng(0).beta(1, 6, 5000)))
SCALE = Scale(CALIBRATION)
ENTROPIES = st.lists(st.floats(0, LN2) | st.sampled_from([0.0, 0.3, LN2]), min_size=2, max_size=60).map(np.asarray)


def run_of(target: BudgetTarget) -> Run:
    return Run(target, SCALE)


def easy(t: float, rng: np.random.Generator) -> np.ndarray:
    """As the calibration rows."""
    return rng.beta(1, 6, N)


def hard(t: float, rng: np.random.Generator) -> np.ndarray:
    """Of these a threshold for a tenth of the calibration rows routes more than four tenths."""
    return rng.beta(3, 4, N)


def step(at: float, before: Traffic, after: Traffic) -> Traffic:
    return lambda t, rng: (before if t < at else after)(t, rng)


def drifting(t: float, rng: np.random.Generator) -> np.ndarray:
    part = min(1.0, max(0.0, (t - 600.0) / 2400.0))
    return rng.beta(1.0 + 2.0 * part, 6.0 - 2.0 * part, N)


@given(ENTROPIES, st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_higher_level_never_asks_less(s: np.ndarray, levels: list[float]) -> None:
    scale = Scale(Calibration.fit(s))
    found = [scale.threshold(level) for level in sorted(levels)]
    assert all(first >= then for first, then in pairwise(found))
    assert (scale.threshold(0.0), scale.threshold(1.0)) == (NEVER, 0.0)


@given(ENTROPIES, ENTROPIES)
def test_the_levels_of_candidates_are_those_at_which_they_are_asked(rows: np.ndarray, s: np.ndarray) -> None:
    scale = Scale(Calibration.fit(rows))
    levels = scale.levels(s)
    assert ((levels >= 0.0) & (levels <= 1.0)).all()
    assert (np.diff(levels[np.argsort(s)]) <= 1e-12).all()
    for value, level in zip(s.tolist(), levels.tolist(), strict=True):
        assert value >= scale.threshold(min(1.0, level + 1e-6)) - 1e-9
        assert level < 1e-6 or value < scale.threshold(level - 1e-6) + 1e-9


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.lists(st.floats(0, 1), min_size=2, max_size=9))
def test_the_level_rises_with_the_share_and_knows_no_order(levels: list[float], shares: list[float]) -> None:
    def lately(order: list[float]) -> np.ndarray:
        state, target = budget.begin(BudgetTarget(0.1), 0.1), BudgetTarget(0.1)
        every, none = np.ones(len(order), np.bool_), np.zeros(len(order), np.bool_)
        return budget.observed(state, target, RequestSeen(np.asarray(order), every, none, none), 0.0).lately

    counts = lately(levels)
    assert lately(levels[::-1]).tolist() == counts.tolist()
    found = [budget.level_for(counts, len(levels), share) for share in sorted(shares)]
    assert found == sorted(found)
    assert budget.level_for(counts, len(levels), 0.0) == 0.0
    assert budget.level_for(counts, len(levels), 1.0) == pytest.approx(1.0)


def test_without_traffic_the_level_is_the_calibration_s() -> None:
    nothing = budget.begin(BudgetTarget(0.1), 0.5)
    assert nothing.level == 0.1
    assert nothing.share is None
    assert budget.level_for(nothing.lately, 0.0, 0.1) == pytest.approx(0.1)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_nothing_and_everything_are_exact(share: float) -> None:
    run = run_of(BudgetTarget(share))
    run.drive(step(300.0, easy, hard), 0.0, 900.0, 1.0)
    assert set(run.asked) == {int(share * N)}
    assert run.state.frozen == ""


def test_no_milliseconds_are_no_questions() -> None:
    run = run_of(BudgetTarget(None, 0.0))
    run.drive(easy, 0.0, 300.0, 1.0)
    assert set(run.asked) == {0}


@pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
@pytest.mark.parametrize(("before", "after"), [(easy, hard), (hard, easy)], ids=["harder", "easier"])
def test_a_step_in_traffic_settles_within_the_window(share: float, before: Traffic, after: Traffic) -> None:
    run = run_of(BudgetTarget(share, window=600.0))
    run.drive(step(1800.0, before, after), 0.0, 4200.0, 1.0)
    allowed = 0.1 * share
    assert run.over_window(900.0, 1800.0) == pytest.approx(share, abs=allowed)
    # What the step cost too much or too little stands in the window until 600 s later, and is paid back by then.
    assert run.over_window(1800.0, 2400.0) == pytest.approx(share, abs=3 * allowed)
    assert run.over_window(2450.0, 4200.0) == pytest.approx(share, abs=1.3 * allowed)
    assert run.over_window(3000.0, 4200.0) == pytest.approx(share, abs=allowed)


def test_without_the_controller_the_same_step_is_not_held() -> None:
    p = np.concatenate([hard(0.0, np.random.default_rng(n)) for n in range(500)])
    assert is_routed(entropy(p), CALIBRATION.threshold(0.1)).mean() > 0.4


def test_drift_is_followed() -> None:
    run = run_of(BudgetTarget(0.1, window=600.0))
    run.drive(drifting, 0.0, 4200.0, 1.0)
    assert run.over_window(600.0, 4200.0) == pytest.approx(0.1, abs=0.01)


def test_silence_moves_nothing_and_what_comes_after_it_is_not_made_up_for() -> None:
    run = run_of(BudgetTarget(0.1, window=600.0))
    run.drive(hard, 0.0, 1200.0, 1.0)
    level = run.state.level
    quiet = budget.decided(budget.aged(run.state, run.target, 10_000.0), run.target, 10_000.0)
    assert (quiet.level, quiet.candidates) == (level, 0)
    assert quiet.frozen
    run.drive(hard, 10_000.0, 11_200.0, 1.0)
    first = run.levels[run.times.index(min(t for t in run.times if t > 10_000.0))]
    assert first == level
    assert run.over_window(10_100.0, 11_200.0) == pytest.approx(0.1, abs=0.02)


def test_a_burst_of_hard_candidates_cannot_take_much_more_than_its_share() -> None:
    run = run_of(BudgetTarget(0.1, window=600.0))
    run.drive(easy, 0.0, 1200.0, 1.0)
    before = len(run.asked)
    run.drive(hard, 1200.0, 1205.0, 100.0)  # as many candidates as the window holds, in five seconds
    burst = sum(run.asked[before:]) / (N * len(run.asked[before:]))
    assert burst < 0.15
    run.drive(easy, 1205.0, 3000.0, 1.0)
    # The burst weighs as much as the window: what it took is paid back, and leaves the window as it came, at once.
    assert run.over_window(1205.0, 2400.0) == pytest.approx(0.1, abs=0.03)
    assert run.over_window(2400.0, 3000.0) == pytest.approx(0.1, abs=0.01)


def test_too_few_candidates_leave_the_level_where_it_is() -> None:
    run = run_of(BudgetTarget(0.1, window=60.0))
    for t in np.arange(0.0, 6000.0, 20.0).tolist():  # 60 candidates a window
        run.request(hard(t, np.random.default_rng(int(t))), t)
        assert run.state.level == 0.1
        assert run.state.frozen


def test_rows_that_all_tie_are_asked_by_turns() -> None:
    """A threshold can only ask all of them or none: over the window the share is held all the same."""
    run = run_of(BudgetTarget(0.1, window=60.0))
    run.drive(lambda t, rng: np.full(N, 0.2), 0.0, 1200.0, 3.0)
    assert set(run.asked[:-1]) <= {0, N}
    assert run.over_window(600.0, 1200.0) == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("ms", [10.0, 40.0])
def test_milliseconds_a_second_are_held_as_traffic_grows(ms: float) -> None:
    run = run_of(BudgetTarget(None, ms, window=600.0))
    run.drive(easy, 0.0, 1800.0, 1.0)
    run.drive(easy, 1800.0, 4200.0, 3.0)

    def spent(since: float, until: float) -> float:
        return 3.0 * sum(n for t, n in zip(run.times, run.asked, strict=True) if since <= t < until) / (until - since)

    assert spent(900.0, 1800.0) == pytest.approx(min(ms, 60.0), rel=0.08)
    assert spent(1800.0, 2400.0) == pytest.approx(ms, rel=0.25)
    assert spent(2400.0, 3000.0) == pytest.approx(ms, rel=0.15)
    assert spent(3000.0, 4200.0) == pytest.approx(ms, rel=0.08)
    assert run.state.busy_ms(4200.0, 600.0) == pytest.approx(ms, rel=0.1)


def test_more_milliseconds_than_there_is_to_ask_ask_everything() -> None:
    run = run_of(BudgetTarget(None, 500.0, window=600.0))
    run.drive(easy, 0.0, 1800.0, 1.0)
    assert run.levels[-1] == 1.0


def test_milliseconds_begin_where_the_bundle_stands_and_probe_where_it_never_asks() -> None:
    assert budget.begin(BudgetTarget(None, 40.0), 0.3).level == 0.3
    assert budget.begin(BudgetTarget(None, 40.0), 0.0).level == budget.PROBE


SEGMENT = RequestSeen(np.zeros(N), np.ones(N, np.bool_), np.ones(N, np.bool_), np.ones(N, np.bool_), True, "u1")


@given(
    st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.integers(0, 5),
    st.floats(0.01, 1.0), st.booleans(),
)  # fmt: skip
def test_no_segment_takes_more_than_its_cap(
    seed: int, items: float, users: float, one: float, before: int, share: float, new_user: bool
) -> None:
    rng, target = np.random.default_rng(seed), BudgetTarget(share, caps=Caps(items, users, one))
    state = budget.begin(target, share)
    for _ in range(before):
        state = budget.observed(state, target, SEGMENT, 1.0)
    measure, new = rng.random(N), rng.random(N) < 0.5
    passed = budget.within_caps(state, target, measure, new, new_user, "u1")
    room = share * max(state.candidates, budget.LEAST_CAPPED)
    taken = before * N
    assert int((passed & new).sum()) <= max(0.0, items * room - taken) or items == 1.0
    assert int(passed.sum()) <= max(0.0, one * room - taken) or one == 1.0
    assert not new_user or users == 1.0 or int(passed.sum()) <= max(0.0, users * room - taken)
    # The hardest of a kind go first, in any order of the request.
    for kind in (new, ~new):
        if (passed & kind).any() and (~passed & kind).any():
            assert measure[passed & kind].min() >= measure[~passed & kind].max()
    order = rng.permutation(N)
    again = budget.within_caps(state, target, measure[order], new[order], new_user, "u1")
    assert again.tolist() == passed[order].tolist()


def test_without_caps_everything_passes() -> None:
    state = budget.observed(budget.begin(BudgetTarget(0.01), 0.01), BudgetTarget(0.01), SEGMENT, 1.0)
    assert budget.within_caps(state, BudgetTarget(0.01), np.ones(N), np.ones(N, np.bool_), True, "u1").all()


def test_what_one_user_may_not_take_goes_to_the_others() -> None:
    target = BudgetTarget(0.1, window=600.0, caps=Caps(one_user=0.2))
    state, rng = budget.begin(target, 0.1), np.random.default_rng(3)
    asked: dict[str, int] = {"greedy": 0}
    t = 0.0
    while (t := t + 0.5) < 2400.0:
        user = "greedy" if rng.random() < 0.6 else f"u{rng.integers(50)}"
        s = entropy(hard(t, rng) if user == "greedy" else easy(t, rng))
        wanted = is_routed(s, SCALE.threshold(state.level))
        passed, none = np.ones(N, np.bool_), np.zeros(N, np.bool_)
        passed[wanted] = budget.within_caps(state, target, s[wanted], none[wanted], False, user)
        seen = RequestSeen(SCALE.levels(s), passed, wanted & passed, none, user=user)
        state = budget.decided(budget.observed(state, target, seen, t), target, t)
        if t > 1200.0:
            asked[user] = asked.get(user, 0) + int((wanted & passed).sum())
    assert asked["greedy"] / sum(asked.values()) == pytest.approx(0.2, abs=0.05)
    assert state.share == pytest.approx(0.1, abs=0.01)


def test_a_user_s_id_is_forgotten_and_the_count_is_not() -> None:
    target = BudgetTarget(0.1, caps=Caps(one_user=0.5))
    state = budget.observed(budget.begin(target, 0.1), target, SEGMENT, 1.0)
    found = budget.forgotten(state, "u1")
    assert "u1" not in repr(found)
    assert (found.asked, found.candidates) == (state.asked, state.candidates)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.floats(0.02, 0.98), st.floats(1.0, 1e4), st.booleans())
def test_whatever_comes_the_level_is_a_share_and_finite(seed: int, share: float, window: float, by_ms: bool) -> None:
    rng = np.random.default_rng(seed)
    run, t = run_of(BudgetTarget(None, 50.0 * share, window) if by_ms else BudgetTarget(share, window=window)), 0.0
    for _ in range(60):
        t += float(rng.choice([0.0, 0.1, window / 3, 2 * window], p=[0.4, 0.4, 0.15, 0.05]))
        run.request(rng.beta(*rng.uniform(0.2, 5.0, 2), size=int(rng.integers(1, 40))), t)
        assert 0.0 <= run.state.level <= 1.0
        assert math.isfinite(run.state.goal)
        assert len(run.state.slices) <= budget.SLICES + 1
