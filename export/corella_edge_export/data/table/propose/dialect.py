"""How a text is cut into fields: separator, quotes, escape. Decided by how many lines get the same number of fields."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

# In the order of trust: a tab or "::" that cuts every line alike is hardly there by chance.
SEPARATORS = ("\t", "::", ",", ";", "|")
_SURE, _RARE, _BLANK = 2, " ", "\x1f"
_LONGEST = 1 << 27  # characters of one field
_SAMPLE = 2000  # lines that the separator is judged by


@dataclass(frozen=True)
class Dialect:
    """The keys of a CSV file's text; `why` is the evidence for separator, quote and escape, by key."""

    separator: str
    quote: str
    escape: str
    columns: int
    why: dict[str, str]


@dataclass(frozen=True)
class Fit:
    """How well a way of reading fits: `good` of `rows` have the commonest number of fields, `columns`."""

    columns: int
    good: int
    rows: int

    @property
    def share(self) -> float:
        return self.good / self.rows if self.rows else 0.0


def rows(text: str, separator: str, quote: str, escape: str) -> Iterator[list[str]]:
    """The fields of each row that is not empty; line ends LF, CR LF and CR alike."""
    if len(separator) > 1:
        text, separator = text.replace(separator, _BLANK), _BLANK
    csv.field_size_limit(_LONGEST)
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, quotechar=quote or None, escapechar=escape or None,
        quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
    )  # fmt: skip
    return (row for row in reader if row)


def fit(text: str, separator: str, quote: str = "", escape: str = "") -> Fit:
    """How well this way of reading fits."""
    counts = Counter(len(row) for row in rows(text, separator, quote, escape))
    if not counts:
        return Fit(0, 0, 0)
    columns, good = max(counts.items(), key=lambda found: (found[1], found[0]))
    return Fit(columns, good, counts.total())


def find_dialect(text: str, further: Sequence[str] = ()) -> Dialect | None:
    """The way of reading that fits best; None if no separator cuts the lines alike."""
    sample = "".join([*_first(text, _SAMPLE), *(line for piece in further for line in _first(piece, 500))])
    separator = find_separator(sample)
    if separator is None:
        return None
    everything = "".join([text, *further])
    quote, why_quote = find_quote(everything, separator)
    escape, why_escape = find_escape(everything, separator, quote)
    found = fit(sample, separator, quote, escape)
    alike = "every line" if found.good == found.rows else f"{found.good:,} of {found.rows:,} lines"
    why = {"separator": f"{alike} has {found.columns} fields" if found.good == found.rows
           else f"{alike} have {found.columns} fields", "quote": why_quote, "escape": why_escape}  # fmt: skip
    return Dialect(separator, quote, escape, found.columns, why)


def _first(text: str, lines: int) -> list[str]:
    return io.StringIO(text[: lines * 5000], newline="").readlines()[:lines] if text else []


def find_separator(sample: str) -> str | None:
    """The separator that gives most lines the same number (at least 2) of fields; None if none does."""
    fits = {s: _best(sample, s) for s in SEPARATORS}
    usable = {s: found for s, found in fits.items() if found.columns > 1 and found.share >= 0.8}
    if not usable:
        found = fit(sample, _RARE)
        return _RARE if found.columns > 1 and found.share >= 0.99 else None
    best = max(round(found.share, 2) for found in usable.values())
    level = {s: found for s, found in usable.items() if round(found.share, 2) >= best - 0.01}
    sure = [s for s in SEPARATORS[:_SURE] if s in level]
    if sure:
        return sure[0]
    if {",", ";"} <= set(level) and _decimal_commas(sample):
        return ";"
    return max(level, key=lambda s: (level[s].columns, -SEPARATORS.index(s)))


def _best(sample: str, separator: str) -> Fit:
    return max((fit(sample, separator, quote) for quote in ('"', "")), key=lambda found: (found.share, found.columns))


def _decimal_commas(sample: str) -> bool:
    """Whether a comma only stands inside numbers such as 12,50 that semicolons separate."""
    fields = [field for row in rows(sample, ";", '"', "") for field in row if "," in field]
    return bool(fields) and all(re.fullmatch(r"\s*-?\d+,\d+\s*", field) for field in fields)


def find_quote(text: str, separator: str) -> tuple[str, str]:
    """(quote, evidence): the sign that fields are wrapped in, or "" if it only occurs as a letter among others."""
    for quote in ('"', "'"):
        if quote not in text:
            continue
        wrapped = _wrapped(text, separator, quote)
        if wrapped and _quoted(text, separator, quote):
            return quote, f"{wrapped:,} fields are wrapped in it"
        if quote == '"':
            return "", f"{text.count(quote):,} {quote} are letters of the text, not wrapped round fields"
    return '"', "none in the file; the usual one"


def _wrapped(text: str, separator: str, quote: str) -> int:
    """Fields that begin with the quote and end with it before a separator or a line's end."""
    s = re.escape(separator)
    return len(re.findall(rf"(?:(?<={s})|^){quote}(?:[^{quote}]|{quote}{quote})*?{quote}(?={s}|\r|$)", text, re.M))


def _quoted(text: str, separator: str, quote: str) -> bool:
    """Whether the file means its quotes: reading them must not break rows, and must be needed or usual."""
    with_it, without = fit(text, separator, quote), fit(text, separator)
    if with_it.share != without.share:
        return with_it.share > without.share
    return with_it.rows >= without.rows and (quote == '"' or _often(text, separator, quote)) and (
        not _literal(text, separator, quote)
    )  # fmt: skip


def _often(text: str, separator: str, quote: str) -> bool:
    fields = [field for row in rows("".join(_first(text, 200)), separator, "", "") for field in row]
    return sum(field[:1] == quote == field[-1:] and len(field) > 1 for field in fields) > 0.2 * len(fields)


def _literal(text: str, separator: str, quote: str) -> bool:
    """Whether the few wrapped fields hold nothing that needs a quote, so that they are names such as "Heroes"."""
    plain = list(rows(text, separator, "", ""))
    width = max((len(row) for row in plain), default=0)
    for place in range(width):
        column = [row[place] for row in plain if len(row) > place and row[place]]
        wrapped = sum(field[:1] == quote == field[-1:] and len(field) > 1 for field in column)
        if wrapped > 0.5 * len(column):
            return False
    return not any(quote * 2 in field[1:-1] for row in plain for field in row if field[:1] == quote == field[-1:])


def find_escape(text: str, separator: str, quote: str) -> tuple[str, str]:
    """(escape, evidence): a backslash only if more rows come out whole with it than without."""
    if "\\" not in text:
        return "", "no backslash in the file"
    without, with_it = fit(text, separator, quote), fit(text, separator, quote, "\\")
    if with_it.good > without.good:
        return "\\", f"{with_it.good:,} rows come out whole with it, {without.good:,} without"
    if quote and with_it.good == without.good and _mends(text, separator, quote):
        return "\\", f"{text.count(chr(92) + quote):,} quotes inside of fields are written \\{quote}"
    lost = without.good - with_it.good
    told = f"as an escape it would swallow {lost:,} rows" if lost else "as an escape it would mend no row"
    return "", f"{text.count(chr(92)):,} backslashes are letters of the text; {told}"


def _mends(text: str, separator: str, quote: str) -> bool:
    r"""Whether \" stands inside fields, where without an escape the field would end before its separator."""
    s = re.escape(separator)
    return bool(re.search(rf"\\{quote}(?!{s}|\r|\n|$|{quote})", text)) and not re.search(rf"\\{quote}(?={s})", text)
