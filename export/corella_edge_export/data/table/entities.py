"""The tables `items` and `users`: ids, titles and attributes, from files of their own or from the events."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from corella_edge.errors import InputError
from corella_edge.messages import MAX_ID_CHARS
from corella_edge_export.data.database import literal, name, one
from corella_edge_export.data.table.description import Entities, Files
from corella_edge_export.data.table.events import shown
from corella_edge_export.data.table.raw import RawTable
from corella_edge_export.data.table.sql import number, present

TYPES = {
    "categorical": "VARCHAR",
    "text": "VARCHAR",
    "numeric": "DOUBLE",
    "multi": "VARCHAR[]",
    "sequence": "VARCHAR[]",
}
PLAIN = "corella_plain"  # `html.plain` in SQL
_SHOWN = 3  # ids in a note or an error


@dataclass(frozen=True)
class EntitySource:
    """Where the rows of one kind of entity are.

    Attributes:
        rows: a relation with `row`, `id` and the raw table's columns. ids: one with `row` and `id` alone.
    """

    kind: str  # "item" or "user"
    entities: Entities
    files: Files
    raw: RawTable
    rows: str
    ids: str

    def texts(self, attribute: str) -> list[tuple[str, str]]:
        """(column of the files, SQL of its text or null) that hold an attribute or the title."""
        columns = self.entities.columns.get(attribute, (attribute,))
        return [(column, present(self.raw.columns[column], self.files.missing)) for column in columns]


def wanted_columns(entities: Entities, table: str) -> dict[str, str]:
    """The columns that a table of entities needs → the key of the data.toml that names each."""
    found = {entities.title: f"{table}.title"} if entities.title else {}
    for attribute in entities.attributes:
        for column in entities.columns.get(attribute, (attribute,)):
            found.setdefault(column, f"{table}.attributes")
    return found


def own_files(
    db: duckdb.DuckDBPyConnection, kind: str, entities: Entities, raw: RawTable
) -> tuple[EntitySource, list[str]]:
    """Entities with files of their own, and notes. Raises InputError for a row without an id."""
    files = raw.files
    text = present(raw.columns[entities.id], files.missing)
    own = f"SELECT rowid AS row, {text} AS id, * FROM {raw.name} WHERE NOT coalesce({raw.header_again}, false)"
    db.execute(f"CREATE VIEW {kind}_seen AS {own}")
    rows, first = one(db, f"SELECT count(*), min(row) FROM {kind}_seen WHERE id IS NULL")
    if rows and files.bad_rows == "stop":
        problem = f'the id of the {kind} is missing; mend it, or leave such rows out with bad_rows = "drop"'
        raise InputError(f"{raw.place(first)}: {entities.id}: {problem}")
    notes = [f"{rows:,} rows of the {kind} table have no id and were left out"] if rows else []
    if raw.bad:
        notes.append(f"{raw.bad:,} rows of the {kind} table could not be read and were left out")
    seen = f"(FROM {kind}_seen WHERE id IS NOT NULL)"
    return EntitySource(kind, entities, files, raw, seen, seen), notes


def from_events(kind: str, entities: Entities, raw: RawTable, some: str = "true") -> EntitySource:
    """Entities whose columns stand in the events' table: of the rows that are kept and meet the condition `some`."""
    rows = f"(SELECT *, {kind}_id AS id FROM kept_rows WHERE {some})"
    return EntitySource(kind, entities, raw.files, raw, rows, f"(SELECT row, {kind}_id AS id FROM events WHERE {some})")


def make_table(db: duckdb.DuckDBPyConnection, source: EntitySource) -> list[str]:
    """The table `items` or `users`, one row an id; returns notes.

    Where an id has several values, the one of most rows is taken, and of as many the first.

    Raises:
        InputError: a value is not of its attribute's kind; names file, line, column and value.
    """
    kind, entities = source.kind, source.entities
    db.execute(f"CREATE TABLE {kind}_ids AS SELECT id, min(row) AS first FROM {source.ids} GROUP BY id")
    long = one(db, f"SELECT min(first) FROM {kind}_ids WHERE length(id) > {MAX_ID_CHARS}")[0]
    if long is not None:
        raise InputError(f"{source.raw.place(long)}: the id of the {kind} has more than {MAX_ID_CHARS} letters")
    fields = {"title": "text", **entities.attributes} if kind == "item" else dict(entities.attributes)
    notes, joins = list[str](), ""
    selected = [f"e.id AS {kind}_id"]
    for place, (attribute, type_) in enumerate(fields.items()):
        if attribute == "title" and entities.title is None:
            selected.append("NULL::VARCHAR AS title")
            continue
        notes += _make_values(db, source, attribute, type_, place)
        joins += f" LEFT JOIN {kind}_values_{place} AS v{place} ON v{place}.id = e.id"
        selected.append(f"v{place}.value AS {name(attribute)}")
    db.execute(f"CREATE TABLE {kind}s AS SELECT {', '.join(selected)} FROM {kind}_ids AS e{joins} ORDER BY e.first")
    for place in range(len(fields)):
        db.execute(f"DROP TABLE IF EXISTS {kind}_values_{place}")
    db.execute(f"DROP TABLE {kind}_ids")
    return notes


