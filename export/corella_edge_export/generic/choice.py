"""A recipe's value with the reason why it is this one; and tables of them, as values and as reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Table = dict[str, Any]
Reasons = dict[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Choice:
    """A value, and why: in words that follow the value as a comment."""

    value: Any
    why: str


def values(table: Mapping[str, Any]) -> Table:
    """The table as a recipe has it."""
    return {key: values(entry) if isinstance(entry, Mapping) else _value(entry) for key, entry in table.items()}


def _value(entry: Any) -> Any:
    return entry.value if isinstance(entry, Choice) else entry


def reasons(table: Mapping[str, Any], path: tuple[str, ...] = ()) -> Reasons:
    """Place of a key or table → why it is as it is."""
    found: Reasons = {}
    for key, entry in table.items():
        if isinstance(entry, Choice):
            found[*path, key] = entry.why
        elif isinstance(entry, Mapping):
            found |= reasons(entry, (*path, key))
    return found


def step(count: float, *steps: tuple[float, Any], above: Any) -> Any:
    """The value of the first step that the count is at most, or the one above all of them."""
    return next((value for most, value in steps if count <= most), above)


def power_of_two(count: float, least: int, most: int) -> int:
    """The power of 2 next to the count, within the limits, which are powers themselves."""
    return int(min(most, max(least, 2 ** round(math.log2(max(1.0, count))))))


def share(part: float) -> str:
    """A share in words."""
    return f"{100 * part:.0f} %"


def by_rows(rows: int) -> str:
    """The reason of whatever goes by the number of training rows."""
    return f"{rows:,} training rows"
