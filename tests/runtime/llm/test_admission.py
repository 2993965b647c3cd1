"""What is let through is answered in time, and the time there is is used."""

from __future__ import annotations

import math
from bisect import insort
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime.llm.admission import (
    YIELDING,
    Admission,
    AdmittedWork,
    plan,
    seconds_for,
)
from corella_edge_runtime.llm.contract.deadline import MARGIN, WAY_BACK, nearer, of, overdue, promised, seconds_to
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt, Prompts
from corella_edge_runtime.llm.contract.settings import LlmSettings

PER_TOKEN = 1e-3
NONE = Answers.of([])
WORK = st.tuples(st.floats(0.0, 3.0), st.floats(0.01, 20.0), st.floats(0.01, 5.0))


def done_in_time(promised: list[AdmittedWork], now: float) -> bool:
    for promise in promised:
        now += promise.seconds
        if now > promise.end + 1e-9:
            return False
    return True


@given(st.lists(WORK, max_size=15))
def test_whoever_takes_no_more_than_the_plan_allows_breaks_no_promise(work: list[tuple[float, float, float]]) -> None:
    promised: list[AdmittedWork] = []
    now = done = 0.0
    for number, (gap, room, wanted) in enumerate(work):
        now, done = now + gap, done + gap
        while promised and promised[0].seconds <= done:
            done -= promised.pop(0).seconds
        done = done if promised else 0.0
        due = now + room
        begin, spare = plan(promised, due, now, done)
        assert now <= begin
        seconds = min(wanted, due - begin, spare)
        if seconds > 0:
            insort(promised, AdmittedWork(due, number, seconds, due))
        assert done_in_time(promised, now - done)


def test_the_plan_allows_all_that_there_is() -> None:
    promised = [AdmittedWork(5.0, 0, 2.0, 5.0), AdmittedWork(9.0, 1, 3.0, 12.0)]
    assert plan(promised, 7.0, 0.0, 0.0) == (2.0, 7.0)  # the second takes until 5 and has to end at 12
    assert plan(promised, 20.0, 0.0, 0.0) == (5.0, math.inf)
    assert plan(promised, 4.0, 0.0, 0.0) == (0.0, 3.0)  # before both, the first has to end at 5
    assert plan(promised, 20.0, 1.0, 1.5) == (4.5, math.inf)
    assert plan(promised, 4.5, 1.0, 1.5) == (1.0, 3.5)
    assert plan([], 4.0, 1.0, 0.0) == (1.0, math.inf)


def prompts(number: int, tokens: int = 10, prefix: int = 0, user: int = 0) -> Prompts:
    return Prompts.of([Prompt((user,) * prefix, (i,) * tokens) for i in range(number)])


class Desk:
    """An admission that knows what a token costs, and the counters of a backend."""

    def __init__(self, **settings: Any) -> None:
        self.admission = Admission(LlmSettings(**settings))
        self.stats = {"decodes": 0.0, "evaluated_tokens": 0.0, "busy_seconds": 0.0}
        self.teach(10.0)

    def teach(self, now: float, per_token: float = PER_TOKEN) -> None:
        for _ in range(30):
            row = prompts(1, 1)
            promise = self.admission.admit(row, None, now).promise
            assert promise is not None
            self.work(1000, per_token)
            self.admission.ended(promise, row, Answers.of([LlmAnswer(0.5)]), self.stats, now)

    def work(self, tokens: int, per_token: float = PER_TOKEN) -> None:
        """Decodes as full as they can be, and cheap beside their tokens."""
        self.stats = {
            "decodes": self.stats["decodes"] + tokens / 500,
            "evaluated_tokens": self.stats["evaluated_tokens"] + tokens,
            "busy_seconds": self.stats["busy_seconds"] + tokens * per_token,
        }

    def number(self, rows: Prompts, seconds: float | None, now: float = 10.0) -> tuple[int, str]:
        found = self.admission.admit(rows, None if seconds is None else now + seconds, now)
        return found.prompts, found.reason


def test_as_many_are_asked_as_will_be_answered_in_time() -> None:
    desk = Desk()
    number, reason = desk.number(prompts(100), 0.5)
    assert reason == "busy"
    assert 0.7 * 45 <= number <= 45  # of 450 ms with 10 ms each, less what the one decode costs that may be cut short
    assert desk.admission.stats(10.0)["not_asked"] == 100 - number
    # The rest of the time until the deadline of a second request is too short for anything.
    assert desk.number(prompts(100), 0.5) in [(n, "busy") for n in range(3)]


def test_what_waits_counts_until_it_has_ended_whoever_ends_it() -> None:
    desk = Desk()
    first = desk.admission.admit(prompts(40), 10.5, 10.0)
    assert first.promise is not None
    assert desk.number(prompts(40), 0.3)[0] < 5
    desk.admission.ended(first.promise, prompts(40), NONE, desk.stats, 10.0)  # cancelled
    assert desk.number(prompts(20), 0.3)[0] == 20


