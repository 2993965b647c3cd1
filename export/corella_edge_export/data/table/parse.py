"""A `data.toml` as a `Description`: every key is known, of its type, and in no contradiction to another."""

from __future__ import annotations

import codecs
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import duckdb

from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge_export.data.table.attributes import parse_attributes
from corella_edge_export.data.table.description import (
    TIMES,
    Description,
    Entities,
    Events,
    Files,
    Format,
    Label,
    Negatives,
    SplitPlan,
    SplitRule,
)
from corella_edge_export.data.table.keys import KeyTable, find_files
from corella_edge_export.data.table.rules import comparison
from corella_edge_export.toml_text import Place
from corella_edge_export.toml_text import parse as parse_toml

CHOOSE = "CHOOSE:"
ROLES = ("user", "item", "time", "rating", "label")
PARTS = ("train", "valid", "test")
_TOP = ("name", "licence", "redistributable", "events", "label", "negatives", "items", "users", "split")
_FILES = ("files", "format", "separator", "quote", "escape", "header", "columns", "encoding", "missing", "decimal",
          "bad_rows")  # fmt: skip
_EVENTS = ("user", "item", "time", "time_unit", "timezone", "require", "drop", "repeats", "event_type", "quantity")
_LABEL = ("rating", "like_above", "ignore", "column", "positives_only")
_NEGATIVES = ("per_positive", "from", "weight", "seed", "unlike_drawn")
_USERS = ("id", "text", "attributes", "unescape", "min_join", "allow_leaks")
_ITEMS = (*_USERS, "title", "missing_title")
_SPLIT = ("rule", "shares", "min_history", "min_user", "min_item", "ties", "seed", "hide_items", *PARTS)
_CSV_KEYS = ("separator", "quote", "escape", "header", "columns")
_JSON_ENDINGS, _PARQUET_ENDINGS, _PACKED_ENDINGS = ("json", "jsonl", "ndjson"), ("parquet", "pq"), ("gz", "zst", "zstd")
_LONGEST_SEPARATOR = 4  # bytes, in DuckDB


def read_description(path: Path) -> Description:
    """The description in the file `path`; its relative paths start at the file's folder.

    Raises:
        InputError: the file cannot be read, or says something wrong: "data.toml line 3: ...".
    """
    return parse_description(TextFile(path).read(), path.parent, str(path))


def parse_description(text: str, folder: Path, name: str = "data.toml") -> Description:
    """The description in a TOML text; `folder`: where relative paths start, `name`: what errors call it.

    Raises:
        InputError: names the line, the key and what to write.
    """
    place = Place(name, text)
    table = parse_toml(text, name, InputError)
    _refuse_choices(table, place)
    top = KeyTable(table, place, _TOP)
    split, parts = _split(top.section("split", _SPLIT), folder)
    events = _events(top.section("events", (*_FILES, *_EVENTS)), folder, parts)
    label = _label(top.section("label", _LABEL))
    _check_roles(top, events, label, split)
    return Description(
        name=_name(top),
        events=events,
        label=label,
        items=_entities(top.optional("items", (*_FILES, *_ITEMS)), folder, events.item, title=True),
        users=_entities(top.section("users", (*_FILES, *_USERS)), folder, events.user, title=False)
        if "users" in table
        else None,
        negatives=_negatives(top, label),
        split=split,
        licence=top.text("licence", "not stated"),
        redistributable=top.flag("redistributable", False),
    )


def _refuse_choices(table: Mapping[str, Any], place: Place) -> None:
    """What `init` left open must be chosen first."""
    left = sorted(_choices(table, place), key=lambda found: found[0].line or 0)
    if left:
        where, options = left[0]
        more = f" ({len(left) - 1} more to choose)" if len(left) > 1 else ""
        raise InputError(f"{where.name} line {where.line}: {'.'.join(where.keys)}: choose {options}{more}")


