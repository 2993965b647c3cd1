"""The load generator against real sockets: open loop, times from the moments that were meant, errors recorded."""

from __future__ import annotations

import hashlib
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest

from corella_edge.errors import InputError
from corella_edge_runtime.bench.load.generator import Generator
from corella_edge_runtime.bench.load.http import post
from corella_edge_runtime.bench.load.outcome import put
from corella_edge_runtime.bench.load.plan import Happened, LoadPlan, address_of
from corella_edge_runtime.bench.load.schedule import poisson

REQUEST = post("/x", b"{}")
Talk = Callable[[socket.socket, bytes], bool]


def reply(body: bytes = b"{}", more: str = "") -> bytes:
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


@contextmanager
def server(talk: Talk) -> Iterator[int]:
    """A port where each whole request is given to `talk`; it says whether the connection stays."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener, talk), daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def accept(listener: socket.socket, talk: Talk) -> None:
    while True:
        try:
            connection = listener.accept()[0]
        except OSError:
            return
        threading.Thread(target=serve, args=(connection, talk), daemon=True).start()


def serve(connection: socket.socket, talk: Talk) -> None:
    with connection:
        data = b""
        while piece := connection.recv(65536):
            data += piece
            head, found, body = data.partition(b"\r\n\r\n")
            length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]) if found else -1
            if found and len(body) == length:
                if not talk(connection, data):
                    return
                data = b""


def answering(data: bytes) -> Talk:
    def talk(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(data)
        return True

    return talk


def run(plan: LoadPlan, *requests: bytes) -> Happened:
    return Generator(plan, list(requests or (REQUEST,))).run(time.monotonic())


def test_requests_leave_at_their_moments_whatever_became_of_those_before() -> None:
    everyone = threading.Barrier(20)

    def talk(connection: socket.socket, _: bytes) -> bool:
        everyone.wait(60)  # nobody is answered until all have asked: a closed loop would never end
        connection.sendall(reply())
        return True

    with server(talk) as port:
        happened = run(LoadPlan(port, [0.001 * i for i in range(20)], [0] * 20, patience=90.0))
    assert happened.status == [200] * 20
    assert happened.connections == 20
    assert all(sent >= 0.001 * i for i, sent in enumerate(happened.sent))
    assert max(happened.sent) <= min(happened.first) <= min(happened.end)


def test_waiting_for_a_connection_counts_from_the_moment_that_was_meant() -> None:
    def talk(connection: socket.socket, _: bytes) -> bool:
        time.sleep(0.05)
        connection.sendall(reply())
        return True

    with server(talk) as port:
        happened = run(LoadPlan(port, [0.0] * 4, [0] * 4, connections=1))
    assert happened.status == [200] * 4
    assert happened.connections == 1
    assert all(end >= 0.05 * (i + 1) for i, end in enumerate(happened.end))
    assert happened.sent[3] >= 0.15


def test_a_connection_is_used_again() -> None:
    with server(answering(reply())) as port:
        # On a machine that stalls, the next moment comes before the answer: then another connection is right.
        tries = (run(LoadPlan(port, [0.0, 0.3, 0.6], [0] * 3)) for _ in range(5))
        happened = next(one for one in tries if one.connections == 1)
    assert happened.status == [200] * 3


def test_a_connection_that_the_server_closes_when_idle_costs_no_request() -> None:
    def talk(connection: socket.socket, _: bytes) -> bool:
        connection.sendall(reply())
        return False

    with server(talk) as port:
        happened = run(LoadPlan(port, [0.0, 0.5, 1.0], [0] * 3))
    assert happened.status == [200] * 3
    assert happened.error == [""] * 3
    assert happened.connections == 3


@pytest.mark.parametrize(("data", "error"), [
    (b"SSH-2.0-x\r\n\r\n", "no HTTP/1.1 status line"), (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "closed"),
    (b"", "closed without a reply"), (reply() + b"more", "after the end"),
])  # fmt: skip
def test_what_is_no_reply_is_an_error_of_that_request_alone(data: bytes, error: str) -> None:
    def talk(connection: socket.socket, request: bytes) -> bool:
        connection.sendall(reply() if b"good" in request else data)
        return b"good" in request

    with server(talk) as port:
        happened = run(LoadPlan(port, [0.0, 0.2, 0.4], [0, 1, 0]), post("/good", b""), post("/bad", b""))
    assert happened.status == [200, 0, 200]
    assert error in happened.error[1]
    assert math.isnan(happened.end[1])


def test_a_port_where_nobody_listens_is_an_error_of_every_request() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        happened = run(LoadPlan(held.getsockname()[1], [0.0, 0.01], [0, 0]))
    assert happened.status == [0, 0]
    assert all(happened.error)


def test_a_connection_that_can_not_be_made_is_an_error_of_that_request(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(address: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("corella_edge_runtime.bench.load.generator.Connection", none_left)
    happened = run(LoadPlan(1, [0.0, 0.01], [0, 0]))
    assert happened.error == ["connect: Too many open files"] * 2


def test_a_server_that_never_answers_costs_no_more_than_the_patience() -> None:
    with server(lambda connection, request: True) as port:
        happened = run(LoadPlan(port, [0.0, 0.1], [0, 0], patience=0.4))
    assert happened.error == ["no reply within 0.4 s"] * 2
    assert happened.wall_seconds >= 0.5


def test_a_large_request_is_sent_whole_and_its_reply_counted_and_kept() -> None:
    body = b"x" * 6_000_000
    got: list[int] = []

    def talk(connection: socket.socket, request: bytes) -> bool:
        got.append(len(request))
        connection.sendall(reply(b"ab,ab,ab" * 20000))
        return True

    large = post("/x", body)
    with server(talk) as port:
        happened = run(LoadPlan(port, [0.0], [0], keep="all", count="ab"), large)
    assert got == [len(large)]
    assert happened.counted == [60000]
    assert happened.body == [b"ab,ab,ab" * 20000]


def test_a_generator_of_its_own_process_tells_what_it_used() -> None:
    with server(answering(reply(b"abc", "Server-Timing: crm;dur=1\r\n"))) as port:
        done = put(LoadPlan(port, [0.01 * i for i in range(30)], [0] * 30, keep="hash"), [REQUEST])
    assert done.status.tolist() == [200] * 30
    assert done.happened.timing == ["crm;dur=1"] * 30
    assert done.happened.body == [hashlib.sha256(b"abc").hexdigest().encode()] * 30
    assert (done.latency > 0).all()
    assert (done.lag >= 0).all()
    assert 0.0 <= done.share < 1.0


def test_a_request_without_a_reply_took_for_ever() -> None:
    with server(lambda connection, request: False) as port:
        done = put(LoadPlan(port, [0.0], [0]), [REQUEST])
    assert done.latency.tolist() == [math.inf]


@pytest.mark.parametrize("url", [
    "https://127.0.0.1:80", "http://127.0.0.1", "http://127.0.0.1:99999", "http://127.0.0.1:eighty", "127.0.0.1:80",
    "http://me@127.0.0.1:80", "http://127.0.0.1:80/x", "http://127.0.0.1:80/?x", "http://:80", "",
])  # fmt: skip
def test_an_address_that_cannot_be_loaded_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="http://HOST:PORT"):
        address_of(url)


@pytest.mark.parametrize(("url", "found"), [
    ("http://127.0.0.1:8000", ("127.0.0.1", 8000)), ("http://box.local:80/", ("box.local", 80)),
    ("http://[::1]:8000", ("::1", 8000)),
])  # fmt: skip
def test_an_address_has_a_host_and_a_port(url: str, found: tuple[str, int]) -> None:
    assert address_of(url) == found


def test_a_server_is_found_by_its_name() -> None:
    with server(answering(reply())) as port:
        assert run(LoadPlan(port, [0.0], [0], host="localhost")).status == [200]


STALL, EACH = 1.0, 0.002


class Stalling:
    """A server that handles one request after the other, `EACH` seconds long, and once stalls for `STALL`."""

    def __init__(self, stalls_at: int) -> None:
        self._lock, self._left = threading.Lock(), stalls_at

    def __call__(self, connection: socket.socket, _: bytes) -> bool:
        with self._lock:
            self._left -= 1
            time.sleep(STALL if self._left == 0 else EACH)
        connection.sendall(reply())
        return True


def test_the_p99_that_a_closed_loop_hides() -> None:
    """Coordinated omission: a client that waits for its answer sends nothing while the server stalls.

    Of 600 requests in 3 seconds, the stall of 1 second delays the 200 that are due in it, by up to that second.
    """
    closed = []
    with server(Stalling(100)) as port, socket.create_connection(("127.0.0.1", port)) as client:
        for _ in range(600):
            began = time.monotonic()
            client.sendall(REQUEST)
            client.recv(65536)
            closed.append(time.monotonic() - began)
    with server(Stalling(100)) as port:
        done = put(LoadPlan(port, poisson(200.0, 3.0, 1), [0] * len(poisson(200.0, 3.0, 1))), [REQUEST])
    assert max(closed) >= STALL
    assert np.quantile(closed, 0.99) < STALL / 4
    assert STALL * 0.9 < np.quantile(done.latency, 0.99) < STALL * 5  # a machine with other work to do adds to it
    assert (done.latency > STALL / 2).mean() > 0.1


@pytest.mark.parametrize("bad", [{"moments": [0.0, 1.0]}, {"connections": 0}, {"connections": 2000}, {"keep": "some"}])
def test_a_plan_that_can_not_be_sent_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match="load: "):
        LoadPlan(**{"port": 1, "moments": [0.0], "which": [0], **bad})  # type: ignore[arg-type]
