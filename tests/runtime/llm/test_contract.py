"""What every LLM backend promises, asked of all that are at hand. A real llama-server takes part where the variable
CORELLA_EDGE_LLAMA_SERVER or the PATH names one."""

from __future__ import annotations

import math
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corella_edge_runtime.llm.backends.thread import thread_side
from corella_edge_runtime.llm.contract.backend import LlmBackend, ModelSpec
from corella_edge_runtime.llm.contract.messages import Prompt
from corella_edge_runtime.llm.contract.settings import TOLERANCE, LlmSettings
from corella_edge_runtime.llm.guard import GuardedBackend
from corella_edge_runtime.opening import open_backend
from fake_llm import FakeBackend, serving

# All but the bare one are behind a breaker, as `open_backend` makes them.
KINDS = ["thread", "process", "bare", "fake", "llama-server", "sglang", "vllm", "real-llama-server"]
TOGETHER = TOLERANCE["F16"]
CONTEXT = 1024
SETTINGS = LlmSettings()


@pytest.fixture(scope="module")
def by_thread(llama: Any) -> Iterator[LlmBackend]:
    """What all others are compared with."""
    backend = open_backend("thread", ModelSpec(llama.path, llama.tokens, SETTINGS))
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def expected(by_thread: LlmBackend) -> Callable[[Any], list[float]]:
    return lambda rows: [answer.probability for answer in by_thread.submit(rows).result(60)]


@pytest.fixture(scope="module")
def kind(request: pytest.FixtureRequest, llama: Any, by_thread: LlmBackend) -> Iterator[Callable[[], LlmBackend]]:
    """kind() → a new backend of the kind."""
    with ExitStack() as stack:
        yield _opener(str(request.param), stack, llama, by_thread)


def _opener(name: str, stack: ExitStack, llama: Any, by_thread: LlmBackend) -> Callable[[], LlmBackend]:
    def score(ids: Any) -> float:
        return by_thread.submit([Prompt(tuple(ids[:-1]), tuple(ids[-1:]))]).result(60)[0].probability

    if name == "fake":
        return lambda: GuardedBackend(FakeBackend(score, 900), llama.tokens, SETTINGS.batch)
    if name == "bare":
        return lambda: thread_side(ModelSpec(llama.path, llama.tokens, SETTINGS))
    where = name
    if name in ("llama-server", "sglang", "vllm"):
        where = f"{name}+{stack.enter_context(serving(score, CONTEXT)).base}"
    if name == "real-llama-server":
        where = "llama-server+" + stack.enter_context(_Server(llama.path)).base
    return lambda: open_backend(where, ModelSpec(llama.path, llama.tokens, SETTINGS))


