"""Bytes of a request's body to a `Request`, strictly: whatever the bytes are, a request or one clear error."""

from __future__ import annotations

from corella_edge.request import Request, parse_request
from corella_edge.strict_json import JsonError, decode


def parse_body(body: bytes) -> Request:
    """The request in `body`.

    Raises:
        JsonError: not strict JSON: HTTP 400, where other input errors are 422.
        InputError: JSON, but not a request.
    """
    try:
        return parse_request(decode(body))
    except JsonError as error:
        raise JsonError(f"body: {error}") from None
    except RecursionError:
        raise JsonError("body: nested too deeply") from None
