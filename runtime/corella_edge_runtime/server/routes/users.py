"""Users with memory: `POST /v1/events`, and export and erasure at `/v1/users/{id}`."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from msgspec import UNSET
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from corella_edge.errors import StoreFullError
from corella_edge.history import scale_notes
from corella_edge_runtime.server.answers import JSON, Appended, Deleted, UserExport, error_answer, json_answer
from corella_edge_runtime.server.bodies import parsed, read_body
from corella_edge_runtime.server.clock import Clock
from corella_edge_runtime.server.describing import NOT_JSON, Described, Json, answer, body_of, later, operation, ref
from corella_edge_runtime.server.guard.limits import INLINE_BYTES
from corella_edge_runtime.server.routes.ids import ANY_ID, PATH_ID, id_in_path
from corella_edge_runtime.server.routes.rank import CLIENT_GONE
from corella_edge_runtime.server.service import Service
from corella_edge_runtime.store.events import NewEvents, NewEventsMessage, parse_events, parse_user_id
from corella_edge_runtime.store.users import UserStore

_LOG = logging.getLogger("corella_edge.serve")
_USERS = b"/v1/users/"
_LOG_SECONDS = 60.0


def routes(service: Service) -> list[Route]:
    users = _Users(service)
    return [
        Route("/v1/events", users.append, methods=["POST"]),
        Route(f"/v1/users/{ANY_ID}", users.user, methods=["GET", "DELETE"]),
    ]


class _Users:
    def __init__(self, service: Service) -> None:
        self.service = service

    async def append(self, http: HttpRequest) -> Response:
        """Answers when the events are on the disk."""
        store = self._store()
        try:
            body = await read_body(http, self.service.limits)
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        with self.service.place():
            new = await self.service.work(len(body) > INLINE_BYTES, Clock(), "parse", parsed, body, parse_events)
            total = await asyncio.wrap_future(store.append_soon(new))
        answer = Appended(user_id=new.user_id, appended=len(new.events), events=total)
        answer.notes = self._notes(new) or UNSET
        return json_answer(answer)

    def _notes(self, new: NewEvents) -> list[str]:
        """What is odd about the events, sentences."""
        ranker = self.service.ranker
        scale = None if ranker is None else ranker.rating_scale
        return [*new.notes, *scale_notes(new.events.ratings, scale, "events")]

    async def user(self, http: HttpRequest) -> Response:
        store, user_id = self._store(), parse_user_id(id_in_path(http, _USERS, of="user"))
        with self.service.place():
            if http.method == "DELETE":
                return await self._delete(store, user_id)
            content = await asyncio.get_running_loop().run_in_executor(self.service.pool, _exported, store, user_id)
        if content is None:
            return error_answer(404, "nothing is held on such a user")
        return Response(content, media_type=JSON)

    async def _delete(self, store: UserStore, user_id: str) -> Response:
        try:
            deleted = await asyncio.wrap_future(store.delete_soon(user_id))
        finally:
            await self.service.forget(user_id)
        return json_answer(Deleted(user_id=user_id, deleted=deleted))

    def _store(self) -> UserStore:
        if self.service.store is None:
            raise HTTPException(501, "this server keeps no users; it would with the option --store FILE")
        self.service.check_ready()
        return self.service.store


class Failures:
    """The store's errors as answers. The log has what a client need not know: one line a minute at most."""

    def __init__(self) -> None:
        self._silent_until = 0.0

    def __call__(self, _: HttpRequest, error: Exception) -> Response:
        if time.monotonic() >= self._silent_until:
            _LOG.error("%s", error)
            self._silent_until = time.monotonic() + _LOG_SECONDS
        if isinstance(error, StoreFullError):
            return error_answer(507, "the users' store has no room on its disk; send the same again once there is")
        return error_answer(503, "the users' store cannot do this now; the server's log says why", {"Retry-After": "5"})


def _exported(store: UserStore, user_id: str) -> bytes | None:
    export = store.export(user_id)
    return None if export is None else json.dumps(export, ensure_ascii=False, separators=(",", ":")).encode("utf-8")


_OF_STORE: Json = {
    "501": answer("The server keeps no users: it has no store."),
    "503": later("Loading, stopping, full, or the store cannot do it now."),
}
_NO_ID = answer("Not an id.")
OPENAPI = Described(
    {
        "/v1/events": {
            "post": operation(
                "appendEvents",
                "Add to a user's history; answered when it is on the disk.",
                {
                    "200": answer("Nothing but damage to the disk loses it now.", ref("Appended")),
                    "400": answer(NOT_JSON),
                    "422": answer(
                        "JSON, but not events, or times that are not in seconds; or the key was used for others."
                    ),
                    **_OF_STORE,
                    "507": answer("No room on the disk: nothing was added."),
                },
                requestBody=body_of("NewEvents"),
            )
        },
        "/v1/users/{id}": {
            "get": operation(
                "exportUser",
                "Everything held on a user.",
                {
                    "200": answer("Events in the order of the history.", ref("UserExport")),
                    "404": answer("Nothing is held on such a user."),
                    "422": _NO_ID,
                    **_OF_STORE,
                },
                parameters=[PATH_ID],
            ),
            "delete": operation(
                "deleteUser",
                "Erase a user; answered when no byte is left in the store's files, nor in caches.",
                {
                    "200": answer("Nothing is held on the user.", ref("Deleted")),
                    "422": _NO_ID,
                    **_OF_STORE,
                    "507": answer("No room on the disk to overwrite what is erased: send the same again."),
                },
                parameters=[PATH_ID],
            ),
        },
    },
    (NewEventsMessage, Appended, Deleted, UserExport),
)
