"""Derived inputs of the CRM: functions of the history, and of the candidate on the item side.

Training and serving call the same functions. A name of `DERIVED` may stand in a bundle's schema.json, so its meaning
never changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# Standard deviations from the training mean at which a number is cut: no request can overflow the graph.
FARTHEST = 10.0
LARGEST = 1e30
CLOSEST = 5  # events nearest to the candidate
HALF_LIFE = 10.0  # events
WIDEST = 1024  # numbers of an item's vector
QUICK, PAUSE = 45, 7200  # seconds between events: at most the first is quick, from the second on it is no gap
LATEST_GAPS = 10
NO_TIME = -1
FEW = 8  # rows that plain numbers compute faster than arrays
KEPT = 256  # constants, and lengths of histories whose weights are kept

Side = Literal["user", "item"]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@lru_cache(KEPT)
def _constant(value: float) -> Floats:
    """float32 []: numpy takes an array without dimensions faster than a number."""
    return np.array(value, dtype=np.float32)


LOWEST, HIGHEST = _constant(-FARTHEST), _constant(FARTHEST)


class Histories:
    """The latest events of b users, padded on the left to w.

    rows int64 [b, w] (catalogue rows), ratings float32 [b, w] (nan = none), mask bool [b, w] (True = event) or None
    where nothing is padded, times int64 [b, w] (Unix seconds, NO_TIME = unknown) or None where nothing asks for them.
    """

    __slots__ = ("_powers", "mask", "ratings", "rows", "times")

    def __init__(self, rows: Ints, ratings: Floats, mask: Mask | None = None, times: Ints | None = None) -> None:
        self.rows, self.ratings, self.mask, self.times = rows, ratings, mask, times
        self._powers: dict[tuple[float, float], Doubles] = {}

    def last(self, w: int) -> Histories:
        """The same users with at most their last `w` events."""
        start = self.rows.shape[1] - w
        if start <= 0:
            return self
        mask = None if self.mask is None else self.mask[:, start:]
        times = None if self.times is None else self.times[:, start:]
        return Histories(self.rows[:, start:], self.ratings[:, start:], mask, times)

    def only(self, values: Floats, elsewhere: float = 0.0) -> Floats:
        """Values float32 [b, n, w] of the events, and another one where padded."""
        return values if self.mask is None else np.where(self.mask[:, None, :], values, np.float32(elsewhere))

    def count(self) -> Any:
        """Events of each user: float32 [b, 1], or one number where nothing is padded."""
        if self.mask is None:
            return np.float32(self.rows.shape[1])
        return np.add.reduce(self.mask, axis=1, dtype=np.float32, keepdims=True)

    def powers(self, mean: float, scale: float) -> Doubles:
        """v, v * v and 1 of every event, float64 [b, 3, w], zeros where padded; computed once.

        v is the standardised rating within ±FARTHEST; an event without a rating counts as a liked one.
        """
        if (mean, scale) not in self._powers:
            self._powers[mean, scale] = _powers(self, _constant(mean), _constant(scale))
        return self._powers[mean, scale]


Bits = npt.NDArray[np.unsignedinteger[Any]]  # [..., words]: which values of a multi attribute an item has
Facts = npt.NDArray[Any]  # [..., width]: what a function looks at of an item; bits, a number or a vector
Derived = Callable[[Histories, Facts, Facts, Mapping[str, Any]], Floats]


def _powers(history: Histories, mean: Floats, scale: Floats) -> Doubles:
    # Sums in float64, rounded once: no batch, padding or order of addition shows in the float32 result.
    powers = np.empty((len(history.ratings), 3, history.ratings.shape[1]))
    values, squares = powers[:, 0], powers[:, 1]
    values[:] = (history.ratings - mean) / scale
    if not np.vdot(values, values) <= FARTHEST**2:  # one may lie farther, or be nan
        values[np.isnan(values)] = 1.0
        np.minimum(np.maximum(values, LOWEST, out=values), HIGHEST, out=values)
    np.multiply(values, values, out=squares)
    powers[:, 2] = 1.0
    if history.mask is not None:
        powers *= history.mask[:, None, :]
    return powers


def moments(sums: Doubles, strength: float) -> Floats:
    """float32 [b, n, 3] of the sums of `powers` [b, 3, n].

    Mean and variance, drawn to 0 and 1 by `strength` events, and log count: the same of few rows and of many.
    """
    b, _, n = sums.shape
    if b * n <= FEW:
        return few_moments(sums.transpose(0, 2, 1).reshape(-1, 3), strength).reshape(b, n, 3)
    found = np.empty((b, n, 3), np.float32)
    weights = sums[:, 2] + strength
    found[..., 0] = means = sums[:, 0] / weights
    found[..., 1] = (sums[:, 1] + strength) / weights - means * means
    found[..., 2] = np.log1p(sums[:, 2]) * 0.25
    return found


def few_moments(sums: Doubles, strength: float) -> Floats:
    """float32 [n, 3] of sums float64 [n, 3], by plain numbers."""
    found: list[float] = []
    for total, squares, count in sums.tolist():
        weight = count + strength
        mean = total / weight
        found += (mean, (squares + strength) / weight - mean * mean, math.log1p(count) * 0.25)
    return np.array(found, np.float32).reshape(-1, 3)


def history_profile(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
    """How the user rates: smoothed mean and variance of the ratings so far, log count; float32 [b, 1, 3]."""
    sums = np.add.reduce(history.powers(args["mean"], args["scale"]), axis=2, keepdims=True)
    return moments(sums, args["strength"])


def history_match(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
    """The same over events whose item shares a value of `attribute` with the candidate; float32 [b, n, 3].

    `seen` bits [b, w, words] are the attribute's values of the history's items, `candidates` [b, n, words]
    those of the candidates.
    """
    shares = shared(seen, candidates)  # padded rows carry no bits
    return moments(history.powers(args["mean"], args["scale"]) @ shares, args["strength"])


def shared(some: Facts, others: Facts) -> Doubles:
    """float64 [b, w, n]: 1 where bits [b, w, words] and bits [b, n, words] have one in common, else 0."""
    shares = (some[:, :, None, 0] & others[:, None, :, 0]).astype(np.bool_)
    for word in range(1, some.shape[2]):
        shares |= (some[:, :, None, word] & others[:, None, :, word]).astype(np.bool_)
    return shares.astype(np.float64)


def history_number(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
    """A number of the candidate beside that of the events' items; float32 [b, n, 4].

    The candidate's own; the events' mean, smoothed towards 0 by `strength` events; the mean of the latest ones; and
    how far the events lie from the candidate, smoothed alike. `seen` float32 [b, w, 1], `candidates` [b, n, 1].
    """
    own, numbers = candidates[..., 0], history.only(seen[:, None, :, 0])
    far = history.only(np.abs(own[:, :, None] - numbers))
    weight = history.count() + np.float32(args["strength"])
    found = np.empty((*own.shape, 4), dtype=np.float32)
    found[..., 0] = own
    found[..., 1] = np.add.reduce(numbers, axis=2) / weight
    found[..., 2] = _latest(numbers, history)
    found[..., 3] = np.add.reduce(far, axis=2) / weight
    return found


def history_similarity(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
    """How like the candidate the events' items are, by the products of unit vectors; float32 [b, n, 4].

    Of the centred products: a tenth of the sum, the mean smoothed towards 0 by `strength` events, the mean of the
    latest events, and the `CLOSEST` highest, summed, over `CLOSEST`. `seen` float32 [b, w, d], `candidates` [b, n, d].
    """
    products = (candidates @ seen.transpose(0, 2, 1) - np.float32(args["mean"])) / np.float32(args["scale"])
    alike = history.only(products)
    total = np.add.reduce(alike, axis=2)
    found = np.empty((*total.shape, 4), dtype=np.float32)
    found[..., 0] = total * np.float32(0.1)
    found[..., 1] = total / (history.count() + np.float32(args["strength"]))
    found[..., 2] = _latest(alike, history)
    found[..., 3] = _closest(history.only(products, -np.inf))
    return np.minimum(np.maximum(found, LOWEST, out=found), HIGHEST, out=found)


def history_pace(history: Histories, seen: Facts, candidates: Facts, args: Mapping[str, Any]) -> Floats:
    """How quickly event follows event: the share of quick gaps among the latest ones and all; float32 [b, 1, 2].

    Where a history holds liked events only, what was disliked lies in its gaps. Pauses and gaps to an event
    without a time are none; shares are smoothed towards a half by `strength` gaps, then standardised.
    """
    assert history.times is not None  # the encoder sees to it
    known = history.times > NO_TIME if history.mask is None else history.mask & (history.times > NO_TIME)
    gaps = np.diff(history.times, axis=1)
    there = known[:, 1:] & known[:, :-1] & (gaps >= 0) & (gaps < PAUSE)
    quick = there & (gaps <= QUICK)
    found = np.empty((len(gaps), 1, 2))
    for k, start in enumerate((-LATEST_GAPS, 0)):
        count = np.stack([quick[:, start:].sum(axis=1), there[:, start:].sum(axis=1)])
        found[:, 0, k] = (count[0] + 0.5 * args["strength"]) / (count[1] + args["strength"])
    standard: Floats = ((found - args["mean"]) / args["scale"]).astype(np.float32)
    return standard


def _closest(values: Floats) -> Floats:
    """float32 [b, n] of [b, n, w]: the `CLOSEST` highest, summed, over `CLOSEST`; -inf is none."""
    top = np.partition(values, -CLOSEST, axis=2)[:, :, -CLOSEST:] if values.shape[2] > CLOSEST else values.copy()
    top.sort(axis=2)  # the sum does not depend on how the highest were found
    top[np.isinf(top)] = 0.0
    mean: Floats = np.add.reduce(top, axis=2) / np.float32(CLOSEST)
    return mean


def _latest(values: Floats, history: Histories) -> Floats:
    """float32 [b, n] of [b, n, w]: mean that halves an event's weight every `HALF_LIFE` events, smoothed by one."""
    halved = _halved(values.shape[2])
    weights = halved[None] if history.mask is None else halved * history.mask
    total = np.add.reduce(weights, axis=1, keepdims=True)
    mean: Floats = np.add.reduce(values * halved, axis=2) / (total + np.float32(1.0))
    return mean


