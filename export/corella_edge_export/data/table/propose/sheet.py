"""One file as a table of texts, with what its form says; files of one form are one table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import polars as pl

from corella_edge.errors import InputError
from corella_edge_export.data.table.propose import content as contents
from corella_edge_export.data.table.propose.columns import as_float
from corella_edge_export.data.table.propose.content import Content
from corella_edge_export.data.table.propose.dialect import Dialect, find_dialect, rows
from corella_edge_export.data.table.propose.header import find_header, looks_named

ROWS = 2_000_000  # of a Parquet file are looked at
_CHUNK = 50_000
_PLAIN = re.compile(r"[\w$@ -]{1,40}")  # keys that may become a part of a column's name
_OPENED, _DEEP = 12, 3  # keys of an object inside of a row that are columns of their own, and levels of them


@dataclass(frozen=True)
class Sheet:
    """A file that was read.

    Attributes:
        frame: String columns; null = an empty field. types: column → "list", "object", "bool", "number" or "moment",
            where the format (JSON, Parquet) says it.
        header: whether the first line names the columns. why_header: the evidence.
        whole: whether `frame` holds all rows. ragged: (line, fields) of rows with another number of fields.
        decimal: the sign before the decimals; numbers with a comma have a point in `frame`.
        headers: how often the header stands among the rows, which are not in `frame`.
    """

    path: Path
    format: str
    frame: pl.DataFrame
    content: Content
    dialect: Dialect | None = None
    header: bool = True
    why_header: str = ""
    types: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True
    ragged: tuple[tuple[int, int], ...] = ()
    headers: int = 0
    decimal: str = "."

    @property
    def rows(self) -> int:
        return self.frame.height


class NoTableError(InputError):
    """A file that holds no table, such as a licence: in a folder it is left out, and said."""


def read(path: Path) -> Sheet:
    """Read one file.

    Raises:
        NoTableError: it is text without columns. InputError: it cannot be read; the message says what to do.
    """
    content = contents.look(path)
    if content.form == "parquet":
        return _parquet(content)
    start = content.text.lstrip()[:1]
    if start == "[":
        _refuse_array(content)
    if start == "{":
        return _json(content)
    return _csv(content)


def _refuse_array(content: Content) -> None:
    text = content.text.lstrip()
    if re.match(r"\[\s*(\{|\])", text):
        make = "python3 -c 'import json, sys; [print(json.dumps(row)) for row in json.load(sys.stdin)]'"
        packed = {"gzip": "zcat", "zstd": "zstdcat"}.get(content.packing, "cat")
        name = content.path.name
        raise InputError(
            f"{content.path}: is one JSON array; make it JSON lines: {packed} {name} | {make} > rows.jsonl"
        )


def _json(content: Content) -> Sheet:
    records: list[dict[str, Any]] = []
    for number, line in enumerate(content.text.split("\n"), 1):
        if line.strip():
            records.append(_record(content, number, line))
    if not records:
        raise InputError(f"{content.path}: holds no row")
    records = opened(records)
    names = list(dict.fromkeys(name for record in records for name in record))
    types = {name: kind for name in names if (kind := _json_kind(record.get(name) for record in records))}
    frame = pl.DataFrame({name: [_as_text(record.get(name)) for record in records] for name in names},
                         schema=dict.fromkeys(names, pl.String()))  # fmt: skip
    return Sheet(content.path, "jsonl", frame, content, types=types, whole=content.whole)


def opened(records: list[dict[str, Any]], depth: int = _DEEP) -> list[dict[str, Any]]:
    """Objects inside of rows as columns with dots ("user.id"), where they always have the same few keys."""
    keys: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, dict):
                keys.setdefault(name, set()).update(value)
    few = {
        name for name, own in keys.items()
        if 0 < len(own) <= _OPENED
        and all(_PLAIN.fullmatch(key) and f"{name}.{key}" not in records[0] for key in own)
        and all(isinstance(record.get(name, {}), dict | None) for record in records)
    }  # fmt: skip
    if not few or not depth:
        return records
    return opened([_opened(record, few) for record in records], depth - 1)


def _opened(record: dict[str, Any], few: set[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in record.items():
        if name in few:
            found |= {f"{name}.{key}": inner for key, inner in (value or {}).items()}
        else:
            found[name] = value
    return found


def _record(content: Content, number: int, line: str) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(line)
    except msgspec.DecodeError as error:
        raise InputError(_not_json(content, number, line, str(error))) from None
    if not isinstance(record, dict):
        raise InputError(f"{content.path} line {number}: is JSON, but no object {{…}}; a row is one object a line")
    return record


def _not_json(content: Content, number: int, line: str, problem: str) -> str:
    if is_python(line):
        return f"{content.path} line {number}: is a Python dict, not JSON; the reader amazon-2014 knows this form"
    if number == 1 and len(content.text.splitlines()) > 1 and not line.rstrip().endswith("}"):
        return (f"{content.path}: is one JSON document over several lines; write one object a line "
                f"(jq -c . {content.path.name} > rows.jsonl)")  # fmt: skip
    return f"{content.path} line {number}: is not JSON ({problem}); mend or remove the line"


def is_python(line: str) -> bool:
    """Whether a line is a Python dict as `repr` writes it: its keys are in single quotes."""
    return bool(re.match(r"\s*\{\s*u?'", line))


def _json_kind(values: Iterator[Any]) -> str:
    kinds = {type(value) for value in values if value is not None}
    for kind, name in ((dict, "object"), (list, "list")):
        if kind in kinds:
            return name
    return "bool" if kinds == {bool} else "number" if kinds and kinds <= {int, float} else ""


def _as_text(value: Any) -> str | None:
    if value is None or value == "" or value == [] or value == {}:
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    return msgspec.json.encode(value).decode()


def _parquet(content: Content) -> Sheet:
    try:
        lazy = pl.scan_parquet(content.path)
        schema = lazy.collect_schema()
        total = int(lazy.select(pl.len()).collect().item())
        frame = _unnested(lazy.head(ROWS).collect())
        schema = frame.schema
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{content.path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None
    types = {name: kind for name, dtype in schema.items() if (kind := _parquet_kind(dtype))}
    frame = frame.with_columns(_text_of_bytes(frame[name]) for name, dtype in schema.items() if dtype == pl.Binary)
    schema = frame.schema
    texts = frame.select(_parquet_text(name, dtype) for name, dtype in schema.items())
    return Sheet(content.path, "parquet", texts, content, types=types, whole=total <= ROWS)


def _unnested(frame: pl.DataFrame) -> pl.DataFrame:
    """Structs of a few fields as columns with dots ("user.id")."""
    while few := {
        name: [field.name for field in dtype.fields]
        for name, dtype in frame.schema.items()
        if isinstance(dtype, pl.Struct) and len(dtype.fields) <= _OPENED and name.count(".") < _DEEP
    }:
        inner = [
            pl.col(name).struct.field(field).alias(f"{name}.{field}")
            for name, fields in few.items()
            for field in fields
            if f"{name}.{field}" not in frame.columns
        ]
        frame = frame.with_columns(inner).drop(few)
    return frame


def _parquet_kind(dtype: pl.DataType) -> str:
    if dtype.is_nested():
        return "object" if isinstance(dtype, pl.Struct) else "list"
    if dtype in (pl.Date, pl.Datetime):
        return "moment"
    return "bool" if dtype == pl.Boolean else "number" if dtype.is_numeric() else ""


def _text_of_bytes(column: pl.Series) -> pl.Series:
    """Bytes that are text throughout, as older writers leave it; others stay bytes, which no role can have."""
    try:
        return column.cast(pl.String)
    except pl.exceptions.ComputeError:
        return column


def _parquet_text(name: str, dtype: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if isinstance(dtype, (pl.List, pl.Array)) and not dtype.inner.is_nested():
        return (pl.lit("[") + column.cast(pl.List(pl.String)).list.join(",") + pl.lit("]")).alias(name)
    if dtype.is_nested():
        return pl.lit("{}").alias(name)
    if dtype == pl.Binary:
        return pl.lit(None, pl.String).alias(name)
    if dtype == pl.Boolean:
        return column.cast(pl.Int8).cast(pl.String)
    return column.cast(pl.String).replace("", None)


def _csv(content: Content) -> Sheet:
    dialect = find_dialect(content.text, content.further)
    if dialect is None:
        raise NoTableError(f"{content.path}: no separator cuts its lines into columns (tried tab , ; | :: and blank)")
    head = list(islice(rows(content.text, dialect.separator, dialect.quote, dialect.escape), 2001))
    header, why = find_header([row for row in head if len(row) == dialect.columns])
    names = (
        [name.strip() for name in head[0]] if header else [f"column{place}" for place in range(1, dialect.columns + 1)]
    )
    _check_names(content, head[0], names, dialect)
    cut = _simple if (dialect.quote or "\0") not in content.text and not dialect.escape else _careful
    frame, ragged = cut(content.text, dialect, _unique(names), header)
    frame, headers = _without_headers(frame, names) if header else (frame, 0)
    if not frame.height:
        raise InputError(f"{content.path}: holds a header and no row")
    frame = frame.with_columns(pl.all().replace("", None))
    commas = _decimal_commas(frame) if dialect.separator != "," or dialect.quote in content.text else []
    frame = frame.with_columns(pl.col(commas).str.replace(",", ".", literal=True))
    return Sheet(content.path, "csv", frame, content, dialect, header, why, {}, content.whole, ragged, headers,
                 "," if commas else ".")  # fmt: skip


def _decimal_commas(frame: pl.DataFrame) -> list[str]:
    """Columns of numbers such as 12,50, where no column has numbers such as 12.50."""
    filled = [column.drop_nulls().str.strip_chars().head(20_000) for column in frame.iter_columns()]
    if any(len(column) and as_float(column.str.contains(r"^-?\d+\.\d+$").mean()) > 0.5 for column in filled):
        return []
    return [column.name for column in filled if _has_commas(column)]


def _has_commas(column: pl.Series) -> bool:
    """Whether all are numbers, some with a comma, and it does not stand before each three digits as in 1,500."""
    if not len(column) or not column.str.contains(r"^-?\d+(,\d+)?$").all() or not column.str.contains(",").any():
        return False
    return not column.str.contains(r"^-?\d{1,3}(,\d{3})?$").all()


def _without_headers(frame: pl.DataFrame, names: Sequence[str]) -> tuple[pl.DataFrame, int]:
    """Rows that are not the header once more, and how many are; of files that were put together with `cat`."""
    columns = zip(frame.columns, names, strict=True)
    again = pl.all_horizontal(pl.col(column).str.strip_chars(' \ufeff"') == name.strip() for column, name in columns)
    kept = frame.filter(~again.fill_null(False))
    return kept, frame.height - kept.height


def _check_names(content: Content, first: Sequence[str], names: Sequence[str], dialect: Dialect) -> None:
    width, separator = dialect.columns, dialect.separator
    if len(first) != width and looks_named(first):
        raise InputError(f"{content.path} line 1: names {len(first)} columns and the rows have {width}; mend it")
    if names[1:].count("") > 1 and separator == " ":
        raise InputError(
            f"{content.path} line 1: columns stand apart by several blanks; put one tab between them "
            f"(sed 's/  */\\t/g' {content.path.name} > rows.tsv)"
        )
    twice = next((name for name in names if name and list(names).count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{content.path} line 1: two columns are named {twice!r}; give each a name of its own")


def _unique(names: Sequence[str]) -> list[str]:
    """Names as they are; a second one of the same name gets a number."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


