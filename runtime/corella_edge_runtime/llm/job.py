"""Prompts of one caller on their way through the queue. Knows no llama_cpp."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.llm.contract import Answers, Prompt, Prompts

Places = npt.NDArray[np.integer[Any]]


class Job:
    """What one caller asked, and what is answered of it so far.

    Attributes:
        deadline: a time of `time.monotonic()`, as are the others.
        due: when its turn has come at the latest.
        result: what the caller has; cancelled, nobody waits.
        open: places of the prompts that have no answer yet, in order.
        alone: places of those that were in a decode that failed: the next one that holds them holds nothing else.
        begun: when the first decode for each prompt began; 0 = not yet.
    """

    __slots__ = ("_found", "alone", "arrived", "begun", "deadline", "due", "open", "prompts", "result", "tokens")

    def __init__(self, prompts: Sequence[Prompt], deadline: float | None = None, max_wait: float = math.inf) -> None:
        self.prompts = Prompts.of(prompts)
        self.deadline = deadline
        self.arrived = time.monotonic()
        self.due = min(self.arrived + max_wait, math.inf if deadline is None else deadline)
        self.tokens = self.prompts.tokens
        self.result: Future[Answers] = Future()
        self.open = list(range(len(self.prompts)))
        self.alone: set[int] = set()
        self.begun = np.zeros(len(self.prompts))
        self._found = Answers.none(len(self.prompts), "deadline")

    def expired(self) -> bool:
        """Nobody waits for it any more."""
        return self.result.cancelled() or (self.deadline is not None and time.monotonic() >= self.deadline)

    def begin(self, places: Places, now: float) -> None:
        """A decode works for these prompts."""
        begun = self.begun[places]
        self.begun[places] = np.where(begun, begun, now)

    def waited(self, places: Places) -> npt.NDArray[np.float64]:
        """Seconds from the arrival to the first decode for each of these prompts."""
        return np.maximum(0.0, self.begun[places] - self.arrived)

    def tell(self, places: Places, answers: Answers) -> None:
        """These prompts have their answers."""
        self._found.rows[places] = answers.rows
        # Another thread may end the job at any moment: what is no longer open has its answer.
        done = set(places.tolist())
        self.open = [place for place in self.open if place not in done]

    def refuse(self, places: Collection[int], reason: str) -> None:
        """These have none, for the same reason."""
        if len(places):
            self.tell(np.array([*places]), Answers.none(len(places), reason))

    def answers(self, reason: str) -> Answers:
        """One a prompt, in order; `reason` where there is none yet."""
        missing, rows = self.open, self._found.rows.copy()
        if missing:
            rows[missing] = Answers.none(1, reason).rows
        return Answers(rows)

    def finish(self, reason: str = "deadline") -> None:
        """Tell the caller; prompts without an answer get `reason`."""
        if self.result.set_running_or_notify_cancel():
            self.result.set_result(self.answers(reason))

    def fail(self, error: BaseException) -> None:
        if self.result.set_running_or_notify_cancel():
            self.result.set_exception(error)
