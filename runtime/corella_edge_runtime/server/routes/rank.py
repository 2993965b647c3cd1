"""`POST /v1/rank`: one answer or, with `?mode=progressive`, the CRM's ranking at once and then the refined one."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from corella_edge.errors import InputError
from corella_edge.request import Request
from corella_edge.request_message import UserIdRequest, UserRequest
from corella_edge.scores import Answer
from corella_edge_runtime.server.answers import JSON, error_body
from corella_edge_runtime.server.bodies import arrived, parse_body, read_body
from corella_edge_runtime.server.clock import Clock
from corella_edge_runtime.server.describing import (
    NOT_JSON,
    TEXT,
    Described,
    answer,
    body_of,
    json_of,
    later,
    operation,
    ref,
)
from corella_edge_runtime.server.guard.limits import INLINE_BYTES
from corella_edge_runtime.server.service import Ranking, Service, large

CLIENT_GONE = 499  # nginx's number: nobody reads the answer, but the metrics tell it from our own errors
MODES = ("plain", "progressive")
Handler = Callable[[HttpRequest, Exception], Response]


PATH = "/v1/rank"


def routes(service: Service) -> list[Route]:
    return [Route(PATH, _Rank(service).post, methods=["POST"])]


class Shortcut:
    """ASGI middleware: takes rankings to their route at once, which the router would find after a search each time.

    Args:
        handlers: what is answered to an exception of such a kind, as the application has it.
    """

    def __init__(self, app: ASGIApp, route: Route, handlers: Mapping[type[Exception], Handler]) -> None:
        self.app, self.route, self.handlers = app, route, handlers
        self._known = tuple(handlers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        scope["route"] = self.route
        request = HttpRequest(scope, receive)
        try:
            response = await self.route.endpoint(request)
        except self._known as error:
            response = next(self.handlers[kind] for kind in type(error).__mro__ if kind in self.handlers)(
                request, error
            )
        await response(scope, receive, send)


class _Rank:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def post(self, http: HttpRequest) -> Response:
        self.service.check_ready()
        mode = _mode(http)
        try:
            body = await read_body(http, self.service.limits)
            return await self._answer(http, mode, body)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)

    async def _answer(self, http: HttpRequest, mode: str, body: bytes) -> Response:
        clock = Clock(arrived(http))
        if mode == "plain":
            with self.service.place():
                return await self._plain(await self._parsed(body, clock), clock, http.receive)
        async with AsyncExitStack() as stack:
            stack.enter_context(self.service.place())
            return await self._progressive(await self._parsed(body, clock), clock, stack)
        raise AssertionError("an exit stack that suppressed an exception")

    async def _parsed(self, body: bytes, clock: Clock) -> Request:
        return await self.service.work(len(body) > INLINE_BYTES, clock, "parse", parse_body, body)

    async def _plain(self, request: Request, clock: Clock, receive: Receive) -> Response:
        ranked = await self.service.ranked(request, clock, receive)
        content = await self.service.work(large(request), clock, "serialise", ranked.body)
        self.service.written(clock)
        return _Plain(content, clock.header(ranked.scores.trace))

    async def _progressive(self, request: Request, clock: Clock, stack: AsyncExitStack) -> Response:
        """What `stack` holds, the answer holds until its end."""
        ranking = await stack.enter_async_context(self.service.ranking(request, clock))
        heavy = large(request)
        first = await self.service.work(heavy, clock, "before", ranking.before_llm, held=ranking.held)
        content = await self.service.work(heavy, clock, "serialise", first.body)
        timing = clock.header(first.scores.trace)
        return _Stream(self._events(ranking, content), timing, stack.pop_all())

    async def _events(self, ranking: Ranking, first: bytes) -> AsyncIterator[bytes]:
        yield _event("crm", first)
        await ranking.answered()
        try:
            ranked = await self.service.finish(ranking)
        except HTTPException as error:
            yield _event("error", json.dumps(error_body(error.detail)).encode())
            return
        content = await self.service.work(large(ranked.request), ranking.clock, "serialise", ranked.body)
        yield _event("final", content)


class _Plain(Response):
    """A ranking; its headers need no search for what is given already."""

    def __init__(self, content: bytes, timing: str) -> None:
        self.status_code, self.background, self.body = 200, None, content
        self.raw_headers = [
            (b"server-timing", timing.encode("latin-1")), (b"content-length", b"%d" % len(content)),
            (b"content-type", JSON.encode()),
        ]  # fmt: skip


class _Stream(StreamingResponse):
    """Server-sent events; place and version are held until the last one, or until the client leaves."""

    def __init__(self, events: AsyncIterator[bytes], timing: str, held: AsyncExitStack) -> None:
        headers = {"Server-Timing": timing, "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(events, headers=headers, media_type="text/event-stream")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            await super().__call__(scope, receive, send)


def _event(name: str, data: bytes) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _mode(http: HttpRequest) -> str:
    if not http.scope["query_string"]:
        return "plain"
    unknown = set(http.query_params) - {"mode"}
    mode = http.query_params.get("mode", "plain")
    if unknown or mode not in MODES:
        raise InputError(f"query: the only parameter is mode, one of {', '.join(MODES)}")
    return mode


OPENAPI = Described(
    {
        PATH: {
            "post": operation(
                "rank",
                "Score and rank candidates for one user.",
                {
                    "200": {
                        "description": "Candidates in request order. Progressive: the events `crm` and `final` (or "
                        "`error`), the data of each an answer.",
                        "content": {**json_of(ref("Answer")), "text/event-stream": {"schema": {}}},
                        "headers": {"Server-Timing": TEXT},
                    },
                    "400": answer(NOT_JSON),
                    "422": answer("The body is JSON, but not a request that this bundle can answer."),
                    "503": later("Loading, stopping, or full: come back after `Retry-After` seconds."),
                    "504": answer("The request is strict, and the LLM did not answer in time."),
                },
                parameters=[
                    {
                        "name": "mode",
                        "in": "query",
                        "description": "Progressive: server-sent events, first the CRM's ranking, "
                        "then the refined one.",
                        "schema": {"type": "string", "enum": list(MODES), "default": MODES[0]},
                    }
                ],
                requestBody=body_of("Request"),
            )
        }
    },
    (UserRequest, UserIdRequest, Answer),
    {"Request": {"anyOf": [ref("UserRequest"), ref("UserIdRequest")]}},
)
