"""Questions without an answer yet: whatever happens, each future in here is ended exactly once."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from concurrent.futures import Future

from corella_edge_runtime.llm.contract.deadline import overdue
from corella_edge_runtime.llm.contract.messages import Answers


class InFlight:
    """Futures by number, and when they are due. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[int, Future[Answers]]] = {}
        self._due: list[tuple[float, int]] = []
        self._numbers = itertools.count()

    def add(self, prompts: int, deadline: float | None) -> tuple[int, Future[Answers]]:
        future: Future[Answers] = Future()
        with self._lock:
            id = next(self._numbers)
            self._waiting[id] = (prompts, future)
            if deadline is not None:
                heapq.heappush(self._due, (deadline, id))
        return id, future

    def drop(self, id: int) -> bool:
        """Forget a cancelled one; False if it was answered before."""
        with self._lock:
            return self._waiting.pop(id, None) is not None

    def answer(self, id: int, answers: Answers) -> None:
        """One answer a prompt; any other number is an error of the other side. Nothing for one that has ended."""
        with self._lock:
            entry = self._waiting.pop(id, None)
        if entry is None:
            return
        prompts, future = entry
        _end(future, answers if len(answers) == prompts else Answers.none(prompts, "llm_error"))

    def fail(self, id: int, reason: str) -> None:
        """The same reason for all prompts of one question."""
        with self._lock:
            entry = self._waiting.pop(id, None)
        if entry is not None:
            _end(entry[1], Answers.none(entry[0], reason))

    def refuse(self, id: int, error: BaseException) -> None:
        """An exception in place of answers."""
        with self._lock:
            entry = self._waiting.pop(id, None)
        if entry is not None and entry[1].set_running_or_notify_cancel():
            entry[1].set_exception(error)

    def fail_all(self) -> None:
        """Nobody will answer any more."""
        with self._lock:
            ids = list(self._waiting)
        for id in ids:
            self.fail(id, "llm_error")

    def expire(self, now: float) -> float:
        """End those that are overdue; when the next one will be (inf = none has a deadline)."""
        late: list[int] = []
        with self._lock:
            while self._due and (overdue(self._due[0][0]) <= now or self._due[0][1] not in self._waiting):
                late.append(heapq.heappop(self._due)[1])
            following = overdue(self._due[0][0]) if self._due else math.inf
        for id in late:
            self.fail(id, "deadline")
        return following

    def __len__(self) -> int:
        return len(self._waiting)


def _end(future: Future[Answers], answers: Answers) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(answers)
