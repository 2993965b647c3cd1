"""Prompts of one caller on their way through the queue. Knows no llama_cpp."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future

from corella_edge_runtime.llm.contract.messages import Answers, Prompt, Prompts, Row, no_answer


class Job:
    """What one caller asked, and what is answered of it so far.

    Attributes:
        deadline: a time of `time.monotonic()`, as are the others.
        due: when its turn has come at the latest.
        result: what the caller has; cancelled, nobody waits.
        open: places of the prompts that have no answer yet, in order.
        alone: places of those that were in a decode that failed: the next one that holds them holds nothing else.
        waited: seconds from the arrival to the first decode for each prompt; 0 before.
    """

    __slots__ = ("_rows", "alone", "arrived", "deadline", "due", "open", "prompts", "result", "tokens", "waited")

    def __init__(self, prompts: Sequence[Prompt], deadline: float | None = None, max_wait: float = math.inf) -> None:
        self.prompts = Prompts.of(prompts)
        self.deadline = deadline
        self.arrived = time.monotonic()
        self.due = min(self.arrived + max_wait, math.inf if deadline is None else deadline)
        self.tokens = self.prompts.tokens
        self.result: Future[Answers] = Future()
        self.open = list(range(len(self.prompts)))
        self.alone: set[int] = set()
        self.waited = [0.0] * len(self.prompts)
        self._rows = [no_answer("deadline")] * len(self.prompts)

    def expired(self) -> bool:
        """Nobody waits for it any more."""
        return self.result.cancelled() or (self.deadline is not None and time.monotonic() >= self.deadline)

    def begin(self, places: Iterable[int], now: float) -> None:
        """A decode works for these prompts."""
        for place in places:
            self.waited[place] = self.waited[place] or max(0.0, now - self.arrived)

    def tell(self, places: Sequence[int], rows: Iterable[Row]) -> None:
        """These prompts have their answers."""
        for place, row in zip(places, rows, strict=True):
            self._rows[place] = row
        # Another thread may end the job at any moment: what is no longer open has its answer.
        done = set(places)
        self.open = [place for place in self.open if place not in done]

    def refuse(self, places: Collection[int], reason: str) -> None:
        """These have no answer, all for the same reason."""
        if places:
            self.tell(list(places), [no_answer(reason)] * len(places))

    def answers(self, reason: str) -> Answers:
        """One a prompt, in order; `reason` where one is missing."""
        missing, found = self.open, self._rows.copy()
        for place in missing:
            found[place] = no_answer(reason)
        return Answers.of_rows(found)

    def finish(self, reason: str = "deadline") -> None:
        """Tell the caller; prompts without an answer get `reason`."""
        if self.result.set_running_or_notify_cancel():
            self.result.set_result(self.answers(reason))

    def fail(self, error: BaseException) -> None:
        if self.result.set_running_or_notify_cancel():
            self.result.set_exception(error)
