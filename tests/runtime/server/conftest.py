"""A ranker without models, and ways to put requests to the application without a socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from corella_edge.history import GIVEN
from corella_edge.request import Request
from corella_edge.routing.forms import parse_threshold
from corella_edge.routing.measure import BY_ENTROPY, entropy, is_routed
from corella_edge.routing.policy import Routing
from corella_edge.scores import Scores, Trace
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.guard.limits import Limits
from corella_edge_runtime.server.service import Service


class FakeAsking:
    """A question to the fake's LLM."""

    def __init__(self, future: Future[None], deadline: float | None) -> None:
        self.future, self.deadline = future, deadline


@dataclass
class FakeDraft:
    request: Request
    asking: FakeAsking | None
    refusal: str

    def cancel(self) -> None:
        if self.asking is not None:
            self.asking.future.cancel()


class FakeRanker:
    """Scores by a checksum of the item id.

    `blocked` holds every LLM answer until it is set, `crm_blocked` every CRM score; `delay` is the LLM's.
    """

    def __init__(self, delay: float = 0.0, error: Exception | None = None) -> None:
        self.name = "fake@1"
        self.memory = (20, 5, None)
        self.llm: Any = None  # of those who ask it alone
        self.rating_scale: tuple[float, float] | None = None
        self.warnings = ["no LLM: this is a fake"]
        self.showcase: Any = None  # the tests of the page put a real one here
        self.control: Any = None
        self.routing = Routing()
        self.measure = BY_ENTROPY
        self.delay, self.error = delay, error
        self.blocked, self.crm_blocked = threading.Event(), threading.Event()
        self.blocked.set()
        self.crm_blocked.set()
        self.running = self.most_running = self.forgotten = 0
        self.times: list[float | None] = []
        self.history = ""  # what the latest request's was called
        self.warm = self.closed = False
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(64)

    def begin(
        self, request: Request, refusal: str = "", deadline: float | None = None, history: str = GIVEN
    ) -> FakeDraft:
        self.history = history
        left = None if deadline is None else 1000.0 * (deadline - time.monotonic())
        assert self.crm_blocked.wait(20)
        self.times.append(left)
        if self.error is not None:
            raise self.error
        self._scores(request, refusal, answered=False)
        asking = None if refusal else FakeAsking(self._pool.submit(self._ask), deadline)
        return FakeDraft(request, asking, refusal)

    def reads_words(self, request: Request) -> bool:
        return False

    def _ask(self) -> None:
        with self._lock:
            self.running += 1
            self.most_running = max(self.running, self.most_running)
        time.sleep(self.delay)
        assert self.blocked.wait(20)
        with self._lock:
            self.running -= 1

    def before_llm(self, draft: FakeDraft) -> Scores:
        return self._scores(draft.request, "pending", answered=False)

    def finish(self, draft: FakeDraft) -> Scores:
        done = draft.asking is None or draft.asking.future.done()
        return self._scores(draft.request, draft.refusal or ("" if done else "deadline"), answered=done)

    def rank(self, request: Request) -> Scores:
        return self._scores(request, "", answered=True)

    def forget(self, user: str | None = None) -> None:
        self.forgotten += 1

    def _scores(self, request: Request, refusal: str, answered: bool) -> Scores:
        items = tuple(c.item for c in request.candidates) if request.candidates else ("a", "b", "c")
        crm = np.array([zlib.crc32(item.encode()) % 1000 / 999 for item in items])
        threshold = parse_threshold(0.6 if request.threshold is None else request.threshold)
        s = entropy(crm)
        wanted = is_routed(s, threshold.threshold)
        mute = np.array([item.startswith("mute") for item in items])
        routed = wanted & ~mute & (answered and not refusal)
        why = refusal or threshold.reason
        reason = ["" if not w else "no_text" if m else why for w, m in zip(wanted, mute, strict=True)]
        unknown = tuple(("item",) if item.startswith("new") else () for item in items)
        trace = Trace({"encode": 0.001, "crm": 0.002}, 50, 20, threshold.threshold)
        return Scores(items, crm, np.where(routed, 1 - crm, np.nan), routed, tuple(reason), unknown, trace)

    def gate_inputs(self, request: Request, scores: Scores) -> dict[str, Any]:
        return {}

    def told(self) -> list[str]:
        return ["threshold ratio:0.05"]

    def warm_up(self) -> None:
        self.warm = True

    def know_cost(self) -> None:
        return None

    def stats(self) -> dict[str, float]:
        return {
            "prompts": 7.0,
            "evaluated_tokens": 50.0,
            "reused_tokens": 20.0,
            "something_else": 1.0,
            "exits:SIGILL": 2.0,
        }

    def close(self) -> None:
        self._pool.shutdown()
        self.closed = True


class Site:
    """The application around a fake, called in-process; `service` and `ranker` are open to the test."""

    def __init__(self, ranker: FakeRanker | None = None, limits: Limits | None = None, *, ready: bool = True) -> None:
        self.ranker = ranker or FakeRanker()
        self.service = Service(limits)
        if ready:
            self.service.serve(self.ranker)
        self.app = build_app(self.service)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://localhost")

    def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def once() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **options)

        return asyncio.run(once())

    def rank(self, body: object) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.call("POST", "/v1/rank", content=content)

    def metrics(self) -> str:
        return self.call("GET", "/metrics").text

    def watch(self) -> list[Request]:
        """The requests that reach the ranker from now on."""
        seen: list[Request] = []
        begin = self.ranker.begin

        def watched(request: Request, *more: Any) -> FakeDraft:
            seen.append(request)
            return begin(request, *more)

        self.ranker.begin = watched  # type: ignore[method-assign]
        return seen


@pytest.fixture
def make_site() -> Iterator[type[Site]]:
    made: list[Site] = []

    class Kept(Site):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            made.append(self)

    yield Kept
    for site in made:
        site.ranker.blocked.set()
        site.ranker.crm_blocked.set()
        site.ranker.close()
        site.service.close()


@pytest.fixture
def site(make_site: type[Site]) -> Site:
    return make_site()


@pytest.fixture
def fake_ranker() -> type[FakeRanker]:
    return FakeRanker
