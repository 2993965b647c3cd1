"""The embedded store of users: appends that are on the disk when they return, reads, export, erasure, retention."""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any

from corella_edge.errors import StoreError
from corella_edge.request import Event, Features, User
from corella_edge_runtime.machine.timekeeping import Reading, Timeline, date, read_clocks
from corella_edge_runtime.store import rows
from corella_edge_runtime.store.arrivals import Arrivals
from corella_edge_runtime.store.cache import UserCache
from corella_edge_runtime.store.events import NewEvents, new_events
from corella_edge_runtime.store.failure import explained
from corella_edge_runtime.store.opening import THEN, Claim, anchor, claim, writer
from corella_edge_runtime.store.presence import Presence
from corella_edge_runtime.store.readers import Readers
from corella_edge_runtime.store.rows import Pruned, Retention, Types
from corella_edge_runtime.store.tables import SHARDS
from corella_edge_runtime.store.writer import StoreWriter, WriteStep

_LOG = logging.getLogger("corella_edge.store")
CACHED_EVENTS = 200_000  # some 40 MB
_DAY = 86_400.0


class UserStore:
    """Profiles and histories in one SQLite file of one process. All methods may be called from any thread.

    Every method that writes raises StoreFullError while the disk is full or read-only, and StoreError for other
    failures. Of an append nothing is kept then; a deletion is finished when it is asked for again.
    """

    def __init__(self, path: Path, claim: Claim, db: sqlite3.Connection, clocks: Callable[[], Reading]) -> None:
        """Raises InputError or StoreFullError, as `open`."""
        self.path = path
        self.closed = threading.Event()
        self._claim = claim
        self._cache = UserCache(CACHED_EVENTS)
        self._arrivals = _arrivals(path, db, clocks)
        self._presence = Presence(path, anchor(path))
        self._readers = Readers(path, self._presence)
        self._writer = StoreWriter(path, db, self._arrivals, self._presence)

    @classmethod
    def open(cls, path: Path, clocks: Callable[[], Reading] = read_clocks) -> UserStore:
        """The store at `path`, created if it does not exist.

        Raises:
            InputError: not a store, of a newer format, in use by another process, or not to be written.
            StoreFullError: there is no room to open it.
        """
        path = path.resolve()
        held = claim(path)
        try:
            db = writer(path)
            try:
                held.sign()
                return cls(path, held, db, clocks)
            except BaseException:
                db.close()
                raise
        except BaseException:
            held.close()
            raise

    @property
    def lost(self) -> str:
        """What happened to the file if it was moved, deleted or replaced; else empty. Cheap."""
        return self._presence.lost()

    def append(
        self, user_id: str, events: Sequence[Event], features: Features | None = None, key: str | None = None
    ) -> int:
        """Add events, and replace the profile if one is given; the number of events now held on the user.

        A retry with the same `key` adds nothing. InputError: the key was used for other events, or a time is not in
        seconds.
        """
        return self.append_soon(new_events(user_id, tuple(events), features, key)).result()

    def append_soon(self, new: NewEvents) -> Future[int]:
        """`append` without waiting: many of them share one write to the disk."""
        arrived = self._arrivals.read()

        def append(db: sqlite3.Connection) -> int:
            return rows.append(db, new, self._arrivals.moment(arrived))

        return self._writer.submit(WriteStep(append, lambda _: self._cache.changed(new.user_id)))

    def user(self, user_id: str, least: int, step: int = 1, types: Types = None) -> User | None:
        """Profile and the latest events, oldest first: by their time if they have one, else by arrival.

        At least `least` of them, if there are so many; what is left out is a multiple of `step`. Of events with a type
        only those of `types` count, unless that is None. As long as the history does not change, it is the same
        object. StoreError: the file cannot be read.
        """
        found = self.recent(user_id, least, step, types)
        if found is not None:
            return found
        version = self._cache.version(user_id)
        with self._readers.snapshot() as db:
            found = rows.user(db, user_id, least, step, types)
        return None if found is None else self._cache.put(user_id, found, (least, step, types), version)

    def recent(self, user_id: str, least: int, step: int = 1, types: Types = None) -> User | None:
        """`user` without waiting: None also if it would have to be read from the disk."""
        return self._cache.get(user_id, (least, step, types))

    def seen(self, user_id: str, types: Types = None) -> frozenset[str]:
        """The items of all of a user's events that count; none of an unknown user. StoreError: as `user`."""
        with self._readers.snapshot() as db:
            return rows.seen(db, user_id, types)

    def export(self, user_id: str) -> dict[str, Any] | None:
        """Everything held on a user, or None. StoreError: the file cannot be read."""
        with self._readers.snapshot() as db:
            return rows.export(db, user_id, self._arrivals.timeline)

    def delete(self, user_id: str) -> bool:
        """Remove a user so that no byte is left in the store's files; False if there was no such user.

        StoreError: also when the user is removed but another program that reads the file stands in the way of the rest.
        """
        return self.delete_soon(user_id).result()

    def delete_soon(self, user_id: str) -> Future[bool]:
        """`delete` without waiting."""
        return self._writer.submit(
            WriteStep(lambda db: rows.delete(db, user_id), lambda _: self._cache.drop(user_id), erases=True)
        )

    def prune(self, max_age_seconds: float | None, max_events_per_user: int | None) -> int:
        """Remove events by age since arrival and beyond the latest of each user, users of whom nothing newer is
        left, and old keys; the number of events removed, which the log is told. Appends go on between its steps."""
        keep = Retention(max_age_seconds, max_events_per_user)
        done = [self._pruned(n, keep) for n in range(SHARDS)]
        self._writer.submit(WriteStep(lambda db: None, erases=True)).result()
        _tell(done, self._arrivals.timeline, keep)
        return sum(shard.events for shard in done)

    def _pruned(self, n: int, keep: Retention) -> Pruned:
        def prune(db: sqlite3.Connection) -> Pruned:
            return rows.prune(db, n, rows.limits(self._arrivals.look(), keep, n))

        step = WriteStep(prune, lambda done: self._cache.drop(*done.users, *done.empty))
        return self._writer.submit(step).result()

    def close(self) -> None:
        """Finish what was asked, then let go of the file."""
        self.closed.set()
        self._readers.close()
        self._writer.close()
        self._claim.close()

    def __enter__(self) -> UserStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _arrivals(path: Path, db: sqlite3.Connection, clocks: Callable[[], Reading]) -> Arrivals:
    try:
        return Arrivals.open(db, clocks)
    except sqlite3.Error as error:
        raise explained(path, error, THEN) from None


