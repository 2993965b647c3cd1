"""SQLite's errors in plain words: no room, or something else."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from corella_edge.errors import StoreError, StoreFullError

_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY}
# A limit on file sizes (EFBIG), a quota (EDQUOT), or no room for the index of the write-ahead log.
_NO_ROOM_EITHER = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_FSYNC}


def is_full(error: sqlite3.Error) -> bool:
    """Whether nothing can be written: a full or read-only disk, a quota, a limit."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in _NO_ROOM or code in _NO_ROOM_EITHER


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds a lock on the file."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def explained(path: Path, error: sqlite3.Error, then: str = "send the same again") -> StoreError:
    """The error a user may see; `then`: what to do once its cause is gone."""
    if is_full(error):
        return StoreFullError(
            f"{path}: cannot be written ({error}), nothing was changed; make room on its disk and {then}"
        )
    if is_busy(error):
        return StoreError(f"{path}: another program is writing it; end that and {then}")
    return StoreError(f"{path}: {error}; if it is damaged, stop the server and put a backup in its place")
