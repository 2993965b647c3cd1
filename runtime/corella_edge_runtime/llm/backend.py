"""Who computes the answers: the contract `submit(prompts, deadline) → scores`, and the thread that fulfils it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

from corella_edge_runtime.llm.answer import Answer, Prompt

if TYPE_CHECKING:
    from corella_edge_runtime.llm.scorer import YesNoScorer


class LlmBackend(Protocol):
    """Any thread may submit; the future's result has one answer a prompt, in order."""

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[list[Answer]]:
        """`deadline` is a time of `time.monotonic()`; prompts not answered by then get the reason "deadline"."""

    def stats(self) -> dict[str, float]:
        """Counters since the start."""

    def close(self) -> None:
        """Finish the work in hand, refuse the rest, free the model."""


@dataclass(frozen=True, slots=True)
class _Job:
    prompts: Sequence[Prompt]
    deadline: float | None
    result: Future[list[Answer]]

    def expired(self) -> bool:
        return self.result.cancelled() or (self.deadline is not None and time.monotonic() >= self.deadline)


class ThreadBackend:
    """One thread of this process owns the scorer; callers meet in its queue."""

    def __init__(self, make_scorer: Callable[[], YesNoScorer]) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._scorer = make_scorer()
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name="corella-llm", daemon=True)
        self._thread.start()

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[list[Answer]]:
        job = _Job(prompts, deadline, Future())
        with self._lock:
            if self._closed:
                raise RuntimeError("the LLM backend is closed")
            self._jobs.put(job)
        return job.result

    def stats(self) -> dict[str, float]:
        return {**asdict(self._scorer.counters), "queued": float(self._jobs.qsize())}

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        self._thread.join()
        self._scorer.close()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.result.set_running_or_notify_cancel():
                continue
            try:
                job.result.set_result(self._scorer.score(job.prompts, job.expired))
            except Exception as error:  # noqa: BLE001 - the owner must outlive any one job; the caller gets the error
                job.result.set_exception(error)
