from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from corella_edge_runtime.llm.answer import Answer, Prompt
from corella_edge_runtime.llm.backend import ThreadBackend
from corella_edge_runtime.llm.scorer import Counters, YesNoScorer


class Fake:
    """Answers with the first token of the suffix; waits for `go`; notes who called it."""

    def __init__(self) -> None:
        self.go, self.busy = threading.Event(), threading.Event()
        self.counters, self.threads, self.closed = Counters(), set(), False

    def score(self, prompts: Sequence[Prompt], expired: Callable[[], bool]) -> list[Answer]:
        assert not self.closed
        self.threads.add(threading.get_ident())
        self.busy.set()
        assert self.go.wait(20)
        if any(prompt.suffix == (666,) for prompt in prompts):
            raise ValueError("broken prompt")
        return [Answer(float("nan"), "deadline") if expired() else Answer(float(p.suffix[0])) for p in prompts]

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def fake() -> Fake:
    return Fake()


@pytest.fixture
def backend(fake: Fake) -> Any:
    made = ThreadBackend(lambda: fake)  # type: ignore[arg-type, return-value]
    yield made
    fake.go.set()
    made.close()


def ask(value: int) -> list[Prompt]:
    return [Prompt((), (value,))]


def value(future: Future[list[Answer]]) -> float:
    return future.result(20)[0].probability


def test_every_caller_gets_its_own_answers_from_one_thread(fake: Fake, backend: Any) -> None:
    fake.go.set()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: [value(backend.submit(ask(100 * i + n))) for n in range(20)], range(8)))
    assert found == [[100 * i + n for n in range(20)] for i in range(8)]
    assert len(fake.threads) == 1
    assert fake.threads != {threading.get_ident()}


def test_a_cancelled_job_is_not_scored(fake: Fake, backend: Any) -> None:
    first, second, third = (backend.submit(ask(i)) for i in range(3))
    assert fake.busy.wait(20)
    assert second.cancel()
    assert not first.cancel()
    fake.go.set()
    assert (value(first), value(third)) == (0.0, 2.0)
    with pytest.raises(CancelledError):
        second.result(20)


def test_a_deadline_counts_from_the_submission(fake: Fake, backend: Any) -> None:
    now = time.monotonic()
    late, early = backend.submit(ask(1), now + 0.05), backend.submit(ask(2), now + 1000)
    time.sleep(0.06)
    fake.go.set()
    assert late.result(20)[0].reason == "deadline"
    assert value(early) == 2.0


def test_an_error_reaches_its_caller_alone(fake: Fake, backend: Any) -> None:
    fake.go.set()
    bad, good = backend.submit(ask(666)), backend.submit(ask(1))
    with pytest.raises(ValueError, match="broken prompt"):
        bad.result(20)
    assert value(good) == 1.0


def test_closing_finishes_what_was_taken_and_refuses_the_rest(fake: Fake, backend: Any) -> None:
    taken = [backend.submit(ask(i)) for i in range(4)]
    assert fake.busy.wait(20)
    assert backend.stats()["queued"] == 3.0
    closing = threading.Thread(target=backend.close)
    closing.start()
    while not backend._closed:
        time.sleep(0.001)
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(ask(9))
    assert not fake.closed
    fake.go.set()
    closing.join(20)
    assert not closing.is_alive()
    assert [value(future) for future in taken] == [0.0, 1.0, 2.0, 3.0]
    assert fake.closed
    backend.close()


def test_a_scorer_that_can_not_be_made_is_told_at_once() -> None:
    def fail() -> YesNoScorer:
        raise ValueError("no memory")

    with pytest.raises(ValueError, match="no memory"):
        ThreadBackend(fail)


def test_real_prompts_from_eight_threads(llama: Any, model: Any, prompts: Any, reference: Any) -> None:
    backend = ThreadBackend(lambda: YesNoScorer(model, llama.tokens, 1))
    rows = {user: prompts(user, [user, 3 * user % 40, 39]) for user in range(12)}
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda user: (user, backend.submit(rows[user])), [*rows] * 3))
    wait([future for _, future in futures], 60)
    for user, future in futures:
        expected = [reference.probability(prompt) for prompt in rows[user]]
        assert [answer.probability for answer in future.result(0)] == pytest.approx(expected, abs=5e-3)
    assert backend.stats()["prompts"] == 36 * 3
    backend.close()
