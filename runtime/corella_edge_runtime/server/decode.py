"""Bytes of a request's body to a `Request`, strictly: whatever the bytes are, a request or one clear error."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from corella_edge.errors import InputError
from corella_edge.request import Request, parse_request

_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class JsonError(InputError):
    """The body is not strict JSON (RFC 8259) in UTF-8: HTTP 400, where other input errors are 422."""


def parse_body(body: bytes) -> Request:
    """The request in `body`.

    Raises:
        JsonError: not JSON, or JSON whose meaning differs between parsers.
        InputError: JSON, but not a request.
    """
    try:
        return parse_request(decode_json(body))
    except RecursionError:
        raise JsonError("body: nested too deeply") from None


def decode_json(body: bytes) -> object:
    """Strict JSON: no NaN or Infinity, no name twice in an object, no half of a surrogate pair."""
    try:
        value: object = json.loads(body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant)
        if _SURROGATE_ESCAPE.search(body):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise JsonError("body: a text holds half of a surrogate pair (\\ud800 to \\udfff alone)") from None
    except UnicodeDecodeError as error:
        raise JsonError(f"body: byte {error.start} is not valid UTF-8") from None
    except json.JSONDecodeError as error:
        raise JsonError(f"body: not JSON: {error.msg} (line {error.lineno}, column {error.colno})") from None
    except ValueError:
        # Python refuses to convert integers of more than 4300 digits: the time would be quadratic.
        raise JsonError("body: a number has too many digits") from None
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise JsonError(f"body: the name {twice[:40]!r} occurs twice in one object")
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise JsonError(f"body: {name} is not JSON")
