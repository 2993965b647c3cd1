"""Opening the store's file: ours, of a known version, writable, and nobody else's."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from corella_edge.atomic import discard, publish_file
from corella_edge.errors import InputError, StoreError
from corella_edge_runtime.store import tables
from corella_edge_runtime.store.failure import explained, is_full

BUSY_SECONDS = 5.0
_THEN = "start again"
_HEADER = b"SQLite format 3\0"
_STATEMENTS = 1024  # a few for each shard


def claim(path: Path) -> BinaryIO:
    """Lock the store against other processes, and make it if it is not there; the lock ends with the handle.

    Raises:
        InputError: not a store, a newer one, in use elsewhere, or its folder can not be written.
        StoreFullError: there is no room to make it.
    """
    _check(path)
    try:
        lock = os.fdopen(os.open(_beside(path, "-lock"), os.O_RDWR | os.O_CREAT, 0o600), "rb")
    except OSError as error:
        raise InputError(f"{path}: can not be written: {error.strerror}; name another file") from None
    try:
        _hold(path, lock)
        if not _check(path):
            _make(path)
    except BaseException:
        lock.close()
        raise
    return lock


def _check(path: Path) -> bool:
    """Whether there is a store; InputError if there is something else. Nothing is written."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{path}: can not be read: {error.strerror}; name another file") from None
    if not header:
        return False
    application, version = (int.from_bytes(header[at : at + 4], "big") for at in (68, 60))
    if not header.startswith(_HEADER) or application != tables.APPLICATION:
        raise InputError(f"{path}: not a user store of corella-edge; name another file")
    if version > tables.VERSION:
        raise InputError(f"{path}: a user store of format {version}, this corella-edge knows {tables.VERSION}")
    return True


def _hold(path: Path, lock: BinaryIO) -> None:
    # Not the store itself: closing a handle of it would drop SQLite's own locks.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: in use by another process; stop it or name another file") from None
    except OSError as error:
        raise InputError(f"{path}: can not be locked: {error.strerror}; name a file on a local disk") from None


def _make(path: Path) -> None:
    """A new store appears complete or not at all."""
    for suffix in ("-wal", "-journal"):
        if _beside(path, suffix).exists():
            # SQLite would play it into the new file.
            raise InputError(f"{_beside(path, suffix)}: left by a store that is gone; put that back or move this away")
    partial = path.with_name(f".{path.name}.partial")
    try:
        _remove(partial)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL, 0o600))
        with _connected(partial, "rw") as db:
            tables.create(db)
        publish_file(partial, path)
    except sqlite3.Error as error:
        raise explained(path, error, _THEN) from None
    except OSError as error:
        raise InputError(f"{path}: can not be written: {error.strerror}; name another file") from None
    finally:
        _remove(partial)


def _remove(partial: Path) -> None:
    for suffix in ("", "-journal"):
        discard(_beside(partial, suffix))


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


@contextmanager
def _connected(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    db = _connect(path, mode)
    try:
        yield db
    finally:
        db.close()


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}", uri=True, timeout=BUSY_SECONDS, isolation_level=None,
        check_same_thread=False, cached_statements=_STATEMENTS,
    )  # fmt: skip


def writer(path: Path) -> sqlite3.Connection:
    """The one connection that writes: whatever it has committed is on the disk, whatever it deletes is overwritten.

    Raises:
        InputError: damaged, or not to be written.
        StoreFullError: there is no room to open it.
    """
    db = _connect(path, "rw")
    try:
        mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        db.executescript("PRAGMA synchronous = FULL; PRAGMA secure_delete = ON; PRAGMA temp_store = MEMORY;")
        db.executescript("BEGIN IMMEDIATE; ROLLBACK;")
        empty_log(db)  # a killed server may have left erased users in it
    except sqlite3.Error as error:
        db.close()
        raise _not_opened(path, error) from None
    if mode != "wal":
        db.close()
        raise InputError(f"{path}: SQLite's WAL mode does not work on its file system; name a file on another")
    return db


def _not_opened(path: Path, error: sqlite3.Error) -> InputError | StoreError:
    read_only = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
    if read_only or not is_full(error):
        return InputError(f"{path}: can not be opened for writing ({error}); name another file or put a backup there")
    return explained(path, error, _THEN)


def reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads, for one thread at a time."""
    return _connect(path, "ro")


def empty_log(db: sqlite3.Connection) -> bool:
    """Move the write-ahead log into the store and cut it to nothing; False if a reader stands in the way."""
    busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return not busy
