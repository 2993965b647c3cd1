"""A backend that fails is not asked, costs nobody any time, and is taken back when it answers again."""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.backends.process.backend import Patience, ProcessBackend
from corella_edge_runtime.llm.contract.backend import Liveness
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.guard import Breaker, GuardedBackend, outcome, patience
from fake_llm import FakeBackend

LIMITS = Liveness(failures=3, silence=1.0, renewal=1.5, look=0.25, first_pause=0.5, longest_pause=4.0)
EVENTS = st.lists(
    st.sampled_from(["good", "bad", "look", "lively", "quiet", "probe", "answered", "unanswered", "wait"]), max_size=60
)


@given(EVENTS)
def test_it_opens_for_failures_in_a_row_or_silence_and_closes_for_a_probe_alone(events: list[str]) -> None:
    breaker, now, bad, silent, pause, probe_at = Breaker(LIMITS), 0.0, 0, 0.0, 0.5, math.inf
    slack = 1.0
    for event in events:
        before, probing, opened = breaker.closed, breaker.probing, False
        now += 0.3 if event == "wait" else 0.0
        if event == "good":
            breaker.succeeded()
            bad, silent, slack = 0, 0.0, 1.0
        elif event == "bad":
            bad += 1
            opened = breaker.failed(now)
            assert opened == (before and bad >= LIMITS.failures)
        elif event in ("look", "lively", "quiet"):
            silent = 0.0 if event == "lively" else silent + LIMITS.look * (event == "look")
            opened = breaker.look(now, event == "look", event == "lively", LIMITS.silence)
            assert opened == (before and silent >= slack * LIMITS.silence)
            slack = min(64.0, 2.0 * slack) if opened else slack
            dead = breaker.dead(now, LIMITS.silence)
            assert dead == (silent >= LIMITS.renewal * LIMITS.silence)
            if dead:
                silent, pause, probe_at = 0.0, 0.5, min(probe_at, now + 0.5)
        elif event == "probe":
            assert breaker.probe(now) == (not before and not probing and now >= probe_at)
        elif event in ("answered", "unanswered") and probing:
            breaker.probed(event == "answered", now)
            bad, silent = (0, 0.0) if event == "answered" else (bad, silent)
            pause = 0.5 if event == "answered" else min(2 * pause, LIMITS.longest_pause)
            probe_at = now + pause
        probe_at = now + pause if opened else probe_at
        assert breaker.closed == ((before and not opened) or (event == "answered" and probing))
        assert not (breaker.closed and breaker.probing)
        assert breaker.opened >= opened


def test_after_each_silence_a_decode_may_take_twice_as_long_until_one_is_answered() -> None:
    breaker, now, opened = Breaker(LIMITS), 0.0, []
    for _ in range(3):
        looks = 0
        while breaker.closed:
            looks += 1
            breaker.look(now, True, False, LIMITS.silence)
        opened.append(looks)
        breaker.probe(math.inf)
        breaker.probed(True, now)  # it answers a tiny prompt
    assert opened == [opened[0], 2 * opened[0], 4 * opened[0]]
    breaker.succeeded()
    looks = next(n for n in range(1, 1000) if breaker.look(now, True, False, LIMITS.silence))
    assert looks == opened[0]


def test_patience_is_much_longer_than_a_full_decode() -> None:
    limits = Liveness(silence=2.0, start=60.0)
    assert patience({}, 512, limits) == 2.0  # a server elsewhere
    assert patience({"tokens_per_second": 0.0}, 512, limits) == 60.0
    assert patience({"tokens_per_second": 1e5}, 512, limits) == 2.0
    assert patience({"tokens_per_second": 512.0}, 512, limits) == 10.0


def test_a_look_that_fails_does_not_end_the_guard(caplog: pytest.LogCaptureFixture) -> None:
    class Odd(FakeBackend):
        broken = True

        def stats(self) -> dict[str, float]:
            if self.broken:
                raise RuntimeError("no counters")
            return super().stats()

    inner = Odd(lambda ids: 0.5, 100)
    guarded = GuardedBackend(inner, Tokens(1, 2, None), 64, LIMITS)
    try:
        guarded.submit([Prompt((1,), (2,))]).result(10)
        until(lambda: "could not look" in caplog.text)
        inner.broken = False
        assert guarded._watch.is_alive()
    finally:
        guarded.close()


@pytest.mark.parametrize(
    ("reasons", "wanted"),
    [([], None), ([""], True), (["llm_error"], False), (["llm_error", ""], True), (["deadline", "queue_full"], None),
     (["deadline", "llm_error"], False), (["too_long"], None)],
)  # fmt: skip
def test_what_counts_as_success(reasons: list[str], wanted: bool | None) -> None:
    assert outcome(Answers.of(LlmAnswer(0.5, reason) for reason in reasons)) is wanted


