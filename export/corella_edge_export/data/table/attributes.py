"""The attributes of items or users as a `data.toml` writes them: `genres = "multi:|"`, or a table for more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from corella_edge_export.data.table.description import AttributeKind
from corella_edge_export.data.table.keys import KeyTable

KINDS = get_args(AttributeKind)
LISTS = ("multi", "sequence")  # the kinds with several values
RESERVED = ("item_id", "user_id", "title", "label", "rating", "timestamp", "position")


@dataclass(frozen=True)
class Attribute:
    """How an attribute stands in its columns; `separator`: between several values in one text, else empty."""

    kind: AttributeKind
    columns: tuple[str, ...]
    separator: str = ""


def parse_attributes(section: KeyTable) -> dict[str, Attribute]:
    """The keys `text` and `attributes` of [items] or [users]: name → attribute. Raises InputError."""
    found = {column: Attribute("text", (column,)) for column in section.texts("text", ())}
    table = section.table("attributes")
    below = section.below("attributes", tuple(table))
    for name, value in table.items():
        if name in found:
            below.refuse(name, "stands in text and in attributes; keep one")
        if name in RESERVED or not name.strip():
            below.refuse(name, f"is no name for an attribute; write other_name = {{ column = {name!r}, kind = ... }}")
        found[name] = _of_table(below, name, value) if isinstance(value, dict) else _of_text(below, name, value)
    return found


def _of_text(section: KeyTable, name: str, value: Any) -> Attribute:
    if not isinstance(value, str):
        section.refuse(name, f"expected a kind ({', '.join(KINDS)}), got {value!r}")
    kind, _, separator = value.partition(":")
    return _checked(section, name, kind, separator, (name,))


def _of_table(section: KeyTable, name: str, value: dict[str, Any]) -> Attribute:
    if "kind" not in value:
        problem = (
            f'has no kind; a column with a dot in its name is written in quotes, "{name}.{next(iter(value), "x")}"'
        )
        section.refuse(name, problem)
    table = KeyTable(value, section.place(name), ("kind", "column", "columns", "separator"))
    if table.has("column") and table.has("columns"):
        table.refuse("columns", "does not fit column; keep one")
    columns = table.texts("columns", ()) or (table.text("column", name),)
    attribute = _checked(section, name, table.text("kind"), table.text("separator", ""), columns)
    if len(columns) > 1 and (attribute.kind != "multi" or attribute.separator):
        table.refuse("columns", 'several columns of 0 and 1 make an attribute of kind "multi", without a separator')
    return attribute


def _checked(section: KeyTable, name: str, kind: str, separator: str, columns: tuple[str, ...]) -> Attribute:
    if kind not in KINDS:
        section.refuse(name, f"{kind!r} is none of {', '.join(KINDS)}")
    if separator and kind not in LISTS:
        section.refuse(name, f"a separator belongs to {' and '.join(LISTS)}, not to {kind}")
    return Attribute(kind, columns, separator)  # type: ignore[arg-type]
