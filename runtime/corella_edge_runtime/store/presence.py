"""Whether the files at a store's names are still those that were opened.

A name is not the file: who deletes, moves or replaces `users.db` leaves this process writing to what nobody will find
again. What is looked at here costs much less than an fsync, so it is done before every acknowledgement.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from corella_edge.errors import StoreGoneError
from corella_edge_runtime.store.opening import LOCKS, beside

_FILES = ("", "-wal", "-shm", *LOCKS)
Seen = tuple[int, int]


class Presence:
    """The files of an open store, as they were when it was opened. Any thread may ask."""

    def __init__(self, path: Path, anchor: sqlite3.Connection) -> None:
        """Once the files are open. `anchor`: a connection that only reads, and must be in use already."""
        self._path, self._anchor = path, anchor
        self._log = beside(path, "-wal")
        self._opened = {file: _identity(file) for file in (beside(path, suffix) for suffix in _FILES)}
        # Held until the end: to close a handle of the file would drop SQLite's locks.
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.wrote()

    def wrote(self) -> None:
        """This process has written the file: what it holds now is its own."""
        self._content = self._found_content()

    def lost(self) -> str:
        """What is no longer what was opened; empty if all is well."""
        for file, opened in self._opened.items():
            if (found := _identity(file)) != opened:
                return f"{file} was {'replaced' if found else 'moved or deleted'}"
        return ""

    def check(self) -> None:
        """Raises StoreGoneError. Of the writer's thread: it also looks for a file overwritten in its place."""
        lost = self.lost()
        if not lost and self._found_content() != self._content:
            lost = f"{self._path} was overwritten"
        if lost:
            raise gone(lost)

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

    def _found_content(self) -> Seen:
        found = os.fstat(self._file)
        return found.st_size, found.st_mtime_ns


def gone(lost: str) -> StoreGoneError:
    """The error of what `lost` says."""
    return StoreGoneError(f"{lost} while the store was in use: put that file back, or restart the server")


def _identity(path: Path) -> Seen | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
