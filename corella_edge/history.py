"""Whether the numbers of a history mean what they should: times in seconds, in their order, ratings of the right scale.

One rule for `score`, `/v1/rank`, `/v1/events` and the store. What cannot be right is refused, what can be put right
is, and what is odd is told. Nothing here looks at a clock, which may be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import numpy.typing as npt

from corella_edge.errors import InputError

Floats = npt.NDArray[np.float64]
Order = npt.NDArray[np.int64]
Scale = tuple[float, float]

MAX_TIME = 4_102_444_799  # the last second before 2100: what is beyond counts other units
EARLIEST = 788_918_400  # 1995: before that nobody's clicks were kept
# Where a history stands, for messages: in the request, or in the store, whose places the caller does not know.
GIVEN, STORED = "user.history", "the user's stored history"
_UNITS = (("milliseconds", 1e3), ("microseconds", 1e6), ("nanoseconds", 1e9))


def sensible(
    times: Floats, ratings: Floats, scale: Scale | None = None, path: str = GIVEN, strict: bool = False,
    arriving: bool = False,
) -> tuple[Order | None, list[str]]:  # fmt: skip
    """How to put a history of n events in order, and what to tell of it.

    Args:
        times, ratings: float64 [n], nan where there is none.
        scale: lowest and highest rating seen in training; None = not known.
        path: where the history stands, for messages.
        strict: what would be told is refused, but for an order that can be put right.
        arriving: events without a time have a place all the same, that of their arrival: nothing contradicts it.

    Returns:
        int64 [n], the places of the events from the oldest on, or None where they stand in order; sentences.

    Raises:
        InputError: a time in other units than seconds; the first one is named. If strict, also others.
    """
    check_units(times, path)
    order, notes = (None, []) if arriving and np.isnan(times).any() else in_order(times, path, strict)
    return order, [*_early(times, path, strict), *notes, *in_scale(ratings, scale, path, strict)]


def check_units(times: Floats, path: str) -> None:
    """Raises InputError, which names the first of `times` (nan = none) that cannot be in seconds."""
    wrong = np.flatnonzero(np.abs(times) > MAX_TIME)
    if wrong.size:
        i = int(wrong[0])
        raise InputError(f"{path}[{i}].time: {not_seconds(times[i])}")


def not_seconds(value: float) -> str:
    """What is wrong with a time beyond `MAX_TIME`."""
    unit = next((name for name, each in _UNITS if abs(value) / each <= MAX_TIME), None)
    looks = f"looks like {unit}" if unit else "is none"
    shown = f"{value:.0f}" if abs(value) < 1e21 else f"{value:g}"
    return f"{shown} {looks}; times are Unix seconds, before the year 2100"


def _early(times: Floats, path: str, strict: bool) -> list[str]:
    early = np.flatnonzero(times < EARLIEST)
    if not early.size:
        return []
    i = int(early[0])
    what = f"{path}[{i}].time: {times[i]:.0f} is before 1995; times are Unix seconds"
    return _told([what + _more(early.size)], strict)


def in_order(times: Floats, path: str, strict: bool = False) -> tuple[Order | None, list[str]]:
    """As `sensible`, of the order alone.

    One that is newest first all through is turned round, so that events of the same second keep their order, too.
    """
    known = np.flatnonzero(~np.isnan(times))
    steps = np.diff(times[known])
    if not (steps < 0.0).any():
        return None, []
    if len(known) < len(times):
        i = int(known[1:][steps < 0.0][0])
        what = f"{path}[{i}].time is earlier than one before it, and some events have none: the order is as given"
        return None, _told([what], strict)
    if (steps <= 0.0).all():
        return np.arange(len(times), dtype=np.int64)[::-1], [f"{path} was newest first: it was turned round"]
    return np.argsort(times, kind="stable"), [f"{path} was not in the order of its times: it was sorted by time"]


def in_scale(ratings: Floats, scale: Scale | None, path: str, strict: bool = False) -> list[str]:
    """What to tell of ratings (nan = none) outside the scale that a bundle was trained on.

    Raises:
        InputError: strict, and there are some.
    """
    if scale is None:
        return []
    outside = np.flatnonzero((ratings < scale[0]) | (ratings > scale[1]))
    if not outside.size:
        return []
    i = int(outside[0])
    place = f"{path}, a rating" if path == STORED else f"{path}[{i}].rating"
    what = f"{place}: {ratings[i]:g} is outside the scale this bundle was trained on, {_shown(scale)}"
    return _told([what + _more(outside.size)], strict)


def scale_notes(
    ratings: Sequence[float | None] | None, scale: Scale | None, path: str, strict: bool = False
) -> list[str]:
    """`in_scale` of a column of ratings, None where there is none; as a rule all are within, which needs no arrays."""
    if scale is None or not ratings:
        return []
    known = cast(Sequence[float], ratings)
    try:
        within = scale[0] <= min(known) and max(known) <= scale[1]
    except TypeError:  # None, which has no order, is among them
        within = False
    return [] if within else in_scale(column(ratings), scale, path, strict)


def is_plain(times: Sequence[int | None]) -> bool:
    """Whether times are what they are as a rule: all known, in seconds, in their order, since 1995."""
    if not times:
        return True
    known = cast(Sequence[int], times)
    try:
        return known[0] >= EARLIEST and known[-1] <= MAX_TIME and sorted(known) == known
    except TypeError:  # None, which has no order, is among them
        return False


def _shown(scale: Scale) -> str:
    return f"{scale[0]:g} to {scale[1]:g}"


def _more(number: int) -> str:
    return f" (and {number - 1} more)" if number > 1 else ""


def _told(notes: list[str], strict: bool) -> list[str]:
    if strict:
        raise InputError(f"{notes[0]}, and the request is strict")
    return notes


def column(values: Sequence[float | None]) -> Floats:
    """float64 [n], nan for None."""
    return np.array(values, dtype=np.float64)