def _tell(done: Sequence[Pruned], timeline: Timeline, keep: Retention) -> None:
    """What retention removed, without ids."""
    events, empty = sum(shard.events for shard in done), sum(len(shard.empty) for shard in done)
    if not events and not empty:
        return
    users = sum(len(shard.users) for shard in done)
    rules = [] if keep.age is None else [f"arrived before {date(timeline.now - keep.age)}"]
    rules += [] if keep.events is None else [f"beyond a user's latest {keep.events}"]
    _LOG.info("retention: removed %d events of %d users, and %d users without events: %s", events, users, empty,
              " or ".join(rules))  # fmt: skip


def retention_task(store: UserStore, days: float | None, events: int | None, every: float = 3600.0) -> threading.Thread:
    """Start to keep events for `days` since their arrival, and the latest `events` of each user; None = without limit.

    Old idempotency keys go in any case. What fails is logged, and tried again after `every` seconds.
    """
    age = None if days is None else days * _DAY
    thread = threading.Thread(target=_keep_pruned, args=(store, age, events, every), name="retention", daemon=True)
    thread.start()
    return thread


def _keep_pruned(store: UserStore, age: float | None, events: int | None, every: float) -> None:
    while not store.closed.is_set():
        try:
            store.prune(age, events)
        except Exception as error:  # noqa: BLE001 - a fault must not be the end of retention
            if not store.closed.is_set():
                _LOG.error("retention: %s", error if isinstance(error, StoreError) else type(error).__name__)
        store.closed.wait(every)
