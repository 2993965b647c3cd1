"""Samples of whole users, and candidates of a held-out request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from corella_edge_export.data.prepared import Split

CANDIDATES = 20


def draw_users(split: Split, rows: int, seed: int) -> NDArray[np.int64]:
    """A seeded sample of whole users with about `rows` rows (0 = all users), ascending."""
    users, counts = np.unique(split.users, return_counts=True)
    if rows <= 0 or rows >= len(split.users):
        return users.astype(np.int64)
    order = np.random.default_rng([seed, 11]).permutation(len(users))
    needed = int(np.searchsorted(np.cumsum(counts[order]), rows)) + 1
    return np.sort(users[order[:needed]]).astype(np.int64)


def candidates(item: int, own: NDArray[np.int32], position: int, n_items: int, rng: np.random.Generator) -> list[int]:
    """Up to CANDIDATES items for a row: its own, then its user's later ones, then drawn ones that are not his.

    Args:
        own: the items of all the user's events; the first `position` of them came before the row.
    """
    # In data whose histories hold liked items only, a disliked item is not among the user's events.
    following = {item: None}
    for later in own[position:]:
        if len(following) == CANDIDATES:
            break
        following[int(later)] = None
    taken = {item, *np.unique(own).tolist()}
    missing = CANDIDATES - len(following)
    # So many distinct draws hold at least `missing` items that are not taken, if there are any.
    drawn = rng.choice(n_items, size=min(n_items, len(taken) + missing), replace=False).tolist()
    return [*following, *[item for item in drawn if item not in taken][:missing]]
