"""A sample of requests whose candidates are put to the LLM beside the answers: what it would have said, for the log.

No request waits for it: prompts are made in a thread of its own, one request at a time, and the LLM takes them last. It
has a budget of the LLM's time. Where that is used up, or requests or the LLM are busy, the sample goes without.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from corella_edge.adapters import weights_of
from corella_edge.request import Candidates, User
from corella_edge.scores import FloatArray, Scores

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine
    from corella_edge_runtime.llm.asking import Asking

Places = npt.NDArray[np.int64]
Count = Callable[[str, int], None]

LLM_SHARE = 0.1  # of the LLM's time
BURST = 2.0  # seconds of it that may be saved up
WAITING = 4  # requests that wait for their turn
CALM = 8  # requests in flight: with more of them the server is busy
MOST = 64  # candidates of one request
PATIENCE = 2.0  # seconds in which the LLM has to answer


class Allowance:
    """Seconds that may be spent: they come evenly, and are saved up to a bound. Time is passed in."""

    def __init__(self, rate: float, most: float, now: float) -> None:
        self.rate, self.most = rate, most
        self._left, self._at = most, now

    def left(self, now: float) -> float:
        """Seconds; negative where the last work took longer than was there."""
        self._left = min(self.most, self._left + self.rate * max(0.0, now - self._at))
        self._at = max(self._at, now)
        return self._left

    def spend(self, seconds: float, now: float) -> None:
        """They are gone, even if they were not there."""
        self._left = self.left(now) - seconds


def sample(n: int, share: float, rng: np.random.Generator, most: int = MOST) -> tuple[Places | None, FloatArray]:
    """Places int64 of a request's n candidates that are asked, ascending, None = it is not drawn; and the chance of
    each, float64 [n]. A request is drawn in whole, since its candidates share a prompt's beginning, up to `most`."""
    chance = np.full(n, share * min(1.0, most / max(1, n)))
    if not n or rng.random() >= share:
        return None, chance
    return (np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))), chance


def _uncounted(outcome: str, answers: int) -> None:
    """Where nobody wants to know."""


class Shadow:
    """Asks beside the requests. `begin` is of the event loop's thread.

    Attributes:
        share: of the requests that are drawn.
        count: told of every request that was drawn, by what became of it, and of the number of its answers.
    """

    def __init__(
        self, share: float, rng: np.random.Generator, clock: Callable[[], float] = time.monotonic,
        llm_share: float = LLM_SHARE,
    ) -> None:  # fmt: skip
        self.share = share
        self.count: Count = _uncounted
        self._rng, self._clock = rng, clock
        self._allowance = Allowance(llm_share, BURST, clock())
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._waiting, self._lock = 0, threading.Lock()
        self._asking: Asking | None = None
        self._closed = False

    def begin(
        self, ranker: Engine, user: User, candidates: Candidates, scores: Scores, in_flight: int
    ) -> Future[None] | None:
        """Draw, and ask if the request is drawn: the scores' `propensity` is known at once, their `shadow` when the
        future is done. None: there is nothing to wait for. Where a fallback ranks, or there is no LLM, nothing is asked
        and nothing left to chance."""
        if ranker.llm is None or scores.fallback:
            return None
        places, scores.propensity = sample(len(scores.items), self.share, self._rng)
        if places is None:
            return None
        refused = "busy" if in_flight > CALM else "full" if self._waiting >= WAITING else ""
        if refused or self._closed:
            self.count(refused or "full", 0)
            return None
        with self._lock:
            self._waiting += 1
        begun = self._pool.submit(self._ask, ranker, user, candidates, places, scores)
        begun.add_done_callback(self._leave)
        return begun

    def _leave(self, _: Future[None]) -> None:
        with self._lock:
            self._waiting -= 1

    def _ask(self, ranker: Engine, user: User, candidates: Candidates, places: Places, scores: Scores) -> None:
        started, llm = self._clock(), ranker.llm
        if llm is None or self._closed:
            return
        stats = llm.stats()
        busy = stats.get("waiting_seconds", 0.0) > 0.0 or stats.get("breaker_open", 0.0) > 0.0
        if busy or self._allowance.left(started) <= 0.0:
            self.count("busy" if busy else "budget", 0)
            return
        chosen = candidates.at(places.tolist())
        deadline = time.monotonic() + PATIENCE
        adapters = weights_of(scores.adapters)
        self._asking = llm.begin(user, chosen, np.zeros(len(places)), deadline, yields=True, adapters=adapters)
        if self._asking.future is not None:
            wait([self._asking.future], PATIENCE)
        scores.shadow = np.full(len(scores.items), np.nan)
        scores.shadow[places] = self._asking.answers().probability
        self._allowance.spend(self._clock() - started, self._clock())
        self.count("asked", int((~np.isnan(scores.shadow)).sum()))

    def close(self) -> None:
        """What waits is given up."""
        self._closed = True
        if self._asking is not None and self._asking.future is not None:
            self._asking.future.cancel()
        self._pool.shutdown()
