"""Bounds on connections, which uvicorn does not have: how many, how long a request's head may take, how large it is.

An application sees a request when its head is complete; what a client does before that, or instead of that, is handled
here. Only httptools' parser is served, which the extra [serve] brings: uvicorn's other one is several times slower.
Two rules of HTTP that neither of them keeps are kept here, too: an offer to upgrade is ignored (RFC 9110, 7.8), and
nothing is chunked for HTTP/1.0 (RFC 9112, 6.1).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from corella_edge_runtime.server.answers import error_body
from corella_edge_runtime.server.guard.limits import ARRIVED
from corella_edge_runtime.server.sending import JoinedAnswer, Unchunked

_STEP = 4096  # bytes the parser gets at once: no more small requests than fit are begun ahead of their turn
_PROGRESS = 64 * 1024  # bytes of an answer that a client must take in `write_seconds`, if there are so many
_FILES_BESIDES = 128  # open files that are no connections


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What clients may take up.

    Attributes:
        most: open connections; a further one gets 503 and is closed.
        per_client: the same of one address; None = `most`. Behind a proxy all clients have one address.
        header_seconds: from a connection's begin, or a later request's first byte, to the end of its head (408); and
            from an answer to the end of a body that nobody reads any more.
        header_bytes: of a head (request line and headers), or of a body's trailers (431); at most a few KiB more.
        write_seconds: for a client to take the answer, or 64 KiB of it; then the connection is cut.
        half_closed_seconds: for an answer, and each further one, after the client has said its last. One that has left
            looks the same until it is written to; a ranking usually takes less, by the default of --timeout-ms.
    """

    most: int = 1000
    per_client: int | None = None
    header_seconds: float = 10.0
    header_bytes: int = 32 * 1024
    write_seconds: float = 30.0
    half_closed_seconds: float = 2.0


@dataclass(slots=True)
class ConnectionCounters:
    """Connections of one server: open now, by address too; refused, and ended for slowness, since its start."""

    open: int = 0
    refused: int = 0
    timed_out: int = 0
    clients: Counter[str] = field(default_factory=Counter)


def protocol(limits: ConnectionLimits, counters: ConnectionCounters) -> type[asyncio.Protocol]:
    """What `uvicorn.Config(http=…)` takes: connections within `limits`, counted in `counters`."""
    return type("Bounded", (BoundedProtocol,), {"limits": limits, "counters": counters})


