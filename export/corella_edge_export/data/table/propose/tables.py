"""Files of one form are one table; which columns of one table are the ids of another."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import polars as pl

from corella_edge_export.data.table.propose.columns import ColumnFacts, as_float, stand_ins
from corella_edge_export.data.table.propose.moments import Moments, find_moments
from corella_edge_export.data.table.propose.sheet import Sheet
from corella_edge_export.data.table.propose.words import COUNT, LABEL, RATING, has


@dataclass(eq=False)
class FileTable:
    """One table, from one or more files of the same form.

    Attributes:
        frame: String columns, the files' rows one after the other; null = missing. missing: texts that stand for it.
    """

    sheets: tuple[Sheet, ...]
    frame: pl.DataFrame
    missing: dict[str, tuple[str, ...]]

    @property
    def first(self) -> Sheet:
        """The sheet whose form stands for all: the one that says most about its quotes and its encoding."""
        return max(self.sheets, key=lambda s: (s.content.encoding != "utf-8", bool(s.dialect and s.dialect.escape),
                                               '"' in s.content.text[:100_000]))  # fmt: skip

    @property
    def names(self) -> str:
        """The files' names for people."""
        names = [sheet.path.name for sheet in self.sheets]
        return (
            names[0]
            if len(names) == 1
            else f"{names[0]} and {len(names) - 1} more"
            if len(names) > 3
            else ", ".join(names)
        )

    @property
    def rows(self) -> int:
        return self.frame.height

    @property
    def whole(self) -> bool:
        return all(sheet.whole for sheet in self.sheets)

    @cached_property
    def columns(self) -> dict[str, ColumnFacts]:
        types = self.sheets[0].types
        return {name: ColumnFacts(name, self.frame[name], types.get(name, "")) for name in self.frame.columns}

    @cached_property
    def moments(self) -> dict[str, Moments]:
        """Column → how its times are written, of those that hold times."""
        return {name: found for name, column in self.columns.items() if (found := find_moments(column))}

    @cached_property
    def keys(self) -> list[str]:
        """Columns whose values tell the rows apart."""
        return [name for name, c in self.columns.items() if c.unique and not c.nested and not c.address and not c.prose]


_PARTS = (("train",), ("valid", "validation", "val", "dev"), ("test",))


def part_of(name: str) -> int | None:
    """0, 1 or 2 if a file's name says that it is for training, validation or test."""
    found = [
        place for place, known in enumerate(_PARTS) for word in re.findall(r"[a-z]+", name.lower()) if word in known
    ]
    return found[0] if len(found) == 1 else None


def group(sheets: Sequence[Sheet]) -> list[FileTable]:
    """Tables of the sheets, those of one form together, in their order."""
    found: dict[tuple[object, ...], list[Sheet]] = {}
    for sheet in sheets:
        found.setdefault(_form(sheet), []).append(sheet)
    return [_table(tuple(members)) for members in found.values()]


def _form(sheet: Sheet) -> tuple[object, ...]:
    # Named columns may stand in any order; prepare finds each by its name.
    names = tuple(sorted(sheet.frame.columns) if sheet.header else sheet.frame.columns)
    if sheet.format == "jsonl":
        return sheet.format, frozenset(names) & frozenset(sheet.frame.columns[:4])
    cut = (sheet.dialect.separator, sheet.header, sheet.decimal) if sheet.dialect else ()
    kinds = () if sheet.header else (re.sub(r"\d+", "", sheet.path.name.lower()), *_kinds(sheet))
    return (sheet.format, names, *cut, *kinds)


def _kinds(sheet: Sheet) -> tuple[bool, ...]:
    return tuple(ColumnFacts(c.name, c).numbers is not None for c in sheet.frame.head(2000).iter_columns())


def _table(sheets: tuple[Sheet, ...]) -> FileTable:
    sheets = tuple(sorted(sheets, key=lambda sheet: part_of(sheet.path.name) or 0))
    frame = pl.concat([sheet.frame for sheet in sheets], how="diagonal")
    missing = {c.name: found for c in frame.iter_columns() if (found := stand_ins(c))}
    empty = [pl.when(pl.col(name).str.strip_chars().is_in(list(texts))).then(None).otherwise(pl.col(name)).alias(name)
             for name, texts in missing.items()]  # fmt: skip
    return FileTable(sheets, frame.with_columns(empty), missing)


@dataclass(frozen=True)
class Join:
    """How an events' column fits a key of another table.

    Attributes:
        rate: share of the events' filled rows whose value is in the key. cover: share of the key's values that occur.
        absent: distinct values that are not in the key; example: one of them. near: where hardly a row finds its id,
            the share of ids that would be found but for blanks, zeros, a decimal .0 or case.
    """

    column: str
    table: FileTable
    key: str
    rate: float
    cover: float
    absent: int
    example: str
    near: float

    @property
    def weight(self) -> float:
        """How surely the column holds these ids: found ones, and not only the few small numbers."""
        found = max(self.rate * math.sqrt(self.cover), 0.9 * self.near)
        return found + 0.3 * (self.column == self.key)


def find_joins(events: FileTable, others: Sequence[FileTable]) -> list[Join]:
    """The best fit of each other table: each table and each column at most once, the surest first."""
    every = [
        _join(column, table, key)
        for column in events.columns.values() if _may_refer(column) and column.name not in events.moments
        for table in others for key in table.keys if key not in table.moments
    ]  # fmt: skip
    found: list[Join] = []
    for join in sorted(every, key=lambda j: -j.weight):
        fits = (join.rate >= 0.2 or join.near >= 0.5) and (join.cover >= 0.5 or not events.columns[join.column].scale)
        if fits and join.weight > 0.15 and all(j.column != join.column and j.table is not join.table for j in found):
            found.append(join)
    return found


def _may_refer(column: ColumnFacts) -> bool:
    other = column.nested or column.prose or has(column.name, RATING | COUNT | LABEL)
    return column.distinct > 1 and not other and (column.numbers is None or column.whole)


def _join(column: ColumnFacts, table: FileTable, key: str) -> Join:
    keys = table.columns[key].filled.unique()
    values = column.filled.value_counts(name="rows").rename({column.name: "value"})
    inside = values["value"].is_in(keys.implode())
    hits, rows = int(values.filter(inside)["rows"].sum()), max(1, len(column.filled))
    absent = values.filter(~inside)["value"].sort()
    near = 0.0
    if hits < 0.2 * rows:
        near = as_float(_plain(values["value"]).is_in(_plain(keys).implode()).mean())
    return Join(column.name, table, key, hits / rows, int(inside.sum()) / max(1, len(keys)), len(absent),
                str(absent[0]) if len(absent) else "", near)  # fmt: skip


def mismatch(join: Join) -> str:
    """What to do about ids that two files write in two ways."""
    same = f"blanks, leading zeros, a decimal .0 and case aside, {join.near:.0%} of column {join.column!r}"
    return (
        f"{same}, {join.near:.0%} of column {join.column!r} are found in {join.table.names}; write them alike in both"
    )


def _plain(values: pl.Series) -> pl.Series:
    """Ids without what programs add to them: blanks, a decimal 0, leading zeros, case."""
    return values.str.strip_chars().str.to_lowercase().str.replace(r"^(\d+)\.0+$", "$1").str.replace(r"^0+(\d)", "$1")


def relative(path: Path, folder: Path) -> str:
    """A path as a data.toml in `folder` names it: relative to the folder if it lies in it."""
    whole, base = path.resolve(), folder.resolve()
    return whole.relative_to(base).as_posix() if whole.is_relative_to(base) else whole.as_posix()
