"""A context that answers nobody any more: it is replaced, and where that does not help, its process is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from corella_edge.errors import InputError
from corella_edge_runtime.llm.backends.process.backend import Patience, ProcessBackend
from corella_edge_runtime.llm.backends.thread import ThreadBackend
from corella_edge_runtime.llm.contract.backend import Liveness
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import Answers, BrokenError, Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.guard import GuardedBackend
from corella_edge_runtime.llm.llama.binding import Context, DecodeError
from corella_edge_runtime.llm.llama.scorer import FAILURES

FAULTS = Path(__file__).parents[3] / "benchmarks" / "faults"
ROWS = [Prompt(tuple(range(10, 30)), (40 + i, 41)) for i in range(3)]


def nan(self: Context, rows: Any, tokens: Any) -> list[list[float]]:
    return [[math.nan] * len(tokens) for _ in rows]


def fail(self: Context, rows: Any) -> None:
    raise DecodeError("llama_decode returned -3")


FAULT = pytest.mark.parametrize(("name", "fault"), [("logits", nan), ("decode", fail)])


class Spoiled:
    """A context of which one method fails; those made later are sound unless `all` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, scorer: Any, name: str, fault: Callable[..., Any]) -> None:
        self.first, self.all, self.name, self.fault = scorer._context, False, name, fault
        self._sound = getattr(Context, name)
        monkeypatch.setattr(Context, name, lambda context, *given: self(context, *given))

    def __call__(self, context: Context, *given: Any) -> Any:
        broken = self.all or context is self.first
        return self.fault(context, *given) if broken else self._sound(context, *given)


def reasons(answers: Any) -> list[str]:
    return [answer.reason for answer in answers]


@FAULT
def test_a_broken_context_is_made_anew_and_answers(
    make_scorer: Any, reference: Any, monkeypatch: pytest.MonkeyPatch, name: str, fault: Any
) -> None:
    scorer = make_scorer()
    expected = [reference.probability(prompt) for prompt in ROWS]
    Spoiled(monkeypatch, scorer, name, fault)
    found = [reasons(scorer.score(ROWS[:1])) for _ in range(FAILURES)]
    assert found == [["llm_error"]] * FAILURES
    assert scorer.counters.renewals == 1
    assert [answer.probability for answer in scorer.score(ROWS)] == pytest.approx(expected, abs=5e-3)
    assert scorer.counters.errors == FAILURES


def test_numbers_that_are_none_do_not_stay_in_the_cache(make_scorer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = make_scorer()
    scorer.score(ROWS)
    with monkeypatch.context() as patched:
        patched.setattr(Context, "logits", nan)
        scorer.score(ROWS[:1])
    assert (scorer.stats()["kept_prefixes"], scorer._trunk) == (0.0, ())
    assert [answer.evaluated for answer in scorer.score(ROWS[:1])] == [22]


@FAULT
def test_where_a_new_context_fails_too_it_is_said(
    make_scorer: Any, monkeypatch: pytest.MonkeyPatch, name: str, fault: Any
) -> None:
    scorer = make_scorer()
    Spoiled(monkeypatch, scorer, name, fault).all = True
    jobs = [Job(ROWS[:1]) for _ in range(FAILURES)]
    for job in jobs[:-1]:
        scorer.step([job])
    with pytest.raises(BrokenError):
        scorer.step(jobs[-1:])
    # Everyone was told before, and whoever asks a list at once gets reasons, no error.
    assert reasons(job.answers("busy")[0] for job in jobs) == ["llm_error"] * FAILURES
    assert set(reasons(scorer.score(ROWS * 3))) == {"llm_error"}


def test_where_there_is_no_memory_for_a_new_context_the_old_one_stays(
    make_scorer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = make_scorer()

    def no_memory() -> Context:
        raise InputError("no memory")

    context = scorer._context
    with monkeypatch.context() as patched:
        patched.setattr(scorer, "_make", no_memory)
        patched.setattr(Context, "logits", nan)
        scorer.score(ROWS[:1])
        scorer.score(ROWS[:1])
        with pytest.raises(BrokenError, match="no memory"):
            scorer.step([Job(ROWS[:1])])
    assert scorer._context is context
    assert reasons(scorer.score(ROWS)) == ["", "", ""]


def test_prompts_that_can_not_be_decoded_are_no_fault_of_the_context(make_scorer: Any) -> None:
    scorer, bad = make_scorer(), Prompt((5, 10**6), (7,))
    context = scorer._context
    assert reasons(scorer.score([bad, *ROWS])) == ["llm_error", "", "", ""]
    for _ in range(3 * FAILURES):
        assert reasons(scorer.score([bad])) == ["llm_error"]
    assert (scorer.counters.renewals, scorer._context) == (0, context)


def test_a_thread_whose_scorer_is_broken_goes_on_answering(
    make_scorer: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scorer, told = make_scorer(), []
    backend = ThreadBackend(lambda: scorer, LlmSettings(), lambda: told.append(1))
    with monkeypatch.context() as patched:
        patched.setattr(Context, "logits", nan)
        for _ in range(2 * FAILURES):
            assert reasons(backend.submit(ROWS[:1]).result(20)) == ["llm_error"]
        assert backend.submit(ROWS).result(20)
        assert told == [1, 1]
    assert reasons(backend.submit(ROWS).result(20)) == ["", "", ""]
    assert "broken" in caplog.text
    backend.close()


QUICK = Patience(ping=0.05, first_pause=0.05, longest_pause=0.3)


def until(true: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def first(future: Future[Answers]) -> str:
    return future.result(30)[0].reason


def test_a_child_whose_logits_are_no_numbers_gives_way_to_a_new_one(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = tmp_path / "nan"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FAULTS), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("CORELLA_EDGE_FAULT_NAN", str(flag))
    inner = ProcessBackend(llama.path, llama.tokens, LlmSettings(), QUICK)
    inner.wait_ready()
    backend = GuardedBackend(inner, llama.tokens, LlmSettings().batch, Liveness(first_pause=0.05, longest_pause=0.3))
    pid = inner.pid
    assert first(backend.submit(ROWS)) == ""
    flag.touch()
    seen = {first(backend.submit(ROWS)) for _ in range(20)}
    assert seen == {"llm_error"}
    until(lambda: inner.pid not in (pid, None))
    assert backend.stats()["breaker_opened"] == 1.0
    flag.unlink()
    until(lambda: first(backend.submit(ROWS)) == "")
    assert (backend.stats()["breaker_open"], backend.stats()["alive"]) == (0.0, 1.0)
    backend.close()