class _Server:
    """A real llama-server of one model."""

    def __init__(self, model: Path) -> None:
        found = os.environ.get("CORELLA_EDGE_LLAMA_SERVER") or shutil.which("llama-server")
        if not found:
            pytest.skip("no llama-server: CORELLA_EDGE_LLAMA_SERVER names none and none is on the PATH")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.base = f"http://127.0.0.1:{port}"
        options = f"--host 127.0.0.1 --port {port} -c 2048 -np 2 -t 1 --no-warmup --no-webui"
        self._command = [found, "-m", str(model), *options.split()]

    def __enter__(self) -> _Server:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(300):
            try:
                with urllib.request.urlopen(f"{self.base}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return self
            except (urllib.error.URLError, ConnectionError):
                assert self._process.poll() is None, f"{self._command[0]} ends at its start"
            time.sleep(0.1)
        raise AssertionError(f"{self._command[0]} does not get ready")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def backend(kind: Callable[[], LlmBackend]) -> Iterator[LlmBackend]:
    """One for all tests of a kind."""
    made = kind()
    yield made
    made.close()


@pytest.fixture(scope="module")
def rows(prompts: Any) -> list[Prompt]:
    """Prompts of five users, mixed."""
    mine = [prompts(user, [user, user + 9, user + 20]) for user in (3, 14, 7, 0, 12)]
    return [user[i] for i in range(3) for user in mine]


def long(length: int) -> tuple[int, ...]:
    return tuple(10 + i * 7 % 200 for i in range(length))


pytestmark = pytest.mark.parametrize("kind", KINDS, indirect=True, scope="module")


def test_answers_are_the_threads_in_the_order_of_the_prompts(backend: Any, rows: Any, expected: Any) -> None:
    answers = backend.submit(rows).result(60)
    assert [answer.reason for answer in answers] == [""] * len(rows)
    found = [answer.probability for answer in answers]
    assert found == pytest.approx(expected(rows), abs=TOGETHER)
    # It means something only if the model tells the prompts apart.
    assert max(found) - min(found) > 0.1
    again = [answer.probability for answer in backend.submit(rows[::-1]).result(60)]
    assert again[::-1] == pytest.approx(found, abs=TOGETHER)


def test_the_same_prompt_may_be_asked_twice(backend: Any, rows: Any, expected: Any) -> None:
    twice = [rows[0], rows[1], rows[0]]
    found = [answer.probability for answer in backend.submit(twice).result(60)]
    assert found == pytest.approx(expected(twice), abs=TOGETHER)


def test_the_share_of_the_whole_vocabulary_is_told_by_our_own(
    backend: Any, rows: Any, by_thread: Any, request: Any
) -> None:
    whole = [replace(prompt, whole=True) for prompt in rows[:3]]
    found = [answer.mass for answer in backend.submit([*whole, *rows[3:5]]).result(60)]
    told = [answer.mass for answer in by_thread.submit(whole).result(60)]
    assert all(-20 < mass < 0 for mass in told)
    if request.node.callspec.params["kind"] in ("thread", "process", "bare"):
        assert found[:3] == pytest.approx(told, abs=0.05)
        assert all(map(math.isnan, found[3:]))
    else:
        assert all(map(math.isnan, found))


def test_nothing_asked_nothing_answered(backend: Any) -> None:
    assert backend.submit([]).result(60) == []


def test_a_prompt_that_is_too_long_is_refused_alone(backend: Any, rows: Any, expected: Any) -> None:
    mixed = [rows[0], Prompt(rows[0].prefix, long(3000)), rows[1], Prompt(long(2900), long(100))]
    found = backend.submit(mixed).result(60)
    assert [answer.reason for answer in found] == ["", "too_long", "", "too_long"]
    assert math.isnan(found[1].probability)
    good = [found[0].probability, found[2].probability]
    assert good == pytest.approx(expected([rows[0], rows[1]]), abs=TOGETHER)


def test_a_job_larger_than_the_queue_is_refused_whole_though_nobody_waits(
    backend: Any, rows: Any, expected: Any
) -> None:
    half = long(SETTINGS.queue_tokens // 2)
    for deadline in (None, time.monotonic() + 600.0):
        found = backend.submit([rows[0], Prompt(half, (11,)), Prompt(half[1:], (11,))], deadline).result(10)
        assert [answer.reason for answer in found] == ["queue_full"] * 3
    after = backend.submit(rows[:1]).result(60)
    assert after[0].probability == pytest.approx(expected(rows[:1])[0], abs=TOGETHER)


def test_an_expired_deadline_is_told_at_once(backend: Any, rows: Any) -> None:
    found = backend.submit(rows, time.monotonic() - 1.0).result(10)
    assert [answer.reason for answer in found] == ["deadline"] * len(rows)
    assert all(math.isnan(answer.probability) for answer in found)


def test_a_near_deadline_ends_what_takes_longer(backend: Any, rows: Any, expected: Any) -> None:
    many = [Prompt(long(600)[i:], long(200 + i)[200:] or (11,)) for i in range(60)]
    found = backend.submit(many, time.monotonic() + 0.05).result(10)
    assert {answer.reason for answer in found} <= {"", "deadline"}
    assert found[-1].reason == "deadline"
    after = [answer.probability for answer in backend.submit(rows[:3]).result(60)]
    assert after == pytest.approx(expected(rows[:3]), abs=TOGETHER)


def test_cancelling_some_leaves_the_others(backend: Any, rows: Any, expected: Any) -> None:
    before = backend.stats()["prompts"]
    # What the others wait for: nobody is so slow to cancel that it would be done before.
    ahead = backend.submit([Prompt(long(800)[i:], (11,)) for i in range(20)])
    futures = [backend.submit(rows[i % 10 : i % 10 + 2]) for i in range(20)]
    assert all(future.cancel() for future in futures[::2])
    wait(futures[1::2], 60)
    for i in range(1, 20, 2):
        found = [answer.probability for answer in futures[i].result(0)]
        assert found == pytest.approx(expected(rows[i % 10 : i % 10 + 2]), abs=TOGETHER)
    assert {answer.reason for answer in ahead.result(60)} == {""}
    # What was cancelled was never computed.
    assert backend.stats()["prompts"] - before == 20 + 2 * len(futures[1::2])


def test_eight_threads_get_each_their_own(backend: Any, prompts: Any, expected: Any) -> None:
    asked = {user: prompts(user, [user, 3 * user % 40, 39]) for user in range(12)}
    with ThreadPoolExecutor(8) as pool:
        answered = list(pool.map(lambda user: (user, backend.submit(asked[user]).result(60)), [*asked] * 3))
    wanted = {user: expected(asked[user]) for user in asked}
    for user, answers in answered:
        assert [answer.probability for answer in answers] == pytest.approx(wanted[user], abs=TOGETHER)


def test_counters_are_numbers_and_grow(backend: Any, rows: Any) -> None:
    before = backend.stats()
    backend.submit(rows[:2]).result(60)
    after = backend.stats()
    assert all(type(value) in (int, float) for value in after.values())
    assert after["prompts"] == before["prompts"] + 2


def test_what_an_answer_cost_is_told_by_those_who_know(backend: Any, rows: Any) -> None:
    before = backend.stats()
    found = backend.submit([*rows, rows[0]]).result(60)
    after = backend.stats()
    for answer, prompt in zip(found, [*rows, rows[0]], strict=True):
        tokens = len(prompt.prefix) + len(prompt.suffix) if "evaluated_tokens" in after else 0
        assert answer.evaluated + answer.reused == tokens
        assert 0.0 <= answer.waited < 60.0
    if "evaluated_tokens" in after:
        for name, told in (("evaluated_tokens", "evaluated"), ("reused_tokens", "reused")):
            assert after[name] - before[name] == sum(getattr(answer, told) for answer in found)


def test_what_is_kept_is_forgotten_on_demand(backend: Any, rows: Any, expected: Any) -> None:
    backend.submit(rows).result(60)
    backend.forget()
    found = backend.submit(rows[:1]).result(60)
    assert [answer.probability for answer in found] == pytest.approx(expected(rows[:1]), abs=TOGETHER)
    if "evaluated_tokens" in backend.stats():
        assert found[0].evaluated == len(rows[0].prefix) + len(rows[0].suffix)


def test_closing_answers_what_was_asked_and_refuses_the_rest(kind: Any, rows: Any, expected: Any) -> None:
    backend = kind()
    taken = [backend.submit([prompt]) for prompt in rows[:4]]
    backend.close()
    found = [future.result(0)[0].probability for future in taken]
    assert found == pytest.approx(expected(rows[:4]), abs=TOGETHER)
    with pytest.raises(RuntimeError, match="closed"):
        backend.submit(rows)
    backend.close()
