"""popular.jsonl of a bundle: what training rows alone say of items, for users whom no model knows.

`count` is the number of training rows in which an item was chosen (label 1). Two items are similar if the same users
chose both: the number of users who did, divided by the geometric mean of how many chose each (cosine of the items'
columns in the matrix of users and items; Sarwar et al., WWW 2001). Valid and test rows are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from corella_edge_export.data.prepared import PreparedData

LATEST = 100  # of a user's chosen items, so that a user who chooses everything does not make all things alike
LEAST = 2  # users, for two items to be called similar
PAIRS = 20_000_000  # ordered pairs of items that are counted; beyond it a seeded sample of the users is

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Ordered pairs of items that are alike, by item and then the most similar first: int64, int64, float64 [p]."""

    items: Ints
    others: Ints
    similarity: NDArray[np.float64]


def popular_lines(data: PreparedData, most: int, seed: int) -> Iterator[dict[str, Any]]:
    """The lines of popular.jsonl, the most popular item first; `most` neighbours an item at most."""
    train = data.split("train")
    chosen = train.labels == 1
    users, items = train.users[chosen].astype(np.int64), train.items[chosen].astype(np.int64)
    n, ids = len(data.item_ids), data.item_ids
    counts = np.bincount(items, minlength=n)
    found = neighbours(users, items, n, most, seed)
    starts = np.searchsorted(found.items, np.arange(n + 1))
    for item in np.argsort(-counts, kind="stable").tolist():
        if not counts[item]:
            return
        span = slice(starts[item], starts[item + 1])
        pairs = zip(found.others[span].tolist(), found.similarity[span].tolist(), strict=True)
        yield {"item": ids[item], "count": int(counts[item]), "similar": [[ids[j], round(s, 4)] for j, s in pairs]}


def neighbours(users: Ints, items: Ints, n: int, most: int, seed: int, pairs: int = PAIRS) -> Neighbours:
    """The `most` nearest of each of n items.

    Args:
        users, items: int64 [r], who chose what, in time order.
        pairs: about so many are counted.
    """
    owner, item = _latest(users, items)
    kept = _sampled(owner, pairs, seed)
    owner, item = owner[kept], item[kept]
    first, second = _together(owner)
    keys, together = np.unique(item[first] * n + item[second], return_counts=True)
    keys, together = keys[together >= LEAST], together[together >= LEAST]
    left, right = np.divmod(keys, n)
    size = np.bincount(item, minlength=n).astype(np.float64)
    similarity = together / np.sqrt(size[left] * size[right])
    order = np.lexsort((right, -similarity, left))
    left, right, similarity = left[order], right[order], similarity[order]
    place = np.arange(len(left)) - np.searchsorted(left, left)
    return Neighbours(left[place < most], right[place < most], similarity[place < most])


def _latest(users: Ints, items: Ints) -> tuple[Ints, Ints]:
    """Each user's latest distinct items, user by user."""
    backwards = np.arange(len(users))[::-1]
    order = backwards[np.argsort(users[backwards], kind="stable")]  # by user, the latest first
    owner, item = users[order], items[order]
    _, first = np.unique(owner * (item.max(initial=0) + 1) + item, return_index=True)
    first.sort()
    owner, item = owner[first], item[first]
    recent = np.arange(len(owner)) - np.searchsorted(owner, owner) < LATEST
    return owner[recent], item[recent]


def _sampled(owner: Ints, pairs: int, seed: int) -> NDArray[np.bool_]:
    """Which rows are of users that are looked at: all, or so many drawn ones that their pairs are about `pairs`."""
    known, sizes = np.unique(owner, return_counts=True)
    drawn = np.random.default_rng(seed).permutation(len(known))
    enough = drawn[np.cumsum(sizes[drawn] * (sizes[drawn] - 1)) <= pairs]
    mask = np.zeros(len(known), np.bool_)
    mask[enough] = True
    return mask[np.searchsorted(known, owner)]


def _together(owner: Ints) -> tuple[Ints, Ints]:
    """Places of all ordered pairs of different rows of one user; rows are user by user."""
    start, stop = np.searchsorted(owner, owner), np.searchsorted(owner, owner, side="right")
    sizes = stop - start
    first = np.repeat(np.arange(len(owner)), sizes)
    second = np.arange(len(first)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + np.repeat(start, sizes)
    other = first != second
    return first[other], second[other]
