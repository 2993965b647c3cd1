"""The OpenAPI description of the page and of its data."""

from __future__ import annotations

from corella_edge_runtime.server.describing import TEXT, Described, Json, answer, json_of, later, operation

MOST_ITEMS, MOST_USERS, MOST_SEED, QUERY_CHARS = 500, 200, 2**32, 200


def _index() -> Json:
    content = {**json_of({"type": "object"}), "text/html": TEXT}
    yes = {"description": "JSON, or the page if text/html is accepted.", "content": content}
    return operation("index", "What is served here.", {"200": yes})


def _file() -> Json:
    types = ("text/css", "text/javascript", "image/svg+xml")
    responses = {
        "200": {"description": "The file.", "content": dict.fromkeys(types, TEXT)},
        "304": {"description": "Unchanged."},
        "404": answer("No such file."),
    }
    name = {"name": "file", "in": "path", "required": True, "schema": {"type": "string"}}
    return operation("pageFile", "A file of the page.", responses, parameters=[name])


def _data(name: str, summary: str, *parameters: Json) -> Json:
    responses = {"200": answer(summary, {"type": "object"}), "503": later("Still loading.")}
    if parameters:
        responses["422"] = answer("A parameter is out of range, or there is no such user.")
    return operation(name, summary, responses, parameters=list(parameters))


def _count(usual: int, most: int) -> Json:
    return _whole("count", usual, 1, most)


def _whole(name: str, usual: int, low: int, high: int) -> Json:
    schema = {"type": "integer", "minimum": low, "maximum": high, "default": usual}
    return {"name": name, "in": "query", "schema": schema}


_QUERY: Json = {"name": "q", "in": "query", "schema": {"type": "string", "maxLength": QUERY_CHARS, "default": ""}}
_ID: Json = {"name": "id", "in": "query", "required": True, "schema": {"type": "string"}}
OPENAPI = Described(
    {
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
    }
)  # fmt: skip
