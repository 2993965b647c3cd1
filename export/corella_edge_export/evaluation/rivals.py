"""Rankings of the catalogue without learning, by counts and by text vectors: a model is worth what it gains on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from corella_edge.metrics import Floats, Ints
from corella_edge_export.data.prepared import PreparedData

LATEST = 3  # titles whose mean speaks for a user
Rival = Callable[[Sequence[Ints]], npt.NDArray[np.floating]]  # b histories' items, oldest first → scores [b, items]


def liked_counts(data: PreparedData) -> Floats:
    """Training rows in which each item was liked, float64 [items]."""
    train = data.split("train")
    return np.bincount(train.items[train.labels > 0], minlength=len(data.item_ids)).astype(np.float64)


def _below_one(counts: Floats) -> Floats:
    """Counts in their order, all less than one: they decide among what is equal otherwise."""
    share: Floats = counts / (1.0 + counts.max(initial=0.0))
    return share


def popular(data: PreparedData) -> Rival:
    """Items by their liked training rows; the same for everybody."""
    counts = liked_counts(data)
    return lambda histories: np.broadcast_to(counts, (len(histories), len(counts)))


def following(data: PreparedData) -> Rival:
    """Items by how many liked training rows directly follow an event of the history's last item, then by popularity."""
    train, log = data.split("train"), data.log
    rows = np.flatnonzero((train.labels > 0) & (train.positions > 0))
    before = log.items[log.offsets[train.users[rows]] + train.positions[rows] - 1]
    order = np.argsort(before, kind="stable")
    items, starts = train.items[rows][order], np.searchsorted(before[order], np.arange(len(data.item_ids) + 1))
    share = _below_one(liked_counts(data))

    def one(history: Ints) -> Floats:
        if not len(history):
            return share
        last = slice(*starts[history[-1] : history[-1] + 2].tolist())
        found: Floats = share + np.bincount(items[last], minlength=len(share))
        return found

    return lambda histories: np.stack([one(history) for history in histories])


def recent(data: PreparedData) -> Rival:
    """The history's own items, the latest first, then the others by popularity."""
    share = _below_one(liked_counts(data))

    def scores(histories: Sequence[Ints]) -> Floats:
        found = np.tile(share, (len(histories), 1))
        for row, history in enumerate(histories):
            found[row, history] = 1.0 + np.arange(len(history))  # of an item that occurs twice the later place stays
        return found

    return scores


def alike(vectors: npt.NDArray[np.floating], latest: int = LATEST) -> Rival:
    """Items by the cosine of their vector, float [items, width], with the mean of the history's `latest` unit vectors.

    An item whose vector is zero has no text; it scores 0, as does every item for a history without text.
    """
    unit = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(unit, axis=1, keepdims=True)
    unit = np.divide(unit, length, out=np.zeros_like(unit), where=length > 0)

    def scores(histories: Sequence[Ints]) -> npt.NDArray[np.float32]:
        means = np.stack([unit[history[-latest:]].sum(axis=0) for history in histories])
        norms = np.linalg.norm(means, axis=1, keepdims=True)
        found: npt.NDArray[np.float32] = np.divide(means, norms, out=np.zeros_like(means), where=norms > 0) @ unit.T
        return found

    return scores
