"""What the recipe `generic` looks at of prepared data: counts and forms, of training rows where rows are meant."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from corella_edge.features.schema import value_key
from corella_edge_export.data.prepared import PreparedData, Split

LOOKED_AT = 2000  # users or items whose attributes are looked at
TOLD = 16  # ratings that are kept one by one; of more, the lowest and the highest


@dataclass(frozen=True, slots=True)
class AttributeFacts:
    """An attribute of users or items.

    Attributes:
        kind: as in dataset.json: categorical, multi, numeric, text or sequence.
        values: how many different ones a sample of up to `LOOKED_AT` users or items has.
        chars: length that nine in ten of its texts have at most, 0 where none has one.
        known: share of the sample that has one.
        shared: share of those whose every value others have too.
    """

    name: str
    kind: str
    values: int = 1
    chars: float = 0.0
    known: float = 1.0
    shared: float = 1.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides a recipe.

    Attributes:
        train, valid, test: rows of each split. liked: share of the training rows.
        users, items: those with a training row. catalogue: all items; people: all users.
        events: earlier events that nine in ten training rows have at most.
        new_users, new_items: shares of validation rows whose user, or item, has no training row.
        told_by: how an event tells whether it was liked (`PreparedData.told_by`).
        ratings: the different ratings of the training rows, or the lowest and the highest of more than `TOLD`.
        steps: how many different ratings there are.
        like_above: a rating above it is a like.
        timed: whether there are times.
        title_chars: length that nine in ten titles have at most.
        name: of the data, which the recipe and so the bundle is named after; empty where it has other characters than
            letters, digits, - and _.
        rows_in_log: whether rows are events of the histories themselves; drawn rows are not.
    """

    train: int
    valid: int
    test: int
    liked: float
    users: int
    items: int
    people: int
    catalogue: int
    events: float
    new_users: float
    new_items: float
    told_by: Literal["ratings", "labels", "being there"] = "being there"
    ratings: tuple[float, ...] = ()
    steps: int = 0
    like_above: float = 0.5
    timed: bool = True
    title_chars: float = 20.0
    rows_in_log: bool = True
    name: str = ""
    user_attributes: tuple[AttributeFacts, ...] = ()
    item_attributes: tuple[AttributeFacts, ...] = ()

    @property
    def likes_alone(self) -> bool:
        """Whether every training row is a like, so that there is no label to learn."""
        return self.liked >= 1.0


def look(data: PreparedData) -> Facts:
    """The facts of prepared data."""
    train, valid = data.split("train"), data.split("valid")
    ratings = np.unique(train.ratings[~np.isnan(train.ratings)])
    told = ratings if len(ratings) <= TOLD else ratings[[0, -1]]
    return Facts(
        train=len(train.users),
        valid=len(valid.users),
        test=int(data.info["counts"]["test"]),
        liked=float(train.labels.mean()),
        users=len(np.unique(train.users)),
        items=len(np.unique(train.items)),
        people=len(data.user_ids),
        catalogue=len(data.item_ids),
        events=_most(train.positions),
        new_users=_new(train, valid, "users"),
        new_items=_new(train, valid, "items"),
        told_by=data.told_by,
        ratings=tuple(float(str(rating)) for rating in told),
        steps=len(ratings),
        like_above=data.like_above,
        timed=data.timed,
        title_chars=_attribute("title", "text", data.items["title"]).chars,
        rows_in_log=data.rows_in_log,
        name=_name(data.info.get("name")),
        user_attributes=_attributes(data.user_attributes, data.users),
        item_attributes=_attributes(data.item_attributes, data.items),
    )


def _name(name: Any) -> str:
    return name if isinstance(name, str) and re.fullmatch(r"[\w-]{1,64}", name, re.ASCII) else ""


def _new(train: Split, rows: Split, of: str) -> float:
    """Share of the rows whose user or item has no training row."""
    return float(1.0 - np.isin(getattr(rows, of), getattr(train, of)).mean()) if len(rows.users) else 0.0


def _attributes(kinds: dict[str, str], table: dict[str, list[Any]]) -> tuple[AttributeFacts, ...]:
    return tuple(_attribute(name, kind, table[name]) for name, kind in kinds.items())


def _attribute(name: str, kind: str, column: list[Any]) -> AttributeFacts:
    """Looked at in a sample that is spread over the column: ids, and so rows, stand in the order of their text."""
    sample = column[:: max(1, len(column) // LOOKED_AT)]
    lists = [value if isinstance(value, (list, tuple)) else [value] for value in sample if value not in (None, "")]
    texts = [[value_key(part) for part in parts if part is not None] for parts in lists]
    count = Counter(part for parts in texts for part in parts)
    shared = sum(all(count[part] > 1 for part in parts) for parts in texts)
    lengths = [len(" ".join(parts)) for parts in texts]
    known = len(texts) / max(1, len(sample))
    return AttributeFacts(name, kind, len(count), _most(lengths), known, shared / max(1, len(texts)))


def _most(numbers: Any) -> float:
    """What nine in ten are at most; 0 of none."""
    return float(np.quantile(numbers, 0.9)) if len(numbers) else 0.0
