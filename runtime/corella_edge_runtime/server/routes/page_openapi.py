"""The OpenAPI description of the page and of its data."""

from __future__ import annotations

from corella_edge_runtime.server.describing import Json, answer, json_of, later, ref

MOST_ITEMS, MOST_USERS, MOST_SEED, QUERY_CHARS = 500, 200, 2**32, 200


def paths() -> Json:
    """Path → operations, as in `openapi.document`."""
    return {
        "/": {"get": _index()},
        "/page/items": {
            "get": _data("pageItems", "Items found by id or title, or a seeded sample of the catalogue.",
                         _QUERY, _count(24, MOST_ITEMS), _whole("seed", 0, 0, MOST_SEED)),
        },
        "/page/users": {
            "get": _data("pageUsers", "Users of the bundle's sample.", _QUERY, _count(50, MOST_USERS)),
        },
        "/page/user": {"get": _data("pageUser", "One of them, with history and held-out items.", _ID)},
        "/page/curve": {"get": _data("pageCurve", "Threshold, share and measured quality.")},
        "/page/live": {"get": _data("pageLive", "The last minute: share, latency, queue.")},
        "/page/{file}": {"get": _file()},
    }  # fmt: skip


def schemas() -> Json:
    """None of its own."""
    return {}


def _index() -> Json:
    content = {**json_of({"type": "object"}), "text/html": _TEXT}
    yes = {"description": "JSON, or the page if text/html is accepted.", "content": content}
    return {"operationId": "index", "summary": "What is served here.", "responses": {"200": yes}}


def _file() -> Json:
    types = ("text/css", "text/javascript", "image/svg+xml")
    responses = {
        "200": {"description": "The file.", "content": dict.fromkeys(types, _TEXT)},
        "304": {"description": "Unchanged."},
        "404": answer("No such file.", ref("Error")),
    }
    name = {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}}
    return {"operationId": "pageFile", "summary": "A file of the page.", "parameters": [name], "responses": responses}


def _data(name: str, summary: str, *parameters: Json) -> Json:
    responses = {"200": answer(summary, {"type": "object"}), "503": later("Still loading.", ref("Error"))}
    if parameters:
        responses["422"] = answer("A parameter is out of range, or names nobody.", ref("Error"))
    return {"operationId": name, "summary": summary, "parameters": list(parameters), "responses": responses}


def _count(usual: int, most: int) -> Json:
    return _whole("count", usual, 1, most)


def _whole(name: str, usual: int, low: int, high: int) -> Json:
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": usual}
    return {"name": name, "in": "query", "schema": schema}


_TEXT: Json = {"schema": {"type": "string"}}
_QUERY: Json = {"name": "q", "in": "query", "schema": {"type": "string", "maxLength": QUERY_CHARS, "default": ""}}
_ID: Json = {"name": "id", "in": "query", "required": True, "schema": {"type": "string"}}
