"""Parquet files, read and written a batch at a time. The one file that knows pyarrow (extra [parquet])."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from corella_edge.errors import InputError, told
from corella_edge.routing import labelled
from corella_edge.routing.labelled import LabelledRows
from corella_edge_runtime.partitions import columns
from corella_edge_runtime.partitions.columns import AnswerColumns

BATCH = 64  # rows that are read at a time: each may name ten thousand candidates
LABEL = b"corella_edge"  # the entry of a file's metadata that says what its answers were made of
ANSWERS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        ("id", pa.string()),
        ("user_id", pa.string()),
        pa.field("item", pa.string(), nullable=False),
        pa.field("rank", pa.int64(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("crm", pa.float64(), nullable=False),
        ("llm", pa.float64()),
        pa.field("entropy", pa.float64(), nullable=False),
        pa.field("routed", pa.bool_(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("unknown", pa.list_(pa.string()), nullable=False),
    ]
)
# Numbers hardly repeat: a dictionary of them costs three times the writing of all the rest.
_WRITTEN: dict[str, Any] = {"compression": "zstd", "use_dictionary": ["id", "user_id", "item", "reason"]}
_IDS = ("id", columns.USER, columns.ITEMS, columns.CANDIDATES)
Test = Callable[[pa.DataType], bool]


class RequestTable:
    """A file of requests, opened; its columns are checked, its rows are not yet.

    Attributes:
        rows: how many it has.
        features: the columns that are features of the user.
        asks: whether a column says by which adapter of the LLM a row is answered.
        left: the columns that nothing reads.
    """

    def __init__(self, path: Path, features: Sequence[str]) -> None:
        """Raises InputError, which names the file and the column."""
        self.path = path
        with _told(path):
            # Without `pre_buffer` no more of a row group is in memory than the pages at hand.
            self._file = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 18)
        self.rows = int(self._file.metadata.num_rows)
        schema = self._file.schema_arrow
        try:
            self._read, self.left = columns.chosen(schema.names, features)
            for name in self._read:
                _check_type(name, schema.field(name).type)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        self.features = [name for name in self._read if name not in columns.KEYS]
        self.asks = columns.ADAPTER in self._read

    def read(self, start: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """(row from 0, column → value) from row `start` on. Raises InputError where the file is damaged."""
        groups, row = self._from(start)
        with _told(self.path):
            for batch in self._file.iter_batches(BATCH, groups, self._read, use_threads=False):
                if row + batch.num_rows > start:
                    values = [_values(name, batch.column(name)) for name in self._read]
                    for number, found in enumerate(zip(*values, strict=True), row):
                        if number >= start:
                            yield number, dict(zip(self._read, found, strict=True))
                row += batch.num_rows

    def _from(self, start: int) -> tuple[list[int], int]:
        """The row groups from the one on that holds row `start`, and the row that the first begins with."""
        metadata, first, row = self._file.metadata, 0, 0
        while first < metadata.num_row_groups and row + metadata.row_group(first).num_rows <= start:
            row += metadata.row_group(first).num_rows
            first += 1
        return list(range(first, metadata.num_row_groups)), row

    def close(self) -> None:
        self._file.close()


def _values(name: str, column: pa.Array) -> list[Any]:
    if name == columns.TIMES and pa.types.is_timestamp(_inner(column.type)):
        seconds = column.cast(pa.list_(pa.timestamp("s")), safe=False)
        column = seconds.cast(pa.list_(pa.int64()))
    elif name in _IDS and pa.types.is_integer(_inner(column.type)):
        column = column.cast(pa.list_(pa.string()) if _is_list(column.type) else pa.string())
    elif pa.types.is_decimal(_inner(column.type)):
        column = column.cast(pa.list_(pa.float64()) if _is_list(column.type) else pa.float64())
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError as error:
        bad = error.object[error.start]
        raise InputError(
            f"column {name!r}: holds the byte {bad:#04x}, which is not UTF-8; write the column again as UTF-8 text"
        ) from None


def _is_id(kind: pa.DataType) -> bool:
    return _is_text(kind) or pa.types.is_integer(kind)


def _is_text(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_timestamp(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _inner(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if _is_list(kind) else kind


def _is_value(kind: pa.DataType) -> bool:
    return _is_text(kind) or _is_number(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)


def _list_of(test: Test) -> Test:
    return lambda kind: _is_list(kind) and (test(kind.value_type) or pa.types.is_null(kind.value_type))


def _is_feature(kind: pa.DataType) -> bool:
    return _is_value(kind) or _list_of(_is_value)(kind)


def _is_features(kind: pa.DataType) -> bool:
    return pa.types.is_struct(kind) and all(_is_feature(kind.field(i).type) for i in range(kind.num_fields))


# Column → what its type has to be, and how that is said.
_TYPES: dict[str, tuple[Test, str]] = {
    "id": (_is_id, "text or whole numbers"),
    columns.USER: (_is_id, "text or whole numbers"),
    columns.ITEMS: (_list_of(_is_id), "lists of text or whole numbers"),
    columns.RATINGS: (_list_of(_is_number), "lists of numbers"),
    columns.TIMES: (_list_of(_is_time), "lists of whole numbers (Unix seconds) or of timestamps"),
    columns.CANDIDATES: (_list_of(_is_id), "lists of text or whole numbers"),
    columns.OWN: (_list_of(_is_features), "lists of structs of text, numbers, or lists of them"),
    "threshold": (lambda kind: _is_text(kind) or _is_number(kind), "text or numbers"),
    "top_k": (pa.types.is_integer, "whole numbers"),
    "timeout_ms": (_is_number, "numbers"),
    columns.ADAPTER: (_is_text, "text"),
}
_FEATURE = (_is_feature, "text, numbers, true or false, or lists of them")


def _check_type(name: str, kind: pa.DataType) -> None:
    fits, wanted = _TYPES.get(name, _FEATURE)
    if not fits(kind) and not pa.types.is_null(kind):
        raise InputError(f"column {name!r}: expected {wanted}, is {kind}; cast it")


def count(path: Path) -> int:
    """Rows of a file. Raises InputError."""
    with _told(path):
        return int(pq.read_metadata(path).num_rows)


def label(path: Path) -> dict[str, Any] | None:
    """What a file of answers was made of; None for any other file, and for one that is not there."""
    try:
        found = json.loads((pq.read_metadata(path).metadata or {})[LABEL])
    except (OSError, pa.ArrowException, LookupError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write(answers: AnswerColumns, path: Path) -> None:
    """Some answers as a file of their own."""
    with pq.ParquetWriter(path, ANSWERS, **_WRITTEN) as writer:
        writer.write_table(_table(answers))


def join(parts: Sequence[Path], out: Path, label: dict[str, Any]) -> None:
    """One file of the answers in several, in their order; each becomes a row group."""
    schema = ANSWERS.with_metadata({LABEL: json.dumps(label, sort_keys=True).encode()})
    with pq.ParquetWriter(out, schema, **_WRITTEN) as writer:
        for part in parts:
            writer.write_table(pq.read_table(part, memory_map=False, partitioning=None).cast(schema))


def _table(answers: AnswerColumns) -> pa.Table:
    made = []
    for item in ANSWERS:
        values: Any = getattr(answers, item.name)
        if values and isinstance(values[0], np.ndarray):
            values = np.concatenate(values)
        made.append(pa.array(values, item.type, from_pandas=item.name == "llm"))
    return pa.table(made, schema=ANSWERS)


def read_labelled(path: Path) -> LabelledRows:
    """Labelled rows of a file; a column `time` of timestamps is read as Unix seconds.

    Raises:
        InputError: names file, row and field.
    """
    with _told(path), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        unread = set(labelled.unread(names))
        batches = file.iter_batches(1 << 14, columns=[name for name in names if name not in unread])
        return labelled.filled(labelled.gather(_numbered(batches)), str(path))


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[str, dict[str, Any]]]:
    count = 0
    for batch in batches:
        names = batch.schema.names
        for values in zip(*map(_plain, batch.columns), strict=True):
            count += 1
            yield f"row {count}", dict(zip(names, values, strict=True))


def _plain(column: pa.Array) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        micros = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_pylist()
        return [None if value is None else value / 1e6 for value in micros]
    return column.to_pylist()  # type: ignore[no-any-return]


def write_columns(columns: Mapping[str, Any], path: Path) -> None:
    """Columns of one length as a file of their own; nan is written as null."""
    pq.write_table(pa.table({name: pa.array(values, from_pandas=True) for name, values in columns.items()}), path,
                   compression="zstd")  # fmt: skip


def write_labelled(rows: LabelledRows, path: Path) -> None:
    """Labelled rows as a file of their own; nan is written as null."""
    made = {name: pa.array(values, from_pandas=True) for name, values in rows.columns().items()}
    pq.write_table(pa.table(made), path, compression="zstd")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What goes wrong in reading a file, in one sentence that names it."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, pa.ArrowException) as error:
        reason = told(error) if isinstance(error, OSError) and error.errno else str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as Parquet: {reason}") from None
