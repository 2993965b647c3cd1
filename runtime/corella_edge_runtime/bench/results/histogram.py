"""HdrHistogram's form: latencies counted in buckets whose width is a fixed share of their value; mergeable, small.

After Gil Tene's HdrHistogram (hdrhistogram.org): a value's bucket is its leading bits, so that every figure read back
is right to a part in 1,024 whatever its size. Two histograms merge by adding their counts, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np
import numpy.typing as npt

BITS = 11  # of a value that are kept: three significant decimal digits, HdrHistogram's usual choice
_HALF = 1 << (BITS - 1)
ERROR = 1.0 / _HALF  # the greatest relative width of a bucket
MOST = 1 << 53  # nanoseconds, 104 days: what doubles hold exactly

Ints = npt.NDArray[np.int64]


def place(nanoseconds: npt.ArrayLike) -> Ints:
    """Bucket of each value, int64 [n], of whole nanoseconds from 0 up to `MOST`; it rises with the value."""
    value = np.asarray(nanoseconds, np.int64)
    bits = np.frexp(value.astype(np.float64))[1]  # of a whole number: its length in bits
    shift = np.maximum(bits.astype(np.int64) - BITS, 0)
    found: Ints = shift * _HALF + (value >> shift)
    return found


def least(place: int) -> int:
    """The lowest value of a bucket, nanoseconds."""
    shift = max(place // _HALF - 1, 0)
    return (place - shift * _HALF) << shift


def most(place: int) -> int:
    """The highest value of a bucket, nanoseconds."""
    return least(place + 1) - 1


def rank(q: float, n: int) -> int:
    """Of the value that a share q of n values is not above, counted from 1: ⌈q · n⌉."""
    return max(1, math.ceil(q * n - 1e-9))


def at_rank(values: npt.NDArray[np.float64], q: float) -> float:
    """The same of float64 [n] themselves: one of them, no interpolation. Raises ValueError: there are none."""
    place = rank(q, len(values)) - 1
    return float(np.partition(values, place)[place])


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counted latencies, nanoseconds. Every value, and so the sum, is rounded to a whole nanosecond.

    Attributes:
        at: buckets that hold something, ascending (`place`, `least`, `most`).
        counts: values in each of them.
        sum: of all values, nanoseconds; exact.
        low, high: the lowest and the highest value, exact; 0 of an empty histogram.
        bits: leading bits that a bucket keeps of a value.
    """

    at: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    sum: int = 0
    low: int = 0
    high: int = 0
    bits: int = BITS

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.at, self.at[1:], strict=False))
        if self.bits != BITS or len(self.at) != len(self.counts) or not rising or min(self.at, default=0) < 0:
            raise ValueError("a histogram's buckets must rise, and have a count each")
        if min(self.counts, default=1) < 1 or not 0 <= self.low <= self.high:
            raise ValueError("a histogram's counts must be above 0, and its lowest value not above its highest")

    @property
    def count(self) -> int:
        """How many values there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Seconds; nan where there is no value."""
        return self.sum / self.count / 1e9 if self.counts else math.nan

    def quantile(self, q: float) -> float:
        """The value that a share q of all values is not above, in seconds, at most `ERROR` too high; nan where there
        is none. It is the value at rank ⌈q · n⌉: no interpolation."""
        if not self.counts:
            return math.nan
        found = self.at[int(np.searchsorted(np.cumsum(self.counts), rank(q, self.count)))]
        return min(max(most(found), self.low), self.high) / 1e9

    def within(self, seconds: float) -> int:
        """How many values are at most so long, by their buckets: those of the bucket of `seconds` all count."""
        last = int(place(round(min(seconds, MOST / 1e9) * 1e9)))
        return sum(count for at, count in zip(self.at, self.counts, strict=True) if at <= last)


def counted(seconds: npt.ArrayLike) -> Histogram:
    """The histogram of latencies in seconds, float64 [n]. Raises ValueError for a negative or an endless one."""
    given = np.asarray(seconds, np.float64)
    if not (np.isfinite(given).all() and (given >= 0.0).all() and (given * 1e9 < MOST).all()):
        raise ValueError("a latency must be a finite time that is not negative")
    whole = np.rint(given * 1e9).astype(np.int64)
    at, counts = np.unique(place(whole), return_counts=True)
    if not len(whole):
        return Histogram()
    return Histogram(
        at=tuple(at.tolist()), counts=tuple(counts.tolist()), sum=int(whole.sum()), low=int(whole.min()),
        high=int(whole.max()),
    )  # fmt: skip


def merged(parts: Iterable[Histogram]) -> Histogram:
    """All values of all parts in one: what counting them together would have given."""
    filled = [part for part in parts if part.counts]
    if not filled:
        return Histogram()
    counts: dict[int, int] = {}
    for part in filled:
        for at, count in zip(part.at, part.counts, strict=True):
            counts[at] = counts.get(at, 0) + count
    rising = sorted(counts)
    return Histogram(
        at=tuple(rising), counts=tuple(counts[at] for at in rising), sum=sum(part.sum for part in filled),
        low=min(part.low for part in filled), high=max(part.high for part in filled),
    )  # fmt: skip