class Inner:
    """A backend that does as it is told. `mode`: what becomes of a question; `lively`: every look finds work done."""

    def __init__(self) -> None:
        self.mode, self.asked, self.life, self.closed = "good", 0, 0.0, False
        self.forgotten = self.renewed = self.looks = 0
        self.lively = False
        self.held: list[Future[Answers]] = []

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        self.asked += 1
        future: Future[Answers] = Future()
        if self.mode == "raise":
            raise ValueError("the secret title")
        if self.mode == "hold":
            self.held.append(future)
        elif self.mode == "broken":
            future.set_exception(ValueError("the secret title"))
        else:
            reason = "" if self.mode == "good" else self.mode
            future.set_result(Answers.of(LlmAnswer(math.nan if reason else 0.5, reason) for _ in prompts))
        return future

    def forget(self) -> None:
        self.forgotten += 1

    def renew(self) -> None:
        self.renewed += 1

    def stats(self) -> dict[str, float]:
        self.looks += 1
        self.life += self.lively
        return {"prompts": self.life, "tokens_per_second": 1e6}

    def close(self) -> None:
        self.closed = True


QUICK = Liveness(failures=3, silence=0.2, renewal=2.0, look=0.02, first_pause=0.05, longest_pause=0.2, probe=0.2)
ROW = [Prompt((), (1,))]


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def guarded(inner: Inner) -> Iterator[GuardedBackend]:
    made = GuardedBackend(inner, Tokens(1, 2, None), 512, QUICK)
    yield made
    made.close()
    assert inner.closed


def reason(future: Future[Answers]) -> str:
    return future.result(20)[0].reason


