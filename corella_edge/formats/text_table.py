"""Many distinct texts (ids, values) in a file that is mapped, not read: text → place, and place → text.

A vocabulary of a million ids would be seconds of parsing and 150 MB of every process as a dict. Here it is five arrays,
which processes share through the system's page cache:

    texts    U8 [bytes]    all texts in UTF-8, one after the other
    ends     U64 [n]       where each text ends
    hashes   U32 [n]       CRC-32 of each text (zlib)
    slots    U32 [2^k]     open addressing: 0 = free, else 1 + place; a text's first slot is its hash modulo 2^k, then
                           the ones after it; at least half of them are free, of a table written here three quarters
    probes   U32 []        how many slots a search looks at at most

A hash only says where to look: a text is found where its bytes are equal.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Mapping, Sequence
from operator import eq
from typing import Any, overload
from zlib import crc32

import numpy as np
import numpy.typing as npt

from corella_edge.errors import BundleError
from corella_edge.formats.arrays import Array

Ints = npt.NDArray[np.int64]
LARGE = 65_536  # texts, from which on a bundle holds them in this form
ROOM = 4  # slots a text, or twice as many: few texts have to go on to another one
MOST_PROBES = 255
_CHUNK = 2**20
_FORM = {"texts": ("|u1", 1), "ends": ("<u8", 1), "hashes": ("<u4", 1), "slots": ("<u4", 1), "probes": ("<u4", 0)}


def to_bytes(text: str) -> bytes:
    """A text as it is hashed and compared; halves of surrogate pairs, which UTF-8 has not, are in no table."""
    return text.encode("utf-8", "surrogatepass")


def text_hash(text: str) -> int:
    """The stable hash of a text: CRC-32 of its UTF-8, the same in every process and release."""
    return crc32(to_bytes(text))


def table_arrays(texts: Sequence[str]) -> dict[str, Array] | None:
    """The arrays of a table, or None where too many texts have one hash, which only a forger brings about.

    Raises:
        BundleError: a text occurs twice, or cannot be written in UTF-8.
    """
    try:
        encoded = [text.encode("utf-8") for text in texts]
    except UnicodeEncodeError as error:
        raise BundleError(f"the value {error.object[:40]!r} cannot be written in UTF-8") from None
    if len(set(encoded)) != len(encoded):
        raise BundleError("a value occurs twice")
    lengths = np.fromiter(map(len, encoded), np.uint64, len(encoded))
    hashes = np.fromiter(map(crc32, encoded), np.uint32, len(encoded))
    placed = _slots(hashes)
    if placed is None:
        return None
    slots, probes = placed
    return {
        "texts": np.frombuffer(b"".join(encoded), np.uint8), "ends": np.cumsum(lengths, dtype=np.uint64),
        "hashes": hashes, "slots": slots, "probes": np.array(probes, np.uint32),
    }  # fmt: skip


def _slots(hashes: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[np.uint32], int] | None:
    """Slots and the longest search. In round r every text without a slot asks for its r-th; the first in order gets it.

    So whatever stands before a text's slot was taken when the text came by, and a search may stop at a free slot.
    """
    size = 1 << (ROOM * len(hashes)).bit_length()
    slots = np.zeros(size, np.uint32)
    waiting = np.arange(len(hashes), dtype=np.int64)
    for probe in range(MOST_PROBES):
        if not len(waiting):
            return slots, max(1, probe)
        wanted = (hashes[waiting].astype(np.int64) + probe) & (size - 1)
        free = slots[wanted] == 0
        # Of several that want one slot the last assignment stays: the first in order, written last.
        slots[wanted[free][::-1]] = waiting[free][::-1] + 1
        waiting = waiting[slots[wanted] != waiting + 1]
    return None


class TextTable(Sequence[str]):
    """The texts of mapped arrays. Threads may share one."""

    def __init__(self, arrays: Mapping[str, Array], name: str) -> None:
        """Checks that no search and no text can leave the arrays, and that every text is UTF-8.

        Raises:
            BundleError: names the file `name`.
        """
        for key, (dtype, dimensions) in _FORM.items():
            if key not in arrays or arrays[key].dtype != dtype or arrays[key].ndim != dimensions:
                raise BundleError(f"{name}: lacks the array {key!r}, or it is of another form")
        self._texts, self._ends, self._hashes, self._slots = (arrays[k] for k in ("texts", "ends", "hashes", "slots"))
        self._probes, self._size = int(arrays["probes"]), len(self._ends)
        self._mask = np.int64(len(self._slots) - 1)
        if problem := self._problem():
            raise BundleError(f"{name}: {problem}")
        self._raw: memoryview = self._texts.data
        self.places_of = _Places(self)

    def _problem(self) -> str:
        """What would let a search or a text leave the arrays; empty if nothing does."""
        n, size = self._size, len(self._slots)
        if len(self._hashes) != n or size & (size - 1) or size < max(1, 2 * n) or not 1 <= self._probes <= MOST_PROBES:
            return "its arrays do not fit each other"
        if int(self._slots.max()) > n or np.count_nonzero(self._slots) != n:
            return "a slot holds no place of a text"
        ends = self._ends
        if int(ends[-1] if n else 0) != len(self._texts) or (n > 1 and bool((ends[1:] < ends[:-1]).any())):
            return "the texts do not end where they should"
        return self._text_problem()

    def _text_problem(self) -> str:
        decode = codecs.getincrementaldecoder("utf-8")().decode
        try:
            for start in range(0, len(self._texts), _CHUNK):
                decode(self._texts[start : start + _CHUNK].tobytes())
            decode(b"", True)
        except UnicodeDecodeError:
            return "a text is not UTF-8"
        starts = self._ends[:-1][self._ends[:-1] < len(self._texts)].astype(np.int64)
        inside = (self._texts[starts] & 0xC0) == 0x80  # the second or a later byte of a letter
        return "a text begins within a letter" if bool(inside.any()) else ""

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(self._size))]
        i = place + self._size if place < 0 else place
        if not 0 <= i < self._size:
            raise IndexError(place)
        return str(self._raw[int(self._ends[i - 1]) if i else 0 : int(self._ends[i])], "utf-8")

    def __iter__(self) -> Iterator[str]:
        start, raw = 0, self._raw
        for end in self._ends.tolist():
            yield str(raw[start:end], "utf-8")
            start = end

    def __contains__(self, text: object) -> bool:
        return isinstance(text, str) and self.place(text) >= 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def place(self, text: str) -> int:
        """Where a text stands, -1 if it is not here."""
        raw = to_bytes(text)
        slot, mask = crc32(raw), int(self._mask)
        for probe in range(self._probes):
            place = int(self._slots[(slot + probe) & mask]) - 1
            if place < 0:
                break
            start, end = int(self._ends[place - 1]) if place else 0, int(self._ends[place])
            if end - start == len(raw) and self._raw[start:end] == raw:
                return place
        return -1

    def places(self, texts: Sequence[str], unknown: int = -1) -> Ints:
        """int64 [m]: the place of each text, `unknown` of one that is not here; all are looked up together."""
        try:
            encoded = [text.encode() for text in texts]
        except UnicodeEncodeError:
            encoded = list(map(to_bytes, texts))
        found = self._searched(np.fromiter(map(crc32, encoded), np.int64, len(encoded)))
        known = (found >= 0).nonzero()[0]
        if len(known) < len(encoded):
            encoded = [encoded[i] for i in known.tolist()]
        for i in known[~self._equal(found[known], encoded)].tolist():  # another text has the same hash
            found[i] = self.place(texts[i])
        if unknown != -1:
            found[found < 0] = unknown
        return found

    def _searched(self, hashes: Ints) -> Ints:
        """int64 [m]: the first place with each hash on its way through the slots, -1 if there is none."""
        if not self._size:
            return np.full(len(hashes), -1, np.int64)
        found, other = self._slot(hashes)
        waiting = other.nonzero()[0]
        for probe in range(1, self._probes):
            if not len(waiting):
                return found
            found[waiting], other = self._slot(hashes[waiting], probe)
            waiting = waiting[other]
        found[waiting] = -1
        return found

    def _slot(self, hashes: Ints, probe: int = 0) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """What stands in the slots, -1 for nothing, and where that has another hash."""
        places = self._slots.take((hashes + probe) & self._mask).astype(np.int64) - 1
        return places, (self._hashes.take(places) != hashes) & (places >= 0)

    def _equal(self, places: Ints, texts: Sequence[bytes]) -> npt.NDArray[np.bool_]:
        """Whether at each place stands that text; all bytes are compared at once, and one by one if some differ."""
        if not len(places):
            return np.zeros(0, np.bool_)
        ends = self._ends.take(places).astype(np.int64)
        starts = self._ends.take(places - 1).astype(np.int64)
        starts[places == 0] = 0
        lengths = ends - starts
        total = lengths.cumsum()
        if np.array_equal(lengths, np.fromiter(map(len, texts), np.int64, len(texts))):
            bytes_at = np.arange(total[-1]) + (starts - total + lengths).repeat(lengths)
            if self._texts.take(bytes_at).tobytes() == b"".join(texts):
                return np.ones(len(places), np.bool_)
        raw = self._raw
        same = [raw[a:b] == text for a, b, text in zip(starts.tolist(), ends.tolist(), texts, strict=True)]
        return np.array(same, np.bool_)


class _Places(Mapping[str, int]):
    """A table as a mapping from text to place."""

    def __init__(self, table: TextTable) -> None:
        self._table = table

    def __getitem__(self, text: str) -> int:
        place = self._table.place(text)
        if place < 0:
            raise KeyError(text)
        return place

    def get(self, text: Any, default: Any = None) -> Any:
        place = self._table.place(text) if isinstance(text, str) else -1
        return default if place < 0 else place

    def __iter__(self) -> Iterator[str]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)
