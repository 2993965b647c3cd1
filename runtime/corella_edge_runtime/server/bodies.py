"""Bodies of requests: read within bounds, unpacked within the same, parsed strictly: a request or one clear error."""

from __future__ import annotations

import asyncio
import codecs
import zlib
from collections.abc import Callable
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from corella_edge.formats.strict_json import JsonError, decode
from corella_edge.request import Request
from corella_edge.request_message import read_request
from corella_edge_runtime.server.guard.limits import ARRIVED, INLINE_BYTES, IntakeShare, Limits

T = TypeVar("T")
GZIP = "gzip"
_GZIPS = ([GZIP], ["x-gzip"])  # RFC 9110, 8.4.1.3: the same
_MAGIC = b"\x1f\x8b"
_MEMBERS = 8  # of one gzip stream; each costs a copy of what follows it
_GZIP_WINDOW = 31  # zlib's number for a gzip header and its largest window
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


async def read_body(request: HttpRequest, limits: Limits) -> bytes:
    """The JSON text of a body, without a byte order mark (RFC 8259, 8.1).

    Raises:
        JsonError: it cannot be UTF-8. HTTPException, ClientDisconnect: as `read_bytes`.
    """
    try:
        return json_text(await read_bytes(request, limits))
    except JsonError as error:
        raise JsonError(f"body: {error}") from None


async def read_bytes(request: HttpRequest, limits: Limits) -> bytes:
    """The whole body, unpacked. All share the room of `app.state.intake`, each until its request is answered.

    Raises:
        HTTPException: 413 before more than the limit is held, packed or not; 408 if it does not come, 503 if too many
            come at once; 415 for another packing than gzip, 400 for a damaged one.
        ClientDisconnect: nobody waits for an answer any more.
    """
    packed = _is_packed(request)
    received = await _received(request, limits)
    return await _unpacked(received, request.scope["state"]["share"], limits) if packed else received


def json_text(raw: bytes) -> bytes:
    """The JSON text in `raw`, which begins with it. Raises JsonError for what is evidently none in UTF-8."""
    if raw.startswith(codecs.BOM_UTF8):
        return raw[len(codecs.BOM_UTF8) :]
    # JSON begins with a character of ASCII: a zero byte beside it is half of a wider one.
    if raw.startswith(_UTF16) or 0 in raw[:2]:
        raise JsonError("UTF-16 or UTF-32; JSON is sent in UTF-8")
    if raw.startswith(_MAGIC):
        raise JsonError("packed by gzip, which the header Content-Encoding: gzip must say")
    return raw


async def _received(request: HttpRequest, limits: Limits) -> bytes:
    if _declared_length(request) > limits.body_bytes:
        raise _too_large(limits)
    share: IntakeShare = request.scope["state"]["share"]
    if arrived(request) is not None:
        return await _received_at_once(request, share, limits)
    chunks = []
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                _take(share, len(chunk))
                chunks.append(chunk)
                if share.size > limits.body_bytes:
                    raise _too_large(limits)
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive in time") from None
    return b"".join(chunks)


def arrived(request: HttpRequest) -> float | None:
    """When the whole body was there, a time of `time.monotonic()`; None if it is not, or nobody has noted it."""
    found: float | None = request.scope["state"].get(ARRIVED)
    return found


async def _received_at_once(request: HttpRequest, share: IntakeShare, limits: Limits) -> bytes:
    """A body that is there: nothing is waited for, which a timer would be set for."""
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    body: bytes = message["body"]
    _take(share, len(body))
    if len(body) > limits.body_bytes:
        raise _too_large(limits)
    return body


def _take(share: IntakeShare, size: int) -> None:
    if not share.take(size):
        raise HTTPException(503, "too many large requests at once", {"Retry-After": "1"})


def _too_large(limits: Limits, unpacked: str = "") -> HTTPException:
    return HTTPException(413, f"the body is larger than {limits.body_bytes} bytes{unpacked}")


def _is_packed(request: HttpRequest) -> bool:
    """Whether the body comes in gzip. Raises HTTPException for any other packing."""
    told = b",".join(_values(request, b"content-encoding")).decode("latin-1")
    if not told:
        return False
    found = [name for part in told.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if found and found not in _GZIPS:
        raise HTTPException(415, f"Content-Encoding {told[:40]!r}: only {GZIP} is unpacked", {"Accept-Encoding": GZIP})
    return bool(found)


async def _unpacked(packed: bytes, share: IntakeShare, limits: Limits) -> bytes:
    """In a thread if it is much: what comes out may be a thousand times what has come in."""
    most, found = limits.body_bytes, None
    if len(packed) <= INLINE_BYTES:
        found = gunzip(packed, min(INLINE_BYTES, most))
    if found is None and (len(packed) > INLINE_BYTES or most > INLINE_BYTES):
        found = await asyncio.to_thread(gunzip, packed, most)
    if found is None:
        raise _too_large(limits, " once it is unpacked")
    _take(share, len(found))
    return found


def gunzip(packed: bytes, most: int) -> bytes | None:
    """What is packed in a gzip stream, with zeros behind it or not; None if it is more than `most` bytes.

    Raises:
        HTTPException: 400, the stream is damaged or cut off.
    """
    found = b""
    for _ in range(_MEMBERS):
        stream = zlib.decompressobj(_GZIP_WINDOW)
        try:
            found += stream.decompress(packed, most - len(found) + 1)
        except zlib.error:
            raise HTTPException(400, "body: not gzip, as Content-Encoding says it is, or damaged") from None
        if len(found) > most:
            return None
        if not stream.eof:
            raise HTTPException(400, "body: the gzip stream ends too early")
        packed = stream.unused_data.lstrip(b"\0")  # tools that write in blocks fill the last one up
        if not packed:
            return found
    raise HTTPException(400, f"body: a gzip stream of more than {_MEMBERS} parts")


def _declared_length(request: HttpRequest) -> int:
    text = next(iter(_values(request, b"content-length")), b"")
    return int(text) if text.isdigit() and len(text) < 20 else 0


def _values(request: HttpRequest, header: bytes) -> list[bytes]:
    return [value for name, value in request.scope["headers"] if name == header]


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
