"""Events with numbers in place of ids, and the k-core: all later steps sort and join numbers, which are small."""

from __future__ import annotations

import duckdb

from corella_edge.errors import InputError
from corella_edge_export.data.database import one
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table.description import SplitPlan


def code_events(db: duckdb.DuckDBPyConnection, plan: SplitPlan, ledger: Ledger) -> None:
    """From `events`, `items` (and `users`) make the tables of numbers; the ledger gets what the k-core drops.

    - `user_codes(u INTEGER, user_id)`, `item_codes(i INTEGER, item_id)`: places among the ids sorted as strings; users
      with events, and all items. A k-core leaves their numbers as they are.
    - `coded(u, i, rating, label, ts, row, part)`: the events that count, ts in seconds.

    Raises:
        InputError: an event's item is not in `items`, or the k-core leaves nothing.
    """
    _codes(db, "user_codes", "u", "user_id", "SELECT DISTINCT user_id FROM events")
    _codes(db, "item_codes", "i", "item_id", "SELECT item_id FROM items")
    db.execute(
        """CREATE TABLE coded AS
        SELECT u, i, rating, label, "timestamp" AS ts, "row", part
        FROM events JOIN user_codes USING (user_id) JOIN item_codes USING (item_id)"""
    )
    _check_items(db)
    if max(plan.min_user, plan.min_item) > 1:
        _core(db, plan, ledger)


def _codes(db: duckdb.DuckDBPyConnection, table: str, code: str, id_: str, ids: str) -> None:
    # Rows of a new table have their rowid in the order in which they came.
    db.execute(f"CREATE TABLE sorted_ids AS {ids} ORDER BY {id_}")
    db.execute(f"CREATE TABLE {table} AS SELECT rowid::INTEGER AS {code}, {id_} FROM sorted_ids")
    db.execute("DROP TABLE sorted_ids")


def _check_items(db: duckdb.DuckDBPyConnection) -> None:
    events, coded = one(db, "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM coded)")
    if coded < events:
        unknown = "SELECT min(item_id) FROM events WHERE item_id NOT IN (SELECT item_id FROM item_codes)"
        raise InputError(
            f"{events - coded:,} events are of items that are not in the table of items; the first is "
            f"{one(db, unknown)[0]!r}"
        )


def _core(db: duckdb.DuckDBPyConnection, plan: SplitPlan, ledger: Ledger) -> None:
    """Drop users and items with too few events until all that are left have enough."""
    before = -1
    db.execute(
        "CREATE TABLE core_u AS SELECT DISTINCT u FROM coded; CREATE TABLE core_i AS SELECT DISTINCT i FROM coded"
    )
    while (left := _left(db)) != before:
        before = left
        for key, least in (("u", plan.min_user), ("i", plan.min_item)):
            db.execute(
                f"""CREATE OR REPLACE TABLE core_{key} AS SELECT {key} FROM coded
                WHERE u IN (FROM core_u) AND i IN (FROM core_i) GROUP BY {key} HAVING count(*) >= {least}"""
            )
    if not left:
        raise InputError(
            f"[split] min_user = {plan.min_user}, min_item = {plan.min_item}: no event is left of {ledger.kept:,}; "
            "lower them"
        )
    reasons = {
        "u NOT IN (FROM core_u)": f"user with fewer than {plan.min_user} events",
        "u IN (FROM core_u) AND i NOT IN (FROM core_i)": f"item with fewer than {plan.min_item} events",
    }
    for condition, reason in reasons.items():
        ledger.drop(reason, one(db, f"SELECT count(*) FROM coded WHERE {condition}")[0])
    db.execute("CREATE TABLE kept AS SELECT * FROM coded WHERE u IN (FROM core_u) AND i IN (FROM core_i)")
    db.execute("DROP TABLE coded; ALTER TABLE kept RENAME TO coded")
    _keep_codes(db, plan)


def _left(db: duckdb.DuckDBPyConnection) -> int:
    """Users and items that are left."""
    return int(one(db, "SELECT (SELECT count(*) FROM core_u) + (SELECT count(*) FROM core_i)")[0])


def _keep_codes(db: duckdb.DuckDBPyConnection, plan: SplitPlan) -> None:
    """Only what the k-core leaves is a user or, where it asks something of items, an item."""
    db.execute("DELETE FROM user_codes WHERE u NOT IN (FROM core_u)")
    if plan.min_item > 1:
        db.execute("DELETE FROM item_codes WHERE i NOT IN (FROM core_i)")
    db.execute("DROP TABLE core_u; DROP TABLE core_i")
