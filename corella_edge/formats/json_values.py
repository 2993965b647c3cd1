"""The JSON values of a file: one a line, or the elements of one array, or objects that are each spread over lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

from corella_edge.formats.text_files import UnreadableError

Line = tuple[int, bytes]
# A text with what it holds, or a sign outside of texts. No text goes beyond its line.
_SIGN = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[][{},]')


class Piece(NamedTuple):
    """The bytes of one value, the line where they begin, and its number where values are not lines."""

    raw: bytes
    first: int
    number: int = 0

    @property
    def where(self) -> str:
        """The line of its first letter, and its number."""
        blank = len(self.raw) - len(self.raw.lstrip())
        line = self.first + self.raw[:blank].count(b"\n")
        return f"line {line} (value {self.number})" if self.number else f"line {line}"


def pieces(lines: Iterable[Line], name: str) -> Iterator[Piece]:
    """The values of the file `name`, unchecked: its first line that is not empty says how they are written.

    Raises:
        UnreadableError: an array without its end, or something after it.
    """
    left = iter(lines)
    number, line = next((line for line in left if line[1].strip()), (0, b""))
    text = line.strip()
    if text.startswith(b"["):
        # A blank in its place: columns stay what they are.
        yield from _elements(chain([(number, line.replace(b"[", b" ", 1))], left), name)
    elif text == b"{":
        found = _cut(chain([(number, line)], left), whole=True)
        filled = ((raw + sign, first) for raw, first, sign in found if (raw + sign).strip())
        yield from (Piece(raw, first, count) for count, (raw, first) in enumerate(filled, 1))
    elif text:
        yield from (Piece(raw, first) for first, raw in chain([(number, line)], left) if raw.strip())


def _elements(lines: Iterable[Line], name: str) -> Iterator[Piece]:
    """What stands between the commas of an array whose first bracket is gone."""
    closed = False
    for count, (raw, first, sign) in enumerate(_cut(lines, whole=False), 1):
        piece = Piece(raw, first, count)
        if closed and (raw + sign).strip():
            raise UnreadableError(f"{name} {piece.where}: stands after the end of the array")
        if not sign and not closed:
            raise UnreadableError(f"{name}: the array that it begins with has no end; the file is cut")
        if sign == b"}":
            raise UnreadableError(f"{name} {piece.where}: a '}}' that nothing opened")
        if sign == b"," or (sign and (raw.strip() or count > 1)):
            yield piece
        closed |= sign == b"]"


def _cut(lines: Iterable[Line], whole: bool) -> Iterator[tuple[bytes, int, bytes]]:
    """(bytes, line where they begin, sign after them): cut at commas and ends outside of all brackets.

    At the end of the file the sign is empty. `whole`: cut where the last open bracket closes, too.
    """
    depth, begun, first = 0, list[bytes](), 0
    for number, line in lines:
        first, start = first or number, 0
        for found in _SIGN.finditer(line):
            sign = found[0]
            deeper = (sign in (b"[", b"{")) - (sign in (b"]", b"}"))
            outside = depth == 0 and (sign == b"," or deeper < 0)
            depth = max(0, depth + deeper)
            if outside or (whole and depth == 0 and deeper < 0):
                yield b"".join([*begun, line[start : found.start()]]), first, sign
                begun, first, start = [], number, found.end()
        begun.append(line[start:])
    yield b"".join(begun), first, b""
