"""The sections [items] and [users] of a data.toml, with their attributes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from corella_edge_export.data.table.propose.attributes import AttributeVerdict
from corella_edge_export.data.table.propose.event_sections import Names, column_names, file_keys, left_out
from corella_edge_export.data.table.propose.survey import FilesSurvey
from corella_edge_export.data.table.propose.tables import FileTable, Join, mismatch
from corella_edge_export.data.table.propose.toml import WrittenSection, toml

RESERVED = ("item_id", "user_id", "title", "label", "rating", "timestamp", "position")
_ENTITY = r"&(#\d+|#x[0-9a-fA-F]+|[A-Za-z]{2,8});|</?[A-Za-z][^<>]*>"
_UNTITLED = ("unknown", "untitled", "no title", "n/a", "none", "null", "?", "-", "test")


def items_sections(found: FilesSurvey, folder: Path, events: Names) -> Iterator[WrittenSection]:
    """[items] and [items.attributes]."""
    section, join = WrittenSection("items"), found.roles.items
    if join is None:
        names, table = dict(events), found.events
        if found.title:
            section.say("The columns stand in the events' own files.")
    else:
        names = column_names(join.table, {join.key: "item", **({found.title[0]: "title"} if found.title else {})})
        table = join.table
        file_keys(section, table, names, folder, listed=True)
        section.key("id", names[join.key], _rate(join))
    _title_keys(section, found, table, names)
    if join:
        _min_join(section, join, found)
    yield section
    if attributes := _attributes("items", found.of_items, names, table, own=join is not None):
        yield attributes


def _rate(join: Join) -> str:
    found = (
        "every row of the events finds its id"
        if join.rate == 1
        else f"{join.rate:.1%} of the events' rows find their id"
    )
    return f"{found}, {join.cover:.0%} of these ids occur in events"


def _min_join(section: WrittenSection, join: Join, found: FilesSurvey) -> None:
    if join.near:
        section.say(f"Not one id is written as in the events: {mismatch(join)}.")
        return
    distinct = found.events.columns[join.column].distinct
    share = 1 - join.absent / max(1, distinct)
    if share < 0.95:
        told = f"{join.absent:,} of the {distinct:,} ids in the events are not here, such as {join.example[:30]}"
        section.key("min_join", int(share * 100) / 100, told)


def _title_keys(section: WrittenSection, found: FilesSurvey, table: FileTable, names: Names) -> None:
    if found.title is None:
        section.say(
            "No column holds titles, so the LLM reads ids, which say nothing to it. Add a file with titles if you can."
        )
        section.key("missing_title", "id")
        return
    name, why = found.title
    section.key("title", names[name], why)
    column = table.columns[name]
    _missing_title(section, found, table, name)
    marked, blanks = (
        int(column.filled.str.contains(_ENTITY).sum()),
        int((column.filled != column.filled.str.strip_chars()).sum()),
    )
    section.key(
        "unescape", True, f"titles with HTML (&amp; or tags): {marked:,}" if marked else "no title holds HTML; harmless"
    )
    if blanks:
        section.say(f"{blanks:,} titles begin or end with blanks.")
    empty = [
        (v, n)
        for v, n in column.filled.str.to_lowercase().str.strip_chars().value_counts(name="n").sort("n").iter_rows()
        if v in _UNTITLED
    ]
    if empty:
        section.say("Titles that may say nothing: " + ", ".join(f'"{value}" ({n:,} times)' for value, n in empty))
    _several(section, found, table, name)


def _several(section: WrittenSection, found: FilesSurvey, table: FileTable, title: str) -> None:
    """Ids with more than one title, where the titles stand in the events."""
    key = found.roles.items.key if found.roles.items else found.roles.item.column
    if key == title:
        return
    pairs = table.frame.select(pl.col(key).alias("id"), pl.col(title).str.strip_chars().alias("title")).drop_nulls()
    each = pairs.group_by("id").agg(pl.col("title").n_unique().alias("n")).filter(pl.col("n") > 1).sort("id")
    if each.height:
        section.say(
            f"{each.height:,} ids have several titles, such as {each['id'][0]}; prepare takes that of most rows."
        )


def _missing_title(section: WrittenSection, found: FilesSurvey, table: FileTable, title: str) -> None:
    join = found.roles.items
    key = join.key if join else found.roles.item.column
    titled = table.frame.select(pl.col(key).alias("id"), pl.col(title).alias("title")).drop_nulls()["id"].unique()
    events = found.events.frame[found.roles.item.column].drop_nulls()
    without = ~events.is_in(titled.implode())
    rows, items = int(without.sum()), int(events.filter(without).n_unique())
    if not rows:
        section.key("missing_title", "stop", "every item of an event has one")
        return
    told = f"{items:,} items of events have no title ({rows / max(1, len(events)):.1%} of the rows)"
    if join and join.near:
        section.key("missing_title", "stop", f"{told}, because their ids are written otherwise (see below)")
    elif rows > 0.05 * len(events):
        section.ask("missing_title", ("drop", "id"), "drop these rows, or show the LLM the id for a title?", told)
    else:
        section.key("missing_title", "id", f'{told}; the LLM then reads the id. "drop" drops their rows')


def _attributes(
    name: str, verdicts: Sequence[AttributeVerdict], names: Names, table: FileTable, *, own: bool
) -> WrittenSection | None:
    """The table of attributes; and what was left out, if `table` is one of their own and not the events'."""
    section = WrittenSection(f"{name}.attributes")
    for verdict in verdicts:
        if verdict.kind:
            section.key(*_attribute(verdict, names), verdict.why)
    unnamed = [v for v in verdicts if v.kind and re.fullmatch(r"(column)?\d+", names.get(v.name, ""))]
    if unnamed and table.sheets[0].header:
        section.say(f"The LLM reads these names. A better one: NAME = {toml(_as_table(unnamed[0], names))}")
    elif unnamed:
        section.say("The LLM reads these names. Write better ones in columns above, and here.")
    if own:
        left_out(section, verdicts, names)
    return section if section.lines else None


def _attribute(verdict: AttributeVerdict, names: Names) -> tuple[str, Any]:
    """(name, value) of an attribute as the data.toml writes it."""
    if verdict.columns:
        return verdict.name, {"kind": verdict.kind, "columns": [names[column] for column in verdict.columns]}
    name = names[verdict.name]
    if name in RESERVED or not name.strip():
        return f"{name or 'own'}_value", _as_table(verdict, names)
    return name, verdict.kind


def _as_table(verdict: AttributeVerdict, names: Names) -> dict[str, str]:
    """An attribute whose name is not its column's."""
    kind, _, separator = verdict.kind.partition(":")
    found = {"column": names[verdict.name], "kind": kind}
    return {**found, "separator": separator} if separator else found


def users_sections(found: FilesSurvey, folder: Path, events: Names) -> Iterator[WrittenSection]:
    """[users] and [users.attributes], if they have any."""
    join = found.roles.users
    if not any(verdict.kind for verdict in found.of_users):
        return
    section, table = WrittenSection("users"), join.table if join else found.events
    if join is None:
        section.say("The columns stand in the events' own files.")
        names: Names = events
    else:
        names = column_names(join.table, {join.key: "user"})
        file_keys(section, table, names, folder, listed=True)
        section.key("id", names[join.key], _rate(join))
        _min_join(section, join, found)
    yield section
    if attributes := _attributes("users", found.of_users, names, table, own=join is not None):
        yield attributes
