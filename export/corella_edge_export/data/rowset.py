"""Held-out rows with everything needed to score them: requests, labels, users; in each user's time order."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.features.schema import Schema
from corella_edge.prompt import Template
from corella_edge.request import Request
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.data.sampling import draw_users

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HistoryCut:
    """A request carries at least its latest `events`; what is older goes in blocks of `block`, as both models read."""

    events: int
    block: int = 1


@dataclass(frozen=True, slots=True)
class RowSet:
    """Chosen rows of a split, sorted by user and then time, so that a prompt's prefix extends from row to row.

    Attributes:
        indices: int64 [n], places of the rows in the split.
        labels: int8 [n]; users: int32 [n], local user indices.
        history: how a request's history is cut.
    """

    data: PreparedData
    split: Split
    indices: Indices
    history: HistoryCut

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        return self.split.labels[self.indices]

    @property
    def users(self) -> npt.NDArray[np.int32]:
        return self.split.users[self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def requests(self, start: int = 0) -> Iterator[Request]:
        """One request with one candidate a row, from row `start` on."""
        split = self.split
        for row in self.indices[start:].tolist():
            user, position, item = int(split.users[row]), int(split.positions[row]), int(split.items[row])
            yield self.data.request(user, position, [item], self.history.events, str(row), self.history.block)


def choose_users(data: PreparedData, split_name: str, count: int, seed: int, history: HistoryCut) -> RowSet:
    """The rows of a seeded sample of whole users, cut to `count` rows (0 = every row)."""
    split = data.split(split_name)
    order = _ordered(split, np.flatnonzero(np.isin(split.users, draw_users(split, count, seed))))
    return RowSet(data, split, order[:count] if count else order, history)


def choose_rows(
    data: PreparedData, split_name: str, count: int, seed: int, history: HistoryCut, per_user: int = 5
) -> RowSet:
    """A seeded sample of about `count` rows with at most `per_user` of any one user, so that no user dominates."""
    split = data.split(split_name)
    drawn = np.random.default_rng([seed, 13]).permutation(len(split.users))
    by_user = drawn[np.argsort(split.users[drawn], kind="stable")]
    owners = split.users[by_user]
    place = np.arange(len(owners)) - np.searchsorted(owners, owners)
    allowed = np.zeros(len(split.users), dtype=np.bool_)
    allowed[by_user[place < per_user]] = True
    return RowSet(data, split, _ordered(split, drawn[allowed[drawn]][:count]), history)


def _ordered(split: Split, rows: Indices) -> Indices:
    """Rows by user and then time."""
    return rows[np.lexsort((split.positions[rows], split.users[rows]))].astype(np.int64)


def history_needed(schema: Schema, template: Template | None) -> HistoryCut:
    """The cut that changes no score of either model."""
    if template is None:
        return HistoryCut(schema.window, schema.block)
    events = max(schema.window, template.history_lines + template.block)
    return HistoryCut(events, math.lcm(schema.block, template.block))
