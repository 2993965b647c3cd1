"""In which unit or pattern a column's times are written: every one that fits, so that doubt can be asked about."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

import polars as pl

from corella_edge_export.data.table.propose.columns import ColumnFacts, as_float
from corella_edge_export.data.table.propose.words import TIME, has

FROM = 788_918_400  # 1995, the first year that `prepare` takes
UNITS = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_EXCEL_EPOCH, _DAY = 25_569, 86_400  # days from 1899-12-30, where spreadsheets begin to count, to 1970
_DATES = (
    (r"(\d{4})S(\d{1,2})S(\d{1,2})", ("%YS%mS%d",)),
    (r"(\d{1,2})S(\d{1,2})S(\d{4})", ("%mS%dS%Y", "%dS%mS%Y")),
    (r"(\d{1,2})S(\d{1,2})S(\d{2})", ("%mS%dS%y", "%dS%mS%y")),
    (r"(\d{1,2})S[A-Za-z]{3}S(\d{4})", ("%dS%bS%Y",)),
    (r"(\d{1,2})S[A-Za-z]{3}S(\d{2})", ("%dS%bS%y",)),
)
_WORDED = (
    (r"(\d{4})(\d{2})(\d{2})", ("%Y%m%d",)),
    (r"(\d{1,2}) (\d{1,2}), (\d{4})", ("%m %d, %Y", "%d %m, %Y")),
    (r"[A-Za-z]{3} (\d{1,2}), (\d{4})", ("%b %d, %Y",)),
    (r"[A-Za-z]{4,9} (\d{1,2}), (\d{4})", ("%B %d, %Y",)),
    (r"[A-Za-z]{3} (\d{1,2}) (\d{4})", ("%b %d %Y",)),
    (r"(\d{1,2}) [A-Za-z]{4,9} (\d{4})", ("%d %B %Y",)),
)
_PACKED = (r"(\d{4})(\d{2})(\d{2})\d{6}", ("%Y%m%d%H%M%S",))
_CLOCKS = (
    ("", ""),
    (r"\d{1,2}:\d{2}", "%H:%M"),
    (r"\d{1,2}:\d{2}:\d{2}", "%H:%M:%S"),
    (r"\d{1,2}:\d{2}:\d{2}\.\d+", "%H:%M:%S.%f"),
    (r"\d{1,2}:\d{2} [AaPp][Mm]", "%I:%M %p"),
    (r"\d{1,2}:\d{2}:\d{2} [AaPp][Mm]", "%I:%M:%S %p"),
)
_ZONES = (("", ""), ("Z", "Z"), (" UTC", " UTC"), (r"[+-]\d{2}:?\d{2}", "%z"))


_ISO = (
    r"^(?<day>\d{4}-\d{1,2}-\d{1,2})(?:[T ](?<clock>\d{1,2}:\d{2}(?::\d{2})?)(?:\.\d+)?)?"
    r"(?: ?UTC|Z|(?<zone>[+-]\d{2}:?\d{2}))?$"
)


@dataclass(frozen=True)
class Moments:
    """How a column's times are written.

    Attributes:
        unit: of `time_unit` in a data.toml. others: further ones that fit as well. why: the evidence.
        seconds: Int64, the times since 1970, null where the value is missing or fits not. bad: values that fit not.
        short: the question about `others` in few words. local: whether times in "iso" name no zone.
    """

    unit: str
    others: tuple[str, ...]
    why: str
    seconds: pl.Series
    bad: int = 0
    short: str = "which number is the month (%m)?"
    local: bool = False

    @property
    def zoned(self) -> bool:
        """Whether the values say their time zone."""
        return not self.local and (self.unit in (*UNITS, "timestamp", "iso") or _zoned(self.unit))


def find_moments(column: ColumnFacts) -> Moments | None:
    """How a column's times are written; None if they are none."""
    if column.type == "moment":
        seconds = column.values.str.head(19).str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False)
        days = column.values.str.head(10).str.to_datetime("%Y-%m-%d", strict=False)
        epochs = seconds.fill_null(days).dt.epoch("s") if len(days) else seconds.dt.epoch("s")
        return Moments("timestamp", (), "the file's own type says it", epochs)
    if column.numbers is not None:
        return _of_numbers(column)
    return _of_texts(column) if column.type != "list" else None


