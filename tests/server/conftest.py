"""A ranker without models, and ways to put requests to the application without a socket."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from corella_edge.request import Request
from corella_edge.router import entropy, is_routed, parse_threshold
from corella_edge.scores import Scores
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.service import Limits, Service


class FakeRanker:
    """Scores by a checksum of the item id; `blocked` holds every request until it is set."""

    def __init__(self, delay: float = 0.0, error: Exception | None = None) -> None:
        self.name = "fake@1"
        self.warnings = ["no LLM: this is a fake"]
        self.delay, self.error = delay, error
        self.blocked = threading.Event()
        self.blocked.set()
        self.running = self.most_running = self.answered = 0
        self.times: list[float | None] = []
        self.warm = self.closed = False
        self._lock = threading.Lock()

    def rank(self, request: Request) -> Scores:
        with self._lock:
            self.running += 1
            self.times.append(request.timeout_ms)
            self.most_running = max(self.running, self.most_running)
        try:
            assert self.blocked.wait(20)
            time.sleep(self.delay)
            if self.error is not None:
                raise self.error
            return self._scores(request)
        finally:
            with self._lock:
                self.running -= 1
                self.answered += 1

    def _scores(self, request: Request) -> Scores:
        items = tuple(c.item for c in request.candidates) if request.candidates else ("a", "b", "c")
        crm = np.array([zlib.crc32(item.encode()) % 1000 / 999 for item in items])
        threshold = parse_threshold(0.6 if request.threshold is None else request.threshold, None)
        s = entropy(crm)
        wanted = is_routed(s, threshold.nats)
        mute = np.array([item.startswith("mute") for item in items])
        routed = wanted & ~mute
        reason = ["" if not w else "no_text" if m else threshold.unit for w, m in zip(wanted, mute, strict=True)]
        unknown = tuple(("item",) if item.startswith("new") else () for item in items)
        return Scores(items, crm, np.where(routed, 1 - crm, np.nan), s, routed, tuple(reason), unknown)

    def warm_up(self) -> None:
        self.warm = True

    def stats(self) -> dict[str, float]:
        return {"prompts": 7.0, "evaluated_tokens": 50.0, "reused_tokens": 20.0, "something_else": 1.0}

    def close(self) -> None:
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
        return httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test")

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
        site.service.close()


@pytest.fixture
def site(make_site: type[Site]) -> Site:
    return make_site()


@pytest.fixture
def fake_ranker() -> type[FakeRanker]:
    return FakeRanker
