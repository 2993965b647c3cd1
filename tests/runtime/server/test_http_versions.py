"""Clients that offer another protocol, and clients of HTTP/1.0: answered by HTTP/1.1's rules, byte for byte.

These hold what `connections` builds on in uvicorn and httptools: a new version of theirs that differs fails here.
"""

from __future__ import annotations

import itertools
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from corella_edge_runtime.server.guard.connections import ConnectionLimits
from sockets import LOOPS, Site, read_all, read_answer, serving

BODY = b'{"user": {"id": "u1"}}'
OFFERS = {
    # As a JDK's HttpClient and `curl --http2` write it, and as a browser's WebSocket does.
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAA\r\n",
    "websocket": b"Upgrade: websocket\r\nconnection: keep-alive, upgrade\r\nSec-WebSocket-Key: x3JJHMbDL1EzLkh9\r\n",
    "tls": b"UPGRADE: TLS/1.2\r\nConnection: Upgrade\r\n",
}
BODIES = {
    "length": b"Content-Length: %d\r\n\r\n%s" % (len(BODY), BODY),
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n7\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n"
    % (BODY[:7], len(BODY) - 7, BODY[7:]),
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with what it was asked; /stream in two pieces of unknown length."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message["body"], message["more_body"]
    names = [name.decode() for name, _ in scope["headers"]]
    seen = {"path": scope["path"], "method": scope["method"], "body": body.decode(), "names": names}
    told = json.dumps(seen).encode()
    if scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": told, "more_body": True})
        await send({"type": "http.response.body", "body": b"end"})
        return
    empty = scope["path"] == "/empty"
    headers = [] if empty else [(b"Content-Length", str(len(told)).encode())]
    await send({"type": "http.response.start", "status": 204 if empty else 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if empty else told})


@pytest.fixture(params=LOOPS, scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with serving(app, ConnectionLimits(), request.param) as served:
        yield served


def post(path: str, version: str, *heads: bytes) -> bytes:
    return b"POST %s HTTP/%s\r\nHost: x\r\n" % (path.encode(), version.encode()) + b"".join(heads)


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("body", BODIES)
def test_an_offer_to_upgrade_is_passed_over(
    site: Site, offer: str, body: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), site.connect() as client:
        for path in ("/a", "/b"):
            client.sendall(post(path, "1.1", OFFERS[offer], BODIES[body]))
            status, told = read_answer(client)
            seen = json.loads(told)
            assert (status, seen["path"], seen["method"], seen["body"]) == (200, path, "POST", BODY.decode())
            assert "upgrade" not in seen["names"]
            assert "host" in seen["names"]
    assert caplog.messages == []


def test_a_head_and_its_chunks_in_segments_of_their_own_are_one_request(site: Site) -> None:
    head, _, chunks = BODIES["chunks"].partition(b"\r\n\r\n")
    with site.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(post("/a", "1.1", OFFERS["h2c"], head + b"\r\n\r\n"))
        time.sleep(0.1)
        client.sendall(chunks)
        assert json.loads(read_answer(client)[1])["body"] == BODY.decode()


def test_an_offer_without_a_body_is_answered_and_the_connection_kept(site: Site) -> None:
    with site.connect() as client:
        for _ in range(2):
            client.sendall(b"GET /a HTTP/1.1\r\nHost: x\r\n" + OFFERS["h2c"] + b"\r\n")
            assert json.loads(read_answer(client)[1])["method"] == "GET"


@pytest.fixture(scope="module")
def one_site() -> Iterator[Site]:
    with serving(app) as served:
        yield served


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from([*OFFERS, None]), st.sampled_from(list(BODIES))), min_size=1, max_size=60),
    st.lists(st.integers(0, 4000), max_size=6),
)
def test_requests_with_and_without_offers_are_answered_in_turn_however_they_are_cut(
    one_site: Site, requests: list[tuple[str | None, str]], cuts: list[int]
) -> None:
    raw = b"".join(
        post(f"/{i}", "1.1", OFFERS[offer] if offer else b"", BODIES[body]) for i, (offer, body) in enumerate(requests)
    )
    with one_site.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in itertools.pairwise(sorted({0, len(raw), *(cut % len(raw) for cut in cuts)})):
            client.sendall(raw[start:end])
        for i in range(len(requests)):
            seen = json.loads(read_answer(client)[1])
            assert (seen["path"], seen["body"]) == (f"/{i}", BODY.decode())


@pytest.mark.parametrize("version", ["0.9", "1.0"])
@pytest.mark.parametrize("more", [b"", b"Connection: keep-alive\r\n", OFFERS["h2c"]])
@pytest.mark.parametrize("path", ["/a", "/stream", "/empty"])
def test_nothing_is_chunked_for_an_old_version(site: Site, version: str, more: bytes, path: str) -> None:
    answer = site.ask(post(path, version, more, BODIES["length"]))
    head, _, told = answer.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert b"connection: close" in lines
    assert not any(line.startswith(b"transfer-encoding") for line in lines)
    if path == "/empty":
        assert (lines[0], told) == (b"http/1.1 204 no content", b"")
        return
    assert lines[0] == b"http/1.1 200 ok"
    assert any(line.startswith(b"content-length") for line in lines) is (path == "/a")
    end = b"end" if path == "/stream" else b""
    assert told.endswith(end)
    assert json.loads(told.removesuffix(end))["body"] == BODY.decode()


def test_an_old_version_is_not_told_to_continue(site: Site) -> None:
    assert site.ask(post("/a", "1.0", b"Expect: 100-continue\r\n", BODIES["length"])).startswith(b"HTTP/1.1 200")
    with site.connect() as client:
        client.sendall(post("/a", "1.1", b"Expect: 100-continue\r\n", BODIES["length"].partition(BODY)[0]))
        assert client.recv(100).startswith(b"HTTP/1.1 100")


def test_an_old_head_request_has_no_body(site: Site) -> None:
    for path in (b"/a", b"/stream"):
        answer = site.ask(b"HEAD %s HTTP/1.0\r\n\r\n" % path)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(b"\r\n\r\n")
        assert b"transfer-encoding" not in answer.lower()


def test_a_stream_is_chunked_for_the_present_version(site: Site) -> None:
    with site.connect() as client:
        client.sendall(post("/stream", "1.1", b"Connection: close\r\n", BODIES["length"]))
        answer = read_all(client)
    assert b"\r\ntransfer-encoding: chunked\r\n" in answer
    assert answer.endswith(b"\r\n3\r\nend\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "raw",
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",  # HTTP/2 without asking
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n\x16\x03\1",
        b"\x16\x03\1\2\0\1\0\1\xfc\x03\x03",  # TLS
    ],
)
def test_another_protocol_is_refused_in_words(site: Site, raw: bytes, caplog: pytest.LogCaptureFixture) -> None:
    answer = site.ask(raw)
    assert answer.startswith(b"HTTP/1.1 400 ")
    body: Any = json.loads(answer.partition(b"\r\n\r\n")[2])
    assert body["error"]["message"] == "not a valid HTTP/1.1 request"
