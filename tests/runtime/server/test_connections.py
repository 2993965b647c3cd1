"""Bounds on connections, over real sockets, on both event loops: what is cut off, and what must still work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import re
import resource
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from corella_edge_runtime.server.guard.connections import BoundedProtocol, ConnectionLimits, within_files
from corella_edge_runtime.server.guard.limits import ARRIVED
from corella_edge_runtime.server.sending import JoinedAnswer
from sockets import LOOPS, PATIENCE, Site, read_all, read_answer, serving, until

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"
SLOW = GET.replace(b"/a", b"/slow")
SECONDS = {"/slow": 0.25, "/slower": 1.0}
BIG = 32 * 2**20
QUICK = ConnectionLimits(header_seconds=1.0, write_seconds=1.0)
Serve = Callable[..., Site]


class App:
    """Answers with the path and the length of the body.

    /big is 32 MiB, /stream too in pieces; those of SECONDS take their time, /never all of it; /early reads no body.
    """

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.gone = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        self.begun.append(path)
        length = 0
        while path != "/early":
            # Only who leaves ends the wait at /never.
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            length += len(message["body"])
            if not message["more_body"] and path != "/never":
                break
        if path in SECONDS:
            await asyncio.sleep(SECONDS[path])
        if path == "/stream":
            await self._stream(send)
            return
        await self._answer(send, b"x" * BIG if path == "/big" else json.dumps([path, length]).encode())

    async def _stream(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(32):
            await send({"type": "http.response.body", "body": b"x" * 2**20, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def _answer(self, send: Send, body: bytes) -> None:
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


@pytest.fixture(params=LOOPS, scope="module")
def loop(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def site(loop: str) -> Iterator[Site]:
    """Served with the usual limits."""
    with serving(App(), ConnectionLimits(), loop) as served:
        yield served


@pytest.fixture
def serve(loop: str) -> Iterator[Serve]:
    """Serves with short times, or whatever else a test asks for."""
    with contextlib.ExitStack() as stack:

        def start(limits: ConnectionLimits = QUICK, app: Any = None, **config: Any) -> Site:
            return stack.enter_context(serving(app or App(), limits, loop, **config))

        yield start


def status(answer: bytes) -> int:
    """Of one refusal, which must be whole and say that the connection ends."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"connection: close" in head
    assert int(re.findall(rb"content-length: (\d+)", head)[0]) == len(body)
    assert json.loads(body)["error"]["message"]
    return int(head[9:12])


