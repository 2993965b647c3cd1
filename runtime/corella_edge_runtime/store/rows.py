"""What is done to the tables: each function is one step inside its caller's transaction."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from corella_edge.errors import InputError
from corella_edge.request import Event, User
from corella_edge_runtime.machine.timekeeping import TENTHS, Timeline
from corella_edge_runtime.store.events import NewEvents
from corella_edge_runtime.store.tables import KINDS, SHARDS, rewrite, shard_of

KEY_SECONDS = 7 * 86_400  # how long a repeated append is recognised
REWRITE_SECONDS = 86_400  # how long pruned rows may leave copies in unused parts of pages: rewriting wears flash
_EVER = 2**62
Types = tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Retention:
    """What is kept: events by the seconds since their arrival, and the latest of each user; None = without limit."""

    age: float | None = None
    events: int | None = None


@dataclass(frozen=True, slots=True)
class ArrivalTime:
    """When something arrives: its stamp, and its place among the times of events (Unix seconds)."""

    stamp: int
    place: int


@dataclass(frozen=True, slots=True)
class Cutoffs:
    """What one shard need not keep: events, keys and copies of removed rows from before these stamps."""

    stamp: int
    events: int
    keys: int
    copies: int
    most: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """What one step of pruning did: events removed, whose they were, users of whom nothing was left, and keys."""

    events: int
    users: list[str]
    empty: list[str]
    keys: int


def limits(timeline: Timeline, keep: Retention, n: int) -> Cutoffs:
    """What shard `n` need not keep now; a long pause counts for a tenth of the shards after the other."""

    def before(seconds: float) -> int:
        return timeline.older_than(seconds, n * TENTHS // SHARDS)

    events = -_EVER if keep.age is None else before(keep.age)
    most = _EVER if keep.events is None else keep.events
    return Cutoffs(int(timeline.stamp), events, max(events, before(KEY_SECONDS)), before(REWRITE_SECONDS), most)


def append(db: sqlite3.Connection, new: NewEvents, moment: ArrivalTime) -> int:
    """Add events and profile; the number of events now held on the user. A key seen before adds nothing.

    Raises:
        InputError: the key was used for something else.
    """
    n, now, seconds = shard_of(new.user_id), moment.stamp, moment.place
    row = db.execute(f"SELECT events, oldest, latest, next FROM users_{n} WHERE id = ?", (new.user_id,)).fetchone()
    count, oldest, latest, seq = row or (0, None, None, 0)
    if new.key is not None and not _first(db, n, new, now):
        return int(count)
    if latest is not None:
        seconds = max(seconds, latest)  # a clock set back does not reorder arrivals
    _insert_events(db, n, new, seq, seconds, now)
    if any(event.time is None for event in new.events):
        latest = seconds
    if new.events:
        oldest = now if oldest is None else min(oldest, now)
    total = count + len(new.events)
    _save_user(db, n, new, (now, total, oldest, latest, seq + len(new.events)))
    return int(total)


def _first(db: sqlite3.Connection, n: int, new: NewEvents, now: int) -> bool:
    """Whether the key is new to this user; it is noted then."""
    digest = _digest(new)
    row = db.execute(f"SELECT digest FROM keys_{n} WHERE user = ? AND key = ?", (new.user_id, new.key)).fetchone()
    if row is None:
        db.execute(f"INSERT INTO keys_{n} VALUES (?, ?, ?, ?)", (new.user_id, new.key, digest, now))
    elif row[0] != digest:
        raise InputError("key: used before by this user for other events; a key belongs to one append and its retries")
    return row is None


def _digest(new: NewEvents) -> bytes:
    events: list[tuple[Any, ...]] = [(event.item, event.rating, event.time) for event in new.events]
    if any(
        (event.type, event.quantity) != (None, None) for event in new.events
    ):  # without them as releases before had it: keys live for days
        events = [(*known, event.type, event.quantity) for known, event in zip(events, new.events, strict=True)]
    return hashlib.blake2b(json.dumps([events, new.features], sort_keys=True).encode(), digest_size=16).digest()


def _insert_events(db: sqlite3.Connection, n: int, new: NewEvents, seq: int, seconds: int, now: int) -> None:
    db.executemany(
        f"INSERT INTO events_{n} (user, at, seq, item, rating, timed, arrived, type, quantity)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (new.user_id, seconds if event.time is None else event.time, seq + i, event.item, event.rating,
             event.time is not None, now, event.type, event.quantity)
            for i, event in enumerate(new.events)
        ],
    )  # fmt: skip


def _save_user(db: sqlite3.Connection, n: int, new: NewEvents, counts: tuple[int | None, ...]) -> None:
    features = None if new.features is None else json.dumps(new.features, ensure_ascii=False, allow_nan=False)
    db.execute(
        f"INSERT INTO users_{n} (id, features, updated, events, oldest, latest, next)"
        " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)"
        " ON CONFLICT (id) DO UPDATE SET features = coalesce(?8, features), updated = ?3, events = ?4, oldest = ?5,"
        " latest = ?6, next = ?7",
        (new.user_id, features or "{}", *counts, features),
    )


def user(db: sqlite3.Connection, user_id: str, least: int, step: int, types: Types = None) -> User | None:
    """Profile and the latest events, oldest first: at least `least`, and a multiple of `step` is left out.

    Of events with a type only those of `types` count, unless that is None.
    """
    n = shard_of(user_id)
    row = db.execute(f"SELECT features, events FROM users_{n} WHERE id = ?", (user_id,)).fetchone()
    if row is None:
        return None
    where, given = _counting(user_id, types)
    total = row[1] if types is None else db.execute(f"SELECT count(*) FROM events_{n} {where}", given).fetchone()[0]
    most = least + (total - least) % step if total > least else total
    latest = db.execute(
        f"SELECT item, rating, at, timed FROM events_{n} {where} ORDER BY at DESC, seq DESC LIMIT ?", (*given, most)
    ).fetchall()
    events = [Event(item, rating, at if timed else None) for item, rating, at, timed in reversed(latest)]
    return User(user_id, json.loads(row[0]), tuple(events))


def seen(db: sqlite3.Connection, user_id: str, types: Types = None) -> frozenset[str]:
    """The items of all of a user's events that count, as in `user`."""
    where, given = _counting(user_id, types)
    found = db.execute(f"SELECT DISTINCT item FROM events_{shard_of(user_id)} {where}", given)
    return frozenset([item for (item,) in found])


