"""The LLM side of one request: what is asked, in which order, and what is there at the deadline."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import ITEMS, make_bundle
from corella_edge.errors import ComputeError
from corella_edge.request import Candidate, Event, User
from corella_edge.scores import Trace
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.asking import Asking, Llm
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt

USER = User("u1", {}, tuple(Event(f"i{i}", 4.0) for i in range(4)))
UNTITLED = Candidate(f"i{ITEMS - 1}")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("asking") / "bundle")


@pytest.fixture(scope="module")
def llm(root: Path) -> Iterator[Llm]:
    with Engine.open(root, llm_threads=1, tuned=False) as engine:
        assert engine.llm
        yield engine.llm


class Held:
    """Answers when it is told to; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Sequence[Prompt]] = []
        self.futures: list[Future[Answers]] = []
        self.counters = {"decodes": 0.0, "evaluated_tokens": 0.0, "busy_seconds": 0.0}

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        self.asked.append(prompts)
        self.futures.append(Future())
        return self.futures[-1]

    def answer(self, answers: list[LlmAnswer], seconds: float = 0.0) -> None:
        """The last question, after one decode of so many seconds."""
        tokens = sum(len(prompt.suffix) for prompt in self.asked[-1])
        for name, value in zip(self.counters, (1.0, float(tokens), seconds), strict=True):
            self.counters[name] += value
        assert self.futures[-1].set_running_or_notify_cancel()
        self.futures[-1].set_result(Answers.of(answers))

    def forget(self) -> None:
        self.asked.clear()

    def stats(self) -> dict[str, float]:
        return dict(self.counters)

    def close(self) -> None: ...


@pytest.fixture
def held(llm: Llm) -> tuple[Llm, Held]:
    backend = Held()
    return Llm(llm.prompts, backend), backend


def candidates(number: int) -> list[Candidate]:
    return [Candidate(f"i{i}") for i in range(number)]


def test_a_real_answer_is_what_counts(held: tuple[Llm, Held]) -> None:
    llm, backend = held

    def prove(answer: LlmAnswer | None) -> str:
        """Why there is none, of a backend that answers so; None: it is silent."""
        submit = backend.submit

        def answered(prompts: Sequence[Prompt], deadline: float | None = None) -> Future[list[LlmAnswer]]:
            future = submit(prompts, deadline)
            if answer is not None:
                backend.answer([answer])
            return future

        backend.submit = answered  # type: ignore[method-assign]
        try:
            return llm.prove(0.05)
        finally:
            del backend.submit  # type: ignore[method-assign]

    assert prove(LlmAnswer(0.5)) == ""
    assert prove(LlmAnswer(math.nan, "llm_error")) == "llm_error"
    assert prove(None) == "deadline"
    (prompt,) = backend.asked[0]
    assert list(prompt.prefix) == llm.prompts.prefix(User())
    assert list(prompt.suffix) == llm.prompts.item(0)


@pytest.mark.parametrize(
    ("counted", "answers"),
    [
        ({}, False),
        ({"prompts": 0.0}, False),
        ({"prompts": 1.0}, True),
        ({"prompts": 1.0, "alive": 0.0}, False),
        ({"prompts": 1.0, "alive": 1.0, "breaker_open": 0.0}, True),
        ({"prompts": 1.0, "alive": 1.0, "breaker_open": 1.0}, False),
    ],
)
def test_who_answers(counted: dict[str, float], answers: bool, held: tuple[Llm, Held]) -> None:
    llm, backend = held
    backend.counters = counted
    assert llm.answers == answers


def test_one_that_is_required_and_loaded_but_silent_is_an_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Llm, "prove", lambda self: "llm_error")
    with pytest.raises(ComputeError, match=r"llm\.gguf: the LLM is loaded, but gives no answer \(llm_error\)"):
        Engine.open(root, llm_threads=1, tuned=False, require_llm=True)


def test_the_hardest_are_asked_first_and_answers_find_their_places(held: tuple[Llm, Held]) -> None:
    llm, backend = held
    asked = [*candidates(3), UNTITLED, Candidate("i7")]
    asking = llm.begin(USER, asked, np.array([0.2, 0.6, 0.4, 0.69, 0.6]), None)
    suffixes = [tuple(llm.prompts.suffix(asked[i]) or ()) for i in (1, 4, 2, 0)]
    assert [prompt.suffix for prompt in backend.asked[0]] == suffixes
    backend.answer([LlmAnswer(value) for value in (0.1, 0.4, 0.2, 0.0)])
    found = [(answer.probability, answer.reason) for answer in asking.answers()]
    assert [found[i] for i in (0, 1, 2, 4)] == [(0.0, ""), (0.1, ""), (0.2, ""), (0.4, "")]
    assert found[3][1] == "no_text"


def test_what_is_not_there_is_cancelled_and_stays_late(held: tuple[Llm, Held]) -> None:
    llm, backend = held
    started = time.monotonic()
    asking = llm.begin(USER, candidates(2), np.array([0.5, 0.6]), started + 60.0)
    assert (asking.deadline, asking.future) == (started + 60.0, backend.futures[0])
    assert [answer.reason for answer in asking.answers()] == ["deadline"] * 2
    assert backend.futures[0].cancelled()
    assert [answer.reason for answer in asking.answers()] == ["deadline"] * 2
    assert spent(asking) == Trace({"queue": 0.0, "prefill": 0.0})
    assert time.monotonic() - started < 10.0
    assert llm.stats()["waiting_seconds"] == 0.0