def test_a_request_is_answered_and_the_connection_kept(site: Site) -> None:
    with site.connect() as client:
        for _ in range(3):
            client.sendall(b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
            assert read_answer(client) == (200, b'["/b", 3]')
        assert (site.counters.open, dict(site.counters.clients)) == (1, {"127.0.0.1": 1})
    until(lambda: site.counters.open == 0)
    assert not site.counters.clients


class Written:
    """A transport that notes what is written to it, and its end."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.parts.append(data)

    def close(self) -> None:
        self.parts.append(b"END")

    def is_closing(self) -> bool:
        return b"END" in self.parts


class Cycle:
    def __init__(self) -> None:
        self.transport, self.response_started = Written(), False


def test_the_head_of_an_answer_leaves_with_its_body_and_never_without_an_end() -> None:
    for end, expected in (
        (lambda answer: (answer.write(b"body"), answer.write(b"more")), [b"continue", b"headbody", b"more"]),
        (lambda answer: answer.flush(), [b"continue", b"head"]),
        (lambda answer: (answer.write(b""), answer.flush()), [b"continue", b"head"]),
        (lambda answer: answer.close(), [b"continue", b"head", b"END"]),
        (lambda answer: (answer.write(b"body"), answer.flush(), answer.close()), [b"continue", b"headbody", b"END"]),
    ):  # fmt: skip
        cycle: Any = Cycle()
        answer, transport = JoinedAnswer(cycle), cycle.transport
        answer.write(b"continue")
        cycle.response_started = True
        answer.write(b"head")
        assert transport.parts == [b"continue"]
        end(answer)
        assert transport.parts == expected
        assert answer.is_closing() == (b"END" in expected)


def test_a_whole_body_is_noted_when_it_is_there(serve: Serve) -> None:
    noted: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        noted.append(scope["state"].get(ARRIVED))
        while (await receive())["more_body"]:
            pass
        noted.append(scope["state"][ARRIVED])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    site = serve(app=app)
    with site.connect() as client:
        began = time.monotonic()
        client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
        assert read_answer(client) == (200, b"")
        client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
        until(lambda: len(noted) == 3)
        later = time.monotonic()
        client.sendall(b"b")
        assert read_answer(client) == (200, b"")
    assert began <= noted[0] == noted[1] <= later
    assert noted[2] is None
    assert later <= noted[3] <= time.monotonic()


def test_the_time_of_a_pipelined_request_begins_when_those_before_it_are_answered(serve: Serve) -> None:
    begun: list[float] = []
    arrived: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(time.monotonic())
        while (await receive())["more_body"]:
            pass
        arrived.append(scope["state"][ARRIVED])
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    site = serve(app=app)
    with site.connect() as client:
        client.sendall(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab" * 3)
        assert [read_answer(client) for _ in range(3)] == [(200, b"")] * 3
    for later in (1, 2):
        assert arrived[later] <= begun[later]
        assert arrived[later] - arrived[later - 1] >= 0.15  # a loop's timers may be a little early


def test_a_head_that_comes_byte_by_byte_is_read(site: Site) -> None:
    with site.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n":
            client.sendall(bytes([byte]))
        assert read_answer(client) == (200, b'["/b", 3]')


def test_a_head_that_does_not_end_is_answered_408(serve: Serve) -> None:
    site = serve()
    started = time.monotonic()
    assert status(site.ask(b"GET /a HTTP/1.1\r\nHost: x\r\n")) == 408
    assert time.monotonic() - started >= 0.99
    assert site.counters.timed_out == 1


def test_a_trickle_does_not_lengthen_the_time_of_a_head(serve: Serve) -> None:
    site = serve()
    with site.connect() as client:
        client.sendall(b"GET /a HTTP/1.1\r\n")
        started = time.monotonic()
        with contextlib.suppress(OSError):
            while site.counters.timed_out == 0:
                client.sendall(b"a: b\r\n")
                time.sleep(0.05)
                assert time.monotonic() - started < PATIENCE


def test_a_connection_that_says_nothing_is_closed_without_a_word(serve: Serve) -> None:
    site = serve()
    assert site.ask(b"") == b""
    assert site.ask(b"\r\n\r\n") == b""
    assert site.counters.timed_out == 2


@pytest.mark.slow
def test_a_later_request_of_a_kept_connection_has_no_more_time(serve: Serve) -> None:
    site = serve()
    with site.connect() as client:
        client.sendall(GET)
        assert read_answer(client)[0] == 200
        time.sleep(1.5)  # between requests the keep-alive time counts, not the head's
        client.sendall(GET + b"GET /a HT")
        assert read_answer(client)[0] == 200
        assert status(read_all(client)) == 408


def test_line_feeds_between_requests_do_not_keep_a_connection(serve: Serve) -> None:
    site = serve()
    with site.connect() as client:
        client.sendall(GET)
        assert read_answer(client)[0] == 200
        with contextlib.suppress(OSError):
            end = time.monotonic() + PATIENCE
            while site.counters.timed_out == 0:
                client.sendall(b"\r\n")
                time.sleep(0.05)
                assert time.monotonic() < end


def test_an_idle_connection_is_closed_after_the_keep_alive_time(serve: Serve) -> None:
    site = serve(timeout_keep_alive=1)
    with site.connect() as client:
        client.sendall(GET)
        assert read_answer(client)[0] == 200
        assert client.recv(1) == b""


def test_a_request_at_work_may_take_longer_than_a_head(serve: Serve) -> None:
    site = serve(ConnectionLimits(header_seconds=0.6))
    with site.connect() as client:
        client.sendall(GET.replace(b"/a", b"/slower") + b"\r\n")  # old clients send a line feed more
        assert read_answer(client)[0] == 200


@pytest.mark.parametrize(
    "head",
    [b"GET /" + b"a" * 2**20 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"b" * 2**20,
     b"GET / HTTP/1.1\r\n" + b"a" * 2**20, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 2**18,
     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"t: u\r\n" * 2**18,
     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"e" * 2**20],
    ids=["path", "value", "name", "many", "trailers", "extension"],
)  # fmt: skip
def test_a_head_or_trailers_of_a_megabyte_is_refused(site: Site, head: bytes) -> None:
    with site.connect() as client:
        with contextlib.suppress(OSError):
            client.sendall(head)
        answer = read_all(client)
    assert answer == b"" or status(answer) == 431  # the client may have been reset while it still sent
    with site.connect() as client:
        client.sendall(GET)
        assert read_answer(client) == (200, b'["/a", 0]')


def test_a_head_just_below_the_bound_is_read_and_one_above_is_told(serve: Serve) -> None:
    site = serve(ConnectionLimits(header_bytes=16 * 1024))
    with site.connect() as client:
        client.sendall(GET[:-2] + b"A: " + b"b" * (16 * 1024 - len(GET) - 10) + b"\r\n\r\n")
        assert read_answer(client)[0] == 200
    assert status(site.ask(GET[:-2] + b"A: " + b"b" * (20 * 1024))) == 431


def test_a_body_of_any_size_is_no_head(serve: Serve) -> None:
    site = serve(ConnectionLimits(header_bytes=4096))
    with site.connect() as client:
        for _ in range(3):
            client.sendall(b"POST /b HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000)
            assert read_answer(client) == (200, b'["/b", 1000000]')
        chunks = b"1000\r\n" + b"y" * 4096 + b"\r\n"
        client.sendall(b"POST /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks * 100 + b"0\r\n\r\n")
        assert read_answer(client) == (200, b'["/b", 409600]')


@pytest.mark.parametrize(
    "raw",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET\r\n\r\n",
     b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\n\r\n",
     b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"GET / HTTP/1.1\r\nA\x00: b\r\n\r\n",
     b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"],
)  # fmt: skip
def test_what_is_no_request_is_answered_400(site: Site, raw: bytes) -> None:
    assert status(site.ask(raw)) == 400
    until(lambda: site.counters.open == 0)


def test_answers_owed_to_earlier_requests_come_before_the_end(site: Site) -> None:
    answer = site.ask(SLOW + GET + b"\x00\x00\x00")
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"400" not in answer
    assert answer.endswith(b'["/a", 0]')


def test_pipelined_requests_are_answered_in_order(site: Site) -> None:
    with site.connect() as client:
        raw = b"".join(b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (i, i, b"x" * i) for i in range(300))
        client.sendall(raw)
        for i in range(300):
            assert read_answer(client) == (200, json.dumps([f"/{i}", i]).encode())


def test_only_so_many_pipelined_requests_are_begun_ahead(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = []
    begin = BoundedProtocol.on_headers_complete

    def count(connection: BoundedProtocol) -> None:
        begin(connection)
        ahead.append(len(connection.pipeline))

    monkeypatch.setattr(BoundedProtocol, "on_headers_complete", count)
    least = b"GET / HTTP/1.1\r\n\r\n"
    with site.connect() as client:
        client.sendall(least * 5_000 + GET[:-2] + b"Connection: close\r\n\r\n")
        assert read_all(client).count(b"HTTP/1.1 200") == 5_001
    assert len(ahead) == 5_001
    assert 100 < max(ahead) <= 4096 // len(least) + 1


@pytest.mark.parametrize(
    ("raw", "count"),
    [(GET, 1), (SLOW, 1), (SLOW + GET, 2), (SLOW + GET + b"GET /x HT", 2), (SLOW + GET * 500, 501), (SLOW * 10, 10)],
)
def test_a_client_that_has_said_its_last_gets_its_answers(serve: Serve, raw: bytes, count: int) -> None:
    site = serve(ConnectionLimits(half_closed_seconds=2.0))  # ten slow answers take longer, each of them far less
    with site.connect() as client:
        client.sendall(raw)
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).count(b"HTTP/1.1 200") == count
    until(lambda: site.counters.open == 0)


def test_a_client_that_leaves_in_the_middle_of_a_request_is_let_go(serve: Serve) -> None:
    app = App()
    site = serve(ConnectionLimits(), app)
    for raw in (b"", b"GET /a HT", b"POST /b HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"):
        with site.connect() as client:
            client.sendall(raw)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b""
    until(lambda: site.counters.open == 0 and app.gone == 1)
    assert app.begun == ["/b"]


@pytest.mark.parametrize("more", [b"", GET])
def test_a_client_that_closes_before_its_answer_is_noticed(serve: Serve, more: bytes) -> None:
    app = App()
    site = serve(ConnectionLimits(half_closed_seconds=0.2), app)
    with site.connect() as client:
        client.sendall(GET.replace(b"/a", b"/never") + more)
        until(lambda: app.begun == ["/never"])
    until(lambda: site.counters.open == 0 and app.gone == 1)
    assert app.begun == ["/never"]


def test_a_reset_before_the_answer_is_noticed_at_once(serve: Serve) -> None:
    app = App()
    site = serve(ConnectionLimits(half_closed_seconds=600.0), app)
    client = site.connect()
    client.sendall(GET.replace(b"/a", b"/never"))
    until(lambda: app.begun == ["/never"])
    reset(client)
    until(lambda: site.counters.open == 0 and app.gone == 1)


def test_a_client_that_has_said_its_last_may_read_slowly(serve: Serve) -> None:
    site = serve(ConnectionLimits(half_closed_seconds=0.5))
    with site.connect(buffer=4096) as client:
        client.sendall(GET.replace(b"/a", b"/stream"))
        client.shutdown(socket.SHUT_WR)
        time.sleep(1.5)
        answer = read_all(client)
    assert len(answer) > BIG
    assert answer.endswith(b"0\r\n\r\n")


def test_more_connections_than_allowed_are_refused_at_once(serve: Serve) -> None:
    site = serve(ConnectionLimits(most=20, header_seconds=60.0))
    with contextlib.ExitStack() as stack:
        first = [stack.enter_context(site.connect()) for _ in range(20)]
        until(lambda: site.counters.open == 20)
        for _ in range(50):
            answer = site.ask(GET)
            assert status(answer) == 503
            assert b"retry-after: 1\r\n" in answer
        assert (site.counters.open, site.counters.refused) == (20, 50)
        for client in first:
            client.sendall(GET)
            assert read_answer(client)[0] == 200
        first[0].close()
        until(lambda: site.counters.open == 19)
        client = stack.enter_context(site.connect())
        client.sendall(GET)
        assert read_answer(client)[0] == 200


def test_one_address_may_have_fewer_connections_than_all(serve: Serve) -> None:
    site = serve(ConnectionLimits(per_client=2))
    with site.connect() as one, site.connect() as two:
        for client in (one, two):
            client.sendall(GET)
            assert read_answer(client)[0] == 200
        assert status(site.ask(GET)) == 503
        with socket.create_connection(("127.0.0.1", site.port), PATIENCE, ("127.0.0.2", 0)) as other:
            other.sendall(GET)
            assert read_answer(other)[0] == 200


def test_thousands_of_idle_connections_are_bounded(serve: Serve) -> None:
    site = serve(ConnectionLimits(most=200, header_seconds=60.0))
    clients = [site.connect() for _ in range(3000)]
    try:
        until(lambda: site.counters.refused == 2800)
        assert site.counters.open == 200
        assert sum(client.recv(1) == b"H" for client in clients[200:]) == 2800
    finally:
        for client in clients:
            client.close()
    until(lambda: site.counters.open == 0)
    with site.connect() as client:
        client.sendall(GET)
        assert read_answer(client)[0] == 200


def test_a_good_client_beside_a_hundred_slow_ones_is_answered(serve: Serve) -> None:
    site = serve(ConnectionLimits(header_seconds=60.0))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(site.connect()) for _ in range(100)]
        for i in range(20):
            for client in slow:
                client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nA: "[i : i + 1])
            with site.connect() as good:
                good.sendall(GET)
                assert read_answer(good) == (200, b'["/a", 0]')
        assert site.counters.open >= 100


def reset(client: socket.socket) -> None:
    """Close with RST."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_a_reset_in_the_middle_of_an_answer_leaves_the_server_well(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    site = serve()
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            client = site.connect(buffer=4096)
            client.sendall(GET.replace(b"/a", b"/big"))
            assert client.recv(1000)
            reset(client)
        until(lambda: site.counters.open == 0)
    assert [record for record in caplog.records if record.name != "asyncio"] == []
    with site.connect() as client:
        client.sendall(GET)
        assert read_answer(client)[0] == 200


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_a_client_that_does_not_read_its_answer_is_cut_off(serve: Serve, more: bytes) -> None:
    site = serve()
    with site.connect(buffer=4096) as client:
        client.sendall(GET.replace(b"/a", b"/big")[:-2] + more + b"\r\n")
        until(lambda: site.counters.timed_out == 1)
        until(lambda: site.counters.open == 0)


@pytest.mark.slow
def test_a_client_that_reads_slowly_but_steadily_gets_all(serve: Serve) -> None:
    site = serve()
    received, began = 0, time.monotonic()
    with site.connect(buffer=65536) as client:
        client.sendall(GET.replace(b"/a", b"/big")[:-2] + b"Connection: close\r\n\r\n")
        while part := client.recv(2**18, socket.MSG_WAITALL):
            received += len(part)
            time.sleep(0.01)
    assert received > BIG
    assert time.monotonic() - began > QUICK.write_seconds
    assert site.counters.timed_out == 0


def test_the_rest_of_a_body_that_is_answered_already_does_not_hold_the_connection(serve: Serve) -> None:
    site = serve()
    with site.connect() as client:
        client.sendall(b"POST /early HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\nabc")
        assert read_answer(client) == (200, b'["/early", 0]')
        with contextlib.suppress(OSError):
            end = time.monotonic() + PATIENCE
            while site.counters.timed_out == 0:
                client.sendall(b"x")
                time.sleep(0.05)
                assert time.monotonic() < end
        assert read_all(client) == b""


def test_a_body_that_ends_soon_after_its_answer_keeps_the_connection(serve: Serve) -> None:
    site = serve(ConnectionLimits())
    with site.connect() as client:
        client.sendall(b"POST /early HTTP/1.1\r\nContent-Length: 100000\r\n\r\nabc")
        assert read_answer(client)[0] == 200
        client.sendall(b"x" * 99_997 + GET)
        assert read_answer(client) == (200, b'["/a", 0]')
    assert site.counters.timed_out == 0


PIECES = [
    GET, b"POST /b HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", b"GET ", b"\r\n\r\n", b"\r\n", b": ", b"Host", b"\x00",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"5\r\n", b"0\r\n\r\n", b"HTTP/1.1", b"a" * 3000,
    b"Connection: close\r\n", b"Connection: upgrade\r\nUpgrade: websocket\r\n", b"Expect: 100-continue\r\n",
]  # fmt: skip


@pytest.fixture(scope="module")
def one_site() -> Iterator[Site]:
    with serving(App(), ConnectionLimits(header_seconds=1.0, header_bytes=4096)) as site:
        yield site


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES), max_size=12), st.booleans())
def test_whatever_comes_ends_and_leaves_the_server_well(one_site: Site, pieces: list[bytes], leave: bool) -> None:
    with one_site.connect() as client:
        with contextlib.suppress(OSError):
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        if leave:
            reset(client)
        else:
            read_all(client)
    with one_site.connect() as client:
        client.sendall(GET)
        assert read_answer(client) == (200, b'["/a", 0]')
    until(lambda: one_site.counters.open <= 1)


LIMITED = """
import resource, sys
from corella_edge_runtime.server.guard.connections import BoundedProtocol, ConnectionLimits, within_files
soft, hard, most = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
print(within_files(ConnectionLimits(most=most)).most, *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "most", "result"),
    [(256, 1024, 100, "100 256 1024"), (256, 1024, 500, "500 628 1024"), (256, 1024, 5000, "896 1024 1024"),
     (100, 100, 50, "1 100 100")],
)  # fmt: skip
def test_there_are_never_more_connections_than_files(soft: int, hard: int, most: int, result: str) -> None:
    command = [sys.executable, "-c", LIMITED, str(soft), str(hard), str(most)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == result


def test_limits_that_fit_are_left_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert within_files(ConnectionLimits(most=1)) == ConnectionLimits(most=1)
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
