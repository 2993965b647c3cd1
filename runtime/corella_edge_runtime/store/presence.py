"""Whether the files at a store's names are still those that were opened.

A name is not the file: who deletes, moves or replaces `users.db` leaves this process writing to what nobody will find
again. What is looked at here costs much less than an fsync, so it is done before every acknowledgement.
"""

from __future__ import annotations

import os
import sqlite3
import struct
from pathlib import Path
from typing import NamedTuple

from corella_edge.errors import StoreGoneError
from corella_edge_runtime.store.opening import LOCKS, beside

_FILES = ("", "-wal", "-shm", *LOCKS)
Seen = tuple[int, int]
_INDEX_BYTES = 136
# The fields of `Index` in the log's index (sqlite.org/walformat.html, 2.2).
_INDEX = struct.Struct("=8xI4xI76xI28xI4x")


class Index(NamedTuple):
    """What SQLite's processes tell each other of the write-ahead log.

    Attributes:
        transactions: so far.
        frames: pages in the log.
        moved, moving: how many of them have been moved into the file, and how many shall be.
    """

    transactions: int
    frames: int
    moved: int
    moving: int


class Presence:
    """The files of an open store, as they were when it was opened. Any thread may ask."""

    def __init__(self, path: Path, anchor: sqlite3.Connection) -> None:
        """Once the files are open. `anchor`: a connection that only reads, and must be in use already."""
        self._path, self._anchor = path, anchor
        self._log = beside(path, "-wal")
        self._opened = {file: _identity(file) for file in (beside(path, suffix) for suffix in _FILES)}
        # Held until the end: to close a handle of the file would drop SQLite's locks.
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._index = os.open(beside(path, "-shm"), os.O_RDONLY | os.O_CLOEXEC)
        self._page = int(anchor.execute("PRAGMA page_size").fetchone()[0])
        self._clock = int(anchor.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'clock'").fetchone()[0])
        self._overwritten = ""
        self.wrote()

    def wrote(self) -> None:
        """This process has written the file: what it holds now is its own."""
        self._content, self._known, self._marks = self._found_content(), self._found_index(), self._found_marks()

    def lost(self) -> str:
        """What is no longer what was opened; empty if all is well."""
        for file, opened in self._opened.items():
            if (found := _identity(file)) != opened:
                return f"{file} was {'replaced' if found else 'moved or deleted'}"
        return self._overwritten

    def check(self) -> None:
        """Raises StoreGoneError. Of the writer's thread: it also looks for a file overwritten in its place."""
        self._overwritten = "" if self._is_own() else f"{self._path} was overwritten"
        if lost := self.lost():
            raise gone(lost)

    def _is_own(self) -> bool:
        """Whether what it holds is of this store; other programs may have moved the log into it, or touched it."""
        if (found := self._found_content()) == self._content:
            return True
        touched = found[0] == self._content[0] and self._found_marks() == self._marks  # or a copy of the same state
        if not touched and not is_moved(self._known, self._found_index()):
            return False
        self.wrote()
        return True

    def has_log(self) -> bool:
        """Whether the write-ahead log at its name is this store's."""
        return _identity(self._log) == self._opened[self._log]

    def release(self) -> None:
        """Let go of the log: who closes the last connection now removes it."""
        self._anchor.close()

    def close(self) -> None:
        """Let go of the files, once nothing else has them open."""
        self.release()
        os.close(self._file)
        os.close(self._index)

    def _found_content(self) -> Seen:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns

    def _found_marks(self) -> list[bytes]:
        """What tells two states of the file apart: SQLite's header, and the page of the store's time."""
        return [os.pread(self._file, self._page, at * self._page) for at in (0, self._clock - 1)]

    def _found_index(self) -> Index:
        found = os.pread(self._index, _INDEX_BYTES, 0)
        return Index(*_INDEX.unpack(found.ljust(_INDEX_BYTES, b"\0")))


def is_moved(before: Index, now: Index) -> bool:
    """Whether the log has been moved into the file, or is being moved, and nothing was written to the log meanwhile.

    Backup tools and the `sqlite3` shell do so, and nothing is lost by it.
    """
    return now.transactions == before.transactions and (now != before or now.moving > now.moved)


def gone(lost: str) -> StoreGoneError:
    """The error of what `lost` says."""
    return StoreGoneError(f"{lost} while the store was in use: put that file back, or restart the server")


def _identity(path: Path) -> Seen | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
