"""Files as one table of texts in DuckDB, each row with its place in them.

DuckDB reads what it reads as `records` does: text in UTF-8 with one kind of line end, whose quotation marks leave no
doubt. Anything else, and a file in which it finds a bad row, is read by `records` and handed over as Parquet.
"""

from __future__ import annotations

import itertools
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from corella_edge.errors import InputError, meant
from corella_edge.formats.text_files import told
from corella_edge_export.data.database import literal
from corella_edge_export.data.table.description import Files
from corella_edge_export.data.table.look import Look, look, open_text
from corella_edge_export.data.table.parquet import parquet_columns
from corella_edge_export.data.table.records import Record, csv_records, filled_lines, json_records
from corella_edge_export.data.table.sql import file_literal, json_paths, json_value

_BATCH = 50_000  # records that are staged at once
Say = Callable[[str], None]


@dataclass(frozen=True)
class FilePiece:
    """One file's rows: `first` to `first + rows` of the table; `bad` rows of it were dropped."""

    path: Path
    look: Look
    first: int
    rows: int
    bad: int
    width: int | None


@dataclass
class RawTable:
    """A table `name` in DuckDB whose `rowid` counts the rows of all files, and whose columns are texts or null.

    Attributes:
        columns: the files' names of columns → those in the table.
        notes: what a person should know of how the files were read.
    """

    name: str
    files: Files
    columns: dict[str, str]
    pieces: list[FilePiece] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        return sum(piece.rows for piece in self.pieces)

    @property
    def bad(self) -> int:
        return sum(piece.bad for piece in self.pieces)

    @property
    def header_again(self) -> str:
        """SQL of whether a row is the header once more, as files that were put together with `cat` have it."""
        if self.files.format != "csv" or not self.files.header or not self.columns:
            return "false"
        # A file's mark (BOM) then stands before its first name, and may stand before a quotation mark.
        signs = literal(" \ufeff" + self.files.quote)
        return " AND ".join(f"trim({c}, {signs}) = {literal(name.strip())}" for name, c in self.columns.items())

    def place(self, row: int) -> str:
        """The file and the line of a row, "ratings.csv line 7"; in Parquet the row counts from 1."""
        piece = next(piece for piece in self.pieces if row < piece.first + piece.rows)
        if self.files.format == "parquet":
            return f"{piece.path} row {row - piece.first + 1}"
        return f"{piece.path} line {_line(piece, self.files, row - piece.first)}"


