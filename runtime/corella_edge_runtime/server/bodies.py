"""Bodies of requests: read within bounds, parsed strictly. Whatever the bytes are: a request or one clear error."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest

from corella_edge.request import Request, read_request
from corella_edge.strict_json import JsonError, decode
from corella_edge_runtime.server.limits import Limits, Share

T = TypeVar("T")


async def read_body(request: HttpRequest, limits: Limits) -> bytes:
    """The whole body. All share the room of `app.state.intake`, each until its request is answered.

    Raises:
        HTTPException: 413 before more than the limit is held, 408 if it does not come, 503 if too many come at once.
        ClientDisconnect: nobody waits for an answer any more.
    """
    if _declared_length(request) > limits.body_bytes:
        raise _too_large(limits)
    share: Share = request.state.share
    chunks = []
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                if not share.take(len(chunk)):
                    raise HTTPException(503, "too many large requests at once", {"Retry-After": "1"})
                chunks.append(chunk)
                if share.size > limits.body_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive in time") from None
    return b"".join(chunks)


def _too_large(limits: Limits) -> HTTPException:
    return HTTPException(413, f"the body is larger than {limits.body_bytes} bytes")


def _declared_length(request: HttpRequest) -> int:
    text = request.headers.get("content-length", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def parse_body(body: bytes) -> Request:
    """The rank request in `body`. Raises as `parsed`."""
    try:
        return read_request(body)
    except JsonError as error:
        raise JsonError(f"body: {error}") from None


def parsed(body: bytes, parse: Callable[[object], T]) -> T:
    """What `parse` makes of the JSON in `body`.

    Raises:
        JsonError: not strict JSON: HTTP 400, where other input errors are 422.
        InputError: JSON, but not what was expected.
    """
    try:
        return parse(decode(body))
    except JsonError as error:
        raise JsonError(f"body: {error}") from None
    except RecursionError:
        raise JsonError("body: nested too deeply") from None
