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
LARGEST = 1e30
CLOSEST = 5  # events nearest to the candidate
HALF_LIFE = 10.0  # events
WIDEST = 1024  # numbers of an item's vector

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
Facts = npt.NDArray[Any]  # [..., width]: what a function looks at of an item; bits, a number or a vector
Derived = Callable[[Histories, Facts, Facts, Mapping[str, Any]], Floats]


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


def history_profile(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
    """How the user rates: smoothed mean and variance of the ratings so far, log count; float32 [b, 1, 3]."""
    values = _values(history, args)
    count = history.mask.sum(axis=1, dtype=np.float32)
    return _moments(count, values.sum(axis=1), (values * values).sum(axis=1), args)[:, None, :]


def history_match(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
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


def history_number(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
    """A number of the candidate beside that of the events' items; float32 [b, n, 4].

    The candidate's own; the events' mean, smoothed towards 0 by `strength` events; the mean of the latest ones; and
    how far the events lie from the candidate, smoothed alike. `seen` float32 [b, w, 1], `candidates` [b, n, 1].
    """
    own = candidates[..., 0]
    mask = history.mask[:, None, :].astype(np.float32)
    numbers = np.where(history.mask, seen[..., 0], np.float32(0.0))[:, None, :]
    far = np.abs(own[:, :, None] - numbers) * mask
    weight = mask.sum(axis=2) + np.float32(args["strength"])
    mean, distance = numbers.sum(axis=2) / weight, far.sum(axis=2) / weight
    columns = (own, mean, _latest(numbers, history.mask), distance)
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(np.float32)


def history_similarity(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
    """How like the candidate the events' items are, by the products of unit vectors; float32 [b, n, 4].

    Of the centred products: a tenth of the sum, the mean smoothed towards 0 by `strength` events, the mean of the
    latest events, and the `CLOSEST` highest, summed, over `CLOSEST`. `seen` float32 [b, w, d], `candidates` [b, n, d].
    """
    products = (candidates @ seen.transpose(0, 2, 1) - np.float32(args["mean"])) / np.float32(args["scale"])
    alike = np.where(history.mask[:, None, :], products, np.float32(0.0))
    total = alike.sum(axis=2)
    count = history.mask.sum(axis=1, dtype=np.float32)[:, None]
    low = np.where(history.mask[:, None, :], products, np.float32(-np.inf))
    top = -np.sort(-low, axis=2)[:, :, :CLOSEST]
    closest = np.where(np.isfinite(top), top, np.float32(0.0)).sum(axis=2) / np.float32(CLOSEST)
    mean = total / (count + np.float32(args["strength"]))
    columns = (total * np.float32(0.1), mean, _latest(alike, history.mask), closest)
    found: Floats = np.clip(np.stack(columns, axis=-1), -FARTHEST, FARTHEST).astype(np.float32)
    return found


def _latest(values: Floats, mask: npt.NDArray[np.bool_]) -> Floats:
    """float32 [b, n] of [b, n, w]: mean that halves an event's weight every `HALF_LIFE` events, smoothed by one."""
    back = np.arange(mask.shape[1] - 1, -1, -1, dtype=np.float32)
    halved: Floats = np.power(np.float32(0.5), back / np.float32(HALF_LIFE)).astype(np.float32)
    weight = (halved * mask.astype(np.float32))[:, None, :]
    mean: Floats = (values * weight).sum(axis=2) / (weight.sum(axis=2) + np.float32(1.0))
    return mean


# name → (function, width, side of the result)
DERIVED: dict[str, tuple[Derived, int, Side]] = {
    "history_profile": (history_profile, 3, "user"),
    "history_match": (history_match, 3, "item"),
    "history_number": (history_number, 4, "item"),
    "history_similarity": (history_similarity, 4, "item"),
}


def number(value: Any, default: float) -> float:
    """A missing or unreadable number becomes the default."""
    usable = isinstance(value, (int, float)) and abs(value) < LARGEST
    return float(value) if usable else float(default)


def number_fact(value: Any, args: Mapping[str, Any]) -> Floats:
    """float32 [1]: a number of an item, standardised; a text of digits, such as a year, is one too."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10:
        value = int(value)
    centred = (number(value, args["mean"]) - args["mean"]) / args["scale"]
    return np.asarray([min(max(centred, -FARTHEST), FARTHEST)], dtype=np.float32)


def vector_fact(value: Any, args: Mapping[str, Any]) -> Floats:
    """float32 [width]: an item's vector; zeros for anything else, which is like nothing."""
    if not isinstance(value, (list, tuple)) or len(value) != args["width"]:
        return np.zeros(args["width"], dtype=np.float32)
    return np.asarray([min(max(number(v, 0.0), -1.0), 1.0) for v in value], dtype=np.float32)
