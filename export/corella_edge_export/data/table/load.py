"""From a description to the tables `events`, `items` and `users` in DuckDB."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from corella_edge.errors import InputError
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table.description import Description, Entities, Events, Label
from corella_edge_export.data.table.entities import PLAIN, from_events, make_table, own_files, wanted_columns
from corella_edge_export.data.table.events import load_events
from corella_edge_export.data.table.html import plain
from corella_edge_export.data.table.joining import join_rate, settle_items, settle_users
from corella_edge_export.data.table.raw import RawTable, load_raw

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Sources:
    """What was read.

    Attributes:
        files: file → {"sha256", "bytes"}.
        notes: what a person should know of the data, one sentence each.
        joined: "items", "users" → share of the events' ids that are in the table, where it has files of its own.
    """

    files: Mapping[Path, Mapping[str, Any]]
    notes: tuple[str, ...]
    joined: Mapping[str, float]


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
    reading = _Reading(description, db, say)
    events = reading.events()
    say("judging rows")
    load_events(db, description, events, ledger, now)
    reading.entities("item", description.items, events)
    reading.notes += settle_items(db, description.items, ledger)
    if description.users is not None:
        reading.entities("user", description.users, events)
        reading.notes += settle_users(db)
    db.execute("DROP VIEW judged")
    for table in reading.tables:
        db.execute(f"DROP TABLE {table.name} CASCADE")
    files = {piece.path: piece.look.source for table in reading.tables for piece in table.pieces}
    return Sources(files, tuple(reading.notes), reading.joined)


class _Reading:
    """The raw tables of a description, and what is learnt on the way."""

    def __init__(self, description: Description, db: duckdb.DuckDBPyConnection, say: Progress) -> None:
        self._description, self._db, self._say = description, db, say
        self.tables: list[RawTable] = []
        self.notes: list[str] = []
        self.joined: dict[str, float] = {}

    def events(self) -> RawTable:
        description = self._description
        wanted = _event_columns(description.events, description.label)
        for name, entities in (("items", description.items), ("users", description.users)):
            if entities is not None and entities.files is None:
                wanted = wanted | {c: key for c, key in wanted_columns(entities, name).items() if c not in wanted}
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