def test_time_that_has_passed_is_work_that_is_done() -> None:
    desk = Desk()
    assert desk.number(prompts(40), 0.6) == (40, "busy")
    assert desk.number(prompts(40), 0.6, 10.01)[0] < 15
    assert desk.number(prompts(10), 0.6, 10.3)[0] == 10
    assert desk.admission.stats(10.35)["waiting_seconds"] < 0.3


def test_a_later_deadline_is_not_broken_for_a_nearer_one() -> None:
    desk = Desk()
    late = desk.admission.admit(prompts(90), 11.2, 10.0)
    assert late.prompts == 90  # 900 ms of 1200
    number, _ = desk.number(prompts(40), 0.5)
    assert 5 <= number <= 18  # of the 180 ms that the other has to spare


def test_a_prefix_that_is_kept_costs_nothing() -> None:
    desk = Desk()
    assert desk.number(prompts(5, 10, 150), 0.15)[0] == 0
    row = prompts(1, 10, 150)
    asked = desk.admission.admit(row, None, 10.0).promise
    assert asked is not None
    desk.work(160)
    desk.admission.ended(asked, row, Answers.of([LlmAnswer(0.5)]), desk.stats, 10.2)
    assert desk.number(prompts(5, 10, 150, user=1), 0.15, 10.3)[0] == 0  # another user's
    assert desk.number(prompts(5, 10, 150), 0.15, 10.3)[0] == 5


def test_users_of_many_tokens_each_begin_a_decode() -> None:
    """Strangers share none beyond 256 tokens: of six users with 260 each, six decodes."""
    desk, rows = Desk(), Prompts.of([prompts(1, 10, 250, user)[0] for user in range(6)])
    desk.admission._cost.per_decode, desk.admission._cost.per_token = 0.1, 1e-6
    assert desk.number(rows, 0.5) == (4, "busy")  # of 450 ms
    desk = Desk()
    desk.admission._cost.per_decode, desk.admission._cost.per_token = 0.1, 1e-6
    rows = Prompts.of([prompts(1, 10, 20, user)[0] for user in range(32)])
    assert desk.number(rows, 0.5)[0] == 32  # a decode holds eight


@pytest.mark.parametrize("how", ["forget", "error", "restart"])
def test_what_the_llm_has_lost_is_known_to_be_lost(how: str) -> None:
    desk, row = Desk(), prompts(1, 10, 150)
    for answer in (LlmAnswer(0.5), LlmAnswer(math.nan, "llm_error" if how == "error" else "deadline")):
        asked = desk.admission.admit(row, None, 10.0).promise
        assert asked is not None
        desk.work(160)
        if how == "restart" and answer.reason:
            desk.stats = {name: value / 2 for name, value in desk.stats.items()}
        desk.admission.ended(asked, row, Answers.of([answer]), desk.stats, 10.0)
    if how == "forget":
        desk.admission.forget()
    assert desk.number(prompts(5, 10, 150), 0.15, 10.1)[0] == 0


def test_before_anything_is_known_everything_is_asked() -> None:
    admission = Admission(LlmSettings())
    for _ in range(50):
        assert admission.admit(prompts(100), 10.05, 10.0).prompts == 100
    assert admission.admit(prompts(3), 10.0, 10.0) == admission.admit(prompts(3), 9.0, 10.0)
    assert admission.admit(prompts(3), 10.0, 10.0).reason == "deadline"
    assert admission.admit(prompts(3), 10.0 + WAY_BACK / 2, 10.0).reason == "busy"


def test_an_idle_llm_that_seems_too_slow_is_tried_once_in_a_while() -> None:
    desk = Desk()
    desk.teach(10.0, per_token=1.0)
    assert desk.number(prompts(9), 0.1, 10.5) == (0, "busy")
    assert desk.number(prompts(9), 0.1, 12.0) == (1, "busy")
    assert desk.number(prompts(9), 0.1, 12.1) == (0, "busy")
    assert desk.number(prompts(9), 0.1, 14.0) == (0, "busy")  # the one tried is still at work


def test_without_a_deadline_age_is_bounded_and_half_of_it_left_for_others() -> None:
    desk = Desk(max_wait=10.0)
    taken = [desk.number(prompts(10, 100), None) for _ in range(20)]
    assert taken == [(10, "")] * 6 + [(0, "queue_full")] * 14  # a second each, until five wait
    assert desk.admission.stats(10.0)["refused"] == 14.0
    # Those with a deadline still find time, as long as the first of the others can wait.
    assert desk.number(prompts(100), 1.0)[0] > 50


