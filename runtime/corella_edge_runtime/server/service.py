"""What the routes share: the engine once it is loaded, the threads it runs in, and the life cycle."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace

from corella_edge.request import Request
from corella_edge.scores import answer
from corella_edge_runtime.server.decode import parse_body
from corella_edge_runtime.server.metrics import Metrics
from corella_edge_runtime.server.ranker import Ranker
from corella_edge_runtime.server.recent import Recent


class NotReadyError(Exception):
    """Loading, draining, or full: the client may come back."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server takes on at once; anything beyond is refused at once rather than queued for ever."""

    worker_threads: int = 8
    waiting: int = 128
    body_bytes: int = 8 * 2**20
    body_seconds: float = 30.0


class Service:
    """One served bundle. All methods but `_answer` run in the event loop's thread."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.metrics, self.recent = Metrics(), Recent()
        self.ranker: Ranker | None = None
        self.draining = False
        self.in_flight = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._pool = ThreadPoolExecutor(self.limits.worker_threads, thread_name_prefix="rank")
        self.metrics.ready.set_function(lambda: float(self.ready))
        self.metrics.in_flight.set_function(lambda: float(self.in_flight))

    @property
    def ready(self) -> bool:
        """Whether to send traffic here: warmed up and not stopping."""
        return self.ranker is not None and not self.draining

    def serve(self, ranker: Ranker) -> None:
        """Answer with `ranker`, already warm, from now on."""
        self.ranker = ranker
        self.metrics.serving(ranker.name, ranker.stats)

    @contextmanager
    def admit(self) -> Iterator[Ranker]:
        """Hold a place among the requests in flight.

        Raises:
            NotReadyError: there is none; the message says why.
        """
        ranker = self.ranker
        if self.draining or ranker is None:
            raise NotReadyError("the server is stopping" if self.draining else "the bundle is still loading")
        if self.in_flight >= self.limits.worker_threads + self.limits.waiting:
            raise NotReadyError(f"{self.in_flight} requests are in flight, the most this server takes")
        self.in_flight += 1
        self._idle.clear()
        try:
            yield ranker
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle.set()

    async def rank(self, ranker: Ranker, body: bytes) -> bytes:
        """Answer one request. Parsing too runs in a worker: 8 MiB of JSON would hold up health checks."""
        arrived = time.monotonic()
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, ranker, body, arrived)

    def _answer(self, ranker: Ranker, body: bytes, arrived: float) -> bytes:
        request = _with_time_left(parse_body(body), arrived)
        scores = ranker.rank(request)
        self.metrics.scored(scores)
        self.recent.add(time.monotonic() - arrived, len(scores.items), int(scores.routed.sum()))
        result = answer(request, scores, ranker.name)
        return json.dumps(result, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8")

    async def drained(self) -> None:
        """Take no further requests; return when those in flight are answered."""
        self.draining = True
        await self._idle.wait()

    def close(self) -> None:
        """Release the worker threads; call it when nothing is in flight. The engine is its opener's to close."""
        self._pool.shutdown()


def _with_time_left(request: Request, arrived: float) -> Request:
    """The request with what the wait for a worker and the parsing have left of its time."""
    if request.timeout_ms is None:
        return request
    return replace(request, timeout_ms=max(0.0, request.timeout_ms - 1000.0 * (time.monotonic() - arrived)))
