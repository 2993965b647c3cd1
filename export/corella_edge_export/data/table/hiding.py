"""Items hidden from training: a seeded share of them keeps its validation and test rows and loses all other events, so
that there are rows of items without training rows on any data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from corella_edge.errors import InputError
from corella_edge_export.data.database import one
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table.description import SplitPlan
from corella_edge_export.data.table.draws import draw

REASON = "event of an item hidden from training"


@dataclass(frozen=True)
class Hidden:
    """What was hidden: `items`, the `events` that they lost, and split → the `rows` that are left to test them by."""

    share: float
    seed: int
    items: int
    events: int
    rows: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The form in `dataset.json`."""
        return {
            "share": self.share, "seed": self.seed, "items": self.items,
            "events_dropped": self.events, "rows": dict(self.rows),
        }  # fmt: skip

    def note(self) -> str:
        """What every report must say."""
        return (
            f"hide_items = {self.share:g}: {self.items:,} items drawn by seed have no training row, {self.events:,} of "
            "their events are left out; figures over all items are lower than without it"
        )


def hide_items(db: duckdb.DuckDBPyConnection, plan: SplitPlan, ledger: Ledger) -> Hidden | None:
    """Hide `plan.hide_items` of the items that occur; makes `hidden(i)`, which is empty where none is to be hidden.

    Of `rows`, the hidden items' events that neither validate nor test are dropped, whatever user they are of, and
    `place`, `earlier` and `position` then count what is left. A training row that had just `min_history` events
    before it may fall below that and serves as history only; a validation or test row stays, even without a history.

    Raises:
        InputError: no training row is left.
    """
    db.execute("CREATE TABLE hidden (i INTEGER)")
    if not plan.hide_items:
        return None
    occur = one(db, "SELECT count(DISTINCT i) FROM rows")[0]
    db.execute(
        f"""INSERT INTO hidden SELECT i FROM (SELECT DISTINCT i FROM rows)
        ORDER BY {draw(plan.seed, "hidden items", "i")}, i LIMIT {round(plan.hide_items * occur)}"""
    )
    before = one(db, "SELECT count(*) FROM rows")[0]
    db.execute("DELETE FROM rows WHERE i IN (FROM hidden) AND coalesce(part, '') NOT IN ('valid', 'test')")
    _count_again(db, plan)
    dropped = before - one(db, "SELECT count(*) FROM rows")[0]
    ledger.drop(REASON, dropped)
    if not one(db, "SELECT count(*) FROM rows WHERE part = 'train'")[0]:
        raise InputError(f"[split] hide_items = {plan.hide_items:g}: no training row is left; lower it")
    left = "SELECT part, count(*) FROM rows WHERE i IN (FROM hidden) GROUP BY part ORDER BY part"
    items = one(db, "SELECT count(*) FROM hidden")[0]
    return Hidden(plan.hide_items, plan.seed, items, dropped, dict(db.execute(left).fetchall()))


def _count_again(db: duckdb.DuckDBPyConnection, plan: SplitPlan) -> None:
    """Places and lengths of histories among the rows that are left."""
    position = "earlier" if plan.ties == "exclude" else "place"
    db.execute(
        f"""CREATE TABLE kept AS
        WITH placed AS (SELECT * REPLACE (
            (row_number() OVER (PARTITION BY u ORDER BY ts, "row") - 1)::INTEGER AS place,
            (rank() OVER (PARTITION BY u ORDER BY ts) - 1)::INTEGER AS earlier) FROM rows)
        SELECT * REPLACE ({position} AS position,
            CASE WHEN part <> 'train' OR {position} >= {plan.min_history} THEN part END AS part) FROM placed"""
    )
    db.execute("DROP TABLE rows; ALTER TABLE kept RENAME TO rows")
