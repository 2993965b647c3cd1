"""Clients that leave before their answer, over real sockets: their place and the LLM's work are given up."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import Future
from typing import Any

import pytest

from corella_edge.request import Request
from corella_edge_runtime.server.guard.connections import ConnectionLimits
from corella_edge_runtime.server.guard.limits import Limits
from sockets import PATIENCE, read_all, read_answer, serving, until
from sockets import Site as Served

SOON = ConnectionLimits(half_closed_seconds=0.3)
RANK = json.dumps({"user": {}, "candidates": [{"item": "a"}]}).encode()
CANDIDATES = {"name": "candidates", "datatype": "BYTES", "shape": [1], "data": ["a"]}
OIP = json.dumps({"inputs": [CANDIDATES]}).encode()
ASKED = [("/v1/rank", RANK), ("/v1/rank?mode=progressive", RANK), ("/v2/models/rank/infer", OIP)]


@pytest.fixture
def site(make_site: Any, fake_ranker: Any) -> Any:
    """Its LLM answers when a test says so; `ranker.futures` has what it was asked."""

    class Asked(fake_ranker):
        def begin(self, request: Request, refusal: str = "", deadline: float | None = None, *more: str) -> Any:
            draft = super().begin(request, refusal, deadline, *more)
            draft.asking.future = Future()
            self.futures.append(draft.asking.future)
            return draft

    ranker = Asked()
    ranker.futures = []
    return make_site(ranker, Limits(timeout_ms=None))


def ask(served: Served, site: Any, path: str, body: bytes) -> socket.socket:
    """A client that has asked; its answer waits for the LLM."""
    client = served.connect()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
    client.sendall(head.encode() + body)
    until(lambda: site.ranker.futures and site.service.in_flight == 1)
    return client


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_client_that_closes_frees_its_place_and_the_llm(site: Any, path: str, body: bytes) -> None:
    with serving(site.app, SOON) as served:
        ask(served, site, path, body).close()
        until(lambda: site.service.in_flight == 0)
        assert site.ranker.futures[0].cancelled()
        until(lambda: served.counters.open == 0)


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_a_client_that_has_said_its_last_gets_a_quick_answer(site: Any, path: str, body: bytes) -> None:
    with serving(site.app, ConnectionLimits(half_closed_seconds=PATIENCE)) as served:
        with ask(served, site, path, body) as client:
            client.shutdown(socket.SHUT_WR)
            time.sleep(0.1)
            site.ranker.futures[0].set_result(None)
            answer = read_all(client)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"event: final") == ("progressive" in path)
        until(lambda: site.service.in_flight == 0)


def test_a_client_that_waits_is_not_taken_for_gone(site: Any) -> None:
    with serving(site.app, SOON) as served, ask(served, site, "/v1/rank", RANK) as client:
        time.sleep(1.0)
        assert site.service.in_flight == 1
        site.ranker.futures[0].set_result(None)
        assert read_answer(client)[0] == 200
