"""Which prompts of a request are asked at all: those that will be answered in time, as far as one can tell.

Whatever is let through is a promise: so many seconds of work, due then. New work gets the time that the promises leave.
"""

from __future__ import annotations

import math
import threading
from bisect import bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress

import numpy as np

from corella_edge_runtime.llm.contract.cost import TRIAL, Cost, Meter
from corella_edge_runtime.llm.contract.deadline import promised
from corella_edge_runtime.llm.contract.messages import Answers, Prompts, TokenIds
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama.kept import KeptPrefixes
from corella_edge_runtime.llm.llama.packing import decodes_in

# Of the time until it is due: most that one who gives way gets, what is before it included. Of the queue, as well:
# most that all of them hold.
YIELDING = 0.5
_STATE = np.empty(0, np.uint8)


@dataclass(frozen=True, slots=True, order=True)
class AdmittedWork:
    """Work that was let through, in the order in which it is worked on.

    Attributes:
        due: when its turn has come at the latest; its end, if that is nearer.
        number: which one it was.
        end: when it has to be done: at its deadline, less a margin.
        yields: to what is due before it, even if it is late then.
        tokens: of work that yields, in the LLM's queue.
    """

    due: float
    number: int
    seconds: float
    end: float
    yields: bool = False
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Admitted:
    """How many of a request's prompts are asked, from the first; the others have `reason`."""

    prompts: int
    reason: str = ""
    promise: AdmittedWork | None = None


def plan(
    promised: Sequence[AdmittedWork], due: float, now: float, done: float, yields: bool = False
) -> tuple[float, float]:
    """When new work that is due at `due` would begin, and the seconds that those behind it can wait.

    Args:
        promised: sorted.
        done: seconds of theirs that are behind us.
        yields: it gives way to work that does not; that does not wait for it then.
    """
    place = bisect_right(promised, due, key=lambda promise: promise.due)
    ahead = sum(promise.seconds for promise in promised[:place]) - done
    begin, most = now + max(0.0, ahead), math.inf
    for promise in promised[place:]:
        ahead += promise.seconds
        if not promise.yields:
            most = min(most, promise.end - now - ahead)
        elif yields:
            most = min(most, YIELDING * (promise.end - now) - ahead)
    return begin, most


def seconds_for(
    promised: Sequence[AdmittedWork], due: float, end: float, now: float, done: float = 0.0, yields: bool = False
) -> float:
    """Seconds that new work may take, so that no promise is broken, this one included.

    Work that yields gets, with all before it, a share of the time until it is due.
    """
    begin, spare = plan(promised, due, now, done, yields)
    last = now + YIELDING * (due - now) if yields else end
    return min(last - begin, spare)


def fitting(number: int, cost: Callable[[int], float], most: float) -> int:
    """How many of `number` prompts take no more than `most`; `cost`: what so many of the first take, never falling."""
    if cost(number) <= most:
        return number
    return bisect_right(range(1, number), most, key=cost)


