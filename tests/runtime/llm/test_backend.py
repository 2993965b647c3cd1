from __future__ import annotations

import math
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from corella_edge.errors import InputError
from corella_edge_runtime.llm.backends.thread import ThreadBackend
from corella_edge_runtime.llm.contract.cost import Cost
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import Answers, Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.scorer import Counters, YesNoScorer

EVERY_TYPE = pytest.mark.parametrize("model", ["F16", "Q8_0"], indirect=True, scope="session")


class Fake:
    """Answers one prompt a step with the first token of its suffix; waits for `go`; notes who called it."""

    def __init__(self) -> None:
        self.go, self.busy = threading.Event(), threading.Event()
        self.counters, self.threads, self.closed, self.given_up = Counters(), set(), False, 0

    def refuse(self, job: Job) -> None: ...

    def step(self, jobs: Iterable[Job], cost: Cost, watch: Any) -> None:
        assert not self.closed
        self.threads.add(threading.get_ident())
        job = next(iter(jobs))
        with watch([job]):
            self.busy.set()
            assert self.go.wait(20)
        place = job.open[0]
        value = job.prompts[place].suffix[0]
        if value == 666:
            if place in job.alone:
                job.refuse([place], "llm_error")
            job.alone.add(place)
            raise ValueError("broken prompt")
        job.tell([place], [(float(value), math.nan, 0.0, 0, 0, 0)])

    def stats(self) -> dict[str, float]:
        return {}

    def give_up(self) -> None:
        self.given_up += 1

    def go_on(self) -> None: ...

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


def value(future: Future[Answers]) -> float:
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
    fake.go.set()
    assert (value(first), value(third)) == (0.0, 2.0)
    with pytest.raises(CancelledError):
        second.result(20)


def test_a_decode_that_nobody_waits_for_is_given_up(fake: Fake, backend: Any) -> None:
    first, second = backend.submit(ask(1)), backend.submit(ask(2))
    assert fake.busy.wait(20)
    assert second.cancel()
    assert fake.given_up == 0  # it is not what is at work
    third = backend.submit(ask(3))
    assert first.cancel()
    assert fake.given_up == 1
    fake.go.set()
    assert value(third) == 3.0


def test_a_decode_is_given_up_at_the_last_of_the_deadlines(fake: Fake, backend: Any) -> None:
    now = time.monotonic()
    backend.submit(ask(0), now + 0.02)
    assert fake.busy.wait(20)
    while not fake.given_up:
        time.sleep(0.001)
    assert time.monotonic() >= now + 0.02
    fake.go.set()


def test_a_deadline_counts_from_the_submission(fake: Fake, backend: Any) -> None:
    now = time.monotonic()
    first, late, early = backend.submit(ask(0)), backend.submit(ask(1), now + 0.05), backend.submit(ask(2), now + 1000)
    assert fake.busy.wait(20)
    time.sleep(0.06)
    fake.go.set()
    assert late.result(20)[0].reason == "deadline"
    assert (value(first), value(early)) == (0.0, 2.0)


def test_a_queue_is_bounded_in_tokens(fake: Fake) -> None:
    backend = ThreadBackend(lambda: fake, LlmSettings(queue_tokens=10))  # type: ignore[arg-type, return-value]
    alone = backend.submit([Prompt((1,) * 30, (3,))])  # more than the queue holds, though nobody is before it
    assert [answer.reason for answer in alone.result(0)] == ["queue_full"]
    large = backend.submit([Prompt((1,) * 9, (3,))])
    assert fake.busy.wait(20)
    refused = backend.submit([Prompt((), (4,)), Prompt((), (5,))])
    assert [answer.reason for answer in refused.result(0)] == ["queue_full"] * 2
    assert (backend.stats()["queued_tokens"], backend.stats()["refused"]) == (10.0, 2.0)
    fake.go.set()
    assert value(large) == 3.0
    while backend.stats()["queued_tokens"]:
        time.sleep(0.001)
    shared = [Prompt((1,) * 6, (i,)) for i in (1, 2, 3)]  # 9 tokens: their prefix counts once
    assert [answer.probability for answer in backend.submit(shared).result(20)] == [1.0, 2.0, 3.0]
    backend.close()


def test_a_long_job_that_is_due_late_is_interrupted_for_one_that_is_due_soon(fake: Fake, backend: Any) -> None:
    done: list[int] = []
    step = fake.step

    def noting(jobs: Iterable[Job], cost: Cost, watch: Any) -> None:
        job = next(iter(jobs))
        done.append(job.prompts[job.open[0]].suffix[0])
        step([job], cost, watch)

    fake.step = noting  # type: ignore[method-assign]
    now = time.monotonic()
    long = backend.submit([Prompt((), (i,)) for i in range(100)], now + 600)
    assert fake.busy.wait(20)
    soon = backend.submit(ask(1000), now + 5)
    fake.go.set()
    assert value(soon) == 1000.0
    assert [answer.probability for answer in long.result(20)] == list(range(100))
    assert done == [0, 1000, *range(1, 100)]


