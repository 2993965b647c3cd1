"""From a description to the tables `events`, `items` and `users` in DuckDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from corella_edge.errors import InputError
from corella_edge_export.data.database import name
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table.description import Description, Entities, Events, Label
from corella_edge_export.data.table.entities import PLAIN, from_events, make_table, own_files, wanted_columns
from corella_edge_export.data.table.events import load_events
from corella_edge_export.data.table.html import plain
from corella_edge_export.data.table.joining import alike, join_rate, settle_items, settle_users
from corella_edge_export.data.table.raw import RawTable, load_raw

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Sources:
    """What was read.

    Attributes:
        files: file → {"sha256", "bytes"}.
        notes: what a person should know of the data, one sentence each.
        joined: "items", "users" → share of the events' ids that are in the table, where it has files of its own.
        settle: to be called once the table `rows(row, part, ...)` says which events train: attributes that stand in
            the events' own files are then those of training events, where an item or user has any.
    """

    files: Mapping[Path, Mapping[str, Any]]
    notes: tuple[str, ...]
    joined: Mapping[str, float]
    settle: Callable[[], None]


def load(
    description: Description,
    db: duckdb.DuckDBPyConnection,
    ledger: Ledger,
    progress: Progress | None = None,
    now: float | None = None,
) -> Sources:
    """Read all files and leave in `db` the tables that samples are made of.

    `events(row BIGINT, part VARCHAR, user_id VARCHAR, item_id VARCHAR, rating FLOAT, label TINYINT, timestamp BIGINT,
    quantity DOUBLE, event_type VARCHAR)`: `row` counts the rows of the files in their order, from 0; `part` is set for
    rule = "files"; the time is Unix seconds, or `row` for time_unit = "none". `items(item_id, title, attributes...)`
    and `users(user_id, attributes...)`: categorical and text are VARCHAR, numeric DOUBLE, multi and sequence VARCHAR[];
    every item and user of an event is there, and every item has a title.

    Args:
        now: the present in Unix seconds, None = the clock's; no event can be later.

    Raises:
        InputError: names file, line, column and value, and what to do.
    """
    say = progress or (lambda message: None)
    db.create_function(PLAIN, plain, ["VARCHAR"], "VARCHAR")
    reading = _TablesReading(description, db, say)
    events = reading.events()
    say("judging rows")
    load_events(db, description, events, ledger, now)
    kinds = {"item": description.items, "user": description.users}
    reading.notes += [note for kind in ("user", "item") for note in alike(db, kind)]
    reading.entities("item", description.items, events)
    reading.notes += settle_items(db, description.items, ledger)
    if description.users is not None:
        reading.entities("user", description.users, events)
        reading.notes += settle_users(db)
    own = {kind: entities for kind, entities in kinds.items() if entities is not None and entities.files is None}
    files = {piece.path: piece.look.source for table in reading.tables for piece in table.pieces}
    if not own:
        reading.close()

    def settle() -> None:
        for kind, entities in own.items():
            say(f"gathering {kind}s of training events")
            _of_training(db, kind, entities, events)
        if own:
            reading.close()

    return Sources(files, tuple(reading.notes), reading.joined, settle)


def _of_training(db: duckdb.DuckDBPyConnection, kind: str, entities: Entities, events: RawTable) -> None:
    """Replace the table `items` or `users`: values come from training events, where there are any."""
    table, id_ = f"{kind}s", f"{kind}_id"
    db.execute(f"ALTER TABLE {table} RENAME TO {table}_of_all")
    trained = "row IN (SELECT \"row\" FROM rows WHERE part = 'train')"
    make_table(db, from_events(kind, entities, events, trained))
    columns = ["title"] * (kind == "item") + [*entities.attributes]
    values = [f"CASE WHEN t.{id_} IS NULL THEN a.{name(c)} ELSE t.{name(c)} END AS {name(c)}" for c in columns]
    if kind == "item":  # without one there is no item
        values[0] = "coalesce(t.title, a.title) AS title"
    picked = ", ".join([f"a.{id_}", *values])
    db.execute(f"CREATE TABLE settled AS SELECT {picked} FROM {table}_of_all a LEFT JOIN {table} t USING ({id_})")
    db.execute(f"DROP TABLE {table}; DROP TABLE {table}_of_all; ALTER TABLE settled RENAME TO {table}")


class _TablesReading:
    """The raw tables of a description, and what is learnt on the way."""

    def __init__(self, description: Description, db: duckdb.DuckDBPyConnection, say: Progress) -> None:
        self._description, self._db, self._say = description, db, say
        self.tables: list[RawTable] = []
        self.notes: list[str] = []
        self.joined: dict[str, float] = {}

    def events(self) -> RawTable:
        description = self._description
        wanted = _event_columns(description.events, description.label)
        for table, entities in (("items", description.items), ("users", description.users)):
            if entities is not None and entities.files is None:
                wanted = wanted | {c: key for c, key in wanted_columns(entities, table).items() if c not in wanted}
        events = description.events
        times = {events.time: events.timezone} if events.time and events.time_unit == "timestamp" else {}
        if times and events.files.format != "parquet":
            problem = 'time_unit = "timestamp" is for columns of Parquet; write a pattern such as "%Y-%m-%d %H:%M:%S"'
            raise InputError(f"{events.files.paths[0]}: {problem}")
        raw = load_raw(self._db, "raw_events", events.files, wanted, self._say, times)
        return self._add(raw)

    def entities(self, kind: str, entities: Entities, events: RawTable) -> None:
        """The table of items or users."""
        if entities.files is None:
            self._say(f"gathering {kind}s")
            self.notes += make_table(self._db, from_events(kind, entities, events))
            return
        wanted = {entities.id: f"{kind}s.id", **wanted_columns(entities, f"{kind}s")}
        raw = self._add(load_raw(self._db, f"raw_{kind}s", entities.files, wanted, self._say))
        source, notes = own_files(self._db, kind, entities, raw)
        self._say(f"gathering {kind}s")
        self.notes += [*notes, *make_table(self._db, source)]
        self.joined[f"{kind}s"] = join_rate(self._db, kind, entities)

    def close(self) -> None:
        """Give back the room of the raw tables."""
        self._db.execute("DROP VIEW kept_rows; DROP TABLE dropped_rows")
        self._db.execute("DROP VIEW IF EXISTS item_seen; DROP VIEW IF EXISTS user_seen")
        for table in self.tables:
            self._db.execute(f"DROP TABLE {table.name} CASCADE")

    def _add(self, raw: RawTable) -> RawTable:
        self.tables.append(raw)
        self.notes += raw.notes
        return raw


def _event_columns(events: Events, label: Label) -> dict[str, str]:
    """The columns of the events → the key of the data.toml that names each."""
    keys = {
        "events.user": events.user, "events.item": events.item, "events.time": events.time,
        "label.rating": label.rating, "label.column": label.column, "events.quantity": events.quantity,
        "events.event_type": events.event_type,
    }  # fmt: skip
    found = {column: key for key, column in reversed(keys.items()) if column}
    return dict(reversed(found.items())) | {column: "events.drop" for column in events.drop if column not in found}
