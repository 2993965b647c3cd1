"""Which fields of a request hold a value that training has not seen, told by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import Catalog
from corella_edge.errors import UnknownValueError
from corella_edge.features.derived import Ints
from corella_edge.features.schema import CODED, OOV, Feed, Field, Schema, value_key
from corella_edge.features.tables import Made, distinct
from corella_edge.request import Candidates, User

Names = tuple[str, ...]
Flags = tuple[bool, ...]
MEMO = 256  # combinations of unseen fields of users that are remembered


class Unseen:
    """Names per candidate ("user", "item", an attribute), in the schema's order.

    A catalogue has few combinations of unseen fields: each row is given the number of its own once.
    """

    def __init__(self, schema: Schema, item_tables: Feed, rows: int, made: Made) -> None:
        """`item_tables`: the encoded values of `rows` catalogue rows by field."""
        fields = schema.of(*CODED)
        self._item = [(f.name, schema.vocabularies[f.vocab]) for f in fields if f.side == "item"]
        self._labels = [(f.side, label(f)) for f in fields]
        self._kinds, self._kind_of = distinct(
            made, "unseen", lambda: self._flags(item_tables, rows), (rows, len(self._item)), np.bool_
        )
        self._of_user: dict[Flags, npt.NDArray[np.object_]] = {}

    def item_flags(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Of each field of the item's side, which catalogue rows (last, an unknown item) hold an unseen value."""
        item = [name for side, name in self._labels if side == "item"]
        return {name: self._kinds[:, column].take(self._kind_of) for column, name in enumerate(item)}

    def user_labels(self) -> list[str]:
        """What the flags of a user are of."""
        return [name for side, name in self._labels if side == "user"]

    def names(self, user: Flags, rows: Ints, feed: Feed, inline: Iterable[int]) -> list[Names]:
        """For catalogue rows int64 [n]; of the candidates `inline`, what the feed holds counts instead.

        `user` tells of each categorical or multi field of the user's side whether it holds an unseen value.
        """
        kinds = self._of_user.get(user)
        if kinds is None:
            kinds = self._kept(user)
        found: list[Names] = kinds.take(self._kind_of.take(rows)).tolist()
        for i in inline:
            found[i] = self._joined(user, tuple([bool(v.is_unseen(feed[name][i]).any()) for name, v in self._item]))
        return found

    def _flags(self, tables: Feed, rows: int) -> npt.NDArray[np.bool_]:
        """bool [rows, fields] of int64 [rows] or [rows, length]."""
        flags = np.zeros((rows, len(self._item)), dtype=np.bool_)
        for column, (name, vocab) in enumerate(self._item):
            flags[:, column] = vocab.is_unseen(tables[name]).reshape(rows, -1).any(axis=1)
        return flags

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


def label(item: Field) -> str:
    """What an answer calls a field: "user", "item", or its attribute."""
    return item.side if item.source == "id" else item.source


class Refusal:
    """Which requests a bundle does not answer: those that bring an unseen value of a field whose policy is to refuse.

    What is missing is not refused: training has rows without it, too.
    """

    def __init__(self, schema: Schema, catalog: Catalog) -> None:
        self._schema, self._catalog = schema, catalog
        self._fields = schema.refused
        self.labels = {label(f) for f in self._fields}

    def answered(self, unseen: Unseen) -> npt.NDArray[np.bool_] | None:
        """bool [n]: the catalogue without items that a request could not name either; None = all of it."""
        flags = [of for name, of in unseen.item_flags().items() if name in self.labels]
        return ~np.logical_or.reduce(flags)[:-1] if flags else None

    def check(self, user: User, candidates: Candidates, unknown: Sequence[Names]) -> None:
        """Look closer at a request of which `unknown` tells the unseen fields of each candidate.

        Raises:
            UnknownValueError: names the first such value and where it stands.
        """
        if not any(not self.labels.isdisjoint(names) for names in unknown):
            return
        for field in self._fields:
            if field.side == "user":
                given = user.id if field.source == "id" else user.features.get(field.source)
                self._check(field, given, "user.id" if field.source == "id" else f"user.features.{field.source}")
                continue
            for i, names in enumerate(unknown):
                if label(field) in names:
                    self._check(field, *self._of_item(field, candidates, i))

    def _of_item(self, field: Field, candidates: Candidates, i: int) -> tuple[Any, str]:
        """A candidate's value, and where it stands."""
        item, own = candidates.items[i], candidates.own.get(i, {})
        if field.source == "id":
            return item, f"candidates[{i}].item"
        if field.source in own:
            return own[field.source], f"candidates[{i}].features.{field.source}"
        return self._catalog.of(item).get(field.source), f"candidates[{i}], {field.source} of the catalogue"

    def _check(self, field: Field, value: Any, where: str) -> None:
        vocab = self._schema.vocabularies[field.vocab]
        for one in value if isinstance(value, (list, tuple)) else [value]:
            if one is not None and vocab.index_of.get(value_key(one), OOV) == OOV:
                raise UnknownValueError(
                    f"{where}: {value_key(one)[:80]!r} is unknown to this bundle, which refuses unknown values of "
                    f"{field.name}",
                    label(field),
                )
