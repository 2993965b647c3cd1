"""The text of a data.toml: keys with their reasons as comments, in lines that a person can read."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH = 110
CHOOSE = "CHOOSE:"


@dataclass
class WrittenSection:
    """A table of the file: lines in order, each a key with its reason, or a comment."""

    name: str
    lines: list[str] = field(default_factory=list)

    def key(self, key: str, value: Any, why: str = "") -> None:
        """A key; its reason stands behind it if the line stays short, else above it."""
        line = f"{_key(key)} = {toml(value)}"
        if why and len(line) + len(why) + 4 <= WIDTH:
            self.lines.append(f"{line}  # {_printable(why)}")
        else:
            self.lines += [*(comment(why) if why else []), *_lines(key, value)]

    def ask(self, key: str, options: Sequence[str], short: str, why: str = "") -> None:
        """A key that a person has to decide; `short` stands in the value, the evidence above it."""
        self.lines += comment(why) if why else []
        self.lines.append(f"{_key(key)} = {toml(choose(options, short))}")

    def say(self, text: str) -> None:
        """A comment of its own."""
        self.lines += comment(text)

    def off(self, line: str, why: str = "") -> None:
        """A line of TOML that does not count unless its # is taken away."""
        self.lines.append(_printable(f"# {line}" + (f"  # {why}" if why else "")))


def choose(options: Sequence[str], why: str) -> str:
    """The value of a key that a person has to decide."""
    return f"{CHOOSE} {' | '.join(options)} — {why}"


def comment(text: str) -> list[str]:
    """Lines of comment, wrapped; a line that begins with a blank is kept as it is."""
    if text.startswith(" "):
        return [f"#{_printable(text)}"]
    return [f"# {line}" for line in textwrap.wrap(_printable(text), WIDTH - 2, break_long_words=False) or [""]]


def render(sections: Sequence[WrittenSection]) -> str:
    """The whole file."""
    return "\n".join(_rendered(sections)) + "\n"


def _rendered(sections: Sequence[WrittenSection]) -> Iterator[str]:
    for section in sections:
        if section.name:
            yield from ("", f"[{section.name}]")
        yield from section.lines


def toml(value: Any) -> str:
    """A value of text, number, bool, list or table in one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {toml(entry)}" for key, entry in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _lines(key: str, value: Any) -> list[str]:
    """A key and its value; a long list over several lines, which TOML allows inside of a list alone."""
    line = f"{_key(key)} = {toml(value)}"
    if len(line) <= WIDTH:
        return [line]
    if isinstance(value, (list, tuple)):
        return [f"{_key(key)} = [", *_packed(value), "]"]
    if (
        isinstance(value, Mapping)
        and value
        and isinstance(last := list(value)[-1], str)
        and isinstance(value[last], list)
    ):
        before = "".join(f"{_key(name)} = {toml(entry)}, " for name, entry in value.items() if name != last)
        return [f"{_key(key)} = {{ {before}{_key(last)} = [", *_packed(value[last]), "] }"]
    return [line]


def _packed(values: Sequence[Any]) -> Iterator[str]:
    line = "   "
    for value in values:
        part = f" {toml(value)},"
        if len(line) + len(part) > WIDTH and line.strip():
            yield line
            line = "   "
        line += part
    if line.strip():
        yield line


def _text(value: str) -> str:
    """A string of TOML: a literal one where quotes or backslashes would need escapes, else a basic one."""
    if re.search(r'["\\]', value) and "'" not in value and value.isprintable():
        return f"'{value}'"
    # Basic strings escape as JSON's do, and DEL too.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    bare = bool(key) and key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _text(key)


def _printable(text: str) -> str:
    """TOML allows no control character in a comment but the tab."""
    return "".join(sign if sign.isprintable() else " " for sign in text)
