"""A text in TOML, a recipe or a data.toml, as people save it, and the lines of its keys for errors."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, replace
from typing import Any

from corella_edge.errors import InputError

_AT = re.compile(r"(?P<what>.*) \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)", re.DOTALL)
_TWICE = re.compile(r"Cannot declare \((.*?),?\) twice")
_QUOTES = "\u201c\u201d\u201e\u201f\u2018\u2019\u201a\u00ab\u00bb"  # as word processors write them
_NAME = r"""(?:[\w-]+|"[^"]*"|'[^']*')"""
_HEADING = re.compile(rf"\s*\[\[?\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*\]")
_KEY = re.compile(rf"\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in the file `name` ("recipe shop"), for errors: with its line if `text` has one for it."""

    name: str
    text: str = ""
    keys: tuple[str, ...] = ()

    def at(self, *keys: str) -> Place:
        """The place of a key below this one."""
        return replace(self, keys=(*self.keys, *keys))

    @property
    def stands(self) -> bool:
        """Whether a person wrote something there; what comes from a base stands in another text."""
        return any(keys[: len(self.keys)] == self.keys for keys, _ in _keys(self.text))

    def __str__(self) -> str:
        found = next((n for keys, n in _keys(self.text) if keys == self.keys), None) if self.keys else None
        head = self.name + (f" line {found}" if found else "")
        return ", ".join([head, *self.keys])

    @property
    def line(self) -> int | None:
        """The line of the key, or of the inline table or the heading that it stands in."""
        lines = dict(reversed(_keys(self.text)))
        ends = range(len(self.keys), 0, -1)
        return next((lines[self.keys[:end]] for end in ends if self.keys[:end] in lines), None)


def _keys(text: str) -> list[tuple[tuple[str, ...], int]]:
    """(path of a table or key, line) of what looks like one; what stands inside of a value over lines may, too."""
    found: list[tuple[tuple[str, ...], int]] = []
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.split("\n"), 1):
        if heading := _HEADING.match(line):
            table = _path(heading[1])
            found.append((table, number))
        elif key := _KEY.match(line):
            found.append(((*table, *_path(key[1])), number))
    return found


def _path(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_NAME, dotted))


def parse(text: str, name: str, refused: type[InputError]) -> dict[str, Any]:
    """The table of the file `name`. Raises `refused`, which names the line."""
    try:
        return tomllib.loads(f"{text}\n")  # an error in a last line without an end would have no line
    except RecursionError:
        raise refused(f"{name}: not TOML (nested too deeply)") from None
    except tomllib.TOMLDecodeError as error:
        raise refused(_told(str(error), text, name)) from None


def _told(error: str, text: str, name: str) -> str:
    """tomllib's words with the line in front, and what to do where that is known."""
    found = _AT.fullmatch(error)
    if found is None:
        return f"{name}: not TOML ({error})"
    if found["line"] is None:
        return f"{name}: not TOML ({found['what']} at its end)"
    line, what = text.split("\n")[int(found["line"]) - 1], found["what"]
    if quotes := [sign for sign in line if sign in _QUOTES]:
        what += f"; {quotes[0]} is a typographic quotation mark, TOML wants \" or '"
    elif twice := _TWICE.fullmatch(what):
        table = ".".join(_path(twice[1].replace(",", ".")))
        what = f"the table [{table}] stands twice; put its keys under one heading"
    elif what == "Cannot overwrite a value":
        what = "the key stands twice in its table; keep one"
    return f"{name} line {found['line']}, column {found['column']}: not TOML ({what})"