def _choices(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str) and value.startswith(CHOOSE):
        yield place, value.removeprefix(CHOOSE).strip()
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from _choices(below, place.at(key))
    elif isinstance(value, list):
        for below in value:
            yield from _choices(below, place)


def _name(top: KeyTable) -> str:
    name: str = top.text("name")
    if not name.strip() or len(name) > 64 or not name.isprintable():
        top.refuse("name", f"{name!r} is no name of 1 to 64 letters")
    return name


def _split(section: KeyTable, folder: Path) -> tuple[SplitPlan, dict[str, tuple[Path, ...]]]:
    rule = section.choice("rule", get_args(SplitRule))
    parts = {part: find_files(section, part, folder) for part in PARTS} if rule == "files" else {}
    for key in PARTS if rule != "files" else ():
        section.forbid(key, f'belongs to rule = "files"; the rule is {rule!r}; delete the line')
    if rule in ("files", "leave-one-out"):
        section.forbid("shares", f"does not fit rule = {rule!r}, which decides by itself; leave it out")
    plan = SplitPlan(
        rule=rule,
        shares=_shares(section),
        min_history=section.whole("min_history", 1, least=0),
        min_user=section.whole("min_user", 1),
        min_item=section.whole("min_item", 1),
        ties=section.choice("ties", ("exclude", "include"), "exclude"),
        seed=section.whole("seed", 1, least=0),
        parts={part: tuple(map(str, paths)) for part, paths in parts.items()},
        hide_items=_hidden(section),
    )
    return plan, parts


def _hidden(section: KeyTable) -> float | None:
    share = section.share("hide_items", 0.0)
    if share == 1:
        section.refuse("hide_items", "1 hides every item, and nothing is left to train on")
    return share or None


def _shares(section: KeyTable) -> tuple[float, float, float]:
    shares = section.numbers("shares", (0.8, 0.1, 0.1))
    if len(shares) != 3 or min(shares) < 0 or not shares[0] or not math.isclose(sum(shares), 1, abs_tol=1e-6):
        section.refuse("shares", f"{list(shares)} are not three shares (train, valid, test) with the sum 1")
    return (shares[0], shares[1], shares[2])


def _events(section: KeyTable, folder: Path, parts: Mapping[str, tuple[Path, ...]]) -> Events:
    if parts:
        section.forbid("files", 'does not fit [split] rule = "files", which names the files of each part; keep one')
    unit = section.text("time_unit") if section.has("time") else section.text("time_unit", "")
    if unit == "none":
        section.forbid("time", 'does not fit time_unit = "none"; leave out one of them')
    elif not section.has("time"):
        section.refuse("time", 'is missing; name the column of the time, or write time_unit = "none"', inside=True)
    if unit not in TIMES:
        _check_pattern(section, unit)
    return Events(
        files=_files(section, tuple(path for part in parts.values() for path in part) or None, folder),
        user=section.text("user"),
        item=section.text("item"),
        time=section.text("time") if unit != "none" else None,
        time_unit=unit,
        timezone=_timezone(section),
        require=section.texts("require", (), ROLES),
        drop=_drop(section),
        repeats=section.choice("repeats", ("keep", "first", "last"), "keep"),
        event_type=section.text("event_type", None),
        quantity=section.text("quantity", None),
    )


def _files(section: KeyTable, paths: tuple[Path, ...] | None, folder: Path) -> Files:
    paths = paths or find_files(section, "files", folder)
    kind = section.choice("format", get_args(Format), _format(section, paths))
    for key in _CSV_KEYS if kind != "csv" else ():
        section.forbid(key, f"is a key of CSV files; these are {kind}")
    if kind == "parquet":
        section.forbid("encoding", "is a key of text files; these are parquet")
    separator, quote, escape = _dialect(section)
    header = section.flag("header", True)
    if header:
        section.forbid("columns", "does not fit header = true; the header names the columns")
    columns = section.texts("columns", ()) if header or kind != "csv" else section.texts("columns")
    if len(set(columns)) < len(columns):
        section.refuse("columns", "names a column twice")
    return Files(
        paths=paths,
        format=kind,
        separator=separator,
        quote=quote,
        escape=escape,
        header=header,
        columns=columns,
        encoding=_encoding(section),
        missing=section.texts("missing", ()),
        decimal=section.choice("decimal", (".", ","), "."),
        bad_rows=section.choice("bad_rows", ("stop", "drop"), "stop"),
    )


