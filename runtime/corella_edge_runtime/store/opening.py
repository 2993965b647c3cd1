"""Opening the store's file: ours, of a known version, writable, and nobody else's."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corella_edge.atomic import discard, publish_file
from corella_edge.errors import InputError, StoreError, StoreFullError
from corella_edge_runtime.store import tables
from corella_edge_runtime.store.failure import explained, is_full

BUSY_SECONDS = 5.0
THEN = "start again"
_HEADER = b"SQLite format 3\0"
_STATEMENTS = 1024  # a few for each shard
# The second one, hidden, outlives `rm users.db*`; the first is that of earlier releases.
LOCKS = ("-lock", ".lock")


class Claim:
    """The locks that keep other processes out of a store, until it is closed or the process ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._locks: list[int] = []

    def take(self) -> None:
        """Raises InputError: in use elsewhere, or the folder cannot be written."""
        for suffix in LOCKS:
            try:
                self._locks.append(os.open(beside(self._path, suffix), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            except OSError as error:
                raise InputError(f"{self._path}: cannot be written: {error.strerror}; name another file") from None
            _hold(self._path, self._locks[-1])

    def check_log(self) -> None:
        """Raises InputError: the write-ahead log belongs to another file, and would be applied to this one."""
        log, owner = beside(self._path, "-wal"), os.pread(self._locks[-1], 100, 0)
        if not owner or owner == _inode(self._path) or not log.exists() or not log.stat().st_size:
            return
        raise InputError(
            f"{log}: belongs to another file than {self._path.name} (a backup put in its place?); move it away to use "
            f"{self._path.name} as it is, or remove {beside(self._path, LOCKS[-1]).name} if all was copied together"
        )

    def sign(self) -> None:
        """Note whose log the log is from now on. Raises StoreFullError."""
        try:
            os.ftruncate(self._locks[-1], 0)
            os.pwrite(self._locks[-1], _inode(self._path), 0)
        except OSError as error:
            raise StoreFullError(
                f"{beside(self._path, LOCKS[-1])}: cannot be written ({error.strerror}); make room and {THEN}"
            ) from None

    def close(self) -> None:
        for lock in self._locks:
            os.close(lock)
        self._locks.clear()


def _inode(path: Path) -> bytes:
    # Not the device: its number may be another one after a restart of the machine.
    return b"%d" % path.stat().st_ino


def claim(path: Path) -> Claim:
    """Lock the store against other processes, and make it if it is not there.

    Raises:
        InputError: not a store, a newer one, in use elsewhere, or its folder cannot be written.
        StoreFullError: there is no room to make it.
    """
    _check(path)
    found = Claim(path)
    try:
        found.take()
        if not _check(path):
            _make(path)
        found.check_log()
    except BaseException:
        found.close()
        raise
    return found


def _check(path: Path) -> bool:
    """Whether there is a store; InputError if there is something else. Nothing is written."""
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; name another file") from None
    if not header:
        return False
    application, version = (int.from_bytes(header[at : at + 4], "big") for at in (68, 60))
    if not header.startswith(_HEADER) or application != tables.APPLICATION:
        raise InputError(f"{path}: not a user store of corella-edge; name another file")
    if version > tables.VERSION:
        raise InputError(f"{path}: a user store of format {version}, this corella-edge knows {tables.VERSION}")
    return True


def _hold(path: Path, lock: int) -> None:
    # Not the store itself: closing a handle of it would drop SQLite's own locks.
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(f"{path}: in use by another process; stop it or name another file") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be locked: {error.strerror}; name a file on a local disk") from None


def _make(path: Path) -> None:
    """A new store appears complete or not at all."""
    for suffix in ("-wal", "-journal"):
        if beside(path, suffix).exists():
            # SQLite would play it into the new file.
            raise InputError(f"{beside(path, suffix)}: left by a store that is gone; put that back or move this away")
    partial = path.with_name(f".{path.name}.partial")
    try:
        _remove(partial)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL, 0o600))
        with _connected(partial, "rw") as db:
            tables.create(db)
        publish_file(partial, path)
    except sqlite3.Error as error:
        raise explained(path, error, THEN) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}; name another file") from None
    finally:
        _remove(partial)


def _remove(partial: Path) -> None:
    for suffix in ("", "-journal"):
        discard(beside(partial, suffix))


def beside(path: Path, suffix: str) -> Path:
    """A file that belongs to the store at `path`."""
    return path.with_name(f".{path.name}{suffix}" if suffix == LOCKS[-1] else path.name + suffix)


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
        return InputError(f"{path}: cannot be opened for writing ({error}); name another file or put a backup there")
    return explained(path, error, THEN)


def reader(path: Path) -> sqlite3.Connection:
    """A connection that only reads, for one thread at a time."""
    return _connect(path, "ro")


def anchor(path: Path) -> sqlite3.Connection:
    """A connection that reads, and has begun to: as long as it is open, closing the others leaves the log alone."""
    db = reader(path)
    try:
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error as error:
        db.close()
        raise explained(path, error, THEN) from None
    return db


def empty_log(db: sqlite3.Connection) -> bool:
    """Move the write-ahead log into the store and cut it to nothing; False if a reader stands in the way."""
    busy = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    return not busy
