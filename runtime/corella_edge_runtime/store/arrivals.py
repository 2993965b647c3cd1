"""The store's own time, kept in its file, so that no event is forgotten because the clock was set or stood still."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable
from typing import Any

from corella_edge_runtime.machine.timekeeping import FLOOR, Reading, Timeline, what_changed
from corella_edge_runtime.store.rows import ArrivalTime
from corella_edge_runtime.store.tables import SHARDS, migrate

_LOG = logging.getLogger("corella_edge.store")
KEPT_SECONDS = 1.0  # at most so much of it is lost when the machine goes down; less than timekeeping.SLACK


class Arrivals:
    """Stamps what arrives. Used in the writer's thread alone, but for `timeline` and `read`."""

    def __init__(self, timeline: Timeline, read: Callable[[], Reading]) -> None:
        self.timeline, self.read = timeline, read
        self._written: Timeline | None = None
        self._kept: Timeline | None = None

    @classmethod
    def open(cls, db: sqlite3.Connection, read: Callable[[], Reading]) -> Arrivals:
        """As the file has it, or begun, in a transaction of its own. Raises sqlite3.Error."""
        db.execute("BEGIN IMMEDIATE")
        try:
            migrate(db)
            found = dict(db.execute("SELECT part, value FROM clock").fetchall())
            arrivals = cls(_held(found) if found else _first(db, read()), read)
            arrivals.look()
            arrivals.keep(db)
            db.execute("COMMIT")
        except BaseException:
            db.rollback()
            raise
        arrivals.kept()
        return arrivals

    def look(self, reading: Reading | None = None) -> Timeline:
        """The time now, or when the clocks were read; says what is odd about the clock."""
        before, self.timeline = self.timeline, self.timeline.seen(reading or self.read())
        for text in what_changed(before, self.timeline):
            _LOG.warning("%s", text)
        return self.timeline

    def moment(self, reading: Reading) -> ArrivalTime:
        """When something has arrived."""
        timeline = self.look(reading)
        return ArrivalTime(int(timeline.stamp), timeline.now)

    def keep(self, db: sqlite3.Connection) -> None:
        """Write the time, if some has passed, before the commit of a transaction; `kept` is for after it."""
        self._written = None
        if self._kept is not None and self.timeline.stamp - self._kept.stamp < KEPT_SECONDS:
            return
        parts: dict[str, Any] = {"now": self.timeline.to_json()}
        if self._kept is None or self._kept.past is not self.timeline.past:
            parts["past"] = self.timeline.past
        values = [(part, json.dumps(value)) for part, value in parts.items()]
        db.executemany(
            "INSERT INTO clock VALUES (?, ?) ON CONFLICT (part) DO UPDATE SET value = excluded.value", values
        )
        self._written = self.timeline

    def kept(self) -> None:
        """What `keep` has written is on the disk."""
        self._kept = self._written or self._kept


def _held(found: dict[str, str]) -> Timeline:
    try:
        return Timeline.from_json(json.loads(found["now"]), json.loads(found["past"]))
    except (KeyError, TypeError, ValueError):
        raise sqlite3.DatabaseError("its table `clock` is damaged") from None


def _first(db: sqlite3.Connection, now: Reading) -> Timeline:
    """Of a new store, or of one whose arrivals were read from the clock: those that cannot be right are of now."""
    span = (FLOOR, max(FLOOR, int(now.wall)))
    latest = [
        db.execute(f"SELECT max(updated) FROM users_{n} WHERE updated BETWEEN ? AND ?", span) for n in range(SHARDS)
    ]
    known = [value for row in latest if (value := row.fetchone()[0]) is not None]
    held = any(db.execute(f"SELECT 1 FROM users_{n} LIMIT 1").fetchone() for n in range(SHARDS))
    if not held:
        return Timeline.begin(now)
    last = max(known, default=FLOOR)
    odd = sum(_restamp(db, n, last, span) for n in range(SHARDS))
    if odd:
        _LOG.warning("%d events arrived while the clock was wrong: they are kept as if they had arrived last", odd)
    return Timeline.begin(now, last)


def _restamp(db: sqlite3.Connection, n: int, last: int, span: tuple[int, int]) -> int:
    """Events of one shard whose arrival was outside `span`."""
    columns = (("users", "updated"), ("users", "oldest"), ("keys", "arrived"), ("events", "arrived"))
    counts = [
        db.execute(f"UPDATE {kind}_{n} SET {name} = ? WHERE {name} NOT BETWEEN ? AND ?", (last, *span)).rowcount
        for kind, name in columns
    ]
    db.execute("UPDATE shards SET pruned = ? WHERE shard = ? AND pruned NOT BETWEEN ? AND ?", (last, n, *span))
    return counts[-1]
