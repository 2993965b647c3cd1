"""The form of the store's file. Users are spread over shards, so that the tables of one can be rewritten quickly."""

from __future__ import annotations

import sqlite3
import zlib

APPLICATION = 0x436F4564  # "CoEd", in the file's header
# 1: arrivals were read from the clock, and there was no table `clock`; 2: events had no type and no quantity.
VERSION = 3
SHARDS = 64
KINDS = ("users", "events", "keys")

# `at` orders a history: the event's own time, else its arrival. `timed`: whether it had one. `next`: the user's next
# sequence number. `oldest`: arrival of the oldest event held; `latest`: place of the latest without a time of its own.
# `arrived`, `updated`, `oldest` and `pruned` are stamps of corella_edge_runtime.machine.timekeeping.
_SHARD = """
CREATE TABLE users_{n} (id TEXT PRIMARY KEY, features TEXT NOT NULL, updated INTEGER NOT NULL,
                        events INTEGER NOT NULL, oldest INTEGER, latest INTEGER, next INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE events_{n} (user TEXT NOT NULL, at INTEGER NOT NULL, seq INTEGER NOT NULL, item TEXT NOT NULL,
                         rating REAL, timed INTEGER NOT NULL, arrived INTEGER NOT NULL, type TEXT, quantity REAL,
                         PRIMARY KEY (user, at, seq)) WITHOUT ROWID;
CREATE TABLE keys_{n} (user TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL, arrived INTEGER NOT NULL,
                       PRIMARY KEY (user, key)) WITHOUT ROWID;
"""

_CLOCK = "CREATE TABLE clock (part TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;"


def shard_of(user_id: str) -> int:
    """Where a user is kept."""
    return zlib.crc32(user_id.encode("utf-8")) % SHARDS


def create(db: sqlite3.Connection) -> None:
    """Make all tables in an empty database."""
    shards = "".join(_SHARD.format(n=n) for n in range(SHARDS))
    # `pruned`: since when the shard has had rows removed and not been rewritten.
    marks = "CREATE TABLE shards (shard INTEGER PRIMARY KEY, pruned INTEGER);"
    header = f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION};"
    db.executescript(f"BEGIN; {shards} {marks} {_CLOCK} {header} COMMIT;")


def migrate(db: sqlite3.Connection) -> None:
    """Bring an older form to this one, inside the caller's transaction."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found < 2:
        db.execute(_CLOCK)
    if found < VERSION:
        for n in range(SHARDS):
            db.execute(f"ALTER TABLE events_{n} ADD COLUMN type TEXT")
            db.execute(f"ALTER TABLE events_{n} ADD COLUMN quantity REAL")
        db.execute(f"PRAGMA user_version = {VERSION}")


def rewrite(db: sqlite3.Connection, shard: int) -> None:
    """Empty a shard's tables and write its rows back, inside the caller's transaction.

    `secure_delete` overwrites rows that are deleted and pages that become free, but not the copies that earlier page
    splits left in the unused part of neighbouring pages. Emptying a table frees, and so overwrites, all its pages.
    """
    for kind in KINDS:
        db.execute(f"CREATE TEMP TABLE kept AS SELECT * FROM {kind}_{shard}")
        db.execute(f"DELETE FROM {kind}_{shard}")
        db.execute(f"INSERT INTO {kind}_{shard} SELECT * FROM kept")
        db.execute("DROP TABLE kept")
    db.execute("DELETE FROM shards WHERE shard = ?", (shard,))
