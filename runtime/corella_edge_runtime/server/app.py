"""The ASGI application: routes, and every error as `{"error": {"message": …}}`."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corella_edge.errors import InputError
from corella_edge.strict_json import JsonError
from corella_edge_runtime.server import page
from corella_edge_runtime.server.openapi import document
from corella_edge_runtime.server.service import NotReadyError, Service

_LOG = logging.getLogger("corella_edge.serve")
_CLIENT_GONE = 499  # nginx's number: nobody reads the answer, but the metrics tell it from our own errors


def build_app(service: Service) -> Starlette:
    """The application around `service`; it answers 503 until `service.serve` is called."""
    api = _Api(service)
    routes = [
        Route("/v1/rank", api.rank, methods=["POST"]),
        Route("/v2/health/live", api.live),
        Route("/v2/health/ready", api.ready),
        Route("/metrics", api.metrics),
        Route("/openapi.json", api.openapi),
        *page.routes(service),
    ]
    known = frozenset(route.path for route in routes)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(_Observer, service=service, known=known)],
        exception_handlers={HTTPException: _http_error, InputError: _input_error, NotReadyError: _not_ready},
    )
    app.router.redirect_slashes = False
    return app


class _Api:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def rank(self, request: Request) -> Response:
        with self.service.admit() as ranker:
            try:
                body = await self._body(request)
            except ClientDisconnect:
                return Response(status_code=_CLIENT_GONE)
            return Response(await self.service.rank(ranker, body), media_type="application/json")

    async def _body(self, request: Request) -> bytes:
        """The whole body, or 413 before more than the limit is held, or 408 if it does not come."""
        limit, chunks, size = self.service.limits.body_bytes, [], _declared_length(request)
        too_large = HTTPException(413, f"the body is larger than {limit} bytes")
        if size > limit:
            raise too_large
        size = 0
        try:
            async with asyncio.timeout(self.service.limits.body_seconds):
                async for chunk in request.stream():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > limit:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, "the body did not arrive in time") from None
        return b"".join(chunks)

    async def live(self, _: Request) -> Response:
        return _json({"live": True})

    async def ready(self, _: Request) -> Response:
        ready = self.service.ready
        return _json({"ready": ready}, status=200 if ready else 503)

    def metrics(self, request: Request) -> Response:
        # Not `async`: it asks the engine for its totals, which may wait for a lock.
        text, content_type = self.service.metrics.text(request.headers.get("accept", ""))
        return Response(text, headers={"Content-Type": content_type})

    async def openapi(self, _: Request) -> Response:
        return _json(document(self.service.limits.body_bytes))


class _Observer:
    """Outermost layer: counts and times every request, and turns an unforeseen exception into a plain 500."""

    def __init__(self, app: ASGIApp, service: Service, known: frozenset[str]) -> None:
        self.app, self.service, self.known = app, service, known

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 0, time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:  # noqa: BLE001 - the last line of defence; CancelledError passes
            _log_bug(error)
            if not status:
                await _error(500, "internal error; the server's log says where")(scope, receive, watch)
        finally:
            # Paths come from outside: an unknown one must not become a label of its own.
            route = scope["path"] if scope["path"] in self.known else "other"
            self.service.metrics.answered(route, status or _CLIENT_GONE, time.perf_counter() - start)


def _declared_length(request: Request) -> int:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def _json(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII escapes, unlike `Service._answer`: a message may quote text that UTF-8 can not carry.
    return Response(json.dumps(value).encode(), status, dict(headers or {}), "application/json")


def _error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return _json({"error": {"message": message}}, status, headers)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {404: "no such path; /openapi.json lists them", 405: f"{request.method[:20]} is not allowed here"}
    return _error(error.status_code, messages.get(error.status_code, error.detail), error.headers)


def _input_error(_: Request, error: Exception) -> Response:
    return _error(400 if isinstance(error, JsonError) else 422, str(error))


def _not_ready(_: Request, error: Exception) -> Response:
    return _error(503, str(error), {"Retry-After": "1"})


def _log_bug(error: Exception) -> None:
    """Kind and place, never the message: it may quote what a user wrote."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    _LOG.error("unexpected %s\n%s", type(error).__name__, "".join(traceback.format_list(frames)).rstrip())
