"""The keys of one table of a `data.toml`, each read as what it must be; errors name the line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from glob import has_magic
from pathlib import Path
from typing import Any, NoReturn

from corella_edge.errors import InputError, meant
from corella_edge_export.toml_text import Place


class _Needed:
    """The default of a key that must be given."""


_NEEDED: Any = _Needed()


class KeyTable:
    """A table whose keys are all among `known`.

    Every reading method takes the key and what holds where it is not given, and raises InputError for a value of
    another type; without a default the key must be given.
    """

    def __init__(self, table: Any, place: Place, known: Sequence[str]) -> None:
        self._place = place
        if not isinstance(table, Mapping):
            self.refuse("", f"must be a table, [{'.'.join(place.keys)}]; got {table!r}")
        self._table = table
        for key in table:
            if key not in known:
                self.refuse(key, "unknown key" + (meant(key, known) or f"; known keys: {', '.join(known)}"))

    def section(self, key: str, known: Sequence[str]) -> KeyTable:
        """The table below `key`, which must be there."""
        if key not in self._table:
            raise InputError(f"{self._place.name}: the table [{key}] is missing")
        return KeyTable(self._table[key], self._place.at(key), known)

    def optional(self, key: str, known: Sequence[str]) -> KeyTable:
        """The table below `key`, empty where it is not given."""
        return KeyTable(self._table.get(key, {}), self._place.at(key), known)

    def below(self, key: str, known: Sequence[str]) -> KeyTable:
        """The table below `key`, to refuse something in it; its keys are not looked at again."""
        return KeyTable({}, self._place.at(key), known)

    def place(self, key: str) -> Place:
        """Where `key` stands."""
        return self._place.at(key)

    def has(self, key: str) -> bool:
        return key in self._table

    def refuse(self, key: str, problem: str, *, inside: bool = False) -> NoReturn:
        """Raise InputError at a key's line. `inside`: the key is not there, the line is that of its table."""
        place = self._place.at(key) if key else self._place
        line = self._place.line if inside else place.line
        head = f"{place.name} line {line}" if line else place.name
        raise InputError(f"{head}: {'.'.join(place.keys)}: {problem}")

    def forbid(self, key: str, problem: str) -> None:
        """Refuse a key that is given."""
        if key in self._table:
            self.refuse(key, problem)

    def _get(self, key: str, default: Any, right: type | tuple[type, ...], expected: str) -> Any:
        if key not in self._table:
            if default is _NEEDED:
                self.refuse(key, "is missing", inside=True)
            return default
        value = self._table[key]
        if not isinstance(value, right) or (isinstance(value, bool) and right is not bool):
            self.refuse(key, f"expected {expected}, got {value!r}")
        return value

    def text(self, key: str, default: Any = _NEEDED) -> Any:
        """A text; an empty one only where the default is one or nothing is needed of it."""
        value = self._get(key, default, str, "a text")
        if value == "" and default in (_NEEDED, None):
            self.refuse(key, "is empty")
        return value

    def flag(self, key: str, default: bool) -> bool:
        return bool(self._get(key, default, bool, "true or false"))

    def whole(self, key: str, default: int, least: int = 1) -> int:
        value = self._get(key, default, int, "a whole number")
        if value < least:
            self.refuse(key, f"{value} is below {least}")
        return int(value)

    def number(self, key: str, default: Any = _NEEDED) -> float:
        value = self._get(key, default, (int, float), "a number")
        if not math.isfinite(value):
            self.refuse(key, f"{value} is not finite")
        return float(value)

    def share(self, key: str, default: float) -> float:
        value = self.number(key, default)
        if not 0 <= value <= 1:
            self.refuse(key, f"{value} is not between 0 and 1")
        return value

    def choice(self, key: str, options: Sequence[str], default: Any = _NEEDED) -> Any:
        value = self._get(key, default, str, f"one of {', '.join(options)}")
        if value not in options:
            self.refuse(key, f"{value!r} is none of {', '.join(options)}{meant(value, options)}")
        return value

    def numbers(self, key: str, default: tuple[float, ...]) -> tuple[float, ...]:
        values = self._list(key, default, (int, float), "a list of numbers")
        return tuple(float(value) for value in values)

    def texts(self, key: str, default: Any = _NEEDED, options: Sequence[str] = ()) -> tuple[str, ...]:
        values = self._list(key, default, (str,), "a list of texts")
        for value in values if options else ():
            if value not in options:
                self.refuse(key, f"{value!r} is none of {', '.join(options)}{meant(value, options)}")
        return tuple(values)

    def _list(self, key: str, default: Any, right: tuple[type, ...], expected: str) -> Iterable[Any]:
        values: Sequence[Any] = self._get(key, default, (list, tuple), expected)
        if any(not isinstance(value, right) or isinstance(value, bool) for value in values):
            self.refuse(key, f"expected {expected}, got {list(values)!r}")
        return values

    def table(self, key: str) -> dict[str, Any]:
        """A table with keys of the person's own."""
        return dict(self._get(key, {}, Mapping, "a table, { column = ... }"))


def find_files(section: KeyTable, key: str, folder: Path) -> tuple[Path, ...]:
    """The files that a list of paths and patterns such as "*.csv.gz" names; those of a pattern by name.

    Raises:
        InputError: nothing is found, a file is found twice, or it is no file.
    """
    patterns = section.texts(key)
    if not patterns:
        section.refuse(key, "names no file")
    found: list[Path] = []
    for pattern in patterns:
        path = folder / pattern
        if path.exists() or not has_magic(pattern):
            found.append(_file(section, key, path, pattern))
        else:
            found += _matching(section, key, folder, pattern)
    twice = next((path for path in found if found.count(path) > 1), None)
    if twice:
        section.refuse(key, f"names {twice.name} twice, so that its rows would count twice")
    return tuple(found)


def _file(section: KeyTable, key: str, path: Path, given: str) -> Path:
    if not path.exists():
        near = meant(path.name, [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else [])
        section.refuse(key, f"{path}: no such file{near}")
    if path.is_dir():
        section.refuse(key, f'{path}: is a folder; name its files, as "{given.rstrip("/")}/*.csv"')
    return path


def _matching(section: KeyTable, key: str, folder: Path, pattern: str) -> list[Path]:
    path = Path(pattern)
    root, rest = (Path(path.anchor), str(path.relative_to(path.anchor))) if path.is_absolute() else (folder, pattern)
    found = sorted(path for path in root.glob(rest) if path.is_file())
    if not found:
        section.refuse(key, f"{folder / pattern}: matches no file")
    return found
