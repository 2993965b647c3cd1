"""Ages of stamps, held against a machine that knows the true time: whatever its clock shows, nothing is too old."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from corella_edge_runtime.machine import timekeeping
from corella_edge_runtime.machine.timekeeping import (
    BOOTS,
    FLOOR,
    PROBATION,
    SLACK,
    TENTH_SECONDS,
    TENTHS,
    Boot,
    Reading,
    Timeline,
    read_clocks,
    what_changed,
)  # fmt: skip

DAY = 86_400.0
START = FLOOR + 300 * DAY
HOUR = 3600.0


@dataclass
class Machine:
    """A true time, a clock that is off by `error` (None = it shows 1970), and things that arrived at true times."""

    truth: float = START
    error: float | None = 0.0
    boots: int = 1
    booted: float = START - 1000.0
    uptime_in_all: float = 0.0
    arrived: list[tuple[int, float, float, int]] = field(default_factory=list)  # stamp, truth, uptime in all, boots
    timeline: Timeline = field(init=False)

    def __post_init__(self) -> None:
        self.timeline = Timeline.begin(self.reading())

    def reading(self) -> Reading:
        up = self.truth - self.booted
        return Reading(str(self.boots), up, up if self.error is None else self.truth + self.error)

    def look(self) -> None:
        before = self.timeline
        self.timeline = before.seen(self.reading())
        assert self.timeline.stamp >= before.stamp
        saved = json.loads(json.dumps([self.timeline.to_json(), self.timeline.past]))
        assert Timeline.from_json(*saved) == self.timeline

    def arrive(self) -> None:
        self.look()
        self.arrived.append((int(self.timeline.stamp), self.truth, self.uptime_in_all, self.boots))

    def run(self, seconds: float, every: float = HOUR) -> None:
        while seconds > 0.0:
            step = min(every, seconds)
            self.truth += step
            self.uptime_in_all += step
            seconds -= step
            self.look()

    def off(self, seconds: float, late: float = 0.0) -> None:
        """Switched off, booted again, and looked at `late` seconds after."""
        self.truth += seconds
        self.booted, self.boots = self.truth, self.boots + 1
        self.truth += late
        self.uptime_in_all += late
        self.look()

    def age(self, i: int, tenth: int = 0) -> float:
        """Seconds that the timeline takes it for older than, to the second."""
        stamp, low, high = self.arrived[i][0], -(2.0**31), 2.0**31
        while high - low > 0.5:
            middle = (low + high) / 2
            low, high = (middle, high) if stamp < self.timeline.older_than(middle, tenth) else (low, middle)
        return low

    def check(self, tenth: int = 0) -> None:
        for i, (_, truth, uptime, boots) in enumerate(self.arrived):
            slack = 2.0 + SLACK * (self.boots - boots)
            age = self.age(i, tenth)
            assert age <= self.truth - truth + slack
            assert age >= self.uptime_in_all - uptime - 2.0 - 1000.0 * (self.boots - boots)


SPANS = st.floats(60.0, 40 * DAY)
WRONG = st.floats(-200 * DAY, 200 * DAY) | st.floats(-3600.0, 20 * 365 * DAY) | st.none()
STEPS = st.one_of(
    st.tuples(st.just("run"), SPANS),
    st.tuples(st.just("off"), st.floats(0.0, 90 * DAY)),
    st.tuples(st.just("wrong"), WRONG),
    st.tuples(st.just("unset"), st.just(0.0)),
    st.tuples(st.just("right"), st.just(0.0)),
)


@settings(max_examples=max(120, settings().max_examples), deadline=None)
@given(first=WRONG, steps=st.lists(STEPS, max_size=14), tenth=st.integers(0, TENTHS - 1))
@example(first=-6.0, steps=[("unset", 0.0), ("off", 0.0), ("right", 0.0), ("run", 158_400.0)], tenth=0)
@example(first=-90 * DAY, steps=[("unset", 0.0), ("off", DAY), ("right", 0.0), ("run", 3 * DAY)], tenth=0)
def test_no_clock_makes_anything_older_than_it_is_nor_younger_than_the_uptime_since(
    first: float | None, steps: list[tuple[str, float | None]], tenth: int
) -> None:
    machine = Machine(error=first)
    wrong_for = 0.0
    machine.arrive()
    for what, value in steps:
        if what == "run":
            assert value is not None
            # A clock that is wrong is set right within the probation, and before the machine goes off.
            seconds = value if not machine.error else min(value, PROBATION - 2 * HOUR - wrong_for)
            wrong_for += seconds if machine.error else 0.0
            machine.run(max(seconds, 0.0), max(HOUR, seconds / 50))
        elif what == "off":
            assert value is not None
            if machine.error is not None:
                machine.error = 0.0
                machine.look()
            machine.off(value, late=min(60.0, value))
        elif what == "unset":
            machine.error = None
        elif what == "right":
            machine.error = 0.0
            machine.look()
        elif not wrong_for:
            machine.error = value
        if machine.error == 0.0:
            wrong_for = 0.0
            machine.run(2 * HOUR)
        machine.arrive()
        machine.check(tenth)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["run", "off"]), SPANS), max_size=10))
def test_with_a_right_clock_ages_are_right_after_twice_the_probation(steps: list[tuple[str, float]]) -> None:
    machine = Machine()
    machine.arrive()
    for what, seconds in steps:
        if what == "run":
            machine.run(seconds, max(HOUR, seconds / 50))
        else:
            machine.off(seconds)
        machine.arrive()
    machine.run(2 * PROBATION + HOUR)
    machine.run(TENTHS * TENTH_SECONDS)
    for i, (_, truth, _, boots) in enumerate(machine.arrived):
        for tenth in (0, TENTHS - 1):
            assert machine.age(i, tenth) == pytest.approx(machine.truth - truth, abs=3.0 + SLACK * 2)
        assert machine.timeline.wall(machine.arrived[i][0]) == pytest.approx(truth, abs=3.0)
        assert boots >= 1
    assert machine.timeline.now == pytest.approx(machine.truth, abs=1.0)


def test_a_box_that_is_off_every_night_forgets_with_two_days_of_delay() -> None:
    machine = Machine()
    machine.arrive()
    for _ in range(40):
        machine.run(8 * HOUR)
        machine.off(16 * HOUR)
    assert 40 * DAY - 7 * DAY <= machine.age(0) <= 40 * DAY + 2 * 40 + 1


def test_a_first_clock_of_1970_that_is_set_later() -> None:
    machine = Machine(error=None)
    machine.arrive()
    assert machine.timeline.now == FLOOR
    machine.run(300.0)
    machine.error = 0.0
    machine.look()
    assert machine.timeline.now == int(machine.truth)
    assert machine.timeline.wall(machine.arrived[0][0]) == int(machine.arrived[0][1])
    machine.off(60.0)
    assert 299.0 <= machine.age(0) <= 362.0
    machine.run(30 * DAY)
    assert machine.age(0) == pytest.approx(30 * DAY + 360, abs=5)


@pytest.mark.parametrize("rebooted", [False, True])
def test_a_first_clock_ten_years_ahead_that_is_set_later(rebooted: bool) -> None:
    machine = Machine(error=3650 * DAY)
    machine.arrive()
    machine.run(3 * DAY)  # longer than it may be wrong: it was so from the beginning
    machine.error = 0.0
    if rebooted:
        machine.off(60 * DAY)
    assert 0.0 <= machine.age(0) <= 63 * DAY
    machine.run(30 * DAY)
    assert machine.age(0) >= 30 * DAY
    assert machine.age(0) <= machine.truth - machine.arrived[0][1] + 4


def test_the_clock_of_the_last_moment_before_a_boot_can_be_far_too_high() -> None:
    machine = Machine()
    machine.run(5 * DAY)
    machine.arrive()
    machine.error = 3650 * DAY
    machine.look()
    machine.error = 0.0
    machine.off(10 * DAY)
    machine.run(3 * DAY)
    assert machine.age(0) <= 13 * DAY + 4


def test_a_long_pause_counts_for_a_tenth_after_the_other() -> None:
    machine = Machine()
    machine.arrive()
    machine.off(60 * DAY)
    reached: list[int] = []
    for _ in range(80):
        machine.run(HOUR)
        reached.append(sum(machine.age(0, tenth) > 50 * DAY for tenth in range(TENTHS)))
    assert set(range(TENTHS + 1)) >= set(reached)
    assert max(b - a for a, b in pairwise(reached)) == 1
    assert all(reached[hour] == 0 for hour in range(23))
    assert reached[-1] == TENTHS


def test_a_long_pause_does_not_count_where_the_clock_is_set_back_in_time() -> None:
    machine = Machine()
    machine.arrive()
    machine.error = 60 * DAY
    machine.run(PROBATION - HOUR)
    machine.error = 0.0
    machine.run(5 * DAY)
    assert machine.age(0) <= 6 * DAY


def test_on_another_machine_its_uptime_is_not_the_time_since() -> None:
    machine = Machine()
    machine.arrive()
    machine.truth += 3600.0
    moved = machine.timeline.seen(Reading("another", 100 * DAY, machine.truth))
    assert moved.stamp - machine.timeline.stamp <= 3600.0 + SLACK
    unset = machine.timeline.seen(Reading("another", 100 * DAY, 100 * DAY))
    assert unset.stamp - machine.timeline.stamp <= SLACK


def test_a_reading_that_comes_late_counts_once_and_an_earlier_state_of_the_machine_nothing() -> None:
    machine = Machine()
    first, stamp = machine.reading(), machine.timeline.stamp
    machine.run(50.0)
    assert machine.timeline.seen(first).stamp == stamp + 50.0
    machine.timeline = machine.timeline.seen(first)
    machine.look()
    assert machine.timeline.stamp == stamp + 50.0
    back = machine.timeline.seen(Reading("1", 10.0, machine.truth))
    assert back.stamp == stamp + 50.0
    assert back.seen(Reading("1", 15.0, machine.truth + 5.0)).stamp == stamp + 55.0


def test_a_clock_of_an_older_store_goes_on() -> None:
    last = int(START - 40 * DAY)
    timeline = Timeline.begin(Reading("a", 100.0, START), last)
    assert timeline.stamp >= last
    assert last >= timeline.older_than(DAY)  # the pause may be a wrong clock
    for hour in range(60):
        timeline = timeline.seen(Reading("a", 100.0 + hour * HOUR, START + hour * HOUR))
    assert last - 1 < timeline.older_than(30 * DAY, TENTHS - 1)
    assert timeline.wall(last - 1000) == last - 1000


def test_many_boots_are_joined_and_nothing_gets_older(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timekeeping, "BOOTS", 30)
    machine = Machine()
    for _ in range(80):
        if machine.boots % 10 == 1:
            machine.arrive()
        machine.run(HOUR)
        machine.off(HOUR * (1 + machine.boots % 7))
    assert len(machine.timeline.past) == 30
    machine.check()


def test_what_is_said() -> None:
    machine = Machine()
    quiet = machine.timeline
    machine.run(HOUR)
    assert what_changed(quiet, machine.timeline) == []

    def said(error: float | None, seconds: float = 60.0) -> str:
        before = machine.timeline
        machine.error = error
        machine.run(seconds, seconds)
        return " ".join(what_changed(before, machine.timeline))

    assert "10.0 days ahead" in said(10 * DAY)
    assert "set back by 9.0 days" in said(DAY)
    assert said(0.0) == ""
    machine.off(10.0)
    machine.error = None
    before = machine.timeline
    machine.off(10.0)
    assert "not set" in " ".join(what_changed(before, machine.timeline))
    fresh = Machine(error=None)
    before = fresh.timeline
    fresh.error = 0.0
    fresh.run(60.0)
    assert "has been set" in " ".join(what_changed(before, fresh.timeline))
    before = fresh.timeline
    fresh.off(40 * DAY)
    states = [fresh.timeline]
    for _ in range(60):
        fresh.run(HOUR)
        states.append(fresh.timeline)
    spoken = [text for old, new in pairwise([before, *states]) for text in what_changed(old, new)]
    assert len(spoken) == 2
    assert "40.0 days ahead of the uptime" in spoken[0]
    assert "40.0 days" in spoken[1]
    assert "a tenth" in spoken[1]


def test_the_clocks_of_this_machine() -> None:
    first = read_clocks()
    second = read_clocks()
    assert first.boot == second.boot
    assert 0.0 < first.uptime <= second.uptime


def test_boots_are_joined_where_they_differ_least() -> None:
    boots = tuple(Boot(i, float(i * i)) for i in range(BOOTS + 1))
    joined = timekeeping._joined(boots)
    assert joined[0] == Boot(0, 1.0)
    assert len(joined) == BOOTS
    assert math.isclose(joined[-1].ahead or 0.0, BOOTS**2)
