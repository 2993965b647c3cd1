"""The JSON form of a request, as `request_message` reads it."""

from __future__ import annotations

import json
from typing import Any

from corella_edge.request import Event, Request


def request_json(request: Request) -> dict[str, Any]:
    """The JSON form of a request: only what is set, whole numbers as integers."""
    user: dict[str, Any] = {"id": request.user.id} if request.user.id is not None else {}
    user["features"] = {name: _plain(value) for name, value in request.user.features.items()}
    user["history"] = [_event(event) for event in request.user.history]
    answer: dict[str, Any] = {"id": request.id} if request.id is not None else {}
    answer["user"] = user
    if request.candidates is not None:
        answer["candidates"] = [
            {"item": candidate.item}
            if candidate.features is None
            else {"item": candidate.item, "features": dict(candidate.features)}
            for candidate in request.candidates
        ]
    if request.adapters is not None:
        answer["adapters"] = {name: _plain(weight) for name, weight in request.adapters.items()}
    rest = {"threshold": request.threshold, "top_k": request.top_k, "timeout_ms": request.timeout_ms}
    return answer | {name: _plain(value) for name, value in rest.items() if value is not None}


def request_body(request: Request) -> bytes:
    """The body of a POST."""
    return json.dumps(request_json(request), ensure_ascii=False, separators=(",", ":")).encode("utf-8")


def request_line(request: Request) -> str:
    """One line of a JSON-lines file, line feed included."""
    return request_body(request).decode("utf-8") + "\n"


def _event(event: Event) -> dict[str, Any]:
    pairs = {"item": event.item, "rating": _plain(event.rating), "time": event.time}
    return {name: value for name, value in pairs.items() if value is not None}


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
