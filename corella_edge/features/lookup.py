"""Item ids → catalogue rows, many at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import repeat

import numpy as np

from corella_edge.features.derived import Ints
from corella_edge.formats.text_table import TextTable

MANY, LARGE = 32, 1000  # ids at a time, and in a catalogue: from here on the table is faster than the dict
ROOM = 16  # places an id, or half as many: few ids have to share one


class Lookup:
    """Rows of ids, `len(row_of)` of an unknown one.

    A dict goes from place to entry, key and value, and waits for memory at each, id after id; the table is read for all
    ids together. The hashes have 64 bits and a new key in every process, so two texts are not expected to share one.
    """

    def __init__(self, row_of: Mapping[str, int]) -> None:
        """`row_of`: ids in the order of their rows."""
        self._row_of, self._unknown = row_of, len(row_of)
        n = len(row_of)
        hashes = np.fromiter(map(hash, row_of), np.int64, n)
        size = 1 << (ROOM * n + 1).bit_length() - 1
        self._mask = np.array(size - 1)
        self._places = np.full(size, n, dtype=np.int32)
        self._places[hashes & self._mask] = np.arange(n)
        self._hashes = np.append(hashes, 0)

    def rows(self, ids: Sequence[str]) -> Ints:
        """int64 [n]."""
        n, get, unknown = len(ids), self._row_of.get, self._unknown
        if n < MANY or unknown < LARGE:
            return np.fromiter(map(get, ids, repeat(unknown)), np.int64, n)
        hashes = np.fromiter(map(hash, ids), np.int64, n)
        rows: Ints = self._places.take(hashes & self._mask).astype(np.int64)
        others = self._hashes.take(rows) != hashes  # unknown, or another's place
        for i in others.nonzero()[0].tolist():
            rows[i] = get(ids[i], unknown)
        return rows


class MappedLookup:
    """The same of a mapped table, which processes share; a few ids are looked up one by one."""

    def __init__(self, ids: TextTable) -> None:
        self._ids, self._unknown = ids, len(ids)

    def rows(self, ids: Sequence[str]) -> Ints:
        """int64 [n]."""
        if len(ids) < MANY:
            return np.fromiter(map(self._ids.places_of.get, ids, repeat(self._unknown)), np.int64, len(ids))
        return self._ids.places(ids, self._unknown)


def lookup(ids: Sequence[str], row_of: Mapping[str, int]) -> Lookup | MappedLookup:
    """The lookup that fits a catalogue."""
    return MappedLookup(ids) if isinstance(ids, TextTable) else Lookup(row_of)
