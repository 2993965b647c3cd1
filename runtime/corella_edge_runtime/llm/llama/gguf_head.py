"""A GGUF file's head as we read it ourselves: keys, values and tensors, within bounds, and nothing of llama.cpp's."""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from corella_edge.errors import BundleError

T = TypeVar("T")
VERSIONS = (2, 3)
MAX_KEYS, MAX_TENSORS, MAX_SIZE = 1000, 10_000, 2**24
# Numbers of GGUF's value types.
U32, I32, F32, BOOL, TEXT, ARRAY = 4, 5, 6, 7, 8, 9
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_LENGTH = struct.Struct("<Q")
_WIDTHS = {kind: struct.calcsize(f"<{form}") for kind, form in _FORMS.items()}
_MOST_DIMENSIONS = 4


def read_head(path: Path, look: Callable[[GgufHead], T], what: str = "a model") -> T:
    """What `look` finds. Raises BundleError where it, or the file, raises."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            return look(GgufHead(raw))
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read ({error.strerror})") from None
    except (struct.error, ValueError) as error:
        problem = "its head is cut off" if isinstance(error, struct.error) else str(error)
        raise BundleError(f"{path.name}: not {what} that this release can run: {problem}") from None


@dataclass(slots=True)
class GgufHead:
    """The bytes of a file and how far they are read."""

    raw: mmap.mmap
    place: int = 0

    def take(self, form: str) -> Any:
        """One number. Raises struct.error beyond the end."""
        (value,) = struct.unpack_from(f"<{form}", self.raw, self.place)
        self.place += struct.calcsize(f"<{form}")
        return value

    def text(self) -> bytes:
        length = self.take("Q")
        start = self.place
        self.skip(length)
        return self.raw[start : self.place]

    def texts(self, count: int) -> list[bytes]:
        """As many texts one after the other; there may be hundreds of thousands."""
        raw, end, found = self.raw, len(self.raw), []
        for _ in range(count):
            start = self.place + 8
            (length,) = _LENGTH.unpack_from(raw, self.place)
            if length > end - start:
                raise struct.error
            self.place = start + length
            found.append(raw[start : self.place])
        return found

    def skip(self, length: int) -> None:
        if length > len(self.raw) - self.place:
            raise struct.error
        self.place += length

    def value(self, kind: int) -> Any:
        """A value; of an array of numbers only how many there are."""
        if kind == TEXT:
            return self.text()
        if kind == ARRAY:
            inner, count = self.take("I"), self.take("Q")
            if count > MAX_SIZE or (inner != TEXT and inner not in _WIDTHS):
                raise ValueError(f"an array of {count} values of the type {inner}")
            if inner == TEXT:
                return -inner, self.texts(count)
            self.skip(count * _WIDTHS[inner])
            return -inner, range(count)
        if kind not in _FORMS:
            raise ValueError(f"a value is of the unknown type {kind}")
        return self.take(_FORMS[kind])


def counts(head: GgufHead) -> tuple[int, int]:
    """How many tensors and keys follow."""
    if head.raw[:4] != b"GGUF":
        raise ValueError("not GGUF")
    head.skip(4)
    version, tensors, keys = head.take("I"), head.take("Q"), head.take("Q")
    if version not in VERSIONS or keys > MAX_KEYS or tensors > MAX_TENSORS:
        raise ValueError(f"GGUF version {version} with {keys} keys and {tensors} tensors")
    return tensors, keys


def plain(name: bytes) -> bytes:
    """A name as it is. llama.cpp reads one up to its first NUL, and would find another entry than was looked at."""
    if b"\0" in name:
        raise ValueError(f"the name {shown(name)} holds a NUL")
    return name


def entries(head: GgufHead, count: int) -> dict[str, tuple[int, Any]]:
    """Key → (value type, of an array's entries negative; value)."""
    found = {}
    for _ in range(count):
        key, kind = plain(head.text()).decode("ascii", "replace"), head.take("I")
        value = head.value(kind)
        found[key] = value if kind == ARRAY else (kind, value)
    return found


def tensor(head: GgufHead) -> tuple[bytes, list[int], int, int]:
    """Name, shape (numbers in a row first), number of the type, where its numbers are among all tensors'."""
    name, dimensions = plain(head.text()), head.take("I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"the tensor {shown(name)} has {dimensions} dimensions")
    shape = [head.take("Q") for _ in range(dimensions)]
    return name, shape, head.take("I"), head.take("Q")


def shown(value: Any) -> str:
    """A value in an error, not too long."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return repr(text)[:80]
