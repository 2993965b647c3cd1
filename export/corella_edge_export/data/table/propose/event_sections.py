"""The sections [events] and [split] of a data.toml, written from what the survey found; every key with its reason."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from corella_edge_export.data.table.propose.attributes import AttributeVerdict
from corella_edge_export.data.table.propose.content import line_ends
from corella_edge_export.data.table.propose.moments import whole_days
from corella_edge_export.data.table.propose.survey import FilesSurvey
from corella_edge_export.data.table.propose.tables import FileTable, relative
from corella_edge_export.data.table.propose.toml import WrittenSection, choose, toml
from corella_edge_export.data.table.propose.words import TIME, has

_CELL, _SHOWN = 24, 5
Names = Mapping[str, str]  # column as read → as the data.toml calls it


def column_names(table: FileTable, roles: Mapping[str, str]) -> dict[str, str]:
    """Names of a table's columns: the header's own; without a header the role, where there is one."""
    headed = table.sheets[0].header
    return {name: name if headed else roles.get(name, name) for name in table.columns}


def event_names(found: FilesSurvey) -> dict[str, str]:
    """Column of the events → its name in the data.toml."""
    roles = {}
    for role, choice in (("user", found.roles.user), ("item", found.roles.item), ("time", found.time)):
        if choice and len(choice.options) == 1:
            roles[choice.column] = role
    if len(found.labels.ratings) == 1:
        roles[found.labels.ratings[0]] = "rating"
    for role, columns in (("count", found.labels.counts), ("label", found.labels.flags)):
        if len(columns) == 1:
            roles.setdefault(columns[0], role)
    if found.title and not found.roles.items:
        roles.setdefault(found.title[0], "title")
    return column_names(found.events, roles)


def file_keys(section: WrittenSection, table: FileTable, names: Names, folder: Path, *, listed: bool) -> None:
    """The keys of how the files are read. `listed`: False if [split] names the files."""
    first = table.first
    section.say(_size(table))
    _show_rows(section, table, names)
    files = [relative(sheet.path, folder) for sheet in table.sheets]
    if listed:
        section.key("files", files)
    else:
        section.off(f"files = {toml(files)}", "[split] names them")
    section.key("format", first.format)
    if first.dialect:
        _dialect_keys(section, table, names)
    if first.format != "parquet":
        section.key("encoding", first.content.encoding, first.content.why)
    if first.decimal == ",":
        section.key("decimal", first.decimal, "numbers are written as 12,50")
    if headers := sum(sheet.headers for sheet in table.sheets):
        section.say(f"The header stands {headers:,} times more among the rows; prepare drops and counts these.")
    if table.missing:
        texts = sorted({text for found in table.missing.values() for text in found})
        where = ", ".join(f"{names.get(name, name)} has {' '.join(found)}" for name, found in table.missing.items())
        section.key("missing", texts, f"stand for a missing value: {where}")
    _ragged(section, table)


def _size(table: FileTable) -> str:
    first, parts = table.first, len(table.sheets)
    amount = (
        f"{table.rows:,} rows"
        if table.whole
        else f"the first {table.rows:,} rows (a larger file: figures are of these)"
    )
    packed = f", packed with {first.content.packing}" if first.content.packing else ""
    text = "" if first.format == "parquet" else f", lines end in {line_ends(first.content.text)}"
    cut = "" if first.format == "parquet" or _ended(table) else "; the last line has no end, but all its fields"
    many = f", {parts} files" if parts > 1 else ""
    return f"{table.names}: {amount}, {len(table.columns)} columns{many}{packed}{text}{cut}."


def _ended(table: FileTable) -> bool:
    return all(sheet.content.text.endswith(("\n", "\r")) for sheet in table.sheets if sheet.whole)


def _dialect_keys(section: WrittenSection, table: FileTable, names: Names) -> None:
    first = table.first
    assert first.dialect
    dialect = first.dialect
    section.key("separator", dialect.separator, dialect.why["separator"])
    section.key("quote", dialect.quote, dialect.why["quote"])
    section.key("escape", dialect.escape, dialect.why["escape"])
    section.key("header", first.header, first.why_header)
    if not first.header:
        section.key(
            "columns",
            [names[name] for name in table.columns],
            "the file names none; rename them as you like, here and below",
        )


def _ragged(section: WrittenSection, table: FileTable) -> None:
    ragged = [(sheet, row) for sheet in table.sheets for row in sheet.ragged]
    if ragged:
        sheet, (line, fields) = ragged[0]
        many = f"{len(ragged):,} rows have" if len(ragged) > 1 else "1 row has"
        why = f"{many} another number of fields; the first is row {line} of {sheet.path.name} with {fields}"
        section.ask("bad_rows", ("stop", "drop"), f"{many} another number of fields", why)


def rows_shown(table: FileTable, names: Names) -> list[str]:
    """The first five rows as lines of text, wide ones cut."""
    head = table.frame.head(_SHOWN)
    cells = [
        [names.get(name, name) for name in head.columns],
        *([_cell(value) for value in row] for row in head.iter_rows()),
    ]
    kept, width = [], 0
    for column in zip(*cells, strict=True):
        need = max(len(_cell(cell)) for cell in column) + 2
        if width + need > 100:
            kept.append(["…"] * len(column))
            break
        width += need
        kept.append([_cell(cell).ljust(need) for cell in column])
    return ["".join(line).rstrip() for line in zip(*kept, strict=True)]


def _cell(value: str | None) -> str:
    text = "" if value is None else "".join(sign if sign.isprintable() else " " for sign in value)
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"


def _show_rows(section: WrittenSection, table: FileTable, names: Names) -> None:
    for line in rows_shown(table, names):
        section.say(f"   {line}")


def events_section(found: FilesSurvey, folder: Path, names: Names) -> WrittenSection:
    """[events]."""
    section = WrittenSection("events")
    file_keys(section, found.events, names, folder, listed=found.split.rule != "files")
    for role, choice in (("user", found.roles.user), ("item", found.roles.item)):
        _choice_key(section, role, choice.options, choice.why, names)
    _time_keys(section, found, names)
    _require(section, found)
    _drop(section, found, names)
    _kind_keys(section, found, names)
    _repeats(section, found)
    left_out(section, found.of_events, names)
    return section


def _choice_key(section: WrittenSection, key: str, options: Sequence[str], why: str, names: Names) -> None:
    if len(options) == 1:
        section.key(key, names[options[0]], why)
    else:
        section.ask(key, [names[option] for option in options], f"which column is the {key}?", why)


def _time_keys(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    if found.time is None or found.moments is None:
        _no_time(section, found, names)
        return
    moments = found.moments
    _choice_key(section, "time", found.time.options, found.time.why, names)
    if moments.others:
        section.ask("time_unit", (moments.unit, *moments.others), moments.short, moments.why)
        if "none" in moments.others:
            section.say('With time_unit = "none", delete the line of time.')
    else:
        days = "; whole days, so that rows of one day have no order" if whole_days(moments.seconds) else ""
        section.key("time_unit", moments.unit, f"{moments.why}{days}")
    if moments.bad:
        section.say(f"{moments.bad:,} values are no such times; prepare stops at them.")
    if not moments.zoned:
        section.key("timezone", "UTC", "the times name no zone; write yours, such as Europe/Berlin")


def _no_time(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    """Without times; a column that is named for them is asked about."""
    used = {found.roles.user.column, found.roles.item.column, *found.labels.used}
    named = [c for c in found.events.columns.values()
             if c.name not in used and c.distinct > 1 and has(c.name, TIME - {"at", "day", "when"})]  # fmt: skip
    if not named:
        section.key("time_unit", "none", "no column holds times; what comes first in the files counts as earlier")
        return
    column, name = named[0], names[named[0].name]
    why = f"{name} is named for times, and init does not know their form: {', '.join(map(repr, column.filled.head(2)))}"
    section.ask("time_unit", ("none", "a pattern (see below)"), f"{name} holds times of no known form", why)
    section.say("With none, what comes first in the files counts as earlier. For a pattern, delete the line above and")
    section.say("take these two, with the pattern of these times; [split] rule may then be time:")
    section.off(f"time = {toml(name)}")
    section.off('time_unit = "%Y-%m-%d %H:%M:%S"')


def _require(section: WrittenSection, found: FilesSurvey) -> None:
    rating = found.labels.ratings[0] if found.labels.ratings else None
    absent = {**found.rows.absent, **({"rating": found.events.columns[rating].missing} if rating else {})}
    needed = [role for role, rows in absent.items() if rows]
    if needed:
        told = ", ".join(f"{absent[role]:,} rows have no {role}" for role in needed)
        section.key("require", needed, f"{told}; they are dropped and counted")


def _drop(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    rules = {names[name]: rule for name, (rule, _) in found.drops.items()}
    reasons = [why for _, why in found.drops.values()]
    kind = found.labels.kind
    if kind and not (found.labels.ratings or found.labels.flags):
        kinds = [re.escape(value) for value, _ in found.events.columns[kind].top]
        options = ["^$", *(f"^({'|'.join(kinds[:many])})$" for many in range(1, len(kinds)))]
        rules[names[kind]] = choose(options, "which kinds of events are no likes?")
        reasons.append(
            f"events of a kind that is no like are dropped: {options[0]} drops none, {options[1]} the commonest"
        )
    if rules:
        section.key("drop", rules, "; ".join(reasons))


def _kind_keys(section: WrittenSection, found: FilesSurvey, names: Names) -> None:
    labels = found.labels
    if labels.kind:
        top = ", ".join(f"{value} ({rows:,})" for value, rows in found.events.columns[labels.kind].top)
        section.key("event_type", names[labels.kind], f"kinds of events: {top}")
    if labels.counts and not labels.ratings:
        column = found.events.columns[labels.counts[0]]
        low, high = column.range
        section.key("quantity", names[labels.counts[0]], f"{low:,.0f} to {high:,.0f}")


def _repeats(section: WrittenSection, found: FilesSurvey) -> None:
    rows = found.rows
    told = f"{rows.pairs:,} rows repeat a user and item, {rows.repeats:,} of them at the same time"
    if rows.copies and found.time is not None:
        why = f'{rows.repeats:,} rows repeat user, item and time, and are dropped; "keep" counts each'
        why += f". {rows.copies:,} rows of the file are exact copies of another; {rows.pairs:,} repeat a user and item"
        section.key("repeats", "first", why)
    elif rows.repeats and found.labels.ratings:
        section.key("repeats", "last", f"{told}; the last of these counts")
    else:
        section.key("repeats", "keep", told if rows.pairs else "no user has an item twice")


def left_out(section: WrittenSection, verdicts: Sequence[AttributeVerdict], names: Names) -> None:
    left = [verdict for verdict in verdicts if not verdict.kind]
    if left:
        section.say("Left out:")
    for verdict in left:
        section.lines.append(
            f"#   {names.get(verdict.name, verdict.name) or '(column without a name)'}: {_line(verdict.why)}"
        )


def _line(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)


def split_section(found: FilesSurvey, folder: Path) -> WrittenSection:
    """[split]."""
    section, split, rows = WrittenSection("split"), found.split, found.rows
    if split.others:
        section.ask("rule", (split.rule, *split.others), split.short, split.why)
    else:
        section.key("rule", split.rule, split.why)
    if split.warning:
        section.say(f"Warning: {split.warning}.")
    if split.parts:
        for part, paths in split.parts.items():
            section.key(part, [relative(path, folder) for path in paths])
        if split.others:
            section.say('With rule = "time", delete these three lines and take the # from files in [events].')
    else:
        section.key("shares", [0.8, 0.1, 0.1], "train, valid, test")
    section.key("min_history", *_min_history(found))
    section.key("min_user", 1, f"{rows.users:,} users; a user with fewer events is dropped")
    section.key("min_item", 1, f"{rows.items:,} items; an item with fewer events is dropped")
    if found.time is not None:
        section.key("ties", "exclude", f"{rows.together:.1%} of the rows share user and moment with another: "
                    "they are kept out of each other's history")  # fmt: skip
    return section


def _min_history(found: FilesSurvey) -> tuple[int, str]:
    rows, kept = found.rows, found.rows.rows - max(found.rows.absent.values())
    if found.time is None:
        return (1, "earlier rows in the files") if kept > 2 * rows.users else (0, "most users have one row or two")
    if rows.followed < max(3, 0.1 * kept):
        return 0, f"only {rows.followed:,} of {kept:,} rows have an earlier event of their user"
    return 1, f"{rows.followed:,} of {kept:,} rows have an earlier event of their user; the others are history only"
