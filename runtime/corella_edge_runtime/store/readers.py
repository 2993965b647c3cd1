"""Connections that read: each block gets one of its own, and sees one state of the store."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corella_edge.errors import StoreError
from corella_edge_runtime.store.failure import explained
from corella_edge_runtime.store.opening import reader
from corella_edge_runtime.store.presence import Presence, gone


class Readers:
    """Connections made as they are needed, and kept for the next block."""

    def __init__(self, path: Path, presence: Presence) -> None:
        self._path, self._presence = path, presence
        self._lock = threading.Lock()
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    @contextmanager
    def snapshot(self) -> Iterator[sqlite3.Connection]:
        """A connection inside a read transaction.

        Raises:
            StoreError: the store is closed, or its file cannot be read, or is gone.
        """
        try:
            db = self._take()
            try:
                self._check()  # a new connection may have been made to another file
                db.execute("BEGIN")
                yield db
                db.execute("COMMIT")
                self._check()
            finally:
                self._give(db)
        except sqlite3.Error as error:
            raise explained(self._path, error) from None

    def close(self) -> None:
        """Close what is idle; what is in use follows when its block ends."""
        with self._lock:
            self._closed = True
        self._drop()

    def _take(self) -> sqlite3.Connection:
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._path}: the store is closed")
            if self._idle:
                return self._idle.pop()
        self._check()
        return reader(self._path)

    def _check(self) -> None:
        if lost := self._presence.lost():
            self._drop()
            raise gone(lost)

    def _drop(self) -> None:
        with self._lock:
            for db in self._idle:
                db.close()
            self._idle.clear()

    def _give(self, db: sqlite3.Connection) -> None:
        with self._lock:
            if self._closed or db.in_transaction or self._presence.lost():
                db.close()
            else:
                self._idle.append(db)
