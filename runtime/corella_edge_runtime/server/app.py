"""The ASGI application: routes, and every error as `{"error": {"message": …}}`."""

from __future__ import annotations

import logging
import time
import traceback
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from corella_edge.errors import InputError, StoreError
from corella_edge.formats.strict_json import JsonError
from corella_edge_runtime.server import openapi
from corella_edge_runtime.server.answers import error_answer
from corella_edge_runtime.server.guard.access import Access, Guard
from corella_edge_runtime.server.guard.limits import Intake, IntakeShare
from corella_edge_runtime.server.routes import admin, health, items, page, rank, score, users
from corella_edge_runtime.server.routes.oip import routes as oip
from corella_edge_runtime.server.routes.rank import CLIENT_GONE
from corella_edge_runtime.server.service import NotReadyError, Service

_LOG = logging.getLogger("corella_edge.serve")


GROUPS = (rank, score, users, items, oip, health, openapi, admin, page)  # modules that give routes


def build_app(service: Service, guard: Guard | None = None) -> Starlette:
    """The application around `service`; it answers 503 until `service.serve` is called.

    `guard` lets requests in; None = one without keys.
    """
    intake = Intake(service.limits.held_bytes)
    routes = [route for group in GROUPS for route in group.routes(service)]
    handlers: dict[type[Exception], rank.Handler] = {
        HTTPException: _http_error,
        InputError: _input_error,
        NotReadyError: _not_ready,
        StoreError: users.Failures(),
    }
    app = _App(
        routes=routes,
        middleware=[
            Middleware(_Observer, service=service, intake=intake),
            Middleware(Access, guard=guard or Guard()),
            Middleware(rank.Shortcut, route=routes[0], handlers=handlers),
        ],
        exception_handlers=handlers,
    )
    app.state.intake = intake
    app.router.redirect_slashes = False
    return app


class _App(Starlette):
    """Without the framework's own outermost layer: `_Observer` leaves nothing to it."""

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        return stack.app if isinstance(stack, ServerErrorMiddleware) else stack


class _Observer:
    """Outermost layer: counts and times every request, and turns an unforeseen exception into a plain 500."""

    def __init__(self, app: ASGIApp, service: Service, intake: Intake) -> None:
        self.app, self.service, self.intake = app, service, intake

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start = 0, time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        scope.setdefault("state", {})["share"] = share = IntakeShare(self.intake)
        try:
            await self.app(scope, receive, watch)
        except Exception as error:  # noqa: BLE001 - the last line of defence; CancelledError passes
            log_bug(error)
            if not status:
                await error_answer(500, "internal error; the server's log says where")(scope, receive, watch)
        finally:
            share.give_back()
            # Paths come from outside: the label is the route's pattern, which the router leaves here.
            route = getattr(scope.get("route"), "path_format", "other")
            self.service.metrics.answered(route, status or CLIENT_GONE, time.perf_counter() - start)


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = error.detail
    if detail == HTTPStatus(error.status_code).phrase:  # the framework's own
        allowed = (error.headers or {}).get("Allow", "another method")
        messages = {
            404: "no such path; /openapi.json lists them",
            405: f"{request.method[:20]} is not allowed here; use {allowed}",
        }
        detail = messages.get(error.status_code, detail)
    return error_answer(error.status_code, detail, error.headers)


def _input_error(_: Request, error: Exception) -> Response:
    return error_answer(400 if isinstance(error, JsonError) else 422, str(error))


def _not_ready(_: Request, error: Exception) -> Response:
    return error_answer(503, str(error), {"Retry-After": "1"})


def log_bug(error: Exception) -> None:
    """Kind and place, never the message: it may quote what a user wrote."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    _LOG.error("unexpected %s\n%s", type(error).__name__, "".join(traceback.format_list(frames)).rstrip())
