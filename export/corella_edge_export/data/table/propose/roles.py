"""Which table holds the events, which columns are user and item: join rates decide, then names, then what is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from corella_edge.errors import InputError
from corella_edge_export.data.table.propose import words
from corella_edge_export.data.table.propose.columns import ColumnFacts, as_float
from corella_edge_export.data.table.propose.tables import FileTable, Join, find_joins


@dataclass(frozen=True)
class RoleChoice:
    """A column for a role; several options if the evidence is not decisive, the likeliest first."""

    options: tuple[str, ...]
    why: str

    @property
    def column(self) -> str:
        return self.options[0]


@dataclass(frozen=True)
class Roles:
    """What is what.

    Attributes:
        items, users: how the events join their tables, None where there is none. others: tables without a role.
    """

    events: FileTable
    user: RoleChoice
    item: RoleChoice
    items: Join | None
    users: Join | None
    others: tuple[FileTable, ...]


def find_roles(tables: Sequence[FileTable]) -> Roles:
    """The roles of tables and columns.

    Raises:
        InputError: no table has a column of users and one of items.
    """
    events = find_events(tables)
    joins = find_joins(events, [table for table in tables if table is not events])
    items, users = tell_entities(joins)
    taken = [join.column for join in (items, users) if join]
    item = _joined(items) if items else find_item(events, [*taken, *_certain_user(events, taken)])
    user = _joined(users) if users else find_user(events, [item.column, *taken])
    if len(item.options) > 1 and user.column in item.options:
        user, item = _either(events, item.options)
    if users is None and user.column == item.column:
        raise InputError(_no_pair(events))
    used = [events, *(join.table for join in (items, users) if join)]
    return Roles(events, user, item, items, users, tuple(table for table in tables if table not in used))


def _either(events: FileTable, columns: Sequence[str]) -> tuple[RoleChoice, RoleChoice]:
    """(user, item), each a question, where nothing tells them apart."""
    titles = [name for name in columns if events.columns[name].spaced > 0.3]
    others = [name for name in columns if name not in titles]
    if len(titles) == len(others) == 1:
        user, item = events.columns[others[0]], events.columns[titles[0]]
        return RoleChoice((user.name,), _counted(user)), RoleChoice(
            (item.name,), f"{_counted(item)}, which read like titles"
        )
    told = ", ".join(f"{name} has {events.columns[name].distinct:,} different values" for name in columns)
    why = f"users and items cannot be told apart: {told}"
    first, second = columns[0], columns[1]
    return RoleChoice(tuple(columns), why), RoleChoice(
        (second, first, *columns[2:]), "the other of the two, or a file of items decides"
    )


def find_events(tables: Sequence[FileTable]) -> FileTable:
    """The table that refers to the others; among equals the one with ratings or times, then the largest."""
    if len(tables) == 1:
        return tables[0]
    return max(tables, key=lambda table: _like_events(table, tables))


def _like_events(table: FileTable, tables: Sequence[FileTable]) -> tuple[float, int]:
    others = [other for other in tables if other is not table]
    refers = [
        join for join in find_joins(table, others) if not table.columns[join.column].unique and join.weight > 0.25
    ]
    told = any(words.has(name, words.RATING | words.LABEL | words.COUNT) or column.scale
               for name, column in table.columns.items())  # fmt: skip
    people = any(words.has(name, words.USER) and not column.unique for name, column in table.columns.items())
    return 3.0 * len(refers) + bool(table.moments) + told + 2.0 * (people and not refers) - 0.5 * bool(
        table.keys
    ), table.rows


def tell_entities(joins: Sequence[Join]) -> tuple[Join | None, Join | None]:
    """(join of the items, join of the users): by words in names, else the one with titles holds the items."""
    items: Join | None = None
    users: Join | None = None
    for join in sorted(joins, key=_item_like, reverse=True):
        if _item_like(join) < 0 and users is None:
            users = join
        elif items is None:
            items = join
        elif users is None:
            users = join
    return items, users


def _item_like(join: Join) -> float:
    names = (
        join.column,
        join.key,
        *(sheet.path.stem for sheet in join.table.sheets),
        *(sheet.path.suffix for sheet in join.table.sheets),
    )
    named = sum(words.has(_singular(name), words.ITEM) - words.has(_singular(name), words.USER) for name in names)
    titled = any(is_title(column) for name, column in join.table.columns.items() if name != join.key)
    return 2.0 * named + (1.0 if titled else -0.5)


def _singular(name: str) -> str:
    return " ".join(word.removesuffix("s") for word in words.words(name))


def _joined(join: Join) -> RoleChoice:
    found = "joins 100 %" if join.rate == 1 else f"{join.rate:.1%} of the rows join"
    return RoleChoice((join.column,), f"{found} with {join.table.names} column {join.key!r}")


def is_title(column: ColumnFacts) -> bool:
    """Whether values read like names or titles: words, mostly different ones."""
    wordy = column.spaced > 0.3 and column.distinct > 0.3 * len(column.filled)
    return wordy and not column.nested and not column.address and column.letters <= 250 and column.multi is None


def may_be_id(table: FileTable, column: ColumnFacts) -> bool:
    """Whether a column may hold ids of users or items."""
    said = set(words.words(column.name))
    named = bool(said & (words.USER | words.ITEM)) and (bool(said & words.ID) or said <= words.USER | words.ITEM)
    other = (
        column.nested or (column.address and not named) or column.prose or (column.flag and not named) or column.multi
    )
    if (
        other
        or column.distinct < 2
        or column.name in table.moments
        or (column.numbers is not None and not column.whole)
    ):
        return False
    if named:
        return True
    marks = words.has(
        column.name, words.RATING | words.COUNT | words.LABEL | words.ORDER | words.WRITTEN | words.HISTORY
    )
    return not marks and not column.scale and not column.unique and not column.counted


def _hint(name: str, known: set[str]) -> float:
    """How surely a name speaks of `known`; further words in it make it less sure."""
    if not words.has(name, known):
        return 0.0
    return 2.0 + words.is_id(name) - 0.5 * len(set(words.words(name)) - known - words.ID)


def _certain_user(events: FileTable, taken: Sequence[str]) -> list[str]:
    return [name for name in events.columns if name not in taken and words.has(name, words.USER)]


def find_item(events: FileTable, taken: Sequence[str]) -> RoleChoice:
    """The column of the items, where no other table has them."""
    return _find(events, taken, words.ITEM, "item")


def find_user(events: FileTable, taken: Sequence[str]) -> RoleChoice:
    """The column of the users, where no other table has them."""
    return _find(events, taken, words.USER | words.SESSION, "user")


def _find(events: FileTable, taken: Sequence[str], known: set[str], role: str) -> RoleChoice:
    left = [c for name, c in events.columns.items() if name not in taken and may_be_id(events, c)]
    if role == "item" and not left:
        left = [c for name, c in events.columns.items() if name not in taken and is_title_of_events(c)]
    if not left:
        raise InputError(_no_pair(events))
    hints = {column.name: _hint(column.name, known) for column in left}
    if role == "user":
        hints = {
            name: hint - (words.has(name, words.SESSION) and not words.has(name, words.USER))
            for name, hint in hints.items()
        }
    best = max(hints.values())
    named = [column for column in left if hints[column.name] == best] if best > 0 else []
    if len(named) == 1:
        return RoleChoice((named[0].name,), _counted(named[0]))
    return _among(events, named or _undetermined(events, left), role, bool(named))


def is_title_of_events(column: ColumnFacts) -> bool:
    return column.spaced > 0.3 and not column.unique and not column.nested and not column.address


def _among(events: FileTable, columns: Sequence[ColumnFacts], role: str, named: bool) -> RoleChoice:
    """The only one of several that fit, or a question."""
    same = [c for c in columns if c is columns[0] or not _twins(events, columns[0].name, c.name)]
    if len(same) == 1:
        why = "the same as " + ", ".join(c.name for c in columns[1:]) if len(columns) > 1 else "no other column fits"
        return RoleChoice((columns[0].name,), f"{_counted(columns[0])}; {why}")
    told = ", ".join(f"{column.name} has {column.distinct:,} different values" for column in same)
    reason = "are named like one" if named else "may be it"
    return RoleChoice(
        tuple(column.name for column in same), f"which is the {role}? {len(same)} columns {reason}: {told}"
    )


def _counted(column: ColumnFacts) -> str:
    text = f"{column.distinct:,} different values in {column.rows:,} rows"
    return f"{text}, {column.missing:,} rows without" if column.missing else text


def _undetermined(events: FileTable, columns: list[ColumnFacts]) -> list[ColumnFacts]:
    """Without the columns that another one of them determines, such as the city of a customer."""
    return [c for c in columns if not any(
        d is not c and determines(events.frame, d.name, c.name) and not determines(events.frame, c.name, d.name)
        for d in columns)] or columns  # fmt: skip


def _twins(events: FileTable, one: str, other: str) -> bool:
    return determines(events.frame, one, other) and determines(events.frame, other, one)


def determines(frame: pl.DataFrame, one: str, other: str, share: float = 0.99) -> bool:
    """Whether (nearly) each value of `one` has a single value of `other`."""
    return determined(frame, one, other) >= share


def determined(frame: pl.DataFrame, one: str, other: str) -> float:
    """Share of the values of `one` that have a single value of `other` (missing ones not counted)."""
    pairs = frame.select(pl.col(one).alias("one"), pl.col(other).alias("other")).drop_nulls()
    if not pairs.height:
        return 0.0
    each = pairs.group_by("one").agg(pl.col("other").n_unique().alias("n"))
    return as_float((each["n"] == 1).mean())


def _no_pair(events: FileTable) -> str:
    columns = ", ".join(name or "(no name)" for name in list(events.columns)[:12]) + ", …" * (len(events.columns) > 12)
    where, rows = events.sheets[0].path, events.rows
    if rows < 2:
        return f"{where}: holds {rows or 'no'} row{'s' * (rows != 1)}, too few to tell what its columns are: {columns}"
    alike = [name for name, column in events.columns.items() if column.distinct == 1 and not column.missing]
    same = f"; {', '.join(alike[:3])} has the same value in every row" if alike else ""
    return (f"{where}: no two columns look like a user and an item of an event (columns: {columns}){same}; "
            "name the file of the interactions, one event a row")  # fmt: skip