def test_a_future_that_is_at_work_is_not_waited_for(held: tuple[Llm, Held]) -> None:
    llm, backend = held
    asking = llm.begin(USER, candidates(1), np.array([0.5]), None)
    assert backend.futures[0].set_running_or_notify_cancel()
    assert [answer.reason for answer in asking.answers()] == ["deadline"]


def test_nothing_to_ask_has_nothing_to_wait_for(held: tuple[Llm, Held]) -> None:
    llm, backend = held
    for asking in (
        llm.begin(USER, [], np.array([]), None), llm.begin(USER, [UNTITLED], np.array([0.5]), None),
        llm.begin(USER, candidates(2), np.array([0.5, 0.5]), time.monotonic() - 1.0), llm.begin_prompts([], None),
    ):  # fmt: skip
        assert asking.future is None
        assert {answer.reason for answer in asking.answers()} <= {"no_text", "deadline"}
    assert backend.asked == []


def test_a_request_tells_what_it_cost(held: tuple[Llm, Held]) -> None:
    llm, backend = held
    asking = llm.begin(USER, candidates(3), np.array([0.3, 0.2, 0.1]), None)
    time.sleep(0.05)
    backend.answer([LlmAnswer(0.5, "", 90, 0, 0.02), LlmAnswer(0.5, "", 7, 80, 0.03), LlmAnswer(math.nan, "deadline")])
    asking.answers()
    trace = spent(asking)
    assert (trace.evaluated, trace.reused, trace.seconds["queue"]) == (97, 80, 0.02)
    assert 0.03 <= trace.seconds["prefill"] < 5.0
    time.sleep(0.02)
    assert spent(asking) == trace


def test_what_would_come_too_late_is_not_asked_and_the_hardest_is(held: tuple[Llm, Held]) -> None:
    llm, backend = held
    for _ in range(20):
        llm.begin(USER, candidates(30), np.ones(30), None)
        backend.answer([LlmAnswer(0.5)] * 30, seconds=3.0)
    hardness = np.linspace(0.1, 0.6, 30)
    asking = llm.begin(USER, candidates(30), hardness, time.monotonic() + 2.5)
    number = len(backend.asked[-1])
    assert 3 <= number <= 27
    backend.answer([LlmAnswer(0.5)] * number)
    reasons = [answer.reason for answer in asking.answers()]
    assert reasons == ["busy"] * (30 - number) + [""] * number
    assert llm.stats()["not_asked"] == 30 - number


def test_forgetting_makes_the_llm_compute_anew(llm: Llm) -> None:
    def evaluated() -> int:
        asking = llm.begin(USER, candidates(2), np.array([0.2, 0.1]), None)
        assert _reasons(asking) == {""}
        return spent(asking).evaluated

    first, again = evaluated(), evaluated()
    llm.forget()
    assert evaluated() == first > again + len(llm.prompts.prefix(USER)) - 1
    assert again == evaluated()


def spent(asking: Asking) -> Trace:
    trace = Trace()
    asking.tell(trace)
    return trace


def _reasons(asking: Asking) -> set[str]:
    """Of the answers, once they are all there."""
    assert asking.future is not None
    asking.future.result(20)
    return {answer.reason for answer in asking.answers()}


def test_a_stopped_child_holds_nobody_up(root: Path) -> None:
    with Engine.open(root, llm="process", llm_threads=1, tuned=False) as engine:
        assert engine.llm
        llm, inner = engine.llm, engine.llm.backend.inner  # type: ignore[attr-defined]
        assert _reasons(llm.begin(USER, candidates(3), np.ones(3), None)) == {""}
        os.kill(inner.pid, signal.SIGSTOP)
        late = [_late(llm) for _ in range(10)]
        os.kill(inner.pid, signal.SIGCONT)
        # The best of them: a busy machine may wake anybody late.
        assert min(late) < 0.005
        assert llm.stats()["waiting_seconds"] == llm.stats()["waiting"] == 0.0


def _late(llm: Llm) -> float:
    """Seconds after its deadline at which a future ends by itself."""
    ended: list[float] = []
    deadline = time.monotonic() + 0.05
    asking = llm.begin(USER, candidates(3), np.ones(3), deadline)
    assert asking.future is not None
    asking.future.add_done_callback(lambda _: ended.append(time.monotonic()))
    assert {answer.reason for answer in asking.future.result(20)} == {"deadline"}
    while not ended:
        time.sleep(0.001)
    return ended[0] - deadline


class AtOnce(Held):
    """Has answered, after some work, before the asking thread goes on."""

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        found = super().submit(prompts, deadline)
        time.sleep(0.05)
        self.answer([LlmAnswer(0.5, evaluated=9)] * len(prompts))
        return found


def test_work_that_is_done_before_the_asker_goes_on_counts(llm: Llm) -> None:
    asking = Llm(llm.prompts, AtOnce()).begin(USER, [Candidate("i1")], np.ones(1), None)  # type: ignore[arg-type]
    asking.answers()
    trace = Trace()
    asking.tell(trace)
    assert trace.seconds["queue"] + trace.seconds["prefill"] >= 0.05


def test_an_asking_of_its_own_is_easy_to_make() -> None:
    made: Any = Asking(Answers.of([LlmAnswer(0.5), LlmAnswer(math.nan, "busy")]))
    assert [answer.reason for answer in made.answers()] == ["", "busy"]
