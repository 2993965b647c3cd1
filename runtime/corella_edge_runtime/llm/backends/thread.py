"""A backend in this process: one thread owns llama.cpp's context."""

from __future__ import annotations

import importlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from corella_edge.errors import InputError
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.cost import Cost, Meter
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import Answers, BrokenError, Prompt
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.own_thread import claim

if TYPE_CHECKING:
    from corella_edge_runtime.llm.llama.scorer import YesNoScorer


_LOG = logging.getLogger("corella_edge.llm")


def open_backend(
    kind: str, model: ModelSpec, required: bool = False, warn: Callable[[str], None] | None = None
) -> ThreadBackend:
    """See `BackendModule`."""
    return thread_side(model)


def thread_side(spec: ModelSpec, on_broken: Callable[[], None] = lambda: None) -> ThreadBackend:
    """llama.cpp in a thread of this process; see `ThreadBackend`."""
    # Imported here: without an LLM, llama.cpp need not be installed.
    binding = importlib.import_module("corella_edge_runtime.llm.llama.binding")
    scorer = importlib.import_module("corella_edge_runtime.llm.llama.scorer")
    model = binding.Model(spec.file, extra=spec.extra, adapters=spec.adapters)
    return ThreadBackend(lambda: scorer.YesNoScorer(model, spec.tokens, spec.settings), spec.settings, on_broken)


def bind(cores: Sequence[int]) -> None:
    """Keep this thread, and those it starts, on some cores; none = where they are.

    Raises:
        InputError: a core that this process may not use.
    """
    try:
        if cores:
            os.sched_setaffinity(0, cores)
    except OSError as error:
        raise InputError(f"LLM settings, cores: {list(cores)} cannot be used ({error.strerror})") from None


