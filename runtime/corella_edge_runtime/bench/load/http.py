"""HTTP/1.1 as the load generator speaks it: request bytes made beforehand, and a parser of replies. No sockets here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum, auto

_HEAD_LIMIT = 65536
_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked *\r\n", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close *\r\n", re.IGNORECASE)
_SERVER_TIMING = re.compile(rb"\r\nserver-timing: *([^\r\n]*)\r\n", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3})[ \r]")
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})(?:;[^\r\n]*)?\r\n")
_CHUNK_LINE = 1024


class ReplyError(Exception):
    """What came is no HTTP/1.1 reply to one request."""


def post(path: str, body: bytes, headers: Mapping[str, str] | None = None, host: str = "127.0.0.1") -> bytes:
    """The bytes of a POST with a JSON body, on a connection that is kept."""
    given = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**given, **(headers or {})}.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("ascii") + body


class _Body(Enum):
    UNKNOWN = auto()
    LENGTH = auto()
    CHUNKED = auto()
    TO_END = auto()


class HttpReply:
    """One reply, fed as it arrives.

    Attributes:
        status: 0 until the head is complete.
        timing: the value of `Server-Timing`, or "".
        body: as far as it has come.
        complete: nothing more belongs to it.
    """

    __slots__ = ("_data", "_kind", "_missing", "_reusable", "body", "complete", "status", "timing")

    def __init__(self) -> None:
        self.status, self.timing, self.body, self.complete = 0, "", b"", False
        self._data = bytearray()
        self._kind, self._missing, self._reusable = _Body.UNKNOWN, 0, True

    @property
    def reusable(self) -> bool:
        """Another request may follow on the same connection."""
        return self.complete and self._reusable

    def feed(self, data: bytes) -> bool:
        """Take what has arrived; True once the reply is complete.

        Raises:
            ReplyError: it is malformed, or bytes follow its end.
        """
        if self.complete:
            raise ReplyError("bytes after the end of the reply")
        self._data += data
        if self._kind is _Body.UNKNOWN and not self._head():
            return False
        if self._kind is _Body.LENGTH:
            self._by_length()
        elif self._kind is _Body.CHUNKED:
            self._by_chunks()
        return self.complete

    def ended(self) -> None:
        """The other side has closed.

        Raises:
            ReplyError: in the middle of the reply, or before it.
        """
        if self._kind is _Body.TO_END:
            self.body, self.complete = bytes(self._data), True
        if not self.complete:
            raise ReplyError("closed in the middle of the reply" if self._data else "closed without a reply")

    def _head(self) -> bool:
        """Read the head if it is there; those of interim replies (1xx) are passed over."""
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._data[: end + 2])
            del self._data[: end + 4]
            found = _STATUS.match(head)
            if found is None:
                raise ReplyError(f"no HTTP/1.1 status line: {head[:60]!r}")
            status = int(found[1])
            if status >= 200:
                self._understand(status, head)
                return True
        if len(self._data) > _HEAD_LIMIT:
            raise ReplyError("the head of the reply does not end")
        return False

    def _understand(self, status: int, head: bytes) -> None:
        self.status, self._reusable = status, _CLOSE.search(head) is None
        timing, length = _SERVER_TIMING.search(head), _CONTENT_LENGTH.search(head)
        self.timing = timing[1].decode("latin-1") if timing else ""
        if status in (204, 304):
            self._kind, self._missing = _Body.LENGTH, 0
        elif _CHUNKED.search(head):
            self._kind = _Body.CHUNKED
        elif length:
            self._kind, self._missing = _Body.LENGTH, int(length[1])
        else:
            self._kind, self._reusable = _Body.TO_END, False

    def _by_length(self) -> None:
        if len(self._data) > self._missing:
            raise ReplyError("bytes after the end of the reply")
        if len(self._data) == self._missing:
            self.body, self.complete = bytes(self._data), True

    def _by_chunks(self) -> None:
        """Move whole chunks from what has come to the body."""
        while not self.complete:
            line = _CHUNK.match(self._data)
            if line is None:
                if b"\r\n" in self._data[:_CHUNK_LINE] or len(self._data) > _CHUNK_LINE:
                    raise ReplyError(f"no size of a chunk: {bytes(self._data[:20])!r}")
                return
            size = int(line[1], 16)
            if size == 0:
                self._last_chunk(line.end())
                return
            end = line.end() + size
            if len(self._data) < end + 2:
                return
            if self._data[end : end + 2] != b"\r\n":
                raise ReplyError("a chunk does not end where it said")
            self.body += bytes(self._data[line.end() : end])
            del self._data[: end + 2]

    def _last_chunk(self, start: int) -> None:
        """The empty chunk, and trailers if there are any, end with an empty line."""
        end = start if self._data[start : start + 2] == b"\r\n" else self._data.find(b"\r\n\r\n", start) + 2
        if end < 2 or len(self._data) < end + 2:
            return
        if len(self._data) > end + 2:
            raise ReplyError("bytes after the end of the reply")
        self.complete = True
