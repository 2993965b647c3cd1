"""Who computes the answers: the contract `submit(prompts, deadline) → scores`, and the thread that fulfils it."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from corella_edge.errors import InputError
from corella_edge_runtime.llm.alarm import Alarm
from corella_edge_runtime.llm.answer import Answer, Prompt
from corella_edge_runtime.llm.packing import Ask

if TYPE_CHECKING:
    from corella_edge_runtime.llm.scorer import YesNoScorer


class LlmBackend(Protocol):
    """Any thread may submit; the future's result has one answer a prompt, in order."""

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[list[Answer]]:
        """`deadline` is a time of `time.monotonic()`; prompts not answered by then get the reason "deadline".

        Where too much waits already, all get the reason "queue_full" at once. Cancelling the future frees what
        has not been computed yet.
        """

    def stats(self) -> dict[str, float]:
        """Counters since the start."""

    def close(self) -> None:
        """Finish the work in hand, refuse the rest, free the model."""


class Job:
    """The prompts of one caller."""

    def __init__(self, prompts: Sequence[Prompt], deadline: float | None) -> None:
        self.result: Future[list[Answer]] = Future()
        self.asks = [Ask(prompt, deadline, self.result) for prompt in prompts]
        self.deadline = deadline
        self.tokens = tokens_of(prompts)

    def expired(self) -> bool:
        return self.result.cancelled() or (self.deadline is not None and time.monotonic() >= self.deadline)

    def finish(self, reason: str = "") -> None:
        """Tell the caller; prompts without an answer get `reason`."""
        if self.result.set_running_or_notify_cancel():
            self.result.set_result([ask.answer or Answer(math.nan, reason) for ask in self.asks])

    def fail(self, error: BaseException) -> None:
        if self.result.set_running_or_notify_cancel():
            self.result.set_exception(error)


def tokens_of(prompts: Sequence[Prompt]) -> int:
    """What prompts cost at most: each prefix once, each suffix."""
    return sum(map(len, {prompt.prefix for prompt in prompts})) + sum(len(prompt.suffix) for prompt in prompts)


def bind(cores: Sequence[int]) -> None:
    """Keep this thread, and those it starts, on some cores; none = where they are.

    Raises:
        InputError: a core that this process may not use.
    """
    try:
        if cores:
            os.sched_setaffinity(0, cores)
    except OSError as error:
        raise InputError(f"LLM settings, cores: {list(cores)} can not be used ({error.strerror})") from None


class ThreadBackend:
    """One thread of this process owns the scorer; callers meet in its queue, which is bounded in tokens.

    Args:
        make_scorer: called here, so that a model that can not be loaded is told at once.
        queue_tokens: prompts that wait or are at work, in tokens; beyond it a job is refused, unless none waits.
        cores: what the thread (and llama.cpp's own, which it starts) is bound to; empty = nothing.
    """

    def __init__(
        self, make_scorer: Callable[[], YesNoScorer], queue_tokens: int = 65536, cores: Sequence[int] = ()
    ) -> None:
        self._scorer = make_scorer()
        self._room, self._cores = queue_tokens, tuple(cores)
        self._ready = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._tokens, self._refused, self._expired = 0, 0, 0
        self._rate = 0.0
        self._closed = False
        self._at_work: Sequence[Ask] = ()
        self._alarm = Alarm(self._scorer.give_up)
        bound: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(bound,), name="corella-llm", daemon=True)
        self._thread.start()
        try:
            bound.result()
        except BaseException:
            self._alarm.close()
            self._scorer.close()
            raise

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[list[Answer]]:
        job = Job(prompts, deadline)
        with self._ready:
            if self._closed:
                raise RuntimeError("the LLM backend is closed")
            full = bool(self._jobs) and self._tokens + job.tokens > self._room
            if full:
                self._refused += 1
            else:
                self._jobs.append(job)
                self._tokens += job.tokens
                self._ready.notify()
        if full:
            job.finish("queue_full")
        else:
            job.result.add_done_callback(self._cancelled)
        return job.result

    def stats(self) -> dict[str, float]:
        own = {"queued": len(self._jobs), "queued_tokens": self._tokens, "refused": self._refused}
        return self._scorer.stats() | {name: float(value) for name, value in own.items()} | {
            "expired": float(self._expired), "tokens_per_second": self._rate,
        }  # fmt: skip

    def close(self) -> None:
        with self._ready:
            if self._closed:
                return
            self._closed = True
            self._ready.notify()
        self._thread.join()
        self._alarm.close()
        self._scorer.close()

    def _work(self, bound: Future[None]) -> None:
        try:
            bind(self._cores)
        except InputError as error:
            bound.set_exception(error)
            return
        bound.set_result(None)
        while jobs := self._next():
            try:
                self._step(jobs)
            except Exception as error:  # noqa: BLE001 - the owner must outlive any one job; the callers get the error
                self._end(_to_blame(jobs), error)
            self._settle()

    def _next(self) -> list[Job]:
        """The jobs that wait, oldest first; none when it is time to go."""
        with self._ready:
            self._ready.wait_for(lambda: self._jobs or self._closed)
            return list(self._jobs)

    def _step(self, jobs: list[Job]) -> None:
        """One decode for the first of `jobs`; given up when all whom it works for have gone."""
        live = [ask for job in jobs if not job.expired() for ask in job.asks]
        asks = [ask for ask in live if ask.answer is None and not self._scorer.refuses(ask)]
        if not asks:
            return
        before, started = self._scorer.counters.evaluated_tokens, time.monotonic()
        self._scorer.step(asks, self._rate, self._watch)
        tokens, seconds = self._scorer.counters.evaluated_tokens - before, time.monotonic() - started
        if tokens:
            self._rate = tokens / seconds if not self._rate else 0.8 * self._rate + 0.2 * tokens / seconds

    @contextmanager
    def _watch(self, asks: Sequence[Ask]) -> Iterator[None]:
        """Around a decode: end it at the last deadline of `asks`, or when the last of them is cancelled."""
        deadlines = [ask.deadline for ask in asks]
        last = None if None in deadlines else max(d for d in deadlines if d is not None)
        with self._ready:
            self._at_work = asks
            self._scorer.go_on()
        try:
            with self._alarm.at(last):
                yield
        finally:
            self._at_work = ()

    def _cancelled(self, result: Future[list[Answer]]) -> None:
        if result.cancelled():
            with self._ready:
                if self._at_work and all(ask.expired() for ask in self._at_work):
                    self._scorer.give_up()

    def _settle(self) -> None:
        """Tell the callers of jobs that are finished or expired, and forget the jobs."""
        with self._ready:
            ended = [job for job in self._jobs if job.expired() or all(ask.answer for ask in job.asks)]
        self._end(ended)

    def _end(self, jobs: Sequence[Job], error: BaseException | None = None) -> None:
        with self._ready:
            for job in jobs:
                self._jobs.remove(job)
                self._tokens -= job.tokens
                self._expired += any(ask.answer is None for ask in job.asks)
        for job in jobs:
            if error is None:
                job.finish("deadline")
            else:
                job.fail(error)


def _to_blame(jobs: Sequence[Job]) -> list[Job]:
    """Whom an unforeseen error is told: the job it struck when it was alone; before that, all are tried again alone."""
    struck = [job for job in jobs if any(ask.alone and ask.answer for ask in job.asks)]
    again = any(ask.alone for job in jobs for ask in job.asks)
    return struck if struck or again else list(jobs)
