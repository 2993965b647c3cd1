"""Negatives: for each positive row, items that its user has no event with, from what had been seen by then.

An item is drawn by the number of its earlier events by drawing one of the earlier events, so no weights are computed:
all events lie in order of time, a draw is a row number below the positive's own, and what does not count (an event of
the same moment, an item of the user's own, one drawn already) is drawn again. What many draws do not find is looked
for among all items. The draws depend on the seed and the row alone, and so not on threads or memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import duckdb

from corella_edge.errors import InputError
from corella_edge_export.data.database import one
from corella_edge_export.data.prepared import SPLITS
from corella_edge_export.data.table.description import Negatives
from corella_edge_export.data.table.draws import BITS, draw

_ROUNDS = (2, 8, 32, 128, 512)  # draws of a round, for each negative that is asked for
_FEW_ITEMS = 500  # of so many all are looked at after the first round
_AT_ONCE = 4_000_000  # draws, or pairs of a positive and an item, that are held at once in a GiB of memory
_NEVER = -(1 << 62)  # the time of an item that need not have been seen


@dataclass(frozen=True)
class Drawn:
    """What was drawn. `wanted`, `found`: negatives; `short`: split → positives with fewer than were asked for.
    `again`, `fresh`: positives that no negative can be like, of items that their user had before, and that nobody had.
    """

    wanted: int
    found: int
    short: dict[str, int]
    again: int
    fresh: int

    def to_json(self) -> dict[str, Any]:
        """The form in `dataset.json`."""
        return {
            "wanted": self.wanted, "drawn": self.found, "positives_with_fewer": dict(self.short),
            "positives_had_before": self.again, "positives_first_ever": self.fresh,
        }  # fmt: skip

    def notes(self) -> list[str]:
        short = sum(self.short.values())
        missing = (
            f"{short:,} positives have fewer negatives than asked for ({self.wanted - self.found:,} are missing): "
            "there was no further item that their user has no event with"
        )
        told = (
            f"{self.again:,} positives are of items that their user had before, {self.fresh:,} of items that nobody "
            "had before; no drawn row is such a one, so this alone tells their label, and figures are optimistic. "
            'unlike_drawn = "history" under [negatives] leaves them out'
        )
        return [*([missing] if short else []), *([told] if self.again or self.fresh else [])]


def check_plan(plan: Negatives) -> None:
    """Refuse what cannot be meant. Raises InputError."""
    if plan.from_ == "catalogue" and plan.weight == "popularity-before":
        raise InputError(
            '[negatives] from = "catalogue" also draws items that nobody has seen, whose popularity is 0; write '
            'weight = "uniform", or from = "seen-before"'
        )


def draw_negatives(
    db: duckdb.DuckDBPyConnection, plan: Negatives, memory: int, say: Callable[[str], None] = lambda message: None
) -> Drawn:
    """From `rows` make `drawn(u, i, ts, row, position, part)`: time, place and split are those of the positive.

    No training row is drawn of an item in `hidden(i)`, where there is that table (`hiding`).

    Args:
        memory: the database's limit in bytes. It decides how many users are worked on at once, and nothing else.

    Raises:
        InputError: a split gets no negative at all, or `unlike_drawn` leaves it no row.
    """
    check_plan(plan)
    db.execute("CREATE TABLE IF NOT EXISTS hidden (i INTEGER)")
    again, fresh = _unlike_drawn(db, plan)
    db.execute('CREATE TABLE ordered AS SELECT u, i, ts, "row", position, part FROM rows ORDER BY ts, "row"')
    _make_pool(db, plan)
    db.execute('CREATE TABLE drawn (u INTEGER, i INTEGER, ts BIGINT, "row" BIGINT, position INTEGER, part VARCHAR)')
    positives = int(one(db, "SELECT count(*) FROM ordered WHERE part IS NOT NULL")[0])
    at_once = max(1, _AT_ONCE * memory // (1 << 30))
    chunks = -(-positives * plan.per_positive * _ROUNDS[0] // at_once)
    short = dict.fromkeys(SPLITS, 0)
    for chunk in range(chunks):
        say(f"drawing negatives, {chunk + 1} of {chunks}" if chunks > 1 else "drawing negatives")
        _draw_for(db, plan, f"u % {chunks} = {chunk}", at_once)
        for part, count in db.execute("SELECT part, count(*) FROM open GROUP BY part").fetchall():
            short[part] += count
    found = dict(db.execute("SELECT part, count(*) FROM drawn GROUP BY part").fetchall())
    _check_found(plan, found)
    db.execute("DROP TABLE ordered; DROP TABLE pool; DROP TABLE seen; DROP TABLE IF EXISTS popular")
    db.execute("DROP TABLE own; DROP TABLE open; DROP TABLE found")
    return Drawn(positives * plan.per_positive, sum(found.values()), short, again, fresh)


def _unlike_drawn(db: duckdb.DuckDBPyConnection, plan: Negatives) -> tuple[int, int]:
    """Rows of splits whose user had their item at an earlier moment, and whose item nobody had, once `unlike_drawn` was
    followed.
    """
    first = """(SELECT u, i, min(ts) AS first FROM rows GROUP BY u, i)
        JOIN (SELECT i, min(ts) AS seen FROM rows GROUP BY i) USING (i)"""
    again, fresh = "ts > first", "ts = seen" if plan.from_ == "seen-before" else "false"
    if plan.unlike_drawn == "history":
        db.execute(
            f"""UPDATE rows SET part = NULL FROM (SELECT * FROM {first}) AS f
            WHERE part IS NOT NULL AND rows.u = f.u AND rows.i = f.i AND ({again} OR {fresh})"""
        )
        left = {part for (part,) in db.execute("SELECT DISTINCT part FROM rows").fetchall()}
        if empty := [part for part in SPLITS if part not in left]:
            raise InputError(f'[negatives] unlike_drawn = "history" leaves no row for {empty[0]}; write "keep"')
    counts = f"count(*) FILTER ({again}), count(*) FILTER ({fresh})"
    found = one(db, f"SELECT {counts} FROM rows JOIN ({first}) USING (u, i) WHERE part IS NOT NULL")
    return int(found[0]), int(found[1])


def _make_pool(db: duckdb.DuckDBPyConnection, plan: Negatives) -> None:
    """`seen(i, ts)`, items by the moment they were first seen, and `pool(i, ts)`, what a draw is a row number of."""
    first = "SELECT i, min(ts) AS ts FROM ordered GROUP BY i"
    if plan.from_ == "catalogue":
        first = f"SELECT i, {_NEVER} AS ts FROM item_codes"
    db.execute(f"CREATE TABLE seen AS {first} ORDER BY ts, i")
    source = "ordered" if plan.weight == "popularity-before" else "seen"
    db.execute(f"CREATE TABLE pool AS SELECT i, ts FROM {source} ORDER BY rowid")


def _draw_for(db: duckdb.DuckDBPyConnection, plan: Negatives, users: str, at_once: int) -> None:
    """Negatives for the positives of some users; `open` has those that lack some at the end."""
    db.execute(f"CREATE OR REPLACE TEMP TABLE own AS SELECT DISTINCT u, i FROM ordered WHERE {users}")
    db.execute(f"CREATE OR REPLACE TEMP TABLE open AS {_open(plan, users)}")
    db.execute("CREATE OR REPLACE TEMP TABLE found (r BIGINT, i INTEGER)")
    items, first = int(one(db, "SELECT count(*) FROM seen")[0]), 0
    for tries in _ROUNDS[:1] if items <= _FEW_ITEMS else _ROUNDS:
        last = first + tries * plan.per_positive
        _fill(db, plan, _round(plan, first, last), last - first, at_once)
        first = last
    if _lacking(db):
        if plan.weight == "popularity-before":
            db.execute(f"CREATE TABLE IF NOT EXISTS popular AS {_POPULAR}")
        _fill(db, plan, _search(plan), items, at_once)
    db.execute(
        'INSERT INTO drawn SELECT u, f.i, ts, "row", position, part FROM found f JOIN ordered o ON o.rowid = f.r'
    )


def _open(plan: Negatives, users: str) -> str:
    """(r, u, ts, part, n, need) of the positives: `r` is the row in `ordered`, the first `n` rows of `pool` are drawn
    from. Where nobody had seen anything before, n is 0."""
    source, known = "ordered", "CASE WHEN ts = (SELECT min(ts) FROM ordered) THEN 0 ELSE rowid END"
    if plan.from_ == "catalogue":
        known = "(SELECT count(*) FROM seen)"
    elif plan.weight == "uniform":
        counts = "SELECT ts AS until, max(rowid) + 1 AS items FROM seen GROUP BY ts"
        source, known = f"ordered ASOF LEFT JOIN ({counts}) ON ts > until", "coalesce(items, 0)"
    return f"""SELECT rowid AS r, u, ts, part, {known} AS n, {plan.per_positive} AS need
        FROM {source} WHERE part IS NOT NULL AND {users}"""


def _lacking(db: duckdb.DuckDBPyConnection) -> int:
    """Positives that lack negatives and may get some."""
    return int(one(db, "SELECT count(*) FROM open WHERE n > 0")[0])


def _fill(db: duckdb.DuckDBPyConnection, plan: Negatives, query: str, each: int, at_once: int) -> None:
    """Run a query for the open positives, so many at once that each may make `each` rows, and close the filled ones."""
    parts = -(-_lacking(db) * each // at_once)
    for part in range(parts):
        db.execute(f"INSERT INTO found {query.format(some=f'n > 0 AND r % {parts} = {part}')}")
    db.execute(
        f"""CREATE OR REPLACE TEMP TABLE open AS
        SELECT r, u, ts, part, n, {plan.per_positive} - coalesce(have, 0) AS need
        FROM open LEFT JOIN (SELECT r, count(*) AS have FROM found GROUP BY r) USING (r)
        WHERE coalesce(have, 0) < {plan.per_positive}"""
    )


_NEW = """NOT EXISTS (SELECT 1 FROM own WHERE own.u = p.u AND own.i = p.i)
            AND NOT EXISTS (SELECT 1 FROM found WHERE found.r = p.r AND found.i = p.i)
            AND NOT (part = 'train' AND EXISTS (SELECT 1 FROM hidden WHERE hidden.i = p.i))"""
_POPULAR = """SELECT i, ts, (sum(count(*)) OVER (PARTITION BY i ORDER BY ts))::BIGINT AS events
        FROM ordered GROUP BY i, ts"""


def _round(plan: Negatives, first: int, last: int) -> str:
    """Draws `first` to `last` - 1 of some open positives; of what counts, the first ones that are needed."""
    number = draw(plan.seed, "negatives", "r", "try")
    return f"""
        WITH asked AS (SELECT r, u, ts, part, n, need, unnest(range({first}, {last})) AS try FROM open WHERE {{some}}),
            numbers AS (SELECT *, ({number} % n::UBIGINT)::BIGINT AS j FROM asked),
            p AS (SELECT r, u, part, need, try, pool.i FROM numbers n JOIN pool ON pool.rowid = j WHERE pool.ts < n.ts),
            new AS (SELECT r, i, need, min(try) AS try FROM p WHERE {_NEW} GROUP BY r, i, need)
        SELECT r, i FROM new QUALIFY row_number() OVER (PARTITION BY r ORDER BY try) <= need"""


def _search(plan: Negatives) -> str:
    """For some open positives, among all items that count: as many as are needed, each by its weight.

    The smallest of exponential times, each divided by its item's weight, are a draw without replacement (Efraimidis
    and Spirakis, 2006).
    """
    number = f"({draw(plan.seed, 'rest', 'r', 'p.i')} + 1) / {float(1 << BITS)}"
    popular = plan.weight == "popularity-before"
    weights = "ASOF JOIN popular ON p.i = popular.i AND p.ts > popular.ts" if popular else ""
    return f"""
        WITH p AS (SELECT r, u, open.ts, part, need, seen.i FROM open JOIN seen ON seen.ts < open.ts WHERE {{some}}),
            new AS (SELECT * FROM p WHERE {_NEW}),
            timed AS (SELECT r, p.i, need, -ln({number}) / {"events" if popular else "1"} AS time FROM new p {weights})
        SELECT r, i FROM timed QUALIFY row_number() OVER (PARTITION BY r ORDER BY time, i) <= need"""


def _check_found(plan: Negatives, found: dict[str, int]) -> None:
    for part in SPLITS:
        if not found.get(part):
            what = "no item that its user has no event with"
            before = " and that somebody had seen before" if plan.from_ == "seen-before" else ""
            raise InputError(
                f"[negatives] none could be drawn for {part}: for each of its positives there is {what}{before}; "
                'add items with `from = "catalogue"`, or give labels instead'
            )