class ThreadBackend:
    """One thread of this process owns the scorer; callers meet in its queue, which is bounded in tokens.

    What is due first is worked on first: at its deadline, or after `LlmSettings.max_wait` if that is sooner. At a
    deadline the caller is told what is there, whatever the thread is at.

    Args:
        make_scorer: called here, so that a model that cannot be loaded is told at once.
        settings: `queue_tokens`: prompts that wait or are at work, in tokens; beyond it a job is refused.
            `cores`: what the thread (and llama.cpp's own, which it starts) is bound to; empty = nothing.
        on_broken: called when the scorer can answer nobody any more.
    """

    def __init__(
        self,
        make_scorer: Callable[[], YesNoScorer],
        settings: LlmSettings | None = None,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._scorer = make_scorer()
        self._settings, self._on_broken = settings or LlmSettings(), on_broken
        self._ready = threading.Condition()
        self._jobs: deque[Job] = deque()
        self._tokens, self._refused, self._expired = 0, 0, 0
        self._cost, self._meter = Cost(), Meter()
        self._busy = 0.0
        self._stale = self._closed = False
        self._at_work: Sequence[Job] = ()
        self._alarm = _Alarm(self._overdue)
        self._note()
        bound: Future[None] = Future()
        self._thread = threading.Thread(target=self._work, args=(bound,), name="corella-llm", daemon=True)
        self._thread.start()
        try:
            bound.result()
        except BaseException:
            self._alarm.close()
            self._scorer.close()
            raise

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        job = Job(prompts, deadline, self._settings.max_wait)
        self._scorer.refuse(job)
        with self._ready:
            if self._closed:
                raise RuntimeError("the LLM backend is closed")
            full = self._tokens + job.tokens > self._settings.queue_tokens
            if full:
                self._refused += 1
            else:
                self._jobs.append(job)
                self._tokens += job.tokens
                self._ready.notify()
        if full:
            job.refuse(range(len(job.prompts)), "queue_full")
            job.finish()
        else:
            job.result.add_done_callback(self._cancelled)
            if deadline is not None:
                self._alarm.by(deadline)
        return job.result

    def forget(self) -> None:
        with self._ready:
            self._stale = True
            self._ready.notify()

    def renew(self) -> None:
        """A thread that hangs in llama.cpp cannot be ended: nothing."""

    def stats(self) -> dict[str, float]:
        """The scorer's counters as of its last decode, and those of the queue."""
        queued = {"queued": len(self._jobs), "queued_tokens": self._tokens}
        ended = {"refused": self._refused, "expired": self._expired}
        return self._noted | {name: float(value) for name, value in (queued | ended).items()}

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
        claim()
        try:
            bind(self._settings.cores)
        except InputError as error:
            bound.set_exception(error)
            return
        bound.set_result(None)
        while (jobs := self._next()) is not None:
            started = time.monotonic()
            try:
                self._step(jobs)
            except BrokenError as error:
                _LOG.error("the LLM's context is broken (%s)", error)
                self._on_broken()
            except Exception as error:  # noqa: BLE001 - the owner must outlive any one job; the callers get the error
                self._fail(_to_blame(jobs), error)
            # Before the callers are told: they may look at the counters.
            self._note(time.monotonic() - started)
            started = time.monotonic()
            self._settle()
            self._busy += time.monotonic() - started

    def _next(self) -> list[Job] | None:
        """The jobs that wait, as they are due; None when it is time to go. What is to be forgotten is, before."""
        with self._ready:
            self._ready.wait_for(lambda: self._jobs or self._closed or self._stale)
            stale, self._stale = self._stale, False
            jobs = None if self._closed and not self._jobs else sorted(self._jobs, key=lambda job: job.due)
        if stale:
            self._scorer.erase()
        return jobs

    def _step(self, jobs: list[Job]) -> None:
        """One decode for the first of `jobs`; given up when all whom it works for have gone."""
        if any(job.open for job in jobs):
            self._scorer.step((job for job in jobs if job.open and not job.expired()), self._cost, self._watch)

    def _note(self, seconds: float = 0.0) -> None:
        """Take down the counters after so much work, and learn from them what it costs."""
        self._busy += seconds
        counted = self._scorer.stats() | {"busy_seconds": self._busy}
        observed = self._meter.read(counted)
        if observed is not None:
            self._cost.learn(*observed, time.monotonic())
        full = self._cost.seconds(1, self._settings.batch)
        rate = self._settings.batch / full if full else 0.0
        self._noted = counted | {"tokens_per_second": rate}

    @contextmanager
    def _watch(self, jobs: Sequence[Job]) -> Iterator[None]:
        """Around a decode: it is given up when the last of `jobs` is cancelled or late."""
        with self._ready:
            self._at_work = jobs
            self._scorer.go_on()
            self._look()
        try:
            yield
        finally:
            # A look from now on must not give up what comes after this decode.
            with self._ready:
                self._at_work = ()

    def _cancelled(self, result: Future[Answers]) -> None:
        if result.cancelled():
            with self._ready:
                self._look()

    def _look(self) -> None:
        """Does anybody still wait for the decode at work?"""
        if self._at_work and all(job.expired() for job in self._at_work):
            self._scorer.give_up()

    def _overdue(self) -> float | None:
        """End the jobs whose deadline has come; when the next one does."""
        with self._ready:
            self._look()
            ended = self._take([job for job in self._jobs if job.expired()])
            following = min((job.deadline for job in self._jobs if job.deadline is not None), default=None)
        for job in ended:
            job.finish()
        return following

    def _settle(self) -> None:
        """Tell the callers of jobs that are finished or expired, and forget the jobs."""
        with self._ready:
            ended = self._take([job for job in self._jobs if job.expired() or not job.open])
        for job in ended:
            job.finish()

    def _fail(self, jobs: Sequence[Job], error: BaseException) -> None:
        with self._ready:
            ended = self._take([job for job in jobs if job in self._jobs])
        for job in ended:
            job.fail(error)

    def _take(self, jobs: list[Job]) -> list[Job]:
        """Out of the queue, and of its account."""
        for job in jobs:
            self._jobs.remove(job)
            self._tokens -= job.tokens
            self._expired += bool(job.open)
        return jobs


def _to_blame(jobs: Sequence[Job]) -> list[Job]:
    """Whom an unforeseen error is told: the job it struck when it was alone; before that, all are tried again alone."""
    struck = [job for job in jobs if job.alone.difference(job.open)]
    again = any(job.alone for job in jobs)
    return struck if struck or again else list(jobs)


class _Alarm:
    """Calls `ring` at the nearest of the times it was given; `ring` says when to come again (None = never).

    One thread for all of them, which begins with the first.
    """

    def __init__(self, ring: Callable[[], float | None]) -> None:
        self._ring = ring
        self._changed = threading.Condition()
        self._time = math.inf
        self._closed = False
        self._thread: threading.Thread | None = None

    def by(self, when: float) -> None:
        """Ring at `when`, a time of `time.monotonic()`, or before."""
        with self._changed:
            if when >= self._time or self._closed:
                return
            self._time = when
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="corella-llm-alarm", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while self._wait():
            again = self._ring()
            if again is not None:
                self.by(again)

    def _wait(self) -> bool:
        """Until it is time (True) or closed."""
        with self._changed:
            while not self._closed and (left := self._time - time.monotonic()) > 0.0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            self._time = math.inf
            return not self._closed
