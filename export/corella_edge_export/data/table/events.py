"""The table `events`: each row kept with its time and its label, or dropped for a reason, or refused by its line."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from corella_edge.errors import InputError
from corella_edge.messages import MAX_ID_CHARS
from corella_edge_export.data.database import literal, one
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table.description import Description, Events
from corella_edge_export.data.table.raw import RawTable
from corella_edge_export.data.table.rules import comparison, reason
from corella_edge_export.data.table.sql import number, present

FIRST_TIME = 788_918_400  # 1995-01-01, before which nobody kept such events
_DAY = 86_400
_ZONE = r"(Z|UTC|:[0-9:.]*[+-][0-9]{2}(:?[0-9]{2})?)$"  # at the end of a time in ISO 8601
_UNITS = {"s": 1, "timestamp": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
_EXCEL_EPOCH = 25_569  # days from 1899-12-30, where spreadsheets begin to count, to 1970
_KEPT = 0


@dataclass(frozen=True)
class Rule:
    """A condition in SQL on the rows of `seen`. A row gets the first rule that holds, or none.

    Attributes:
        dropped: why rows are dropped, for the ledger; empty = a row like that ends the reading.
        column: the column to blame, and `problem` in words.
    """

    condition: str
    dropped: str = ""
    column: str = ""
    problem: str = ""


def load_events(
    db: duckdb.DuckDBPyConnection, description: Description, raw: RawTable, ledger: Ledger, now: float | None = None
) -> None:
    """Make the table `events` from the raw one, and the view `kept_rows`: raw rows that no rule drops, with their ids.

    Args:
        now: the present, in Unix seconds; later events are refused.

    Raises:
        InputError: a row is neither good nor dropped by a rule; names file, line, column, value and what to do.
    """
    latest = int(time.time() if now is None else now) + _DAY
    rules = list(_rules(description, raw, latest))
    db.execute(_judged(description, raw, rules))
    # Kept, since a verdict costs more than all else that is read of a row, and few rows have another one than `_KEPT`.
    db.execute(f"CREATE TABLE dropped_rows AS SELECT row, verdict FROM judged WHERE verdict <> {_KEPT}")
    found = db.execute("SELECT verdict, count(*), min(row) FROM dropped_rows GROUP BY verdict").fetchall()
    counts = {verdict: (rows, first) for verdict, rows, first in found}
    _refuse(db, description, raw, rules, counts, latest)
    ledger.read += raw.rows + raw.bad
    ledger.drop("a row that cannot be read", raw.bad)
    for verdict, rule in enumerate(rules, 1):
        ledger.drop(rule.dropped, counts.get(verdict, (0, 0))[0])
    _keep(db, description, ledger, all_kept=not counts)
    db.execute("DROP VIEW judged")
    db.execute(_kept_rows(description, raw))


def _judged(description: Description, raw: RawTable, rules: list[Rule]) -> str:
    """A view of every row: what its columns say, and the number of the first rule that holds."""
    cases = " ".join(f"WHEN {rule.condition} THEN {verdict}" for verdict, rule in enumerate(rules, 1))
    return f"""
        CREATE VIEW judged AS WITH seen AS ({_seen(description, raw)})
        SELECT *, CASE {cases} ELSE {_KEPT} END AS verdict FROM seen"""


def _kept_rows(description: Description, raw: RawTable) -> str:
    events = description.events
    user, item = (present(raw.columns[column], events.files.missing) for column in (events.user, events.item))
    ids = f"{user} AS user_id, {item} AS item_id"
    return f"""
        CREATE VIEW kept_rows AS SELECT * FROM (SELECT rowid AS row, {ids}, * FROM {raw.name})
        ANTI JOIN dropped_rows USING (row)"""


def _seen(description: Description, raw: RawTable) -> str:
    """Every row with null for what is missing or unreadable, the texts beside."""
    events, label = description.events, description.label
    texts = {
        "user": events.user, "item": events.item, "time": events.time, "rating": label.rating, "label": label.column,
        "quantity": events.quantity, "event_type": events.event_type,
    }  # fmt: skip
    selected = [
        f"{present(raw.columns[column], events.files.missing) if column else 'NULL::VARCHAR'} AS {role}_text"
        for role, column in texts.items()
    ]
    sign = events.files.decimal
    inner = f"SELECT rowid AS row, *, {', '.join(selected)} FROM {raw.name}"
    return f"""
        SELECT *, {_part(description, raw)} AS part, user_text AS user_id, item_text AS item_id,
            {number("rating_text", sign)} AS rating, {_moment(description)} AS moment,
            {number("quantity_text", sign)} AS quantity, event_type_text AS event_type,
            CASE WHEN lower(trim(label_text)) IN ('true', 'yes', 't', 'y') THEN 1
                WHEN lower(trim(label_text)) IN ('false', 'no', 'f', 'n') THEN 0
                ELSE {number("label_text")} END AS liked
        FROM ({inner})"""


def _part(description: Description, raw: RawTable) -> str:
    """The part of the split that the row's file was named for."""
    of = {path: part for part, paths in description.split.parts.items() for path in paths}
    cases = [
        f"WHEN row < {piece.first + piece.rows} THEN {literal(of[str(piece.path)])}"
        for piece in raw.pieces
        if str(piece.path) in of and piece.rows
    ]
    return f"CASE {' '.join(cases)} END" if cases else "NULL::VARCHAR"


