"""Pieces of SQL for texts as files hold them: missing values, numbers, values in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from corella_edge_export.data.database import literal

NUMBER = r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?"


def file_literal(path: Path) -> str:
    """A path in which no letter stands for others."""
    return literal("".join(f"[{letter}]" if letter in "*?[" else letter for letter in str(path)))


def present(column: str, missing: Iterable[str]) -> str:
    """A column with null for what is missing: empty, blank, or one of the texts `missing`."""
    texts = ", ".join(literal(text) for text in ("", *missing))
    return f"CASE WHEN trim({column}) IN ({texts}) OR {column} IN ({texts}) THEN NULL ELSE {column} END"


def number(text: str, decimal: str = ".") -> str:
    """A text as a DOUBLE; null for what is no number, such as "1_000", "nan", or "4,5" unless `decimal` is ","."""
    form, plain = NUMBER.replace(r"\.", f"[{decimal}]"), text if decimal == "." else f"replace({text}, ',', '.')"
    return f"CASE WHEN regexp_full_match(trim({text}), {literal(form)}) THEN try_cast({plain} AS DOUBLE) END"


def json_paths(column: str) -> list[str]:
    """Where a column's value may stand in an object: at the key, else at the path that its dots make."""
    parts = column.split(".")
    whole = f'$."{column}"'
    return [whole, "$." + ".".join(f'"{part}"' for part in parts)] if len(parts) > 1 and all(parts) else [whole]


def json_value(places: Sequence[int]) -> str:
    """The first value in the list `v` at `places` that is there, as text; a whole number without its ".0"."""
    value = f"coalesce({', '.join(f'v[{place}]' for place in places)})"
    text = f"CAST({value} AS VARCHAR)"
    whole = f"regexp_full_match({text}, '-?[0-9]{{1,15}}\\.0')"
    return f"CASE WHEN {whole} THEN regexp_replace({text}, '\\.0$', '') ELSE {value} ->> '$' END"
