"""Which rows `language_worth.py` asks about: pairs of a liked item and another, or labelled rows of drawn users.

Where rows with label 0 were drawn, the liked rows of users are asked about, each beside one row with label 0:
the drawn one of the data where the liked item has training rows, else another new item, drawn evenly from those that
the user's history lacks, so that newness does not tell the label. Where people gave both labels, rows are taken as they
are: some neighbouring ones of each user, which share most of a prompt.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError
from corella_edge.routing.measure import entropy
from corella_edge_export.data.prepared import PreparedData, Split
from corella_edge_export.evaluation.groups import confidence_group
from new_items import Indices, others_for

ALL, NEW, KNOWN = "all rows", "new items", "known items"
NEW_USERS, KNOWN_USERS = "new users", "known users"
THIRDS = ("surest third", "middle third", "least sure third")
FEW = 50  # rows: of a smaller slice nothing can be told
Floats = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SplitRows:
    """Rows that are asked: a split of their own (`Split`), and of each the row of `name` whose history it has.

    Attributes:
        origin: int64 [n], rows of the split `name`. drawn: bool [n], of the first draw. new: bool [n], the item (of a
            pair: the liked one) has no training row. seen: bool [n], the user has training rows.
        thirds: bool [n] by name, see `with_thirds`.
    """

    name: str
    split: Split
    origin: Indices
    drawn: Mask
    new: Mask
    seen: Mask
    thirds: dict[str, Mask] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Mask]:
        """All rows of the first draw, and its slices: into two where each has enough rows, and into thirds."""
        halves = (
            {NEW: self.new, KNOWN: self.drawn & ~self.new},
            {NEW_USERS: self.drawn & ~self.seen, KNOWN_USERS: self.drawn & self.seen},
        )
        found = {ALL: self.drawn}
        for half in halves:
            found |= half if all(map(self._told, half.values())) else {}
        return found | {name: mask for name, mask in self.thirds.items() if self._told(mask)}

    def _told(self, mask: Mask) -> bool:
        """Whether there are enough rows of a slice, and both labels."""
        return int(mask.sum()) >= FEW and len(np.unique(self.split.labels[mask])) == 2

    @property
    def key(self) -> str:
        """Tells the rows apart from others."""
        parts = (self.origin.tobytes(), self.split.items.tobytes())
        return hashlib.sha256(b"".join(parts)).hexdigest()[:12]

    def with_thirds(self, crm: Floats) -> SplitRows:
        """The same rows in thirds of the first draw by the base model's probability float64 [n], the surest first."""
        group = np.zeros(len(self.origin), np.int64)
        group[self.drawn] = confidence_group(entropy(crm[self.drawn]))
        return replace(self, thirds={name: group == place for place, name in enumerate(THIRDS, 1)})


def asked(data: PreparedData, name: str, users: int, more_new: int, seed: int, most: int = 10) -> SplitRows:
    """The rows of a split that are asked.

    Args:
        users: how many are drawn, 0 = all. more_new: at most so many further rows of new items.
        most: events of a user whose rows are asked about, 0 = all, where people gave the labels; pairs are one a user.

    Raises:
        InputError: rows with label 0 were drawn, and no item is new.
    """
    pick = pairs if data.info.get("negatives") else labelled
    split = data.split(name)
    return pick(data, split, name, Sizes(users or len(split.users), more_new, most), seed)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many users, further rows of new items, and events of a user."""

    users: int
    more_new: int
    most: int


def pairs(data: PreparedData, split: Split, name: str, sizes: Sizes, seed: int) -> SplitRows:
    """Liked rows, each with a row of another item behind it. Raises InputError where no item is new."""
    unseen = data.unseen_items(split)
    if not unseen.any():
        raise InputError(f"{data.root}: each {name} row's item has training rows; prepare the data with --hide-items")
    likes = np.random.default_rng([seed, 23]).permutation(np.flatnonzero(split.labels == 1))
    drawn = likes[: sizes.users]
    further = likes[sizes.users :][unseen[likes[sizes.users :]]][: sizes.more_new]
    chosen = np.concatenate([drawn, further])
    partner = dislikes(split)
    chosen = chosen[unseen[chosen] | np.isin(split.users[chosen], list(partner))]
    new = unseen[chosen]
    others = np.array([int(split.items[partner[u]]) if u in partner else 0 for u in split.users[chosen].tolist()])
    pool = np.unique(split.items[unseen & (split.labels == 1)]).astype(np.int64)
    others[new] = others_for(data, split, chosen[new].astype(np.int64), pool, np.random.default_rng(seed))
    origin = np.repeat(chosen, 2).astype(np.int64)
    items = np.stack([split.items[chosen], others], axis=1).reshape(-1).astype(np.int32)
    labels = np.tile(np.array([1, 0], np.int8), len(chosen))
    found = replace(taken(split, origin), items=items, labels=labels)
    return SplitRows(name, found, origin, np.repeat(np.isin(chosen, drawn), 2), np.repeat(new, 2), seen(data, found))


def dislikes(split: Split) -> dict[int, int]:
    """User → a row of his with label 0."""
    rows = np.flatnonzero(split.labels == 0)
    return dict(zip(split.users[rows].tolist(), rows.tolist(), strict=True))


def labelled(data: PreparedData, split: Split, name: str, sizes: Sizes, seed: int) -> SplitRows:
    """Neighbouring rows of drawn users, and further rows of new items, with the labels that people gave them."""
    rng = np.random.default_rng([seed, 29])
    users = rng.permutation(np.unique(split.users))[: sizes.users]
    drawn = np.concatenate([stretch(split, user, sizes.most, rng) for user in users.tolist()])
    unseen = data.unseen_items(split)
    further = rng.permutation(np.setdiff1d(np.flatnonzero(unseen), drawn))[: sizes.more_new]
    chosen = np.concatenate([drawn, further]).astype(np.int64)
    found = taken(split, chosen)
    return SplitRows(name, found, chosen, np.isin(chosen, drawn), unseen[chosen], seen(data, found))


def stretch(split: Split, user: int, most: int, rng: np.random.Generator) -> Indices:
    """The user's rows beside a random one of his, int64, by position; with `most` 0 all of them.

    They are those of the same window of `most` positions, counted from 1. Prompts drop old lines in blocks: where a
    block is a multiple of `most`, the rows share one prompt.
    """
    rows = np.flatnonzero(split.users == user).astype(np.int64)
    rows = rows[np.argsort(split.positions[rows], kind="stable")]
    if not most:
        return rows
    windows = (split.positions[rows] - 1) // most
    chosen: Indices = rows[windows == windows[rng.integers(len(rows))]]
    return chosen


def taken(split: Split, rows: Indices) -> Split:
    """A split of these rows, in their order."""
    columns: dict[str, Any] = {name: getattr(split, name)[rows] for name in Split.__slots__}
    return Split(**columns)


def seen(data: PreparedData, rows: Split) -> Mask:
    """bool [n]: the row's user has training rows."""
    return np.isin(rows.users, data.split("train").users)