def _counting(user_id: str, types: Types) -> tuple[str, tuple[str, ...]]:
    """The condition of a user's events that count, and its values."""
    if types is None:
        return "WHERE user = ?", (user_id,)
    return f"WHERE user = ? AND (type IS NULL OR type IN ({', '.join('?' * len(types))}))", (user_id, *types)


def export(db: sqlite3.Connection, user_id: str, timeline: Timeline) -> dict[str, Any] | None:
    """Everything held on a user, as JSON; `events` in the order of the history, arrivals as Unix time."""
    n = shard_of(user_id)
    row = db.execute(f"SELECT features, updated FROM users_{n} WHERE id = ?", (user_id,)).fetchone()
    if row is None:
        return None
    events = db.execute(
        f"SELECT item, rating, at, timed, arrived, type, quantity FROM events_{n} WHERE user = ? ORDER BY at, seq",
        (user_id,),
    )
    keys = db.execute(f"SELECT key, arrived FROM keys_{n} WHERE user = ? ORDER BY arrived, key", (user_id,))
    return {
        "user_id": user_id,
        "features": json.loads(row[0]),
        "updated": timeline.wall(row[1]),
        "events": [
            _event(item, at, timed, {"rating": rating, "type": kind, "quantity": quantity}, timeline.wall(arrived))
            for item, rating, at, timed, arrived, kind, quantity in events
        ],
        "keys": [{"key": key, "arrived": timeline.wall(arrived)} for key, arrived in keys],
    }


def _event(item: str, at: int, timed: int, told: dict[str, Any], arrived: int) -> dict[str, Any]:
    return {
        "item": item,
        **{name: value for name, value in told.items() if value is not None},
        **({"time": at} if timed else {}),
        "arrived": arrived,
    }


def delete(db: sqlite3.Connection, user_id: str) -> bool:
    """Remove a user; no byte is left in the shard's pages. False if there was no such user."""
    n = shard_of(user_id)
    if not db.execute(f"DELETE FROM users_{n} WHERE id = ?", (user_id,)).rowcount:
        return False
    for kind in KINDS[1:]:
        db.execute(f"DELETE FROM {kind}_{n} WHERE user = ?", (user_id,))
    rewrite(db, n)
    return True


def prune(db: sqlite3.Connection, n: int, limits: Cutoffs) -> Pruned:
    """Remove what one shard need not keep; rewrite it when removed rows may have left copies for a day."""
    cutoff, most = limits.events, limits.most
    due = db.execute(f"SELECT id FROM users_{n} WHERE oldest < ? OR events > ?", (cutoff, most)).fetchall()
    removed = sum(_prune_user(db, n, user_id, cutoff, most) for (user_id,) in due)
    empty = db.execute(f"SELECT id FROM users_{n} WHERE events = 0 AND updated < ?", (cutoff,)).fetchall()
    db.executemany(f"DELETE FROM users_{n} WHERE id = ?", empty)
    keys = db.execute(f"DELETE FROM keys_{n} WHERE arrived < ?", (limits.keys,)).rowcount
    if due or empty:
        db.execute("INSERT OR IGNORE INTO shards (shard, pruned) VALUES (?, ?)", (n, limits.stamp))
    _rewrite_if_due(db, n, limits.copies)
    return Pruned(removed, [user_id for (user_id,) in due], [user_id for (user_id,) in empty], keys)


def _prune_user(db: sqlite3.Connection, n: int, user_id: str, cutoff: int, most: int) -> int:
    """Events removed."""
    removed = db.execute(f"DELETE FROM events_{n} WHERE user = ? AND arrived < ?", (user_id, cutoff)).rowcount
    first_too_many = db.execute(
        f"SELECT at, seq FROM events_{n} WHERE user = ? ORDER BY at DESC, seq DESC LIMIT 1 OFFSET ?", (user_id, most)
    ).fetchone()
    if first_too_many:
        removed += db.execute(
            f"DELETE FROM events_{n} WHERE user = ? AND (at, seq) <= (?, ?)", (user_id, *first_too_many)
        ).rowcount
    db.execute(
        f"UPDATE users_{n} SET (events, oldest) ="
        f" (SELECT count(*), min(arrived) FROM events_{n} WHERE user = ?1) WHERE id = ?1",
        (user_id,),
    )
    return int(removed)


def _rewrite_if_due(db: sqlite3.Connection, n: int, copies: int) -> None:
    row = db.execute("SELECT pruned FROM shards WHERE shard = ?", (n,)).fetchone()
    if row is not None and row[0] <= copies:
        rewrite(db, n)
