"""Held-out rows with everything needed to score them: requests, labels, users; in each user's time order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.request import Request
from corella_edge.schema import Schema
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.recipe import Recipe
from corella_edge_export.train_llm import draw_users

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowSet:
    """Chosen rows of a split, sorted by user and then time, so that a prompt's prefix extends from row to row.

    Attributes:
        rows: int64 [n], row numbers in the split's file.
        labels: int8 [n]; users: int32 [n], local user indices.
        history: how many of the latest events a request carries at least (all that any model looks at).
    """

    data: PreparedData
    split: Split
    rows: Indices
    history: int

    @property
    def labels(self) -> npt.NDArray[np.int8]:
        return self.split.labels[self.rows]

    @property
    def users(self) -> npt.NDArray[np.int32]:
        return self.split.users[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def requests(self, start: int = 0) -> Iterator[Request]:
        """One request with one candidate a row, from row `start` on."""
        split = self.split
        for row in self.rows[start:].tolist():
            user, position, item = int(split.users[row]), int(split.positions[row]), int(split.items[row])
            yield self.data.request(user, position, [item], self.history, str(row))


def choose_rows(data: PreparedData, split_name: str, count: int, seed: int, history: int) -> RowSet:
    """The rows of a seeded sample of whole users, cut to `count` rows (0 = every row)."""
    split = data.split(split_name)
    users = draw_users(split, count, seed)
    rows = np.flatnonzero(np.isin(split.users, users))
    order = rows[np.lexsort((split.positions[rows], split.users[rows]))]
    return RowSet(data, split, order[:count] if count else order, history)


def history_needed(schema: Schema, recipe: Recipe) -> int:
    """Events a request must carry so that cutting older ones changes no score."""
    return max(schema.window, recipe.prompt.history_lines + recipe.prompt.block)
