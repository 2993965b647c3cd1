"""The forms of answers that are not rankings: JSON objects, and errors as `{"error": {"message": …}}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

JSON = "application/json"


def json_answer(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    # ASCII escapes, unlike rankings: a message may quote text that UTF-8 can not carry.
    return Response(json.dumps(value).encode(), status, dict(headers or {}), JSON)


def error_answer(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return json_answer(error_body(message), status, headers)


def error_body(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}