def _moment(description: Description) -> str:
    """Unix seconds, rounded down to whole ones; null where the text is no time. Without times, the row's number."""
    events = description.events
    if events.time is None:
        return "row"
    if events.time_unit in _UNITS:
        seconds = f"floor({number('time_text', events.files.decimal)} / {_UNITS[events.time_unit]})"
        return f"CASE WHEN abs({seconds}) < 1e15 THEN CAST({seconds} AS BIGINT) END"
    return f"CAST(floor(epoch({_parsed(events)})) AS BIGINT)"


def _parsed(events: Events) -> str:
    """A text as a moment; one that names no zone is of `timezone`."""
    zone, text = literal(events.timezone), "trim(time_text)"
    if events.time_unit == "iso":
        read = f"try_cast({text} AS TIMESTAMP)"  # one that names its zone in UTC
        own = f"CASE WHEN regexp_matches({text}, {literal(_ZONE)}) THEN 'UTC' ELSE {zone} END"
        return f"timezone({own}, {read})"
    if events.time_unit == "excel":
        seconds = f"round(({number('time_text', events.files.decimal)} - {_EXCEL_EPOCH}) * {_DAY})"
        bounded = f"CASE WHEN abs({seconds}) < 1e11 THEN CAST({seconds} AS BIGINT) END"
        return f"timezone({zone}, make_timestamp({bounded} * 1000000))"
    parsed = f"try_strptime({text}, {literal(events.time_unit)})"
    return parsed if "%z" in events.time_unit.replace("%%", "") else f"timezone({zone}, {parsed})"


def _rules(description: Description, raw: RawTable, latest: int) -> Iterator[Rule]:
    """First what drops a row, in the order of the ledger, then what is wrong with those that are left."""
    events, label = description.events, description.label
    roles = {"user": events.user, "item": events.item, "time": events.time}
    roles |= {"rating": label.rating, "label": label.column}
    roles = {role: column for role, column in roles.items() if column}
    yield Rule(f"coalesce({raw.header_again}, false)", "the header again")
    yield from (Rule(f"{role}_text IS NULL", f"no {role}") for role in roles if role in events.require)
    yield from _drops(events.drop, raw, events.files.missing)
    for value in label.ignore:
        yield Rule(f"rating = {value!r}", f"{label.rating} {value:g} is ignored")
    for role, column in roles.items():
        remedy = f'require = ["{role}"] drops such rows'
        yield Rule(f"{role}_text IS NULL", "", str(column), f": the {role} is missing; {remedy}")
    for role in ("user", "item"):
        long = f" has more than {MAX_ID_CHARS} letters, too many for an id; is this the right column?"
        yield Rule(f"length({role}_text) > {MAX_ID_CHARS}", "", str(roles[role]), long)
    yield from _values(description, latest)


def _drops(drop: Mapping[str, str], raw: RawTable, missing: tuple[str, ...]) -> Iterator[Rule]:
    for column, rule in drop.items():
        text = present(raw.columns[column], missing)
        value_of = number(text, raw.files.decimal)
        found = comparison(rule)
        if found is None:
            yield Rule(f"regexp_matches({text}, {literal(rule)})", reason(column, rule))
            continue
        operator, value = found
        yield Rule(f"{value_of} {operator} {value!r}", reason(column, rule))
        wrong = f" is no number, and drop compares it with one ({rule})"
        yield Rule(f"{text} IS NOT NULL AND {value_of} IS NULL", "", column, wrong)


