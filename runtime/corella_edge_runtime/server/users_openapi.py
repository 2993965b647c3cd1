"""The OpenAPI description of the routes of users with memory; it refers to schemas of `openapi.SCHEMAS`."""

from __future__ import annotations

from typing import Any

from corella_edge.events import MAX_EVENTS
from corella_edge.request import MAX_ID_CHARS

Json = dict[str, Any]


def paths() -> Json:
    """Path → operations, as in `openapi.document`."""
    return {
        "/v1/events": {"post": _append()},
        "/v1/users/{id}": {"get": _export(), "delete": _delete()},
    }


def schemas() -> Json:
    """What `paths` refers to, beside those of `/v1/rank`."""
    return _SCHEMAS


def _append() -> Json:
    return {
        "operationId": "appendEvents",
        "summary": "Add to a user's history; answered when it is on the disk.",
        "requestBody": {"required": True, "content": _content("NewEvents")},
        "responses": {
            "200": _found("Appended", "Nothing but damage to the disk loses it now."),
            "400": _failure("The body is not strict JSON in UTF-8."),
            "408": _failure("The body did not arrive in time."),
            "413": _failure("The body is too large."),
            "415": _failure("The body is packed otherwise than by gzip."),
            "422": _failure("JSON, but not events, or times that are not in seconds; or the key was used for others."),
            **_refusals(),
            "507": _failure("No room on the disk: nothing was added."),
        },
    }


def _export() -> Json:
    return {
        "operationId": "exportUser",
        "summary": "Everything held on a user.",
        "parameters": [_ID_IN_PATH],
        "responses": {
            "200": _found("UserExport", "Events in the order of the history."),
            "404": _failure("Nothing is held on such a user."),
            "422": _failure("Not an id."),
            **_refusals(),
        },
    }


def _delete() -> Json:
    return {
        "operationId": "deleteUser",
        "summary": "Erase a user; answered when no byte is left in the store's files, nor in caches.",
        "parameters": [_ID_IN_PATH],
        "responses": {
            "200": _found("Deleted", "Nothing is held on the user."),
            "422": _failure("Not an id."),
            **_refusals(),
            "507": _failure("No room on the disk to overwrite what is erased: send the same again."),
        },
    }


def _refusals() -> Json:
    seconds = {"Retry-After": {"schema": {"type": "integer"}}}
    full = "Loading, stopping, full, or the store can not do it now."
    return {
        "500": _failure("A fault of the server; its log says where."),
        "501": _failure("The server keeps no users: it has no store."),
        "503": _failure(full) | {"headers": seconds},
    }


def _content(schema: str) -> Json:
    return {"application/json": {"schema": _ref(schema)}}


def _found(schema: str, description: str) -> Json:
    return {"description": description, "content": _content(schema)}


def _failure(description: str) -> Json:
    return _found("Error", description)


def _ref(pointer: str) -> Json:
    return {"$ref": f"#/components/schemas/{pointer}"}


def _object(properties: Json, required: list[str]) -> Json:
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


_ID_IN_PATH: Json = {
    "name": "id",
    "in": "path",
    "required": True,
    "description": "UTF-8 in percent-encoding; a slash as %2F.",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_CHARS},
}
_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_SECONDS: Json = {"description": "Unix time in seconds.", "type": "integer"}
_SCHEMAS: Json = {
    "NewEvents": _object(
        {
            "user_id": _ref("UserIdRequest/properties/user_id"),
            "events": {"type": ["array", "null"], "maxItems": MAX_EVENTS, "items": _ref("Event")},
            "features": _ref("User/properties/features"),
            "key": {
                "description": "Chosen by the client; a user's appends with one key are one append and its retries.",
                "anyOf": [_ref("UserIdRequest/properties/user_id"), {"type": "null"}],
            },
        },
        ["user_id", "events"],
    ),
    "Appended": _object(
        {
            "user_id": _TEXT,
            "appended": _COUNT,
            "events": {"description": "Held on the user now.", **_COUNT},
            "notes": _ref("Answer/properties/notes"),
        },
        ["user_id", "appended", "events"],
    ),
    "Deleted": _object(
        {"user_id": _TEXT, "deleted": {"description": "False: there was none.", "type": "boolean"}},
        ["user_id", "deleted"],
    ),
    "UserExport": _object(
        {
            "user_id": _TEXT,
            "features": _ref("User/properties/features"),
            "updated": {"description": "When something was last appended.", **_SECONDS},
            "events": {"type": "array", "items": _ref("HeldEvent")},
            "keys": {"type": "array", "items": _ref("HeldKey")},
        },
        ["user_id", "features", "updated", "events", "keys"],
    ),
    "HeldEvent": _object(
        {
            "item": _TEXT,
            "rating": {"type": "number"},
            "time": {"description": "As it was given.", **_SECONDS},
            "arrived": _SECONDS,
        },
        ["item", "arrived"],
    ),
    "HeldKey": _object({"key": _TEXT, "arrived": _SECONDS}, ["key", "arrived"]),
}