def _of_numbers(column: ColumnFacts) -> Moments | None:
    """Units in which nearly all numbers lie between 1995 and now."""
    assert column.numbers is not None
    now = datetime.now(UTC).timestamp() + 86_400
    numbers = column.numbers
    if column.share(r"^\s*0\d") > 0.01 or not len(numbers):
        return None  # codes with leading zeros
    for unit, many in UNITS.items():
        inside = as_float(((numbers >= FROM * many) & (numbers <= now * many)).mean())
        if inside >= 0.99:
            seconds = (column.values.str.strip_chars().cast(pl.Float64, strict=False) / many).floor()
            why = f"as {unit} they are {_span(seconds)}"
            bad = len(column.filled) - round(inside * len(numbers))
            return Moments(unit, (), why, seconds.cast(pl.Int64, strict=False), bad)
    if column.whole and (packed := _of_texts(column) if column.letters in (8, 14) else None):
        return packed
    if has(column.name, TIME) and (days := _spreadsheet(column, now)):
        return days
    return _unclear(column, now) if has(column.name, TIME - {"at", "day", "when"}) and column.distinct > 20 else None


def _spreadsheet(column: ColumnFacts, now: float) -> Moments | None:
    """Days since 1899-12-30, as a spreadsheet writes a time that was formatted as a number."""
    seconds = ((column.values.str.strip_chars().cast(pl.Float64, strict=False) - _EXCEL_EPOCH) * _DAY).round()
    inside = as_float(seconds.drop_nulls().is_between(FROM, now).mean())
    if inside < 0.99:
        return None
    bad = len(column.filled) - int(seconds.is_between(FROM, now).sum())
    why = f"as a spreadsheet counts days, they are {_span(seconds)}"
    return Moments("excel", (), why, seconds.cast(pl.Int64, strict=False), bad)


def _unclear(column: ColumnFacts, now: float) -> Moments | None:
    """Numbers of a column that is named for a time, and are none of our time in any unit, or only in part."""
    assert column.numbers is not None
    numbers = column.numbers
    shares = {u: as_float(((numbers >= FROM * m) & (numbers <= now * m)).mean()) for u, m in UNITS.items()}
    fits = [unit for unit, share in shares.items() if share > 0.01]
    low, high = column.range
    told = ", ".join(f"{shares[unit]:.0%} of the values as {unit}" for unit in fits) or "none of the values in any unit"
    why = f"the numbers go from {low:,.0f} to {high:,.0f}; {told} lie between 1995 and now"
    seconds = column.values.str.strip_chars().cast(pl.Float64, strict=False)
    if not fits:
        short = f"what are numbers from {low:,.0f} to {high:,.0f}?"
        return Moments("s", ("none",), why, seconds.cast(pl.Int64, strict=False), short=short)
    seconds = (seconds / UNITS[fits[0]]).floor()
    seconds = pl.select(pl.when(seconds.is_between(FROM, now)).then(seconds)).to_series()
    return Moments(fits[0], (*fits[1:], "none"), why, seconds.cast(pl.Int64), short="not all are of one unit")


@cache
def _forms() -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    return tuple(_all_forms())


def _all_forms() -> Iterator[tuple[re.Pattern[str], tuple[str, ...]]]:
    """(regular expression of the whole value, patterns that it may be)."""
    dates = [(text.replace("S", re.escape(s)), tuple(p.replace("S", s).replace(f"%{s}", "%S") for p in patterns))
             for text, patterns in _DATES for s in ("-", "/", ".", " ")]  # fmt: skip
    for date, patterns in (*dates, *_WORDED):
        for clock, hours in _CLOCKS:
            for between in (" ", "T", ", ") if clock else ("",):
                for zone, named in _ZONES if clock else (("", ""),):
                    text = f"{date}{between}{clock}{zone}"
                    yield re.compile(text), tuple(f"{p}{between}{hours}{named}" for p in patterns)
    yield re.compile(_PACKED[0]), _PACKED[1]