def _make_values(
    db: duckdb.DuckDBPyConnection, source: EntitySource, attribute: str, kind: str, place: int
) -> list[str]:
    """The table of one value an id, typed; returns a note where ids had several."""
    entities, texts = source.entities, f"{source.kind}_texts"
    columns = source.texts(entities.title if attribute == "title" and entities.title else attribute)
    # Each text of an id once: most stand in many rows, and what follows costs more than counting them.
    own = ", ".join(f"{text} AS t{n}" for n, (_, text) in enumerate(columns))
    db.execute(
        f"CREATE TABLE {texts} AS SELECT id, {own}, count(*) AS n, min(row) AS first FROM {source.rows} GROUP BY ALL"
    )
    sign = source.files.decimal
    for n, (column, _) in enumerate(columns):
        _check(
            db, source, column, f"t{n}", _wrong(entities, attribute, kind, number(f"t{n}", sign), f"t{n}", len(columns))
        )
    value = _typed(entities, attribute, kind, [(column, f"t{n}") for n, (column, _) in enumerate(columns)], sign)
    typed = f"(SELECT id, {value} AS value, n, first FROM {texts})"
    counted = (
        f"SELECT id, value, sum(n) AS n, min(first) AS first FROM {typed} WHERE value IS NOT NULL GROUP BY id, value"
    )
    window = "row_number() OVER (PARTITION BY id ORDER BY n DESC, first)"
    several = "count(*) OVER (PARTITION BY id)"
    table = f"{source.kind}_values_{place}"
    db.execute(f"CREATE TABLE {table} AS SELECT id, value, {several} AS several FROM ({counted}) QUALIFY {window} = 1")
    db.execute(f"DROP TABLE {texts}")
    return _several(db, source, attribute, table)


def _several(db: duckdb.DuckDBPyConnection, source: EntitySource, attribute: str, table: str) -> list[str]:
    ids = one(db, f"SELECT count(*) FROM {table} WHERE several > 1")[0]
    if not ids:
        return []
    first = db.execute(f"SELECT id FROM {table} WHERE several > 1 ORDER BY several DESC, id LIMIT {_SHOWN}").fetchall()
    total = one(db, f"SELECT count(*) FROM {table}")[0]
    return [
        f"{ids:,} of {total:,} {source.kind}s have several values of {attribute} ({listed(first)}); "
        "that of most rows was taken"
    ]


def listed(rows: list[tuple[str]]) -> str:
    """Ids as notes and errors show them."""
    return ", ".join(shown(row[0], 40) for row in rows)


def _typed(entities: Entities, attribute: str, kind: str, texts: list[tuple[str, str]], decimal: str) -> str:
    """An attribute's value in SQL, null where it is missing."""
    if len(texts) > 1:
        flags = ", ".join(f"CASE WHEN {number(text)} = 1 THEN {literal(column)} END" for column, text in texts)
        return f"list_filter([{flags}], lambda x: x IS NOT NULL)"
    text = texts[0][1]
    if kind == "numeric":
        return number(text, decimal)
    if kind in ("multi", "sequence"):
        return _list(text, entities.separators.get(attribute, ""), distinct=kind == "multi")
    if kind == "text":
        return _plain(text, entities.unescape)
    return f"trim({text})"


def _list(text: str, separator: str, *, distinct: bool) -> str:
    parts = f"string_split({text}, {literal(separator)})" if separator else f"from_json({text}, '[\"VARCHAR\"]')"
    trimmed = f"list_filter(list_transform({parts}, lambda x: trim(x)), lambda x: x <> '')"
    whole = f"list_filter({trimmed}, lambda x, i: list_position({trimmed}, x) = i)" if distinct else trimmed
    return f"CASE WHEN {text} IS NOT NULL THEN {whole} END"


def _plain(text: str, unescape: bool) -> str:
    """A text with single blanks; an array of JSON is its texts one after the other."""
    joined = f"array_to_string(from_json({text}, '[\"VARCHAR\"]'), ' ')"
    whole = f"CASE WHEN {_is_array(text)} THEN {joined} ELSE {text} END"
    if unescape:
        marked = f"(contains({text}, '&') OR contains({text}, '<'))"
        whole = f"CASE WHEN {marked} THEN {PLAIN}({whole}) ELSE {whole} END"
    single = f"trim(regexp_replace({whole}, '\\s+', ' ', 'g'))"
    return f"nullif({single}, '')"


def _is_array(text: str) -> str:
    """Whether a text is an array of JSON."""
    valid = f"CASE WHEN starts_with({text}, '[') AND json_valid({text}) THEN {text} END"
    return f"coalesce(json_type({valid}) = 'ARRAY', false)"


def _wrong(
    entities: Entities, attribute: str, kind: str, value: str, text: str, columns: int
) -> tuple[str, str] | None:
    """(condition, problem) of a text that is not of its attribute's kind; `value`: it as a number."""
    if columns > 1:
        return f"{value} IS NULL OR {value} NOT IN (0, 1)", " is neither 0 nor 1"
    if kind == "numeric":
        remedy = 'write digits, name it in missing, or make the attribute "categorical"'
        return f"{value} IS NULL", f" is no number; {remedy}"
    if kind in ("multi", "sequence") and attribute not in entities.separators:
        return f"NOT {_is_array(text)}", f' is no list; say what separates its values, {attribute} = "{kind}:|"'
    return None


def _check(
    db: duckdb.DuckDBPyConnection, source: EntitySource, column: str, text: str, wrong: tuple[str, str] | None
) -> None:
    if wrong is None:
        return
    condition, problem = wrong
    bad = f"FROM {source.kind}_texts WHERE {text} IS NOT NULL AND ({condition})"
    rows, first = one(db, f"SELECT coalesce(sum(n), 0), min(first) {bad}")
    if rows:
        value = one(db, f"SELECT {text} {bad} AND first = {first}")[0]
        more = f" ({rows:,} such rows)" if rows > 1 else ""
        raise InputError(f"{source.raw.place(first)}: {column} {shown(value)}{problem}{more}")
