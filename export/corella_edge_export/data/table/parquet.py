"""The columns of a Parquet file as texts, by their types."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb

from corella_edge.errors import InputError, meant
from corella_edge_export.data.database import literal, name
from corella_edge_export.data.table.sql import file_literal

_TIMES = ("TIMESTAMP", "DATE")


def parquet_columns(
    db: duckdb.DuckDBPyConnection, path: Path, wanted: Mapping[str, str], times: Mapping[str, str]
) -> list[str]:
    """An SQL expression for each wanted column, a text or null.

    Args:
        wanted: column → the key of the data.toml that names it.
        times: columns that must be times by their type → the zone of those without one; they become Unix seconds.

    Raises:
        InputError: a column is not there, or no time. duckdb.Error: no Parquet.
    """
    source = f"read_parquet({file_literal(path)}, hive_partitioning=false)"
    names = [row[0] for row in db.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()]
    found = []
    for column, key in wanted.items():
        place = _place(path, column, key, names)
        described = db.execute(f"DESCRIBE SELECT {place} AS x FROM {source}").fetchone()
        kind = str(described[1]) if described else ""
        found.append(_time(path, column, place, kind, times[column]) if column in times else _as_text(place, kind))
        if column not in times and key == "events.time" and kind.startswith(_TIMES):
            raise InputError(f'{path}: the column {column!r} is a {kind}; write time_unit = "timestamp"')
    return found


def _place(path: Path, column: str, key: str, names: list[str]) -> str:
    """The column of that name, or the field of a struct that its dots lead to."""
    if column in names:
        return name(column)
    parts = column.split(".")
    if len(parts) > 1 and parts[0] in names:
        return ".".join(map(name, parts))
    shown = ", ".join(map(repr, names[:12])) + (", ..." if len(names) > 12 else "")
    raise InputError(f"{path}: has no column {column!r} ({key}){meant(column, names)} (columns: {shown})")


def _time(path: Path, column: str, place: str, kind: str, zone: str) -> str:
    if not kind.startswith(_TIMES):
        problem = f'the column {column!r} is {kind}, not a timestamp; write its unit, such as time_unit = "s"'
        raise InputError(f"{path}: {problem}")
    if kind == "TIMESTAMP WITH TIME ZONE":
        return f"CAST(epoch({place}) AS VARCHAR)"
    return f"CAST(epoch(timezone({literal(zone)}, CAST({place} AS TIMESTAMP))) AS VARCHAR)"


def _as_text(place: str, kind: str) -> str:
    """Whole numbers in decimal digits, whatever their type; NaN is missing; lists and structs as JSON."""
    if kind.startswith(("FLOAT", "DOUBLE", "DECIMAL")):
        number = f"CAST({place} AS DOUBLE)"
        whole = f"isfinite({number}) AND {number} = trunc({number}) AND abs({number}) < 1e15"
        text = f"CASE WHEN {whole} THEN CAST(CAST({place} AS BIGINT) AS VARCHAR) ELSE CAST({place} AS VARCHAR) END"
        return f"CASE WHEN isnan({number}) THEN NULL ELSE {text} END"
    if kind.endswith("]") or kind.startswith(("STRUCT", "MAP")):
        return f"CAST(to_json({place}) AS VARCHAR)"
    return f"CAST({place} AS VARCHAR)"