def within_files(limits: ConnectionLimits) -> ConnectionLimits:
    """The limits with at most as many connections as this process can open; its soft limit is raised if need be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.most + _FILES_BESIDES
    if resource.RLIM_INFINITY in (soft, hard) or hard >= wanted:
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return limits
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return replace(limits, most=max(1, hard - _FILES_BESIDES))


class _Parser(httptools.HttpRequestParser):
    """Parses a request that offers an upgrade as the same request without the offer.

    httptools takes whatever follows such a head for another protocol: the body would be lost.
    """

    def __init__(self, connection: BoundedProtocol) -> None:
        super().__init__(connection)
        self._connection = connection
        # As uvicorn has it, so that requests behind one that says "close" do no harm.
        self.set_dangerous_leniencies(lenient_data_after_close=True)

    @property
    def offered(self) -> bool:
        """Whether the head that is complete now offers an upgrade; CONNECT asks for one and offers nothing else."""
        return bool(self.should_upgrade()) and self.get_method() != b"CONNECT"

    def feed_data(self, data: Any) -> None:
        try:
            super().feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.offered:
                # A parser of its own: this one may take the connection for closed by now.
                again = self._connection.head_without_offer() + data[offer.args[0] :]
                self._connection.parser = _Parser(self._connection)
                self._connection.parser.feed_data(again)


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    Bytes that no event of the parser accounts for are counted, wherever they stand: in a head, between requests, in
    trailers. While a head is awaited and there are any, time runs.
    """

    limits: ConnectionLimits
    counters: ConnectionCounters

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser: _Parser = _Parser(self)
        self._later = bytearray()  # received, but not yet given to the parser
        self._loose = 0  # bytes given to it that no event has accounted for
        self._begun = self._body = False  # inside a head; inside a body
        self._deaf = self._ended = False  # we listen no more; the client has said its last
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._last_timer: asyncio.TimerHandle | None = None
        self._running: RequestResponseCycle | None = None
        self._answer: JoinedAnswer | None = None
        self._unwritten = 0
        self._address = self.client[0] if self.client else ""
        self._counted = self._admit()
        if self._counted:
            self._start_clock()
        else:
            self._turn_away()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tell_gone()
        self._stop_clock()
        self._stop_last()
        self._unset_keepalive_if_required()
        self._stop_watching()
        if self._counted:
            self.counters.open -= 1
            self.counters.clients[self._address] -= 1
            if not self.counters.clients[self._address]:
                del self.counters.clients[self._address]

    def _admit(self) -> bool:
        own = self.counters.clients[self._address]
        if self.counters.open >= self.limits.most or own >= (self.limits.per_client or self.limits.most):
            self.counters.refused += 1
            return False
        self.counters.open += 1
        self.counters.clients[self._address] = own + 1
        return True

    def _turn_away(self) -> None:
        # What has come is taken out: closing with unread bytes would reset the connection, the answer with it.
        with contextlib.suppress(OSError):
            os.read(self.transport.get_extra_info("socket").fileno(), 2**16)
        self._refuse(503, "too many connections are open", "retry-after: 1\r\n")

    def data_received(self, data: bytes) -> None:
        if not self._deaf:
            self._later += data
            self._feed()

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has said its last still gets quick answers; one in the middle of a request is gone."""
        self._ended = True
        self._stop_clock()
        waits = bool(self._later or self.pipeline or (self._owes() and not self._body))
        if waits:
            self._start_last()
        return waits

    def _feed(self) -> None:
        """Give the parser what has come, as long as no request waits for its turn."""
        while self._later and not (self._deaf or self.pipeline or self.transport.is_closing()):
            piece = bytes(self._later[:_STEP])
            del self._later[:_STEP]
            self._take(piece)
        if self._later and not self._ended:
            self.flow.pause_reading()

    def _take(self, piece: bytes) -> None:
        self._loose += len(piece)
        super().data_received(piece)
        if self._loose > self.limits.header_bytes:
            self._refuse(431, f"the head of the request is larger than {self.limits.header_bytes} bytes")
        elif self._loose and not self._body and (self._begun or not self._owes()):
            self._start_clock()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun, self._loose = True, 1

    def on_headers_complete(self) -> None:
        if self.parser.offered:
            return  # it comes again without the offer
        super().on_headers_complete()
        self._begun, self._body, self._loose = False, True, 0
        self._stop_clock()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._loose = 0

    def on_message_complete(self) -> None:
        if self.parser.offered:
            return
        super().on_message_complete()
        self.scope["state"][ARRIVED] = time.monotonic()
        self._body, self._loose = False, 0
        self._stop_clock()

    def head_without_offer(self) -> bytes:
        """The head that has been read, to be read again."""
        first = b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        kept = [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join((first, *kept, b"", b""))

    def on_response_complete(self) -> None:
        if self._answer is not None:
            self._answer.flush()
        super().on_response_complete()
        self._feed()
        if self._ended and not (self._later or self._owes()):
            self._close()
        elif self._ended:
            self._start_last()
        elif self._body and not self._owes():
            self._start_clock()
        if self.transport.is_closing():
            self._watch_writing()

    def shutdown(self) -> None:
        """The server stops: what has not arrived whole is not waited for."""
        if self._body and self._owes():
            self._refuse(503, "the server is stopping")
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if ARRIVED in cycle.scope["state"]:  # it came while the one before it was answered: that time is not its own
            cycle.scope["state"][ARRIVED] = time.monotonic()
        self._answer = JoinedAnswer(cycle)
        cycle.transport = self._answer  # type: ignore[assignment]
        answering: Any = app if cycle.scope["http_version"] == "1.1" else Unchunked(app, cycle)
        super()._start_asgi_task(cycle, answering)

    def _start_last(self) -> None:
        self._stop_last()
        self._last_timer = self.loop.call_later(self.limits.half_closed_seconds, self._give_up)

    def _stop_last(self) -> None:
        if self._last_timer is not None:
            self._last_timer.cancel()
            self._last_timer = None

    def _give_up(self) -> None:
        """Take a client that has said its last for gone, unless it is busy reading."""
        if self.flow.write_paused:
            self._start_last()
        elif not self.transport.is_closing():
            self._tell_gone()
            self._close()

    def _tell_gone(self) -> None:
        """`http.disconnect` for the request at work; uvicorn tells the latest one, which may not have had its turn."""
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()

    def _owes(self) -> bool:
        """Whether the latest request with a complete head is unanswered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _start_clock(self) -> None:
        if self._head_timer is None and not (self._ended or self._deaf or self.transport.is_closing()):
            self._head_timer = self.loop.call_later(self.limits.header_seconds, self._late)

    def _stop_clock(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if self.flow.read_paused:  # the delay is ours
            self._start_clock()
            return
        self.counters.timed_out += 1
        if self._begun:
            self._refuse(408, "the head of the request did not arrive in time")
        else:
            self._close()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "not a valid HTTP/1.1 request")

    def _refuse(self, status: int, message: str, headers: str = "") -> None:
        """Listen no more, answer so, and close; answers to earlier requests go first."""
        if self._deaf:
            return
        self._deaf = True
        self._later.clear()
        self._stop_clock()
        if self._owes() and not (self._body and not self.pipeline):
            self.cycle.keep_alive = False
            return
        if not self._body or not self.cycle.response_started:
            self.transport.write(_answer(status, message, headers))
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._watch_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_watching()
        if self._last_timer is not None:  # it reads, so it is there
            self._start_last()
        if self.transport.is_closing():
            self._watch_writing()

    def _watch_writing(self) -> None:
        """See that what is written leaves; a closing transport would wait for it without end."""
        self._unwritten = self.transport.get_write_buffer_size()
        if self._write_timer is None and self._unwritten:
            self._write_timer = self.loop.call_later(self.limits.write_seconds, self._look_at_writing)

    def _look_at_writing(self) -> None:
        self._write_timer, before = None, self._unwritten
        self._watch_writing()
        if self._unwritten and self._unwritten > before - _PROGRESS:
            self.counters.timed_out += 1
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None


def _answer(status: int, message: str, headers: str) -> bytes:
    body = json.dumps(error_body(message))
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n{headers}connection: close\r\n\r\n{body}".encode()
