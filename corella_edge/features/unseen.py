"""Which fields of a request hold a value that training has not seen, told by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.features.derived import Ints
from corella_edge.features.schema import OOV, Feed, Field, Schema

Names = tuple[str, ...]
Flags = tuple[bool, ...]
MEMO = 256  # combinations of unseen fields of users that are remembered


class Unseen:
    """Names per candidate ("user", "item", an attribute), in the schema's order.

    A catalogue has few combinations of unseen fields: each row is given the number of its own once.
    """

    def __init__(self, schema: Schema, item_tables: Feed, rows: int) -> None:
        """`item_tables`: the encoded values of `rows` catalogue rows by field."""
        fields = schema.of("categorical", "multi")
        self._item = [f.name for f in fields if f.side == "item"]
        self._labels = [(f.side, _label(f)) for f in fields]
        flags = _flags([item_tables[name] for name in self._item], rows)
        self._kinds, kind_of = np.unique(flags, axis=0, return_inverse=True)
        self._kind_of: Ints = kind_of.reshape(-1).astype(np.int64)
        self._of_user: dict[Flags, npt.NDArray[np.object_]] = {}

    def names(self, user: Flags, rows: Ints, feed: Feed, inline: Iterable[int]) -> list[Names]:
        """For catalogue rows int64 [n]; of the candidates `inline`, what the feed holds counts instead.

        `user` tells of each categorical or multi field of the user's side whether it holds an unseen value.
        """
        kinds = self._of_user.get(user)
        if kinds is None:
            kinds = self._kept(user)
        found: list[Names] = kinds.take(self._kind_of.take(rows)).tolist()
        for i in inline:
            found[i] = self._joined(user, tuple([OOV in np.atleast_1d(feed[name][i]) for name in self._item]))
        return found

    def _kept(self, user: Flags) -> npt.NDArray[np.object_]:
        if len(self._of_user) >= MEMO:
            self._of_user.clear()
        self._of_user[user] = found = self._all_kinds(user)
        return found

    def _all_kinds(self, user: Flags) -> npt.NDArray[np.object_]:
        names = np.empty(len(self._kinds), dtype=object)
        for number, kind in enumerate(self._kinds.tolist()):
            names[number] = self._joined(user, tuple(kind))
        return names

    def _joined(self, user: Flags, item: Flags) -> Names:
        flags = {"user": iter(user), "item": iter(item)}
        return tuple([label for side, label in self._labels if next(flags[side])])


def _flags(tables: Sequence[npt.NDArray[Any]], rows: int) -> npt.NDArray[np.bool_]:
    """bool [rows, tables] of int64 [rows] or [rows, length]."""
    flags = np.zeros((rows, len(tables)), dtype=np.bool_)
    for column, table in enumerate(tables):
        flags[:, column] = (table == OOV).reshape(rows, -1).any(axis=1)
    return flags


def _label(item: Field) -> str:
    return item.side if item.source == "id" else item.source
