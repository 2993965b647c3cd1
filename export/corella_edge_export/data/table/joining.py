"""Events and the tables of items and users: every id must be found, or it is said, and why it may not be."""

from __future__ import annotations

import duckdb

from corella_edge.errors import InputError
from corella_edge_export.data.database import literal, one
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table.description import Entities
from corella_edge_export.data.table.entities import listed
from corella_edge_export.data.table.events import shown

# What ids of both sides may differ in → how each is written then.
_READINGS = {
    "without leading zeros": "ltrim({}, '0')",
    "in lower case": "lower({})",
    "without blanks around them": "trim({})",
    "without a trailing .0": "regexp_replace({}, '\\.0+$', '')",
    "without quotation marks": "trim({}, '\"')",
}


def join_rate(db: duckdb.DuckDBPyConnection, kind: str, entities: Entities) -> float:
    """The share of the events' ids that are in the table of items or users.

    Raises:
        InputError: it is below `entities.min_join`; shows ids of both sides.
    """
    db.execute(f"CREATE OR REPLACE TABLE asked AS SELECT DISTINCT {kind}_id AS id FROM events")
    found, total = one(db, f"SELECT count(*) FILTER (id IN (SELECT {kind}_id FROM {kind}s)), count(*) FROM asked")
    share = float(found / total)
    if share >= entities.min_join:
        db.execute("DROP TABLE asked")
    else:
        absent = f"SELECT id FROM asked WHERE id NOT IN (SELECT {kind}_id FROM {kind}s) ORDER BY id LIMIT 3"
        own = db.execute(absent).fetchall()
        other = db.execute(
            f"SELECT {kind}_id FROM {kind}s WHERE {kind}_id NOT IN (SELECT id FROM asked) ORDER BY 1 LIMIT 3"
        ).fetchall()
        where = entities.files.paths[0] if entities.files else ""
        sides = f"events have {listed(own)}, the table {listed(other) or 'no others'}"
        raise InputError(
            f"{where}: {share:.1%} of the events' {kind}s are found by {entities.id}, fewer than "
            f"{entities.min_join:.0%}: {sides}; {_guess(db, kind, share)}"
        )
    return share


def _guess(db: duckdb.DuckDBPyConnection, kind: str, share: float) -> str:
    """The reading that would join more ids, if there is one."""
    rates = {}
    for reading, template in _READINGS.items():
        ids, own = template.format("id"), template.format(f"{kind}_id")
        rates[reading] = float(one(db, f"SELECT avg(({ids} IN (SELECT {own} FROM {kind}s))::INT) FROM asked")[0])
    best = max(rates, key=lambda reading: rates[reading])
    if rates[best] > share + 0.05:
        return f"{rates[best]:.0%} would be found {best}: write them alike in both files"
    return f"name the column of the same ids, or allow it with min_join under [{kind}s]"


# Ids that are equal but for these are one thing to a person.
_BLANKS = r"[\s\x{00A0}\x{200B}-\x{200D}\x{FEFF}]+|\.0+$"
_FOLDED = f"lower(nfc_normalize(regexp_replace(id, {literal(_BLANKS)}, '', 'g')))"


def alike(db: duckdb.DuckDBPyConnection, kind: str) -> list[str]:
    """Notes where ids of the events have blanks around them, or differ in what a person does not see."""
    db.execute(f"CREATE OR REPLACE TABLE asked AS SELECT DISTINCT {kind}_id AS id FROM events")
    blank, first = one(db, "SELECT count(*), min(id) FROM asked WHERE trim(id) <> id")
    pairs = f"SELECT min(id) AS one, max(id) AS other, count(*) AS n FROM asked GROUP BY {_FOLDED}"
    ids, *pair = one(db, f"SELECT sum(n), min(one), min_by(other, one) FROM ({pairs}) WHERE n > 1")
    db.execute("DROP TABLE asked")
    notes = []
    if blank:
        notes.append(
            f"{blank:,} {kind} ids begin or end with a blank ({shown(first)}), which is part of them; in a CSV file "
            'separator = ", " leaves one out'
        )
    if ids:
        notes.append(
            f"{ids:,} {kind} ids differ only in blanks, case, accents that are letters of their own, or .0, and count "
            f"as different ones ({', '.join(map(ascii, pair))}); write them alike if they are the same"
        )
    return notes


def settle_items(db: duckdb.DuckDBPyConnection, items: Entities, ledger: Ledger) -> list[str]:
    """Give every item a title, or drop it with its events, as `items.missing_title` says; returns notes.

    Items that only the events have come into the table without a title. Raises InputError for "stop".
    """
    db.execute(
        "INSERT INTO items BY NAME SELECT DISTINCT item_id FROM events WHERE item_id NOT IN (SELECT item_id FROM items)"
    )
    without = one(db, "SELECT count(*) FROM items WHERE title IS NULL")[0]
    if not without:
        return []
    first = db.execute("SELECT item_id FROM items WHERE title IS NULL ORDER BY item_id LIMIT 3").fetchall()
    told = f"{without:,} item{'s' * (without != 1)} without a title ({listed(first)})"
    if items.missing_title == "stop":
        remedy = '"id" shows their ids in its place, "drop" leaves them out with their events'
        raise InputError(f"{_where(items)}{told}; write missing_title under [items]: {remedy}")
    if items.missing_title == "id":
        db.execute("UPDATE items SET title = item_id WHERE title IS NULL")
        return (
            [f"{told}: their ids stand for it"] if items.title else ["items have no titles: their ids stand for them"]
        )
    untitled = "item_id IN (SELECT item_id FROM items WHERE title IS NULL)"
    rows = one(db, f"SELECT count(*) FROM events WHERE {untitled}")[0]
    db.execute(f"DELETE FROM events WHERE {untitled}")
    db.execute("DELETE FROM items WHERE title IS NULL")
    ledger.drop("an item without a title", rows)
    return [f"{told} were left out"]


def _where(items: Entities) -> str:
    return f"{items.files.paths[0]}: " if items.files else ""


def settle_users(db: duckdb.DuckDBPyConnection) -> list[str]:
    """Users that only the events have come into the table without attributes; returns notes."""
    absent = "SELECT DISTINCT user_id FROM events WHERE user_id NOT IN (SELECT user_id FROM users)"
    new = one(db, f"SELECT count(*) FROM ({absent})")[0]
    db.execute(f"INSERT INTO users BY NAME {absent}")
    return [f"{new:,} users are not in the table of users; they have no attributes"] if new else []