def test_a_request_longer_than_the_longest_wait_is_taken_when_nobody_waits() -> None:
    desk = Desk(max_wait=0.5)
    assert desk.number(prompts(10, 500), None) == (10, "")
    assert desk.number(prompts(1), None) == (0, "queue_full")


@pytest.mark.parametrize("seconds", [100.0, 1e300, math.inf])
def test_a_far_deadline_is_as_good_as_none(seconds: float) -> None:
    desk = Desk(max_wait=10.0)
    assert desk.number(prompts(40), seconds) == (40, "busy")
    assert desk.number(prompts(40), None) == (40, "")
    # And it does not come after everybody else for ever.
    assert [promise.due for promise in desk.admission._promised] == [20.0, 20.0]
    assert 5 <= desk.number(prompts(40), 0.5)[0] <= 40


@pytest.mark.parametrize("seconds", [None, 600.0])
@pytest.mark.parametrize("yields", [False, True])
def test_no_more_is_asked_than_the_queue_holds(seconds: float | None, yields: bool) -> None:
    for admission in (Desk(queue_tokens=300).admission, Admission(LlmSettings(queue_tokens=300))):
        deadline = None if seconds is None else 10.0 + seconds
        found = admission.admit(prompts(40, 10, prefix=100), deadline, 10.0, yields)
        number = 5 if yields and seconds else 20  # the prefix counts once
        assert (found.prompts, found.reason) == (number, "queue_full")
        assert admission.stats(10.0)["not_asked"] == 40 - number
        found = admission.admit(prompts(1, 301), deadline, 10.0, yields)
        assert (found.prompts, found.reason, found.promise) == (0, "queue_full", None)


def test_work_that_yields_takes_half_of_its_time_and_none_of_a_ranking_that_is_due_before() -> None:
    desk = Desk(max_wait=100.0)
    free, _ = Desk().number(prompts(100), 0.5)
    most = 29.0 * YIELDING / PER_TOKEN
    long = desk.admission.admit(prompts(1000, 50), 40.0, 10.0, yields=True)
    assert long.promise is not None
    assert 0.9 * most <= 50 * long.prompts <= most
    # What is due before finds the time it would have found anyway, again and again.
    for second in range(20):
        found = desk.admission.admit(prompts(100), 10.5 + second, 10.0 + second)
        assert found.prompts == free
        assert found.promise is not None
        desk.admission.ended(found.promise, prompts(0), NONE, desk.stats, 10.5 + second)
    # Of its own kind, what is due before does not break its promise: nothing is due after it then.
    assert desk.admission.admit(prompts(1000, 50), 60.0, 30.0, yields=True).prompts * 50 < most


def test_all_that_yields_holds_half_of_the_queue_until_it_has_ended() -> None:
    admission = Admission(LlmSettings(queue_tokens=200))
    first = admission.admit(prompts(6), 100.0, 10.0, yields=True)
    assert (first.prompts, admission.admit(prompts(6), 100.0, 10.0, yields=True).prompts) == (6, 4)
    assert admission.admit(prompts(1), 100.0, 10.0, yields=True).reason == "queue_full"
    assert admission.admit(prompts(10), 100.0, 10.0).prompts == 10
    assert first.promise is not None
    admission.ended(first.promise, prompts(0), NONE, {}, 11.0)
    assert admission.admit(prompts(10), 100.0, 11.0, yields=True).prompts == 6


@given(st.lists(st.floats(0.02, 60.0), max_size=20), st.floats(0.05, 60.0))
def test_whatever_yields_half_of_a_rankings_time_is_left(others: list[float], seconds: float) -> None:
    promised: list[AdmittedWork] = []
    for number, due in enumerate(others):
        most = seconds_for(promised, due, due, 0.0, yields=True)
        if most > 0.0:
            insort(promised, AdmittedWork(due, number, most, due, yields=True))
    assert seconds_for(promised, seconds, seconds, 0.0) >= (1.0 - YIELDING) * seconds - 1e-9


def test_the_margin_is_what_it_says() -> None:
    for seconds in (0.1, 0.5):
        most = seconds - max(WAY_BACK, MARGIN * seconds)
        number, _ = Desk().number(prompts(1000, 5), seconds)
        assert number * 5 * PER_TOKEN <= most
        assert number * 5 * PER_TOKEN > 0.8 * most - 0.06


@given(st.floats(0.0, 1e6), st.floats(-1e3, 1e6))
def test_the_margins_around_a_deadline_stand_in_order(now: float, left: float) -> None:
    end = now + left
    told = nearer(end, now)
    assert told is not None
    assert promised(end, now) <= told <= end < overdue(end)
    assert told - now >= 0.9 * left - 1e-6 or left < 0.0
    assert nearer(None, now) is of(None, now) is seconds_to(None) is None
    assert of(1000.0 * left, now) == pytest.approx(end)