@lru_cache(KEPT)
def _halved(w: int) -> Floats:
    """float32 [w]: 1 of the latest event, half `HALF_LIFE` events before."""
    back = np.arange(w - 1, -1, -1, dtype=np.float32)
    halved: Floats = np.power(np.float32(0.5), back / np.float32(HALF_LIFE)).astype(np.float32)
    return halved


# name → (function, width, side of the result)
DERIVED: dict[str, tuple[Derived, int, Side]] = {
    "history_profile": (history_profile, 3, "user"),
    "history_match": (history_match, 3, "item"),
    "history_number": (history_number, 4, "item"),
    "history_similarity": (history_similarity, 4, "item"),
    "history_pace": (history_pace, 2, "user"),
}


def is_number(value: Any) -> bool:
    """Whether a value is a number that can be used."""
    return isinstance(value, (int, float)) and abs(value) < LARGEST


def number(value: Any, default: float) -> float:
    """A missing or unreadable number becomes the default."""
    return float(value) if is_number(value) else float(default)


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


def bits_fact(places: Iterable[int], count: int) -> Bits:
    """[words]: the given bits of `count`, in words of the narrowest type that holds them, at most 64 bits each."""
    width = next((bits for bits in (8, 16, 32) if count <= bits), 64)
    words = [0] * max(1, -(-count // width))
    for place in places:
        words[place // width] |= 1 << (place % width)
    return np.asarray(words, dtype=f"uint{width}")
