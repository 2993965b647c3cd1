"""What the routes share: the loaded versions, the store, the threads, and the course of one ranking."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.types import Receive

from corella_edge.errors import UnknownValueError
from corella_edge.history import GIVEN, STORED
from corella_edge.request import Features, Request
from corella_edge.routing.forms import lacks_cost
from corella_edge.routing.objective import Eased, Objective, observed
from corella_edge.routing.reasons import FAULT, KEPT, NoAnswer
from corella_edge.scores import Scores, answer_json
from corella_edge.selection import EVERYTHING
from corella_edge_runtime.decisions import DecisionLog, new_id
from corella_edge_runtime.llm.contract import deadline as deadlines
from corella_edge_runtime.server.clock import Clock, WayOut
from corella_edge_runtime.server.fleet import Fleet, Held
from corella_edge_runtime.server.following import Follower
from corella_edge_runtime.server.guard.leaving import unless_gone
from corella_edge_runtime.server.guard.limits import INLINE_CANDIDATES, INLINE_VALUES, Limits
from corella_edge_runtime.server.metrics import Metrics
from corella_edge_runtime.server.recent import Recent
from corella_edge_runtime.server.shadow import Shadow
from corella_edge_runtime.store.stock import StockFile
from corella_edge_runtime.store.users import UserStore

if TYPE_CHECKING:
    from corella_edge_runtime.draft import Draft
    from corella_edge_runtime.engine import Engine

T = TypeVar("T")
BLOCKING_THREADS = 16
PARSE = "parse"  # the step that has a thread of its own


class NotReadyError(Exception):
    """Loading, draining, or full: the client may come back."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """A request, what was found out about its candidates, and the `name@version` that found it."""

    request: Request
    scores: Scores
    bundle: str

    def body(self) -> bytes:
        """The JSON answer."""
        return answer_json(self.request, self.scores, self.bundle)


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

    async def answered(self, receive: Receive | None = None) -> None:
        """Until the LLM has answered, or the deadline. Holds no thread.

        Raises:
            ClientDisconnect: the client has left, as `receive` tells.
        """
        asking = self.draft.asking
        if asking is not None and asking.future is not None and not asking.future.done():
            self.clock.wait_for(asking.future, asking.deadline)
            waiting = until(asking.future, asking.deadline)
            await (waiting if receive is None else unless_gone(receive, waiting))
        self.clock.skip()

    def finish(self) -> Ranked:
        """With what the LLM has answered by now."""
        return Ranked(self.request, self.held.ranker.finish(self.draft), self.held.label)


class Service:
    """One server's state. Its methods run in the event loop's thread, unless they say otherwise."""

    def __init__(
        self, limits: Limits | None = None, store: UserStore | None = None, stock: StockFile | None = None,
        decisions: DecisionLog | None = None, shadow: Shadow | None = None, objective: Objective | None = None,
    ) -> None:  # fmt: skip
        """`store`, `stock` and `decisions` are their openers' to close. With `shadow` no request asks the LLM; with an
        `objective` less is asked while requests are late."""
        self.limits = limits or Limits()
        self.store, self.stock, self.decisions, self.shadow = store, stock, decisions, shadow
        self.fleet = Fleet()
        self.follower: Follower | None = None
        self.metrics, self.recent = Metrics(self.fleet), Recent()
        self.way_out = WayOut()
        self.draining = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        # For what waits on disks; for what is too large for the event loop.
        self.pool = ThreadPoolExecutor(BLOCKING_THREADS, thread_name_prefix="blocking")
        self.workers = ThreadPoolExecutor(self.limits.worker_threads, thread_name_prefix="rank")
        # Large bodies are parsed by one thread, so that they hold up each other and nobody else.
        self.readers = ThreadPoolExecutor(1, thread_name_prefix="parse")
        self.metrics.ready.set_function(lambda: float(self.ready))
        self.metrics.refused.set_function(lambda: float(self.refused))
        self.metrics.decisions_lost.set_function(lambda: float(self.decisions.lost if self.decisions else 0))
        self.metrics.store_lost.set_function(lambda: float(self.store is not None and bool(self.store.lost)))
        self.metrics.in_flight.set_function(lambda: float(self.in_flight))
        if shadow is not None:
            shadow.count = self.metrics.shadowed
        self._objective, self._eased = objective, Eased(since=time.monotonic())
        self.metrics.slo_factor.set_function(lambda: self._eased.factor)

    @property
    def ranker(self) -> Engine | None:
        """Of the live version, once it is loaded."""
        return self.fleet.live.ranker if self.fleet.live else None

    @property
    def ready(self) -> bool:
        """Whether to send traffic here: warmed up and not stopping."""
        return self.ranker is not None and not self.draining

    @property
    def refused(self) -> bool:
        """Whether something that the site asks for could not be loaded, or its file not be read."""
        return self.follower is not None and self.follower.state.refused is not None

    def serve(self, ranker: Engine, version: str = "") -> None:
        """Answer with `ranker`, already warm, from now on."""
        self.fleet.install(ranker, version or ranker.name)

    def check_ready(self) -> None:
        """Raises NotReadyError, which says why."""
        if not self.ready:
            raise NotReadyError("the server is stopping" if self.draining else "the bundle is still loading")
        if self.in_flight >= self.limits.requests:
            raise NotReadyError(f"{self.in_flight} requests are in flight, the most this server takes")

    @contextmanager
    def place(self) -> Iterator[None]:
        """Among the requests in flight. Raises NotReadyError."""
        self.check_ready()
        self.in_flight += 1
        self._idle.clear()
        try:
            yield
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def ranked(self, request: Request, clock: Clock, receive: Receive) -> Ranked:
        """From a request that has its `place` to its scores.

        Raises:
            InputError. HTTPException: the request is strict and the LLM did not answer. ClientDisconnect: the client
            has left.
        """
        with self.fleet.hold(request.user.id) as held:
            ranking = await self._ranking(request, held, clock)
            try:
                await ranking.answered(receive)
                return await self.finish(ranking)
            finally:
                ranking.draft.cancel()

    async def finish(self, ranking: Ranking) -> Ranked:
        """Take what the LLM has answered by now, and count it.

        Raises:
            HTTPException: the request is strict, and the LLM has not answered.
        """
        heavy = large(ranking.request)
        done = await self.work(heavy, ranking.clock, "finish", ranking.finish, held=ranking.held)
        took = time.monotonic() - ranking.clock.arrived
        # Of a catalogue every rank is there: what was chosen to be ranked tells of the traffic.
        told = ranking.request.candidates is not None and not done.scores.fallback
        ranker = ranking.held.ranker
        self.metrics.scored(done.scores, ranking.held.version, took, (ranker.routing, ranker.measure) if told else None)
        self.recent.add(took, len(done.scores.items), asked_of(done.scores))
        if self._objective is not None:
            self._eased = observed(self._eased, self._objective, took, time.monotonic())
            ranking.held.ranker.router.ease(self._eased.factor)
        if ranking.request.strict:
            _check_strict(done.scores)
        if self.shadow is None:
            self._log(done, ranking.held)
        else:
            self._beside(self.shadow, ranking, done)
        return done

    def _log(self, done: Ranked, held: Held) -> None:
        """Any thread may call it."""
        if self.decisions is not None:
            self.decisions.put(done.request, done.scores, done.bundle, know=held.ranker.gate_inputs)

    def _beside(self, shadow: Shadow, ranking: Ranking, done: Ranked) -> None:
        """Have a sample asked about after its answer; a decision is logged when that is known."""
        held, candidates = ranking.held, ranking.draft.slate.candidates
        begun = shadow.begin(held.ranker, done.request.user, candidates, done.scores, self.in_flight)
        if begun is None:
            self._log(done, held)
            return
        held.until(begun)
        begun.add_done_callback(lambda _: self._log(done, held))

    @asynccontextmanager
    async def ranking(self, request: Request, clock: Clock) -> AsyncIterator[Ranking]:
        """A request the CRM has scored; the version that did so stays loaded meanwhile. Raises InputError."""
        with self.fleet.hold(request.user.id) as held:
            ranking = await self._ranking(request, held, clock)
            try:
                yield ranking
            finally:
                ranking.draft.cancel()

    async def _ranking(self, request: Request, held: Held, clock: Clock) -> Ranking:
        """Whoever has it cancels its draft."""
        known = await self._completed(request, held.ranker, clock)
        history = GIVEN if known.user is request.user else STORED
        return Ranking(known, held, await self._begun(known, history, held, clock), clock)

    async def _begun(self, request: Request, history: str, held: Held, clock: Clock) -> Draft:
        clock.skip()
        await self._know_cost(request.threshold, held, clock)
        given = request, self._refusal(), self._deadline(request, clock), history
        try:
            heavy = large(request) or held.ranker.reads_words(request)
            return await self.work(heavy, clock, "begin", held.ranker.begin, *given, held=held)
        except UnknownValueError as error:
            self.metrics.unknown_refused(held.version, error.field)
            raise

    async def _know_cost(self, threshold: str | float | None, held: Held, clock: Clock) -> None:
        """Measure what asking costs where that was not known when the version was loaded, as its LLM did not answer."""
        llm = held.ranker.llm
        if llm is not None and lacks_cost(threshold, held.ranker.routing) and llm.answers:
            await self.work(True, clock, "cost", held.ranker.know_cost, held=held)

    async def work(
        self, heavy: bool, clock: Clock, step: str, function: Callable[..., T], *args: Any, held: Held | None = None
    ) -> T:
        """What `function` returns; in a worker thread if it would hold the event loop up.

        `held` is not closed before the thread is done, even if the request is given up meanwhile.
        """
        if not heavy:
            result = function(*args)
            clock.lap(step)
            return result
        running = (self.readers if step == PARSE else self.workers).submit(_timed, function, *args)
        if held is not None:
            held.until(running)
        result, inside = await asyncio.wrap_future(running)
        clock.lap(step, inside)
        return result

    async def _completed(self, request: Request, ranker: Engine, clock: Clock) -> Request:
        """With what the server knows: profile and history, what else the user has seen, and what is available."""
        if self.stock is not None and request.in_stock:
            request = replace(request, stock=self.stock.now)
        if self.decisions is not None and request.id is None:
            request = replace(request, id=new_id())
        user, store = request.user, self.store
        if store is None or user.id is None or not (user.bare or request.excludes_seen):
            return request
        clock.skip()
        seen = await self._stored(store.seen, user.id, ranker.memory[-1]) if request.excludes_seen else ()
        stored = None
        if user.bare:
            asked = (user.id, *ranker.memory)
            stored = store.recent(*asked) or await self._stored(store.user, *asked)
        clock.lap("store")
        return replace(request, user=stored or user, seen=seen)

    async def _stored(self, read: Callable[..., T], *args: Any) -> T:
        """What is read of the disk, without holding the event loop up."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, read, *args)

    def _refusal(self) -> str:
        """Asked in the shadow alone; or so many requests wait that more would cost others their place."""
        if self.shadow is not None:
            return NoAnswer.SHADOW
        return NoAnswer.QUEUE_FULL if self.in_flight > max(1, self.limits.requests // 2) else ""

    def _deadline(self, request: Request, clock: Clock) -> float | None:
        """When the LLM's part must end, so that the answer leaves in the time that the request has."""
        limit = self.limits.timeout_ms if request.timeout_ms is None else request.timeout_ms
        end = deadlines.of(limit, clock.arrived)
        return None if end is None or limit is None else end - self.way_out.of(limit / 1000.0)

    def written(self, clock: Clock) -> None:
        """An answer is written; how long that took after the LLM's part had ended shows what to keep for it."""
        ended = clock.waited_until()
        if ended is not None:
            self.way_out.seen(time.monotonic() - ended)

    async def forget(self, user_id: str) -> None:
        """Drop what the loaded versions remember of a user; of everybody where they do not tell users apart."""
        loop = asyncio.get_running_loop()
        for member in self.fleet.members:
            with self.fleet.kept(member):
                await loop.run_in_executor(self.pool, member.ranker.forget, user_id)

    async def drained(self) -> None:
        """Take no further requests; return when those in flight are answered."""
        self.draining = True
        await self._idle.wait()

    def close(self) -> None:
        """Release the threads when they are done; call it when nothing is in flight.

        May block. Versions and store are their openers' to close.
        """
        if self.shadow is not None:
            self.shadow.close()
        for pool in (self.readers, self.workers, self.pool):
            pool.shutdown()


def asked_of(scores: Scores) -> int:
    """How many candidates have a score of the LLM that it gave for this request."""
    return int(scores.routed.sum()) - scores.reason.count(KEPT)


def large(request: Request) -> bool:
    """Whether a request is too much work for the event loop; the whole catalogue is."""
    candidates = request.candidates
    if candidates is None or len(candidates.items) > INLINE_CANDIDATES or request.selection is not EVERYTHING:
        return True
    # How much of their own the candidates bring: values, and texts by their length.
    return bool(candidates.own) and sum(map(_values, candidates.own.values())) > INLINE_VALUES


def _values(features: Features) -> int:
    lists = (value if isinstance(value, list) else [value] for value in features.values())
    return sum(1 + len(value) // 64 if isinstance(value, str) else 1 for values in lists for value in values)


async def until(future: Future[Any], deadline: float | None) -> None:
    """Wait for a future of another thread, at most until `deadline`; its exception is not raised here."""
    if future.done():
        return
    waiting = asyncio.wrap_future(future)
    waiting.add_done_callback(lambda done: done.cancelled() or done.exception())
    await asyncio.wait([waiting], timeout=deadlines.seconds_to(deadline))


def _timed(function: Callable[..., T], *args: Any) -> tuple[T, float]:
    started = time.monotonic()
    return function(*args), time.monotonic() - started


def _check_strict(scores: Scores) -> None:
    why = NoAnswer.first(set(scores.reason), FAULT)
    if why is not None:
        raise unanswered(why, ", and the request is strict")


def unanswered(why: NoAnswer, more: str = "") -> HTTPException:
    """The error of a request that the LLM has not answered."""
    return HTTPException(why.status, why.text + more, {"Retry-After": "1"} if why.status == 503 else None)