Cut = tuple[pl.DataFrame, tuple[tuple[int, int], ...]]


def _simple(text: str, dialect: Dialect, names: list[str], header: bool) -> Cut:
    """Text in which every separator separates: much faster than what follows, and the same."""
    width, separator = len(names), dialect.separator
    lines = pl.Series("line", [text.replace("\r\n", "\n").replace("\r", "\n")]).str.split("\n").explode()
    frame = pl.DataFrame({"line": lines, "fields": lines.str.count_matches(separator, literal=True) + 1})
    frame = frame.with_row_index("number", 1).filter(pl.col("line") != "").slice(int(header))
    bad = frame.filter(pl.col("fields") != width)
    parts = frame.filter(pl.col("fields") == width)["line"].str.split_exact(separator, width - 1).struct.unnest()
    return parts.rename(dict(zip(parts.columns, names, strict=True))), tuple(bad.select("number", "fields").iter_rows())


def _careful(text: str, dialect: Dialect, names: list[str], header: bool) -> Cut:
    """Text with quotes, row by row."""
    width, parts, ragged, number = len(names), [], [], 1 + header
    found = islice(rows(text, dialect.separator, dialect.quote, dialect.escape), int(header), None)
    schema = dict.fromkeys(names, pl.String())
    while chunk := list(islice(found, _CHUNK)):
        ragged += [(number + place, len(row)) for place, row in enumerate(chunk) if len(row) != width]
        whole = [row for row in chunk if len(row) == width]
        number += len(chunk)
        parts.append(pl.DataFrame(whole, schema=schema, orient="row"))
    return pl.concat(parts) if parts else pl.DataFrame(schema=schema), tuple(ragged)