class Admission:
    """Keeps the account of what was let through. Any thread may call any method."""

    def __init__(self, settings: LlmSettings) -> None:
        self._settings = settings
        self._cost, self._meter = Cost(), Meter()
        self._seen = KeptPrefixes(0 if settings.deterministic else settings.kept_tokens)
        self._promised: list[AdmittedWork] = []
        self._moved = self._tried = 0.0
        self._number = self._not_asked = self._refused = 0
        self._lock = threading.Lock()

    def admit(self, prompts: Prompts, deadline: float | None, now: float, yields: bool = False) -> Admitted:
        """Decide, and promise what is let through; `ended` must follow. More than the LLM's queue holds never is.

        `yields`: as in `AdmittedWork`, for work with a deadline.
        """
        with self._lock:
            if not self._promised:
                self._moved = now
            self._seen.adapters = prompts.adapters
            found = self._open_end(prompts, now) if deadline is None else self._in_time(prompts, deadline, now, yields)
            if found.promise is not None:
                insort(self._promised, found.promise)
            return found

    def ended(
        self,
        promise: AdmittedWork,
        prompts: Prompts,
        answers: Answers,
        stats: Mapping[str, float],
        now: float,
    ) -> None:
        """The work is done or given up; learn from it. `answers` may be empty."""
        with self._lock:
            self._promised.remove(promise)
            self._moved = now
            observed = self._meter.read(stats)
            if observed is not None:
                self._cost.learn(*observed, now)
            if self._meter.renewed or answers.has("llm_error"):
                self._seen.clear()
            self._seen.adapters = prompts.adapters
            for name in set(compress(prompts.prefix, answers.answered.tolist())):
                if not self._seen.touch(prompts.prefixes[name]):
                    self._seen.put(prompts.prefixes[name], _STATE)

    def forget(self) -> None:
        """No prefix is kept any more."""
        with self._lock:
            self._seen.clear()

    def stats(self, now: float) -> dict[str, float]:
        """Prompts that were not asked, requests that were refused, seconds of work that wait or are in hand."""
        with self._lock:
            waiting = max(0.0, sum(promise.seconds for promise in self._promised) - self._done(now))
            return {"not_asked": float(self._not_asked), "refused": float(self._refused), "waiting_seconds": waiting}

    def _in_time(self, prompts: Prompts, deadline: float, now: float, yields: bool) -> Admitted:
        if deadline <= now:
            return Admitted(0, "deadline")
        end = promised(deadline, now)
        due = min(end, now + self._settings.max_wait)
        end = due if yields else end
        most = seconds_for(self._promised, due, end, now, self._done(now), yields)
        room = self._room(prompts, yields)
        news = self._news(prompts)
        number = fitting(room, lambda count: self._seconds(prompts, news, count, 1.0), most)
        if room and not number and self._may_try(now):
            number = 1
        self._not_asked += len(prompts) - number
        reason = "queue_full" if number == room < len(prompts) else "busy"
        if not number:
            return Admitted(0, reason)
        tokens = sum(_new_tokens(prompts[:number])) if yields else 0
        return Admitted(number, reason, self._promise(due, self._seconds(prompts, news, number), end, yields, tokens))

    def _open_end(self, prompts: Prompts, now: float) -> Admitted:
        """What the queue holds, or nothing. Half of the longest wait is left for those in a hurry who come later."""
        room = self._room(prompts)
        seconds = self._seconds(prompts, self._news(prompts), room)
        due = now + self._settings.max_wait
        begin, _ = plan(self._promised, due, now, self._done(now))
        if not room or (self._promised and begin - now > self._settings.max_wait / 2.0):
            self._refused += 1
            return Admitted(0, "queue_full")
        self._not_asked += len(prompts) - room
        reason = "queue_full" if room < len(prompts) else ""
        return Admitted(room, reason, self._promise(due, seconds, due + seconds))

    def _room(self, prompts: Prompts, yields: bool = False) -> int:
        """How many of the first the LLM's queue holds, if it is empty but for what yields as they do."""
        most: float = self._settings.queue_tokens
        if yields:
            most = YIELDING * most - sum(promise.tokens for promise in self._promised)
        news = _new_tokens(prompts)
        return len(news) if sum(news) <= most else bisect_right([*accumulate(news)], most)

    def _may_try(self, now: float) -> bool:
        """An LLM that seems too slow may no longer be."""
        idle = not self._promised and self._cost.stale(now) and now - self._tried > TRIAL
        if idle:
            self._tried = now
        return idle

    def _promise(self, due: float, seconds: float, end: float, yields: bool = False, tokens: int = 0) -> AdmittedWork:
        self._number += 1
        return AdmittedWork(due, self._number, seconds, end, yields, tokens)

    def _done(self, now: float) -> float:
        """Seconds of the promised work that are behind us: of what was begun when something last ended."""
        if not self._promised:
            return 0.0
        most = max(self._promised[0].seconds, self._cost.seconds(1, self._settings.batch))
        return min(now - self._moved, most)

    def _news(self, prompts: Prompts) -> list[int]:
        """Tokens that each prompt adds to what is kept of users."""
        return _new_tokens(prompts, lambda prefix: self._seen.find(prefix)[1])

    def _seconds(self, prompts: Prompts, news: Sequence[int], count: int, least: float = 0.0) -> float:
        """Seconds for the first `count` prompts, as a share of full decodes, and of at least so many."""
        packed = decodes_in(prompts.prefix[:count], news[:count], self._settings.batch)
        return self._cost.seconds(max(least, packed, count / self._settings.sequences), sum(news[:count]))


def _new_tokens(prompts: Prompts, kept: Callable[[TokenIds], int] = lambda prefix: 0) -> list[int]:
    """What each prompt adds: its suffix and, the first time, what of its prefix is not `kept`."""
    news = prompts.lengths.copy()
    for name in set(prompts.prefix):
        prefix = prompts.prefixes[name]
        news[prompts.prefix.index(name)] += len(prefix) - kept(prefix)
    return news
