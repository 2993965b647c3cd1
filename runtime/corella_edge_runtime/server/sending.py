"""How an answer leaves its connection, where uvicorn's way is not HTTP's, or costs a packet more."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class Unchunked:
    """An application's answer to HTTP/1.0: of unknown length it ends with the connection, and nothing precedes it."""

    def __init__(self, app: ASGIApp, cycle: RequestResponseCycle) -> None:
        self._app, self._cycle = app, cycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        cycle, known = self._cycle, False
        cycle.keep_alive = cycle.waiting_for_100_continue = False

        async def unchunked(message: Message) -> None:
            nonlocal known
            if message["type"] == "http.response.start":
                known = any(name.lower() == b"content-length" for name, _ in message.get("headers", ()))
                cycle.chunked_encoding = None if known else False
            elif not known:
                cycle.expected_content_length = len(message.get("body", b""))
            await send(message)

        await self._app(scope, receive, unchunked)


class JoinedAnswer:
    """A connection's transport, as an answer sees it: the head waits for the first of the body, as ASGI has it.

    By themselves they would be two packets, and each wakes the client.
    """

    __slots__ = ("_cycle", "_head", "_transport")

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle, self._transport = cycle, cycle.transport
        self._head: bytes | None = None  # b"": it has left

    def write(self, data: bytes) -> None:
        if self._head is None and self._cycle.response_started:
            self._head = data
        else:
            self._transport.write(self._head + data if self._head else data)
            self._head = self._head and b""

    def flush(self) -> None:
        """What waits leaves: there is no body."""
        if self._head:
            self._transport.write(self._head)
            self._head = b""

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        return self._transport.is_closing()
