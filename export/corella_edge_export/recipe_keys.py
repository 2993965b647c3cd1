"""A recipe's section as a dataclass: its keys read from a table, and the ranges of its numbers."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from corella_edge.errors import RecipeError, meant
from corella_edge_export.toml_text import Place

_TYPES = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}
_PLAIN = re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false")


@dataclass(frozen=True, slots=True)
class Range:
    """The numbers that a key may have, both ends included; never infinite ones, and 0 only if `zero`."""

    low: float = 1
    high: float = math.inf
    zero: bool = True

    def holds(self, number: float) -> bool:
        return self.low <= number <= self.high and not math.isinf(number) and (self.zero or number != 0)


_COUNT = Range()  # what a key is that says nothing else
CHECKS_ITSELF = {"checks_itself": True}  # metadata of a section whose own class looks at its numbers


def from_zero(default: Any, most: float = math.inf) -> Any:
    """A key of a section whose number is 0 or more, at most `most`."""
    return field(default=default, metadata={"range": Range(0, most)})


def positive(default: float) -> Any:
    """A key whose number is above 0."""
    return field(default=default, metadata={"range": Range(0, zero=False)})


def share(default: float) -> Any:
    """A key whose number lies in [0, 1]."""
    return field(default=default, metadata={"range": Range(0, 1)})


def signed(default: Any) -> Any:
    """A key whose number may be below 0."""
    return field(default=default, metadata={"range": Range(-math.inf)})


def check_numbers(section: Any, where: Place) -> None:
    """Every number of a section, and of those below it, lies in its range: counts from 1 where nothing else is said."""
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value) and not item.metadata.get("checks_itself"):
            check_numbers(value, where.at(item.name))
        for number in value if isinstance(value, tuple) else (value,):
            is_number = isinstance(number, (int, float)) and not isinstance(number, bool)
            if is_number and not item.metadata.get("range", _COUNT).holds(number):
                raise RecipeError(f"{where.at(item.name)}: {number} is out of range")


def read_section(cls: Any, table: Any, where: Place) -> Any:
    """A dataclass from a TOML table: unknown keys, wrong types and missing keys are named."""
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: expected a table")
    hints = get_type_hints(cls)
    known = {item.name for item in fields(cls)}
    for key in table:
        if key not in known:
            raise RecipeError(f"{where.at(key)}: unknown key {key!r}{_meant(key, cls, where)}")
    values = {key: _value(hints[key], value, where.at(key)) for key, value in table.items()}
    for item in fields(cls):
        if item.name not in values and item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"{where}: the key {item.name!r} is missing")
    return cls(**values)


def _meant(key: str, cls: Any, where: Place) -> str:
    """The section below that has the key, or the key that was likely meant."""
    parts = {name: hint for name, hint in get_type_hints(cls).items() if is_dataclass(hint)}
    below = [name for name, hint in parts.items() if key in {item.name for item in fields(hint)}]
    if below:
        tables = [f"[{'.'.join((*where.keys, name))}]" for name in below]
        return f"; it belongs in {' or '.join(tables)}"
    known = sorted(item.name for item in fields(cls))
    return meant(key, known) or f"; known keys: {', '.join(known)}"


def _value(hint: Any, value: Any, where: Place) -> Any:
    origin = get_origin(hint)
    if is_dataclass(hint):
        return read_section(hint, value, where)
    if origin is Literal:
        return checked(value, value in get_args(hint), where, f"one of {', '.join(map(repr, get_args(hint)))}")
    if origin is tuple:
        checked(value, isinstance(value, (list, tuple)), where, "a list")
        return tuple(_value(get_args(hint)[0], entry, where) for entry in value)
    if origin in (Mapping, Union, types.UnionType) or hint is Mapping or origin is not None:
        return checked(value, isinstance(value, Mapping), where, "a table")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    if hint is str and right and "\0" in value:
        raise RecipeError(f"{where}: holds a NUL character")
    quoted = isinstance(value, str) and _PLAIN.fullmatch(value)
    return checked(value, right, where, _TYPES[hint], "; write it without quotes" if quoted else "")


def checked(value: Any, right: bool, where: Place, expected: str, remedy: str = "") -> Any:
    """The value, if it is right. Raises RecipeError, which says what was expected."""
    if not right:
        raise RecipeError(f"{where}: expected {expected}, got {value!r}{remedy}")
    return value
