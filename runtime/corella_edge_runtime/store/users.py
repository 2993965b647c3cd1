"""The embedded store of users: appends that are on the disk when they return, reads, export, erasure, retention."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from corella_edge.events import NewEvents
from corella_edge.request import Event, Features, History, User
from corella_edge_runtime.store import rows
from corella_edge_runtime.store.cache import UserCache
from corella_edge_runtime.store.opening import claim, writer
from corella_edge_runtime.store.readers import Readers
from corella_edge_runtime.store.rows import Retention
from corella_edge_runtime.store.tables import SHARDS
from corella_edge_runtime.store.writer import Step, Writer

CACHED_EVENTS = 200_000  # some 40 MB


class UserStore:
    """Profiles and histories in one SQLite file of one process. All methods may be called from any thread.

    Every method that writes raises StoreFullError while the disk is full or read-only, and StoreError for other
    failures. Of an append nothing is kept then; a deletion is finished when it is asked for again.
    """

    def __init__(self, path: Path, lock: BinaryIO, db: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self.path = path
        self.closed = threading.Event()
        self._lock, self._clock = lock, clock
        self._cache = UserCache(CACHED_EVENTS)
        self._readers = Readers(path)
        self._writer = Writer(path, db)

    @classmethod
    def open(cls, path: Path, clock: Callable[[], float] = time.time) -> UserStore:
        """The store at `path`, made if there is none.

        Raises:
            InputError: not a store, of a newer format, in use by another process, or not to be written.
            StoreFullError: there is no room to open it.
        """
        path = path.resolve()
        lock = claim(path)
        try:
            return cls(path, lock, writer(path), clock)
        except BaseException:
            lock.close()
            raise

    def append(
        self, user_id: str, events: Sequence[Event], features: Features | None = None, key: str | None = None
    ) -> int:
        """Add events, and replace the profile if one is given; the number of events now held on the user.

        A retry with the same `key` adds nothing. InputError: the key was used for other events.
        """
        return self.append_soon(NewEvents(user_id, History.of(events), features, key)).result()

    def append_soon(self, new: NewEvents) -> Future[int]:
        """`append` without waiting: many of them share one write to the disk."""
        now = self._now()
        return self._writer.submit(
            Step(lambda db: rows.append(db, new, now), lambda _: self._cache.changed(new.user_id))
        )

    def user(self, user_id: str, least: int, step: int = 1) -> User | None:
        """Profile and the latest events, oldest first: by their time if they have one, else by arrival.

        At least `least` of them, if there are so many; what is left out is a multiple of `step`. As long as the
        history does not change, it is the same object. StoreError: the file can not be read.
        """
        found = self.recent(user_id, least, step)
        if found is not None:
            return found
        version = self._cache.version(user_id)
        with self._readers.snapshot() as db:
            found = rows.user(db, user_id, least, step)
        return None if found is None else self._cache.put(user_id, found, (least, step), version)

    def recent(self, user_id: str, least: int, step: int = 1) -> User | None:
        """`user` without waiting: None also if it would have to be read from the disk."""
        return self._cache.get(user_id, (least, step))

    def export(self, user_id: str) -> dict[str, Any] | None:
        """Everything held on a user, or None. StoreError: the file can not be read."""
        with self._readers.snapshot() as db:
            return rows.export(db, user_id)

    def delete(self, user_id: str) -> bool:
        """Remove a user so that no byte is left in the store's files; False if there was none.

        StoreError: also when the user is removed but another program that reads the file stands in the way of the rest.
        """
        return self.delete_soon(user_id).result()

    def delete_soon(self, user_id: str) -> Future[bool]:
        """`delete` without waiting."""
        return self._writer.submit(
            Step(lambda db: rows.delete(db, user_id), lambda _: self._cache.drop(user_id), erases=True)
        )

    def prune(self, max_age_seconds: float | None, max_events_per_user: int | None, now: float | None = None) -> int:
        """Remove events by age since arrival and beyond the latest of each user, users of whom nothing newer is
        left, and old keys; the number of events removed. Appends go on between its steps."""
        keep, seconds = Retention(max_age_seconds, max_events_per_user), self._now() if now is None else int(now)
        removed = sum(self._pruned(n, keep, seconds) for n in range(SHARDS))
        self._writer.submit(Step(lambda db: None, erases=True)).result()
        return removed

    def _pruned(self, n: int, keep: Retention, now: int) -> int:
        """Events removed from one shard."""
        step = Step(lambda db: rows.prune(db, n, keep, now), lambda done: self._cache.drop(*done.users))
        return self._writer.submit(step).result().events

    def close(self) -> None:
        """Finish what was asked, then let go of the file."""
        self.closed.set()
        self._readers.close()
        self._writer.close()
        self._lock.close()

    def __enter__(self) -> UserStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _now(self) -> int:
        return int(self._clock())