def test_cores_that_can_not_be_used_are_told_at_once(fake: Fake) -> None:
    with pytest.raises(InputError, match=r"cores: \[4000\] cannot be used"):
        ThreadBackend(lambda: fake, LlmSettings(cores=(4000,)))  # type: ignore[arg-type, return-value]
    assert fake.closed


def test_an_error_reaches_its_caller_alone(fake: Fake, backend: Any) -> None:
    fake.go.set()
    bad, good = backend.submit(ask(666)), backend.submit(ask(1))
    with pytest.raises(ValueError, match="broken prompt"):
        bad.result(20)
    assert value(good) == 1.0


def test_closing_finishes_what_was_taken_and_refuses_the_rest(fake: Fake, backend: Any) -> None:
    taken = [backend.submit(ask(i)) for i in range(4)]
    assert fake.busy.wait(20)
    assert backend.stats()["queued"] == 4.0
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


def test_what_is_forgotten_on_demand_is_overwritten(make_scorer: Any) -> None:
    scorer = make_scorer()
    backend = ThreadBackend(lambda: scorer)
    try:
        backend.submit([Prompt((user,) * 20, (9,)) for user in range(1, 4)]).result(20)
        states = list(scorer._kept._states.values())
        assert len(states) == 2  # the third lies in the context
        backend.forget()
        backend.submit(ask(9)).result(20)  # it comes after
        assert not any(state.any() for state in states)
    finally:
        backend.close()


@EVERY_TYPE
def test_real_prompts_from_eight_threads(llama: Any, model: Any, prompts: Any, reference: Any) -> None:
    backend = ThreadBackend(lambda: YesNoScorer(model, llama.tokens))
    rows = {user: prompts(user, [user, 3 * user % 40, 39]) for user in range(12)}
    with ThreadPoolExecutor(8) as pool:
        futures = list(pool.map(lambda user: (user, backend.submit(rows[user])), [*rows] * 3))
    wait([future for _, future in futures], 60)
    for user, future in futures:
        expected = [reference.probability(prompt) for prompt in rows[user]]
        assert [answer.probability for answer in future.result(0)] == pytest.approx(expected, abs=reference.tolerance)
    assert backend.stats()["prompts"] == 36 * 3
    backend.close()


@EVERY_TYPE
@pytest.mark.parametrize("operations", [3_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_thousands_of_random_operations_leave_the_cache_consistent(
    llama: Any, model: Any, prompts: Any, reference: Any, operations: int
) -> None:
    made: list[YesNoScorer] = []

    def make() -> YesNoScorer:
        made.append(YesNoScorer(model, llama.tokens, LlmSettings(kept_tokens=300, batch=64), cells=256))
        return made[0]

    backend, draw = ThreadBackend(make, LlmSettings(queue_tokens=1000)), random.Random(5)
    rows = {user: prompts(user, range(user, user + 8)) for user in range(15)}
    expected = {user: [reference.probability(prompt) for prompt in rows[user]] for user in rows}
    waiting: list[tuple[int, int, Future[Answers]]] = []
    seen: Counter[str] = Counter()
    for _ in range(operations):
        kind = draw.random()
        if kind < 0.5 or not waiting:
            user, count = draw.randrange(15), draw.randint(1, 8)
            deadline = None if draw.random() < 0.5 else time.monotonic() + draw.random() * 0.01
            waiting.append((user, count, backend.submit(rows[user][:count], deadline)))
        elif kind < 0.6:
            draw.choice(waiting)[2].cancel()
        else:
            user, count, future = waiting.pop(draw.randrange(len(waiting)))
            if future.cancelled():
                seen["cancelled"] += 1
                continue
            for answer, p in zip(future.result(60), expected[user], strict=False):
                seen[answer.reason] += 1
                assert answer.reason in ("", "deadline", "queue_full")
                assert answer.reason or answer.probability == pytest.approx(p, abs=reference.tolerance)
    wait([future for _, _, future in waiting], 60)
    assert min(seen[reason] for reason in ("", "deadline", "cancelled", "queue_full")) > operations // 500
    stats, context = backend.stats(), made[0]._context
    assert (stats["queued"], stats["errors"]) == (0.0, 0.0)
    # All cells but the latest prefix's are free again, and everything still answers as at first.
    holders, trunk = made[0]._holders, len(made[0]._trunk)
    assert [context.length(s) for s in range(context.sequences)] == [
        trunk if s <= holders else 0 for s in range(context.sequences)
    ]
    for user in rows:
        found = backend.submit(rows[user]).result(60)
        assert [answer.probability for answer in found] == pytest.approx(expected[user], abs=reference.tolerance)
    backend.close()