def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("mode", ["llm_error", "broken", "raise"])
def test_after_some_failures_nothing_is_asked_until_a_probe_is_answered(
    guarded: GuardedBackend, inner: Inner, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    inner.mode = mode
    for _ in range(QUICK.failures):
        future = guarded.submit(ROW)
        assert future.exception(20) is not None if mode != "llm_error" else reason(future) == "llm_error"
    assert guarded.stats()["breaker_open"] == 1.0
    before, started = inner.asked, time.monotonic()
    for _ in range(1000):
        assert reason(guarded.submit(ROW, started + 60)) == "llm_error"
    probes = inner.asked - before
    assert probes <= 3 + (time.monotonic() - started) / QUICK.first_pause
    inner.mode = "good"
    until(lambda: guarded.stats()["breaker_open"] == 0.0)
    assert reason(guarded.submit(ROW)) == ""
    assert guarded.stats()["breaker_opened"] == 1.0
    assert "secret" not in caplog.text


def test_good_answers_between_keep_it_closed(guarded: GuardedBackend, inner: Inner) -> None:
    for number in range(30):
        inner.mode = "good" if number % 3 == 0 else "llm_error"
        guarded.submit(ROW).result(20)
    for inner.mode in ("deadline", "queue_full", "too_long"):
        assert [reason(guarded.submit(ROW)) for _ in range(9)] == [inner.mode] * 9
    assert guarded.stats()["breaker_opened"] == 0.0


def test_silence_ends_what_is_in_flight_at_once(guarded: GuardedBackend, inner: Inner) -> None:
    inner.mode = "hold"
    futures = [guarded.submit(ROW, time.monotonic() + 60) for _ in range(5)]
    assert {reason(future) for future in futures} == {"llm_error"}
    # What the inner one held is not wanted any more, and probes go on as long as they are not answered.
    assert all(future.cancelled() for future in inner.held[:5])
    assert reason(guarded.submit(ROW)) == "llm_error"
    until(lambda: len(inner.held) >= 6)
    inner.held[5].set_result(Answers.of([LlmAnswer(0.5)]))
    until(lambda: guarded.stats()["breaker_open"] == 0.0)
    inner.mode = "good"
    assert reason(guarded.submit(ROW)) == ""


def test_what_has_no_deadline_waits_through_a_silence_of_one_long_decode(inner: Inner) -> None:
    limits = replace(QUICK, renewal=1000.0)
    guarded, inner.mode = GuardedBackend(inner, Tokens(1, 2, None), 512, limits), "hold"
    patient, hasty = guarded.submit(ROW), guarded.submit(ROW, time.monotonic() + 60)
    assert reason(hasty) == "llm_error"
    assert guarded.stats()["breaker_open"] == 1.0
    assert reason(guarded.submit(ROW)) == "llm_error"  # nothing more is asked meanwhile
    assert not patient.done()
    inner.held[0].set_result(Answers.of([LlmAnswer(0.25)]))
    assert patient.result(20) == [LlmAnswer(0.25)]
    guarded.close()


def test_what_has_no_deadline_ends_when_the_llm_is_given_up(guarded: GuardedBackend, inner: Inner) -> None:
    inner.mode, started = "hold", time.monotonic()
    assert reason(guarded.submit(ROW)) == "llm_error"
    assert time.monotonic() - started >= QUICK.renewal * QUICK.silence - QUICK.look
    until(lambda: inner.renewed == 1)
    assert inner.held[0].cancelled()


def test_a_silence_that_goes_on_is_a_reason_to_start_again(guarded: GuardedBackend, inner: Inner) -> None:
    inner.mode = "hold"
    assert reason(guarded.submit(ROW)) == "llm_error"
    # Nobody asks any more; probes that nobody answers show that it is silent still.
    until(lambda: inner.renewed >= 2)
    for future in inner.held:
        if not future.done():
            future.set_result(Answers.of([LlmAnswer(0.5)]))
    until(lambda: guarded.stats()["breaker_open"] == 0.0)
    inner.mode, before = "good", inner.renewed
    for _ in range(20):
        assert reason(guarded.submit(ROW)) == ""
        inner.life += 1
        time.sleep(0.03)
    assert inner.renewed == before


def test_failures_are_no_silence(guarded: GuardedBackend, inner: Inner) -> None:
    inner.mode = "llm_error"
    started = time.monotonic()
    while time.monotonic() < started + 3 * QUICK.renewal * QUICK.silence:
        guarded.submit(ROW).result(20)
        inner.life += 1
        time.sleep(0.005)
    assert (guarded.stats()["breaker_open"], inner.renewed) == (1.0, 0)


def test_long_work_that_shows_signs_of_life_is_no_silence(guarded: GuardedBackend, inner: Inner) -> None:
    inner.mode, inner.lively = "hold", True
    future = guarded.submit(ROW)
    until(lambda: inner.looks > 2 * QUICK.renewal * QUICK.silence / QUICK.look)
    assert not future.done()
    inner.held[0].set_result(Answers.of([LlmAnswer(0.25)]))
    assert future.result(20) == [LlmAnswer(0.25)]


def test_nothing_asked_is_no_silence(guarded: GuardedBackend, inner: Inner) -> None:
    assert reason(guarded.submit(ROW)) == ""
    time.sleep(3 * QUICK.silence)
    assert guarded.stats()["breaker_opened"] == 0.0
    assert inner.asked == 1


def test_cancelling_reaches_the_inner_one(guarded: GuardedBackend, inner: Inner) -> None:
    inner.mode = "hold"
    future = guarded.submit(ROW)
    assert future.cancel()
    with pytest.raises(CancelledError):
        future.result(20)
    assert inner.held[0].cancelled()
    assert len(guarded._in_flight) == 0


def test_closing_joins_its_thread_and_refuses(inner: Inner) -> None:
    before = threading.active_count()
    guarded = GuardedBackend(inner, Tokens(1, 2, 3), 512, QUICK)
    guarded.forget()
    guarded.close()
    assert (threading.active_count(), inner.forgotten) == (before, 1)
    with pytest.raises(RuntimeError, match="closed"):
        guarded.submit(ROW)


def test_a_stopped_child_is_found_out_answered_for_and_taken_back(llama: Any, caplog: pytest.LogCaptureFixture) -> None:
    inner = ProcessBackend(llama.path, llama.tokens, LlmSettings(), Patience(ping=0.1))
    inner.wait_ready()
    limits = Liveness(silence=0.5, renewal=600.0, look=0.1, first_pause=0.1, longest_pause=0.3, probe=0.3)
    guarded = GuardedBackend(inner, llama.tokens, LlmSettings().batch, limits)
    assert [reason(guarded.submit([Prompt((10,), (11 + i,))])) for i in range(3)] == [""] * 3
    assert inner.pid is not None
    os.kill(inner.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    with caplog.at_level(logging.ERROR):
        assert reason(guarded.submit(ROW, stopped + 60)) == "llm_error"
    assert time.monotonic() - stopped < 30.0
    assert "it is silent" in caplog.text
    started = time.monotonic()
    assert {reason(guarded.submit(ROW, started + 60)) for _ in range(300)} == {"llm_error"}
    assert time.monotonic() - started < 30.0
    os.kill(inner.pid, signal.SIGCONT)
    until(lambda: guarded.stats()["breaker_open"] == 0.0)
    assert reason(guarded.submit(ROW)) == ""
    assert guarded.stats()["restarts"] == 0.0
    guarded.close()
