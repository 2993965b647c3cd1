"""What the routes share: the loaded versions, the store, the threads, and the course of one ranking."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.exceptions import HTTPException

from corella_edge.request import Request
from corella_edge.scores import Scores, answer
from corella_edge_runtime.server.clock import Clock
from corella_edge_runtime.server.fleet import Fleet, Held
from corella_edge_runtime.server.limits import INLINE_CANDIDATES, Limits
from corella_edge_runtime.server.metrics import Metrics
from corella_edge_runtime.server.ranker import Draft, Ranker

T = TypeVar("T")
BLOCKING_THREADS = 16
# What a `strict` request takes for an error, and its status.
LATE, FAILED = frozenset({"deadline", "busy"}), frozenset({"queue_full", "llm_error", "no_llm"})


class NotReadyError(Exception):
    """Loading, draining, or full: the client may come back."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A request, what was found out about its candidates, and the `name@version` that found it."""

    request: Request
    scores: Scores
    bundle: str

    def answer(self) -> dict[str, Any]:
        """The JSON answer, as decoded."""
        return answer(self.request, self.scores, self.bundle)

    def body(self) -> bytes:
        """The JSON answer."""
        text = json.dumps(self.answer(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8")


@dataclass(slots=True)
class Ranking:
    """A request that the CRM has scored and that the LLM may be at work on."""

    request: Request
    held: Held
    draft: Draft
    clock: Clock

    def before_llm(self) -> Ranked:
        """By the CRM alone."""
        return Ranked(self.request, self.held.ranker.before_llm(self.draft), self.held.label)

    async def answered(self) -> None:
        """Until the LLM has answered, or the deadline. Holds no thread."""
        asking = self.draft.asking
        if asking is not None and asking.future is not None:
            await until(asking.future, asking.deadline)
        self.clock.skip()

    def finish(self) -> Ranked:
        """With what the LLM has answered by now.

        Raises:
            HTTPException: the request is strict, and it has not.
        """
        scores = self.held.ranker.finish(self.draft)
        if self.request.strict:
            _check_strict(scores)
        return Ranked(self.request, scores, self.held.label)


class Service:
    """One server's state. Its methods run in the event loop's thread, unless they say otherwise."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.metrics = Metrics()
        self.fleet = Fleet()
        self.draining = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        # For what waits on disks; for what is too large for the event loop.
        self.pool = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="blocking")
        self.workers = ThreadPoolExecutor(self.limits.worker_threads, thread_name_prefix="rank")
        self.metrics.ready.set_function(lambda: float(self.ready))
        self.metrics.in_flight.set_function(lambda: float(self.in_flight))

    @property
    def ranker(self) -> Ranker | None:
        """The live version, once it is loaded."""
        return self.fleet.live

    @property
    def ready(self) -> bool:
        """Whether to send traffic here: warmed up and not stopping."""
        return self.ranker is not None and not self.draining

    def serve(self, ranker: Ranker) -> None:
        """Answer with `ranker`, already warm, from now on."""
        self.fleet.install(ranker)
        self.metrics.serving(ranker.name, ranker.stats)

    def check_ready(self) -> None:
        """Raises NotReadyError, which says why."""
        if not self.ready:
            raise NotReadyError("the server is stopping" if self.draining else "the bundle is still loading")
        if self.in_flight >= self.limits.requests:
            raise NotReadyError(f"{self.in_flight} requests are in flight, the most this server takes")

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Among the requests in flight."""
        self.check_ready()
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def ranked(self, request: Request, clock: Clock | None = None) -> Ranked:
        """From a request to its scores.

        Raises:
            InputError, NotReadyError. HTTPException: the request is strict and the LLM did not answer.
        """
        async with self.ranking(request, clock or Clock()) as ranking:
            await ranking.answered()
            done = ranking.finish()
        self.metrics.scored(done.scores)
        return done

    @asynccontextmanager
    async def ranking(self, request: Request, clock: Clock) -> AsyncIterator[Ranking]:
        """A request the CRM has scored; the version that did so stays loaded meanwhile. Raises as `ranked`."""
        with self._place(), self.fleet.hold(request.user.id) as held:
            request = self._with_time_left(request, clock)
            clock.skip()
            draft = await self.work(large(request), clock, "begin", held.ranker.begin, request, self._refusal())
            yield Ranking(request, held, draft, clock)

    async def work(self, heavy: bool, clock: Clock, step: str, function: Callable[..., T], *args: Any) -> T:
        """What `function` returns; in a worker thread if it would hold the event loop up."""
        if not heavy:
            result = function(*args)
            clock.lap(step)
            return result
        loop = asyncio.get_running_loop()
        result, inside = await loop.run_in_executor(self.workers, _timed, function, *args)
        clock.lap(step, inside)
        return result

    def _refusal(self) -> str:
        """So many requests wait for the LLM that more would cost others their place."""
        return "queue_full" if self.in_flight > max(1, self.limits.requests // 2) else ""

    def _with_time_left(self, request: Request, clock: Clock) -> Request:
        """The request with what the wait and the parsing have left of its time."""
        limit = self.limits.timeout_ms if request.timeout_ms is None else request.timeout_ms
        if limit is None:
            return request
        return replace(request, timeout_ms=max(0.0, limit - 1000.0 * (time.monotonic() - clock.arrived)))

    async def drained(self) -> None:
        """Take no further requests; return when those in flight are answered."""
        self.draining = True
        await self._idle.wait()

    def close(self) -> None:
        """Release the threads; call it when nothing is in flight. The engine is its opener's to close."""
        self.workers.shutdown()
        self.pool.shutdown()


def large(request: Request) -> bool:
    """Whether a request is too much work for the event loop; the whole catalogue is."""
    return request.candidates is None or len(request.candidates) > INLINE_CANDIDATES


async def until(future: Future[Any], deadline: float | None) -> None:
    """Wait for a future of another thread, at most until `deadline`; its exception is not raised here."""
    if future.done():
        return
    waiting = asyncio.wrap_future(future)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    left = None if deadline is None else max(0.0, deadline - time.monotonic())
    await asyncio.wait([waiting], timeout=left)


def _timed(function: Callable[..., T], *args: Any) -> tuple[T, float]:
    started = time.monotonic()
    return function(*args), time.monotonic() - started


def _check_strict(scores: Scores) -> None:
    reasons = set(scores.reason)
    if reasons & LATE:
        raise HTTPException(504, "the LLM did not answer all it was asked in time, and the request is strict")
    if reasons & FAILED:
        raise HTTPException(503, "the LLM is not available, and the request is strict", {"Retry-After": "1"})
