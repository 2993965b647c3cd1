"""Whether the first line of a CSV file names its columns: each column has a vote."""

from __future__ import annotations

import re
from collections.abc import Sequence

_NUMBER = re.compile(r"\s*[-+]?\d+([.,]\d+)?\s*")
_NAME = re.compile(r"[^\W\d][\w .:/()-]{0,39}")


def find_header(rows: Sequence[Sequence[str]]) -> tuple[bool, str]:
    """(header?, evidence) from the first row and those below it."""
    if len(rows) < 2:
        return bool(rows) and all(_NAME.fullmatch(name) for name in rows[0]), "there is no second line to compare with"
    first, below = rows[0], rows[1:]
    if [name.strip() for name in first] == [str(place) for place in range(len(first))]:
        return True, f"the first line only counts the columns ({first[0]}, {first[1]}, …)"
    votes = [_vote(name, [row[place] for row in below]) for place, name in enumerate(first)]
    named = [name for name, vote in zip(first, votes, strict=True) if vote > 0]
    if sum(votes) > 0:
        return True, f"{named[0]!r} does not look like the values below it" if named else "the first line is names"
    if sum(votes) == 0 and looks_named(first):
        return True, "the first line looks like names, none of which occurs below"
    return False, "the first line looks like the others"


def _vote(name: str, values: Sequence[str]) -> int:
    """1 if `name` cannot be one of the values, -1 if it well can, 0 if it may."""
    values = [value for value in values if value]
    if not values or not name.strip():
        return 0
    numeric = sum(bool(_NUMBER.fullmatch(value)) for value in values) > 0.95 * len(values)
    if numeric or _NUMBER.fullmatch(name):
        return 1 if numeric and not _NUMBER.fullmatch(name) else -1
    if name in values:
        return -1
    if len(values) >= 10 and len(set(values)) <= 0.5 * len(values):
        return 1  # all the others occur again and again
    return _by_form(name, values)


def _by_form(name: str, values: Sequence[str]) -> int:
    """By letters and digits: "N34700" may stand above "N16278", "user" may not."""
    forms = {_form(value) for value in values[:500]}
    if _form(name) in forms:
        return -1 if "0" in _form(name) and len(forms) <= 3 else 0
    return 1 if len(forms) <= 3 and _NAME.fullmatch(name) else 0


def _form(value: str) -> str:
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", value))


def looks_named(first: Sequence[str]) -> bool:
    """Whether the fields of a line could all be names of columns."""
    return len(set(first)) == len(first) and all(_NAME.fullmatch(name) and len(name.split()) <= 3 for name in first)