def _values(description: Description, latest: int) -> Iterator[Rule]:
    """Texts that are not what their column is for."""
    events, label = description.events, description.label
    sign = "point" if events.files.decimal == "." else "comma, as decimal says"
    decimal = f" is no number; write digits with a decimal {sign}, or name it in missing or drop"
    if label.rating:
        yield Rule("rating IS NULL OR NOT isfinite(rating)", "", label.rating, decimal)
    if label.column:
        neither = " is neither 0 nor 1; for ratings write rating and like_above in place of column"
        yield Rule("liked IS NULL OR liked NOT IN (0, 1)", "", label.column, neither)
    if events.quantity:
        yield Rule("quantity_text IS NOT NULL AND quantity IS NULL", "", events.quantity, decimal)
    if events.time:
        yield Rule("moment IS NULL", "", events.time, _NO_TIME)
        yield Rule(f"moment NOT BETWEEN {FIRST_TIME} AND {latest}", "", events.time, _OUTSIDE)


_NO_TIME, _OUTSIDE = "no time", "outside"  # told by `_about_time`


def _refuse(
    db: duckdb.DuckDBPyConnection,
    description: Description,
    raw: RawTable,
    rules: list[Rule],
    counts: Mapping[int, tuple[int, int]],
    latest: int,
) -> None:
    """Raise InputError for the first row of the files that breaks a rule and is not dropped by one."""
    broken = [(counts[n][1], rule, counts[n][0]) for n, rule in enumerate(rules, 1) if not rule.dropped and n in counts]
    if not broken:
        return
    row, rule, rows = min(broken, key=lambda found: found[0])
    value, moment = one(db, f"SELECT {raw.columns[rule.column]}, moment FROM judged WHERE row = {row}")
    problem = rule.problem
    if problem in (_NO_TIME, _OUTSIDE):
        problem = _about_time(description, value, moment, latest)
    more = f" ({rows:,} such rows)" if rows > 1 else ""
    raise InputError(f"{raw.place(row)}: {rule.column}{f' {shown(value)}' if value else ''}{problem}{more}")


def shown(value: str | None, most: int = 60) -> str:
    """A value as errors show it."""
    text = repr(value or "")
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _about_time(description: Description, value: str, moment: int | None, latest: int) -> str:
    """What is wrong with a time, and the unit that it looks like."""
    unit = description.events.time_unit
    try:
        given = float(value)
    except ValueError:
        given = None
    for other in _UNIT_NAMES:
        if given is not None and FIRST_TIME <= given / _UNITS[other] <= latest and other != unit:
            return f' looks like {_UNIT_NAMES[other]}; write time_unit = "{other}"'
    if given is not None and FIRST_TIME <= (given - _EXCEL_EPOCH) * _DAY <= latest and unit != "excel":
        return ' looks like the days of a spreadsheet; write time_unit = "excel"'
    if moment is None:
        form = f" is no time of the form {unit}; mend time_unit"
        if unit in ("iso", "excel"):
            form = f" is no time as time_unit = {unit!r} has it; mend time_unit"
        number_ = ' is no number; write the pattern of such a time, as time_unit = "%Y-%m-%d"'
        return f"{number_ if unit in _UNITS else form}, or name it in missing"
    day = datetime.fromtimestamp(moment, UTC).date() if -62_135_596_800 <= moment < 253_402_300_800 else f"{moment} s"
    remedy = "%y is a year of two digits" if moment < -5e10 else "mend time_unit, or leave such rows out with drop"
    return f" is {day}, which is not between 1995 and now; {remedy}"


def _keep(db: duckdb.DuckDBPyConnection, description: Description, ledger: Ledger, all_kept: bool) -> None:
    """The table `events` of the rows that are left; `repeats` is the last reason for dropping one."""
    label, repeats = description.label, description.events.repeats
    liked = "1" if label.positives_only else "liked" if label.column else f"rating > {label.like_above!r}"
    columns = f"""row, part, user_id, item_id, CAST(rating AS FLOAT) AS rating, CAST({liked} AS TINYINT) AS label,
        moment AS "timestamp", quantity, event_type"""
    query = f"SELECT {columns} FROM judged" + ("" if all_kept else f" WHERE verdict = {_KEPT}")
    if repeats != "keep":
        order = "DESC" if repeats == "last" else "ASC"
        same = [
            *(['"timestamp"'] if description.events.time else []),
            "user_id",
            "item_id",
            "label",
            "event_type",
            "part",
        ]
        window = f"row_number() OVER (PARTITION BY {', '.join(same)} ORDER BY row {order})"
        query = f"SELECT * FROM ({query}) QUALIFY {window} = 1"
    db.execute(f"CREATE TABLE events AS {query}")
    kept = int(one(db, "SELECT count(*) FROM events")[0])
    ledger.drop("a repeat", ledger.kept - kept)
    if not kept:
        raise InputError(f"{description.events.files.paths[0]}: no row is left: {_told(ledger)}")


def _told(ledger: Ledger) -> str:
    return ", ".join(f"{rows:,} dropped: {why}" for why, rows in ledger.dropped.items())
