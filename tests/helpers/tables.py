"""Tables of events in a database as a reader of a person's files leaves them, and descriptions for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from corella_edge_export.data.database import connect, name
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.table.description import (
    AttributeKind,
    Description,
    Entities,
    Events,
    Files,
    Label,
    Negatives,
    SplitPlan,
)
from corella_edge_export.data.table.samples import write

TYPES = {
    "categorical": "VARCHAR",
    "multi": "VARCHAR[]",
    "numeric": "DOUBLE",
    "text": "VARCHAR",
    "sequence": "VARCHAR[]",
}


@dataclass(frozen=True)
class Event:
    user: str
    item: str
    time: int
    label: int = 1
    rating: float | None = None
    part: str | None = None


Attributes = Mapping[str, tuple[AttributeKind, Mapping[str, Any]]]  # name → kind, and the value of each id


def described(
    path: Path, plan: SplitPlan, negatives: Negatives | None = None, items: Attributes | None = None,
    users: Attributes | None = None, **changes: Any,
) -> Description:  # fmt: skip
    """A description whose sources are the file `path`; with `negatives` every event is a like."""
    label = Label(column="liked") if negatives is None else Label(positives_only=True)
    files = Files((path,))
    settings: dict[str, Any] = {
        "name": "made",
        "events": Events(files, "user", "item", "time", "s"),
        "label": label,
        "items": Entities(files, "item", "title", {key: kind for key, (kind, _) in (items or {}).items()}),
        "split": plan,
        "users": Entities(files, "user", None, {key: kind for key, (kind, _) in users.items()}) if users else None,
        "negatives": negatives,
    }
    return Description(**{**settings, **changes})


def fill(
    db: duckdb.DuckDBPyConnection, events: Sequence[Event], items: Attributes | None = None,
    users: Attributes | None = None, more_items: Sequence[str] = (),
) -> None:  # fmt: skip
    """The tables `events`, `items` and, with `users`, `users`; `more_items` have no event."""
    columns = {
        "row": ("BIGINT", list(range(len(events)))),
        "part": ("VARCHAR", [event.part for event in events]),
        "user_id": ("VARCHAR", [event.user for event in events]),
        "item_id": ("VARCHAR", [event.item for event in events]),
        "rating": ("FLOAT", [event.rating for event in events]),
        "label": ("TINYINT", [event.label for event in events]),
        "timestamp": ("BIGINT", [event.time for event in events]),
        "quantity": ("DOUBLE", [None for _ in events]),
        "event_type": ("VARCHAR", [None for _ in events]),
    }
    _table(db, "events", columns)
    ids = sorted({event.item for event in events} | set(more_items))
    titles = ("VARCHAR", [f"Title of {item}" for item in ids])
    _table(db, "items", {"item_id": ("VARCHAR", ids), "title": titles, **_columns(items or {}, ids)})
    if users:
        ids = sorted({event.user for event in events})
        _table(db, "users", {"user_id": ("VARCHAR", ids), **_columns(users, ids)})


def _columns(attributes: Attributes, ids: Sequence[str]) -> dict[str, tuple[str, list[Any]]]:
    return {key: (TYPES[kind], [values.get(id_) for id_ in ids]) for key, (kind, values) in attributes.items()}


def _table(db: duckdb.DuckDBPyConnection, table: str, columns: Mapping[str, tuple[str, list[Any]]]) -> None:
    # unnest of a list of lists would also take the inner ones apart.
    picked = ", ".join(f"(?::{kind}[])[n] AS {name(key)}" for key, (kind, _) in columns.items())
    count = len(next(iter(columns.values()))[1])
    values = [values for _, values in columns.values()]
    db.execute(f"CREATE TABLE {table} AS SELECT {picked} FROM range(1, {count + 1}) t(n) ORDER BY n", values)


def prepared(
    out: Path, events: Sequence[Event], plan: SplitPlan, negatives: Negatives | None = None, *,
    items: Attributes | None = None, users: Attributes | None = None, more_items: Sequence[str] = (),
    threads: int = 2, memory: int = 256 << 20, requests: int = 5, ledger: Ledger | None = None, **changes: Any,
) -> PreparedData:  # fmt: skip
    """Events as a prepared folder `out`, its sources a file beside it."""
    source = out.with_name("source.csv")
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text("user,item,time,liked\n")
    description = described(source, plan, negatives, items, users, **changes)
    with connect(None, memory, threads) as db:
        fill(db, events, items, users, more_items)
        write(description, db, ledger or Ledger(len(events)), out, requests=requests, memory=memory)
    return PreparedData.open(out)
