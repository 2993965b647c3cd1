"""Rows of a split by the events they read: a user's rows whose sequences begin at the same event form a chunk.

A model that remembers reads a chunk's events once for all of its rows, in training as in serving.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.features.schema import Feed
from corella_edge_export.crm.rows import EncodedRows

Indices = npt.NDArray[np.int64]
POOL = 64  # batches' worth of chunks that are cut into batches together, those of similar length


@dataclass(frozen=True, slots=True)
class Along:
    """Rows that stand along the events of b chunks.

    Attributes:
        rows: int64 [t], places in the split.
        beside: inputs of the rows, [t, …]. events: those of the events, [b, e], PAD on the right.
        owners: int64 [t], the number of each row's chunk, ascending. places: int64 [t], how many of its events came
            before the row.
    """

    rows: Indices
    beside: Feed
    events: Feed
    owners: Indices
    places: Indices

    @property
    def feed(self) -> Feed:
        """All inputs."""
        return self.beside | self.events

    def of(self, chosen: slice) -> Along:
        """The same of some of the chunks alone."""
        number = np.full(len(next(iter(self.events.values()))), -1, np.int64)
        number[chosen] = np.arange(len(number[chosen]))
        owners = number[self.owners]
        own = owners >= 0
        beside = {name: values[own] for name, values in self.beside.items()}
        events = {name: values[chosen] for name, values in self.events.items()}
        return Along(self.rows[own], beside, events, owners[own], self.places[own])


class Chunks:
    """All rows of one split, in chunks."""

    def __init__(self, rows: EncodedRows) -> None:
        self.rows = rows
        split, field = rows.split, rows.encoder.schema.of("sequence")[0]
        places = split.positions.astype(np.int64)
        starts = places - field.kept(places)
        self._order = np.lexsort((places, starts, split.users))
        users, starts = split.users[self._order], starts[self._order]
        new = np.flatnonzero((np.diff(users, prepend=-1) != 0) | (np.diff(starts, prepend=-1) != 0))
        self._first = np.append(new, len(users))
        self._begin = rows.data.log.offsets[users[new]] + starts[new]  # in the log
        self._places = places[self._order] - starts
        self.lengths = self._places[self._first[1:] - 1]

    def __len__(self) -> int:
        return len(self.lengths)

    def batches(self, events: int, rng: np.random.Generator | None = None) -> list[Indices]:
        """All chunks in batches of about `events` events, padding included; in random order if `rng` is given."""
        if rng is None:
            return _cut(np.argsort(self.lengths, kind="stable"), self.lengths, events)
        order = rng.permutation(len(self))
        pool = max(1, POOL * events // max(1, int(self.lengths.mean())))
        found: list[Indices] = []
        for start in range(0, len(order), pool):
            chosen = order[start : start + pool]
            found += _cut(chosen[np.argsort(self.lengths[chosen], kind="stable")], self.lengths, events)
        return [found[i] for i in rng.permutation(len(found))]

    def along(self, chunks: Indices) -> Along:
        """The rows of the given chunks, beside the chunks' events."""
        counts = self._first[chunks + 1] - self._first[chunks]
        owners = np.repeat(np.arange(len(chunks)), counts)
        at = np.arange(counts.sum()) + np.repeat(self._first[chunks] - (counts.cumsum() - counts), counts)
        rows = self._order[at]
        events = self.rows.events(self._begin[chunks], self.lengths[chunks])
        return Along(rows, self.rows.beside(rows), events, owners, self._places[at])


def _cut(order: Indices, lengths: Indices, events: int) -> list[Indices]:
    """The chunks of an order of ascending lengths in batches, as many as fit when padded to the last one's."""
    found, start = [], 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * max(1, lengths[order[stop]]) <= events:
            stop += 1
        found.append(order[start:stop])
        start = stop
    return found