def _format(section: KeyTable, paths: tuple[Path, ...]) -> Format:
    """By the files' names."""
    kinds: dict[Format, str] = {}
    for path in paths:
        kinds.setdefault(_format_of(path), path.name)
    if len(kinds) > 1 and not section.has("format"):
        names = ", ".join(f"{name} ({kind})" for kind, name in kinds.items())
        section.refuse("files", f"names files of several formats: {names}; name one kind, or say format =")
    return next(iter(kinds))


def _format_of(path: Path) -> Format:
    endings = (ending.lstrip(".").lower() for ending in reversed(path.suffixes))
    last = next((ending for ending in endings if ending not in _PACKED_ENDINGS), "")
    return "jsonl" if last in _JSON_ENDINGS else "parquet" if last in _PARQUET_ENDINGS else "csv"


def _dialect(section: KeyTable) -> tuple[str, str, str]:
    separator, quote, escape = section.text("separator", ","), section.text("quote", '"'), section.text("escape", "")
    if not 1 <= len(separator.encode()) <= _LONGEST_SEPARATOR or set(separator) & {"\n", "\r", "\0"}:
        section.refuse("separator", f'{separator!r} is no separator: 1 to 4 bytes, no line end; a tab is "\\t"')
    for key, value in (("quote", quote), ("escape", escape)):
        if len(value) > 1 or value in ("\n", "\r", "\0") or (value and value in separator):
            section.refuse(key, f'{value!r} must be one sign that is not in the separator, or "" for none')
    if escape and escape == quote:
        section.refuse("escape", 'is the quotation mark; a doubled one is understood without it, write escape = ""')
    return separator, quote, escape


def _encoding(section: KeyTable) -> str:
    name = section.text("encoding", "utf-8")
    try:
        "".encode(name)
        b"".decode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError):
        section.refuse("encoding", f"{name!r} is no encoding that Python knows, such as utf-8, latin-1, cp1252, utf-16")


def _check_pattern(section: KeyTable, pattern: str) -> None:
    if "%" not in pattern:
        section.refuse("time_unit", f'{pattern!r} is none of {", ".join(TIMES)} and no pattern such as "%Y-%m-%d"')
    try:
        duckdb.connect().execute("SELECT try_strptime('', ?)", [pattern])
    except duckdb.Error as error:
        section.refuse("time_unit", f"{pattern!r} is no pattern: {str(error).split(': ', 2)[-1]}")


def _timezone(section: KeyTable) -> str:
    name: str = section.text("timezone", "UTC")
    try:
        duckdb.connect().execute("SELECT timezone(?, TIMESTAMP '2020-01-01')", [name])
    except duckdb.Error:
        section.refuse("timezone", f"{name!r} is no time zone, such as UTC or Europe/Berlin")
    return name


def _drop(section: KeyTable) -> dict[str, str]:
    rules = section.table("drop")
    for column, rule in rules.items():
        below = section.below("drop", tuple(rules))
        if not isinstance(rule, str) or not rule:
            below.refuse(column, f'{rule!r} must be a text: a comparison such as "<=0", or a regular expression')
        if rule[0] in "<>=!" and comparison(rule) is None:
            below.refuse(column, f'{rule!r} compares with no number; write, for example, "<=0" or "!=1"')
        if comparison(rule) is None:
            _check_expression(below, column, rule)
    return rules


