"""Derived inputs of the CRM: functions of the history, and of the candidate on the item side.

Training and serving call the same functions. A name of `DERIVED` may stand in a bundle's schema.json, so its meaning
never changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# Standard deviations from the training mean at which a number is cut: no request can overflow the graph.
FARTHEST = 10.0

Side = Literal["user", "item"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Histories:
    """The latest events of b users, padded on the left to w.

    rows int64 [b, w] (catalogue rows), ratings float32 [b, w] (nan = none), mask bool [b, w] (True = event).
    """

    rows: Ints
    ratings: Floats
    mask: npt.NDArray[np.bool_]

    def last(self, w: int) -> Histories:
        """The same users with at most their last `w` events."""
        start = max(0, self.rows.shape[1] - w)
        return Histories(self.rows[:, start:], self.ratings[:, start:], self.mask[:, start:])


Bits = npt.NDArray[np.uint64]  # [..., words]: which values of a multi attribute an item has
Derived = Callable[[Histories, Bits, Bits, Mapping[str, Any]], Floats]


def _values(history: Histories, args: Mapping[str, Any]) -> Floats:
    """Centred ratings within ±FARTHEST, float32 [b, w]; an event without a rating counts as a liked one."""
    centred = (history.ratings - np.float32(args["mean"])) / np.float32(args["scale"])
    near = np.clip(np.nan_to_num(centred, nan=1.0), -FARTHEST, FARTHEST)
    return np.where(history.mask, near, np.float32(0.0)).astype(np.float32)


def _moments(count: Floats, total: Floats, squares: Floats, args: Mapping[str, Any]) -> Floats:
    """[..., 3]: mean and variance smoothed towards 0 and 1 by `strength` events, and the log of the count."""
    strength = np.float32(args["strength"])
    mean = total / (count + strength)
    variance = (squares + strength) / (count + strength) - mean * mean
    return np.stack([mean, variance, np.log1p(count) * np.float32(0.25)], axis=-1).astype(np.float32)


def history_profile(history: Histories, seen: Bits, candidates: Bits, args: Mapping[str, Any]) -> Floats:
    """How the user rates: smoothed mean and variance of the ratings so far, log count; float32 [b, 1, 3]."""
    values = _values(history, args)
    count = history.mask.sum(axis=1, dtype=np.float32)
    return _moments(count, values.sum(axis=1), (values * values).sum(axis=1), args)[:, None, :]


def history_match(history: Histories, seen: Bits, candidates: Bits, args: Mapping[str, Any]) -> Floats:
    """The same over events whose item shares a value of `attribute` with the candidate; float32 [b, n, 3].

    `seen` uint64 [b, w, words] are the attribute's values of the history's items, `candidates` [b, n, words]
    those of the candidates.
    """
    shares = np.zeros((seen.shape[0], candidates.shape[1], seen.shape[1]), dtype=np.bool_)
    for word in range(seen.shape[2]):
        shares |= (candidates[:, :, None, word] & seen[:, None, :, word]) != 0
    matched = shares.astype(np.float32)  # padded rows carry no bits
    values = _values(history, args)
    sums = matched @ np.stack([history.mask.astype(np.float32), values, values * values], axis=-1)
    return _moments(sums[..., 0], sums[..., 1], sums[..., 2], args)


# name → (function, width, side of the result)
DERIVED: dict[str, tuple[Derived, int, Side]] = {
    "history_profile": (history_profile, 3, "user"),
    "history_match": (history_match, 3, "item"),
}