def _of_texts(column: ColumnFacts) -> Moments | None:
    # A second header, or a line between, does not hide the form of the others.
    heads = [value.strip() for value in column.filled.head(3)]
    form = next((form for head in heads for form in _forms() if form[0].fullmatch(head)), None)
    if form is None:
        return None
    text, patterns = form
    values = column.values.str.strip_chars()
    fits = values.str.contains(f"^(?:{text.pattern})$")
    good = int(fits.sum())
    if good < 0.98 * len(column.filled):
        return _mixed(column, values)
    patterns, why = _told_apart(values.filter(fits), text.pattern, patterns)
    if not patterns:
        return None
    seconds = _seconds(values, patterns[0])
    if int(seconds.null_count()) > column.missing + 0.02 * len(values):
        return None
    return Moments(patterns[0], tuple(patterns[1:]), f"{why}{_span(seconds)}", seconds, len(column.filled) - good)


def _mixed(column: ColumnFacts, values: pl.Series) -> Moments | None:
    """Most values are times, but not all are written alike."""
    sample = [value for value in values.drop_nulls().head(500).to_list() if value]
    found = [next((p[0] for t, p in _forms() if t.fullmatch(value)), "") for value in sample]
    kinds = sorted(set(found) - {""})
    if len(kinds) < 2 or found.count("") > 0.02 * len(found):
        return None
    if all(kind.startswith("%Y-%m-%d") for kind in kinds) and len({_zoned(kind) for kind in kinds}) == 1:
        seconds = _iso(values)
        told = f"as ISO 8601, {' and '.join(kinds[:3])} alike, they are {_span(seconds)}"
        return Moments("iso", (), told, seconds, int(seconds.null_count()) - column.missing, local=not _zoned(kinds[0]))
    why = f"the values are not all written alike: {' and '.join(kinds[:3])}; rewrite the column in one of them"
    return Moments(kinds[0], (*kinds[1:3], "none"), why, _seconds(values, kinds[0]), short="not all are written alike")


def _zoned(pattern: str) -> bool:
    return pattern.endswith(("%z", "Z", "UTC"))


def _iso(values: pl.Series) -> pl.Series:
    """ISO 8601 with or without a fraction and a zone."""
    parts = values.str.extract_groups(_ISO).struct.unnest()
    clock = parts["clock"].fill_null("00:00")
    clock = pl.select(pl.when(clock.str.count_matches(":") == 1).then(clock + ":00").otherwise(clock)).to_series()
    text = parts["day"] + " " + clock + " " + parts["zone"].fill_null("+00:00")
    return text.str.to_datetime("%Y-%m-%d %H:%M:%S %z", strict=False, time_zone="UTC").dt.epoch("s")


def _told_apart(values: pl.Series, text: str, patterns: tuple[str, ...]) -> tuple[tuple[str, ...], str]:
    """Month before day, or day before month: a number above 12 decides."""
    if len(patterns) == 1:
        return patterns, ""
    parts = values.unique().str.extract_groups(f"^(?:{text})$").struct.unnest()
    first, second = (int(as_float(parts.to_series(place).cast(pl.Int64).max())) for place in (0, 1))
    if first > 12 and second > 12:
        return (), ""
    if second > 12:
        return (patterns[0],), f"the second number goes to {second}, so it is the day; "
    if first > 12:
        return (patterns[1],), f"the first number goes to {first}, so it is the day; "
    return patterns, f"no number is above 12, so day and month cannot be told apart; as {patterns[0]} "


def _seconds(values: pl.Series, pattern: str) -> pl.Series:
    own = pattern.replace(".%f", "%.f")
    text = values
    if "%H" not in own and "%I" not in own:
        text, own = values + " 00:00", f"{own} %H:%M"
    if own.endswith(("%p",)):
        text = text.str.to_uppercase()
    found = text.str.to_datetime(own, strict=False, time_zone="UTC" if own.endswith("%z") else None)
    return found.dt.epoch("s")


def whole_days(seconds: pl.Series) -> bool:
    """Whether all times are midnight, as of dates."""
    return bool((seconds.drop_nulls() % 86_400 == 0).all())


def _span(seconds: pl.Series) -> str:
    low, high = seconds.min(), seconds.max()
    if low is None or high is None:
        return "no time"
    first, last = (datetime.fromtimestamp(as_float(moment), UTC).date() for moment in (low, high))
    return f"{first} to {last}" if first != last else f"all of {first}"