def load_raw(
    db: duckdb.DuckDBPyConnection,
    name: str,
    files: Files,
    wanted: Mapping[str, str],
    say: Say,
    times: Mapping[str, str] | None = None,
) -> RawTable:
    """Read `files` into the table `name`.

    Args:
        wanted: column → the key of the data.toml that names it.
        times: columns of Parquet that are times by their type, read as Unix seconds → the zone of those without one.

    Raises:
        InputError: a file or a row cannot be read, or a column is not there; names file and line.
    """
    columns = {column: f"c{number}" for number, column in enumerate(wanted)}
    table = RawTable(name, files, columns)
    db.execute(f"CREATE TABLE {name} ({', '.join(f'{c} VARCHAR' for c in columns.values()) or 'c0 VARCHAR'})")
    for number, path in enumerate(files.paths, 1):
        say(f"reading {path.name}" + (f" ({number} of {len(files.paths)})" if len(files.paths) > 1 else ""))
        before = _stamp(path)
        _FileReading(db, table, path, wanted, times or {}).run()
        if _stamp(path) != before:
            raise InputError(f"{path}: was written to while it was read; wait until it is whole, or copy it first")
    if not table.rows:
        raise InputError(f"{files.paths[0]}: holds no rows; get it again")
    if files.format == "jsonl":
        _check_keys(db, table, wanted)
    return table


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of the last change."""
    with told(str(path)):
        found = path.stat()
    return found.st_size, found.st_mtime_ns


class _FileReading:
    """One file on its way into the table."""

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        table: RawTable,
        path: Path,
        wanted: Mapping[str, str],
        times: Mapping[str, str],
    ) -> None:
        self._db, self._table, self._path = db, table, path
        self._wanted, self._times = wanted, times
        self._files = table.files
        self._look = look(path, self._files)
        self._width: int | None = None

    def run(self) -> None:
        if self._files.format == "parquet":
            rows, bad = self._insert(self._from_parquet()), 0
        elif self._files.format == "jsonl":
            rows, bad = self._read(self._from_json(), self._json_rows())
        else:
            names = self._names()
            self._width = len(names)
            indexes = [self._index(names, column) for column in self._wanted]
            rows, bad = self._read(self._from_csv(names, indexes), self._csv_rows(indexes))
        self._notes()
        self._table.pieces.append(FilePiece(self._path, self._look, self._table.rows, rows, bad, self._width))

    def _read(self, query: str | None, rows: Iterator[tuple[int, Sequence[str | None], str]]) -> tuple[int, int]:
        """(rows read, bad rows): by DuckDB if it can, else record by record."""
        if query is not None:
            try:
                return self._insert(query), 0
            except duckdb.InvalidInputException:  # it found a bad row; what is wrong, and where, `records` tells
                pass
            except duckdb.IOException as error:  # zeros behind the packed data, as tapes and disks pad them
                if self._look.packing == "none" or "stream" not in str(error):
                    raise
        return self._staged(rows)

    def _insert(self, query: str) -> int:
        found = self._db.execute(f"INSERT INTO {self._table.name} {query}").fetchone()
        return int(found[0]) if found else 0

    def _staged(self, rows: Iterator[tuple[int, Sequence[str | None], str]]) -> tuple[int, int]:
        kept = bad = 0
        with tempfile.TemporaryDirectory() as place:
            while batch := list(itertools.islice(rows, _BATCH)):
                good = [values for line, values, problem in batch if not self._is_bad(line, problem)]
                bad += len(batch) - len(good)
                kept += self._insert_rows(good, Path(place) / "batch.parquet") if good else 0
        return kept, bad

    def _insert_rows(self, rows: Sequence[Sequence[str | None]], batch: Path) -> int:
        schema = dict.fromkeys(self._table.columns.values(), pl.String)
        pl.DataFrame(rows, schema=schema, orient="row").write_parquet(batch)
        return self._insert(f"SELECT * FROM read_parquet({file_literal(batch)})")

    def _is_bad(self, line: int, problem: str) -> bool:
        if problem and self._files.bad_rows == "stop":
            raise InputError(f"{self._path} line {line}: {problem}")
        return bool(problem)

    # CSV

    def _names(self) -> list[str]:
        if not self._files.header:
            return list(self._files.columns)
        first = next(_records(self._path, self._look, self._files, None), None)
        if first is None or first.problem:
            raise InputError(f"{self._path} line 1: the header cannot be read: {first.problem if first else 'no text'}")
        return [name.strip() for name in first.values]

    def _index(self, names: Sequence[str], column: str) -> int:
        if names.count(column) == 1:
            return names.index(column)
        key = self._wanted[column]
        if column in names:
            raise InputError(
                f"{self._path}: two columns are called {column!r} ({key}); write header = false and columns"
            )
        raise InputError(f"{self._path}: {_no_column(column, key, names)}")

    def _from_csv(self, names: Sequence[str], indexes: Sequence[int]) -> str | None:
        """The query that reads the file, or None if DuckDB could read it otherwise than `records`."""
        seen = self._look
        sure = seen.utf8 and len(seen.line_ends) <= 1 and not seen.blank_quotes and not seen.escaped
        one_line_header = not self._files.header or (seen.first_line.strip() and self._plain_header())
        if not sure or len(names) < 2 or not one_line_header:
            return None
        quote = self._files.quote
        struct = ", ".join(f"'f{number}': 'VARCHAR'" for number in range(len(names)))
        options = (
            f"auto_detect=false, header=false, skip={int(self._files.header)}, columns={{{struct}}}, "
            f"delim={literal(self._files.separator)}, quote={literal(quote)}, escape={literal(quote)}, "
            f"compression='{seen.packing}', strict_mode=true, null_padding=false, hive_partitioning=false"
        )
        chosen = ", ".join(f"f{index}" for index in indexes) or "NULL"
        return f"SELECT {chosen} FROM read_csv({file_literal(self._path)}, {options})"

    def _plain_header(self) -> bool:
        """Whether the header is the first line, so that leaving out one line leaves out the header."""
        quote = self._files.quote
        return not quote or self._look.first_line.count(quote) % 2 == 0

    def _csv_rows(self, indexes: Sequence[int]) -> Iterator[tuple[int, Sequence[str | None], str]]:
        for record in _data_records(self._path, self._look, self._files, self._width):
            values = () if record.problem else [record.values[index] for index in indexes]
            yield record.line, values, record.problem

    # JSON lines

    def _from_json(self) -> str | None:
        plain = not any('"' in column or "\\" in column for column in self._wanted)  # DuckDB's paths cannot say these
        if not self._look.utf8 or not self._look.line_ends <= {"\n", "\r\n"} or not plain:
            return None
        paths, values = list[str](), list[str]()
        for column in self._wanted:
            own = json_paths(column)
            values.append(json_value([len(paths) + number for number in range(1, len(own) + 1)]))
            paths += own
        found = ", ".join(literal(path) for path in paths)
        options = f"compression='{self._look.packing}', hive_partitioning=false"
        return (
            f"SELECT {', '.join(values)} FROM (SELECT CASE WHEN json_type(json) = 'OBJECT' "
            f"THEN json_extract(json, [{found}]) ELSE error('no object') END AS v "
            f"FROM read_ndjson_objects({file_literal(self._path)}, {options}))"
        )

    def _json_rows(self) -> Iterator[tuple[int, Sequence[str | None], str]]:
        with open_text(self._path, self._look, self._files.encoding) as text:
            for record in json_records(text):
                yield record.line, [_text(_at(record.value, column)) for column in self._wanted], record.problem

    # Parquet

    def _from_parquet(self) -> str:
        try:
            found = parquet_columns(self._db, self._path, self._wanted, self._times)
            self._db.execute(f"SELECT count(*) FROM read_parquet({file_literal(self._path)})")
        except duckdb.Error as error:
            raise InputError(f"{self._path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None
        source = f"read_parquet({file_literal(self._path)}, hive_partitioning=false)"
        return f"SELECT {', '.join(found)} FROM {source}"

    def _notes(self) -> None:
        name, ends = self._path.name, self._look.line_ends
        if self._files.format != "parquet" and ends == {"\r"}:
            self._table.notes.append(f"{name}: lines end in CR alone, as old Macs wrote them; they were read so")
        if self._look.blank_quotes and self._outside_quotes():
            problem = "values begin with a blank before a quotation mark, which were read as part of them"
            self._table.notes.append(f'{name}: {problem}; write separator = "{self._files.separator} " if they are not')

    def _outside_quotes(self) -> bool:
        """Whether values of this file look quoted, but for a blank before it."""
        mark = self._files.quote
        quoted = literal(f" +{re.escape(mark)}.*{re.escape(mark)}")
        like = " OR ".join(f"regexp_full_match({column}, {quoted})" for column in self._table.columns.values())
        where = f"rowid >= {self._table.rows} AND ({like})"
        return self._db.execute(f"SELECT 1 FROM {self._table.name} WHERE {where} LIMIT 1").fetchone() is not None


def _no_column(column: str, key: str, names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
    hint = meant(column, names)
    if len(names) == 1 and (sign := next((sign for sign in ";\t|," if sign in names[0]), "")):
        hint = f"; the header is one name that holds {sign!r}: is that the separator?"
    return f"has no column {column!r} ({key}){hint} (columns: {shown})"


def _records(path: Path, look: Look, files: Files, width: int | None) -> Iterator[Record]:
    with open_text(path, look, files.encoding) as text:
        yield from csv_records(text, files, width)


def _data_records(path: Path, look: Look, files: Files, width: int | None) -> Iterator[Record]:
    """All but the header."""
    return itertools.islice(_records(path, look, files, width), int(files.header), None)


def _line(piece: FilePiece, files: Files, number: int) -> int:
    """The line where the good record of that number (from 0) begins."""
    if files.format == "csv":
        records = _data_records(piece.path, piece.look, files, piece.width)
        good = (record.line for record in records if not record.problem)
        return next(itertools.islice(good, number, None))
    with open_text(piece.path, piece.look, files.encoding) as text:
        if piece.bad:
            lines = (record.line for record in json_records(text) if not record.problem)
        else:
            lines = (line for line, _ in filled_lines(text))
        return next(itertools.islice(lines, number, None))


def _check_keys(db: duckdb.DuckDBPyConnection, table: RawTable, wanted: Mapping[str, str]) -> None:
    """A key that no object has was probably mistyped."""
    counts = db.execute(
        f"SELECT {', '.join(f'count({c})' for c in table.columns.values())} FROM {table.name}"
    ).fetchone()
    for column, count in zip(wanted, counts or (), strict=True):
        if not count:
            piece = table.pieces[0]
            with open_text(piece.path, piece.look, table.files.encoding) as text:
                names = dict.fromkeys(key for r in itertools.islice(json_records(text), 1000) for key in r.value)
            if column not in names:  # else it is there, and empty
                raise InputError(f"{piece.path}: {_no_column(column, wanted[column], list(names))}")


def _at(value: Mapping[str, Any], column: str) -> Any:
    """What stands at a key, or at a path of keys with dots."""
    if column in value or "." not in column:
        return value.get(column)
    found: Any = value
    for key in column.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _text(value: Any) -> str | None:
    """A JSON value as DuckDB's `->>` writes it; a whole number without its ".0"."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isfinite(value) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
