"""A real server on a real port, in a thread of the test; and clients that send exactly what a test says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn
import uvloop
from starlette.types import ASGIApp

from corella_edge_runtime.server.guard.connections import ConnectionCounters, ConnectionLimits, protocol

PATIENCE = 30.0  # seconds; the machine may be busy
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.SelectorEventLoop,
}


class Site:
    """A served application: its port, and what its connections count."""

    def __init__(self, port: int, counters: ConnectionCounters) -> None:
        self.port, self.counters = port, counters

    def connect(self, buffer: int | None = None) -> socket.socket:
        """A connection; `buffer`: bytes that the client's kernel takes of an answer nobody reads."""
        client = socket.socket()
        if buffer is not None:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        client.settimeout(PATIENCE)
        client.connect(("127.0.0.1", self.port))
        return client

    def ask(self, raw: bytes) -> bytes:
        """Everything the server says until it closes."""
        with self.connect() as client:
            client.sendall(raw)
            return read_all(client)


@contextlib.contextmanager
def serving(
    app: ASGIApp, limits: ConnectionLimits | None = None, loop: str = "uvloop", **config: Any
) -> Iterator[Site]:
    counters = ConnectionCounters()
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    settings = uvicorn.Config(
        app, http=protocol(limits or ConnectionLimits(), counters), lifespan="off", ws="none", log_config=None,
        **{"timeout_keep_alive": 30, "timeout_graceful_shutdown": 1, **config},
    )  # fmt: skip
    server = uvicorn.Server(settings)

    def run() -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(server.serve(sockets=[listening]))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield Site(listening.getsockname()[1], counters)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    """Wait for what will be true soon."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def read_all(client: socket.socket) -> bytes:
    """Until the server closes; a reset counts as that."""
    parts = []
    with contextlib.suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def read_answer(client: socket.socket) -> tuple[int, bytes]:
    """Status and body of one answer with a Content-Length."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = client.recv(1)
        assert part, f"closed after {head!r}"
        head += part
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    body = b""
    while len(body) < length:
        part = client.recv(length - len(body))
        assert part, f"closed after {len(body)} of {length} bytes"
        body += part
    return int(head[9:12]), body
