"""What requests are put to: an engine in this process. `remote.OverHttp` is the other target.

Both take the bytes of a request and end with the bytes of its answer, so that reading and writing count in both.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import NoReturn, Protocol

import numpy as np

from corella_edge.request import Request
from corella_edge.request_message import read_request
from corella_edge.routing.reasons import KEPT
from corella_edge.scores import Scores, answer_json
from corella_edge.stopping import LOOK, Stopped, never
from corella_edge_runtime.bench.measure import machine
from corella_edge_runtime.bench.results.seen import Seen
from corella_edge_runtime.draft import Draft
from corella_edge_runtime.engine import Engine

SLEEP = 0.002  # seconds before a moment at which sleeping ends and looking at the clock begins


class Target(Protocol):
    """Something that ranks.

    Attributes:
        measured: what a latency counts, a sentence.
        controls: whether candidates can be routed at random, as a control.
    """

    measured: str
    controls: bool

    def ask(self, body: bytes) -> Seen:
        """One request, and wait for its answer."""

    def stream(
        self, bodies: Sequence[bytes], moments: Sequence[float], most: int | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[Seen]:  # fmt: skip
        """Requests at their moments, seconds from now, ascending, whatever became of those before; in their order.

        Args:
            most: requests that may be on their way at once; a further one waits, and its time counts.
            stop: whether somebody wants the end, asked several times a second.

        Raises:
            Stopped: somebody does. What is on its way is called off.
        """

    def at_random(self, share: float | None) -> None:
        """From now on a request without a threshold asks about such a share, drawn at random; None = as usual."""

    def forget(self) -> bool:
        """Drop what is kept of users; False where that cannot be asked for."""

    def llm_seconds(self) -> float | None:
        """Seconds that the LLM has been at work so far; None where nobody tells."""

    def memory(self) -> int | None:
        """Greatest resident bytes so far, with all processes of its own; None where nobody tells."""

    def close(self) -> None:
        """Give back what it opened by itself."""


@dataclass(slots=True)
class _OnTheWay:
    """A request that waits for the LLM. Times are of `time.monotonic()`."""

    place: int
    due: float
    request: Request
    draft: Draft
    seen: Seen


class InProcess:
    """An engine of this process, driven as the server's event loop drives it: one thread, the LLM beside it."""

    measured = "in process, from the bytes of a request to those of its answer; no HTTP"
    controls = True

    def __init__(self, engine: Engine) -> None:
        self.engine, self._own = engine, engine.policy
        # As `serve` does: going through all that a bundle holds would stop a request for tens of milliseconds.
        gc.collect()
        gc.freeze()

    def ask(self, body: bytes) -> Seen:
        due = time.monotonic()
        way = self._begin(0, body, due, 0.0)
        asking = way.draft.asking
        if asking is not None and asking.future is not None:
            wait([asking.future])
        return self._finish(way)

    def stream(
        self, bodies: Sequence[bytes], moments: Sequence[float], most: int | None = None,
        stop: Callable[[], bool] = never,
    ) -> list[Seen]:  # fmt: skip
        ended: SimpleQueue[_OnTheWay] = SimpleQueue()
        found: list[Seen | None] = [None] * len(bodies)
        open_: dict[int, _OnTheWay] = {}
        began, place = time.monotonic(), 0
        while place < len(bodies) or open_:
            if stop():
                _call_off(open_.values())
            free = place < len(bodies) and (most is None or len(open_) < most)
            way = _next(ended, began + moments[place] - time.monotonic() if free else LOOK)
            if way is not None:
                found[way.place] = self._finish(open_.pop(way.place))
            elif free and time.monotonic() >= began + moments[place]:
                way = self._begin(place, bodies[place], began + moments[place], moments[place])
                open_[place], place = way, place + 1
                _when_answered(way, ended)
        return [one for one in found if one is not None]

    def _begin(self, place: int, body: bytes, due: float, at: float) -> _OnTheWay:
        started = time.monotonic()
        request = read_request(body)
        parsed = time.monotonic()
        draft = self.engine.begin(request, refuses=False)
        waited = {"wait": started - due} if started - due > 1e-6 else {}
        return _OnTheWay(place, due, request, draft, Seen(at, None, stages={**waited, "parse": parsed - started}))

    def _finish(self, way: _OnTheWay) -> Seen:
        started = time.monotonic()
        scores = self.engine.finish(way.draft)
        fused = time.monotonic()
        answer_json(way.request, scores, self.engine.name)
        now, seen = time.monotonic(), way.seen
        seen.seconds = now - way.due
        seen.stages |= {**scores.trace.seconds, "fuse": fused - started, "serialise": now - fused}
        seen.stages["other"] = max(0.0, seen.seconds - sum(seen.stages.values()))
        count(seen, scores)
        return seen

    def at_random(self, share: float | None) -> None:
        self.engine.router.share = share or 0.0
        self.engine.policy = self._own if share is None else self.engine.parse_threshold("ratio:0")

    def forget(self) -> bool:
        self.engine.forget()
        return True

    def llm_seconds(self) -> float | None:
        return None if self.engine.llm is None else self.engine.stats().get("seconds")

    def memory(self) -> int | None:
        return machine.peak_memory()

    def close(self) -> None:
        """The engine is closed by who opened it."""


def rest(seconds: float) -> None:
    """Do nothing for a while. A sleep may end late, so that the last moments are waited for awake."""
    due = time.monotonic() + seconds
    if seconds > SLEEP:
        time.sleep(seconds - SLEEP)
    while time.monotonic() < due:
        pass


def _next(ended: SimpleQueue[_OnTheWay], patience: float) -> _OnTheWay | None:
    """A request whose LLM has ended; None if there is none until the next one is due, or for `LOOK` seconds. A sleep
    may end late, so that the last moments are waited for awake."""
    try:
        return ended.get(timeout=min(LOOK, patience - SLEEP)) if patience > SLEEP else ended.get_nowait()
    except Empty:
        return None


def _call_off(ways: Iterable[_OnTheWay]) -> NoReturn:
    """Raises Stopped: nobody waits for these any more."""
    for way in ways:
        way.draft.cancel()
    raise Stopped


def _when_answered(way: _OnTheWay, ended: SimpleQueue[_OnTheWay]) -> None:
    asking = way.draft.asking
    if asking is None or asking.future is None:
        ended.put(way)
    else:
        asking.future.add_done_callback(lambda _: ended.put(way))


def count(seen: Seen, scores: Scores) -> None:
    """Add what the scores say of the candidates."""
    seen.candidates, seen.routed = len(scores.items), int(np.count_nonzero(scores.routed))
    seen.evaluated, seen.reused = scores.trace.evaluated, scores.trace.reused
    if any(scores.reason):
        reasons = zip(scores.reason, scores.routed.tolist(), strict=True)
        seen.degraded = dict(Counter(reason for reason, routed in reasons if reason and not routed))
        seen.kept = scores.reason.count(KEPT)
