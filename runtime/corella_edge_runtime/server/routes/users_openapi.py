"""The OpenAPI description of the routes of users with memory."""

from __future__ import annotations

from corella_edge.messages import MAX_ID_CHARS
from corella_edge_runtime.server.answers import Appended, Deleted, UserExport
from corella_edge_runtime.server.describing import Json, answer, components, json_of, later, ref
from corella_edge_runtime.store.events import NewEventsMessage


def paths() -> Json:
    """Path → operations, as in `openapi.document`."""
    return {
        "/v1/events": {"post": _append()},
        "/v1/users/{id}": {"get": _export(), "delete": _delete()},
    }


def schemas() -> Json:
    """What `paths` refers to, beside those of `/v1/rank`."""
    return components(NewEventsMessage, Appended, Deleted, UserExport)


def _append() -> Json:
    return {
        "operationId": "appendEvents",
        "summary": "Add to a user's history; answered when it is on the disk.",
        "requestBody": {"required": True, "content": json_of(ref("NewEvents"))},
        "responses": {
            "200": answer("Nothing but damage to the disk loses it now.", ref("Appended")),
            "400": answer("The body is not strict JSON in UTF-8.", ref("Error")),
            "408": answer("The body did not arrive in time.", ref("Error")),
            "413": answer("The body is too large.", ref("Error")),
            "415": answer("The body is packed otherwise than by gzip.", ref("Error")),
            "422": answer(
                "JSON, but not events, or times that are not in seconds; or the key was used for others.", ref("Error")
            ),
            **_refusals(),
            "507": answer("No room on the disk: nothing was added.", ref("Error")),
        },
    }


def _export() -> Json:
    return {
        "operationId": "exportUser",
        "summary": "Everything held on a user.",
        "parameters": [_ID_IN_PATH],
        "responses": {
            "200": answer("Events in the order of the history.", ref("UserExport")),
            "404": answer("Nothing is held on such a user.", ref("Error")),
            "422": answer("Not an id.", ref("Error")),
            **_refusals(),
        },
    }


def _delete() -> Json:
    return {
        "operationId": "deleteUser",
        "summary": "Erase a user; answered when no byte is left in the store's files, nor in caches.",
        "parameters": [_ID_IN_PATH],
        "responses": {
            "200": answer("Nothing is held on the user.", ref("Deleted")),
            "422": answer("Not an id.", ref("Error")),
            **_refusals(),
            "507": answer("No room on the disk to overwrite what is erased: send the same again.", ref("Error")),
        },
    }


def _refusals() -> Json:
    full = "Loading, stopping, full, or the store can not do it now."
    return {
        "500": answer("A fault of the server; its log says where.", ref("Error")),
        "501": answer("The server keeps no users: it has no store.", ref("Error")),
        "503": later(full, ref("Error")),
    }


_ID_IN_PATH: Json = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "UTF-8 in percent-encoding; a slash as %2F.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS},
}