def _check_expression(section: KeyTable, key: str, expression: str) -> None:
    try:
        duckdb.connect().execute("SELECT regexp_matches('', ?)", [expression])
    except duckdb.Error as error:
        section.refuse(key, f"{expression!r} is no regular expression: {str(error).partition(': ')[2]}")


def _label(section: KeyTable) -> Label:
    given = [key for key in ("rating", "column") if section.has(key)]
    given += ["positives_only"] * section.flag("positives_only", False)
    if len(given) != 1:
        have = " and ".join(given) or "none"
        section.refuse("", f"exactly one rule is needed (rating with like_above, column, positives_only); got {have}")
    for key in ("like_above", "ignore") if "rating" not in given else ():
        section.forbid(key, f"belongs to rating; the rule is {given[0]}")
    rating = section.text("rating", None)
    return Label(
        rating=rating,
        like_above=section.number("like_above") if rating else None,
        ignore=section.numbers("ignore", ()),
        column=section.text("column", None),
        positives_only=given == ["positives_only"],
    )


def _negatives(top: KeyTable, label: Label) -> Negatives | None:
    if not label.positives_only:
        top.forbid("negatives", "belongs to positives_only = true; here [label] decides what is a dislike")
        return None
    if not top.has("negatives"):
        problem = "needs a table [negatives], which says what is drawn beside; per_positive = 0 draws nothing"
        top.below("label", ()).refuse("positives_only", problem)
    section = top.section("negatives", _NEGATIVES)
    count = section.whole("per_positive", 4, least=0)
    for key in _NEGATIVES[1:] if not count else ():
        section.forbid(key, "says how negatives are drawn, and per_positive = 0 draws none; leave it out")
    if not count:
        return None
    return Negatives(
        per_positive=count,
        from_=section.choice("from", ("seen-before", "catalogue"), "seen-before"),
        weight=section.choice("weight", ("popularity-before", "uniform"), "popularity-before"),
        seed=section.whole("seed", 1, least=0),
        unlike_drawn=section.choice("unlike_drawn", ("keep", "history"), "keep"),
    )


def _check_roles(top: KeyTable, events: Events, label: Label, split: SplitPlan) -> None:
    """What one table says about another."""
    absent = {
        role
        for role, column in (("time", events.time), ("rating", label.rating), ("label", label.column))
        if column is None
    }
    for role in events.require:
        if role in absent:
            top.below("events", ()).refuse("require", f"names {role!r}, and there is no column for it")
    if split.rule == "time" and events.time is None:
        problem = (
            'needs times, and time_unit is "none"; write "random", "leave-one-out" or "per-user" (the files\' order)'
        )
        top.below("split", ()).refuse("rule", problem)


def _entities(section: KeyTable, folder: Path, own: str, *, title: bool) -> Entities:
    files = _files(section, None, folder) if section.has("files") else None
    for key in _FILES[1:] if files is None else ():
        section.forbid(key, "says how files are read, and there are none here; add files, or leave it out")
    id_ = section.text("id") if files else section.text("id", own)
    if files is None and id_ != own:
        section.refuse("id", f"{id_!r} is not {own!r}, the column of the events; name other files, or leave it out")
    attributes = parse_attributes(section)
    entities = Entities(
        files=files,
        id=id_,
        title=section.text("title", None) if title else None,
        attributes={name: attribute.kind for name, attribute in attributes.items()},
        missing_title=section.choice("missing_title", ("stop", "id", "drop"), "stop") if title else "stop",
        unescape=section.flag("unescape", True),
        allow_leaks=section.texts("allow_leaks", ()),
        columns={name: found.columns for name, found in attributes.items() if found.columns != (name,)},
        separators={name: found.separator for name, found in attributes.items() if found.separator},
        min_join=section.share("min_join", 0.95),
    )
    if title and entities.title is None and entities.missing_title != "id":
        problem = 'is missing; name the column that the LLM reads, or write missing_title = "id" to show it the ids'
        section.refuse("title", problem, inside=True)
    return entities
