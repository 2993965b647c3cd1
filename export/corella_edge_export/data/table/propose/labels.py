"""How a row gets its label: a rating, a column of 0 and 1, or positives alone; what is not decisive is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from corella_edge_export.data.table.propose import words
from corella_edge_export.data.table.propose.columns import ColumnFacts, as_float
from corella_edge_export.data.table.propose.roles import determined
from corella_edge_export.data.table.propose.tables import FileTable


@dataclass(frozen=True)
class Labels:
    """The evidence for a label.

    Attributes:
        ratings: columns of ratings; more than one, or one that is only `guessed`, is a question.
        flags: columns of 0 and 1 that may be the label. counts: columns of counts. kind: a column with kinds of events.
        ones: a label column in which all rows are 1. unread: columns named for a rating whose values are no numbers.
    """

    ratings: tuple[str, ...] = ()
    guessed: bool = False
    flags: tuple[str, ...] = ()
    counts: tuple[str, ...] = ()
    kind: str | None = None
    ones: str | None = None
    unread: tuple[str, ...] = ()

    @property
    def used(self) -> set[str]:
        """Columns that are no attributes and no second evidence: label, count, kind."""
        found = {*self.ratings, *self.flags, *self.counts[:1], self.kind, self.ones, *self.unread}
        return {name for name in found if name is not None}


def find_labels(events: FileTable, taken: Sequence[str], item: str) -> Labels:
    """What may say whether an event is a like, of the columns that are not `taken` as user, item or time."""
    free = [c for name, c in events.columns.items() if name not in taken and name not in events.moments and c.distinct]
    ratings = [c.name for c in free if _named_rating(c)]
    headed = events.sheets[0].header
    scales = [c.name for c in free if c.scale and (not headed or _may_be_rating(c.name))]
    flags = [c.name for c in free if (c.flag or c.answers is not None) and words.has(c.name, words.LABEL)]
    if not headed and not ratings:
        flags = flags or [c.name for c in free if c.flag]
    counts = [
        c.name for c in free if words.has(c.name, words.COUNT) and c.numbers is not None and c.name not in ratings
    ]
    counts += [c.name for c in free if not headed and c.name not in scales and _heavy(c)]
    guessed = not ratings and not flags and bool(scales) and headed
    return Labels(
        ratings=tuple(ratings or ([] if flags else scales)), guessed=guessed, flags=tuple(flags), counts=tuple(counts),
        kind=_kind(free, events, item), ones=_ones(free), unread=tuple(c.name for c in free if _unread(c)),
    )  # fmt: skip


def _unread(column: ColumnFacts) -> bool:
    """A rating by its name, such as "4/5", "★★★" or "good": no numbers, but few and short texts."""
    named = words.has(column.name, words.RATING) and not words.has(column.name, words.SNAPSHOT | words.WRITTEN)
    return named and column.numbers is None and 2 <= column.distinct <= 101 and column.letters <= 20


def _named_rating(column: ColumnFacts) -> bool:
    known = words.has(column.name, words.RATING) and not words.has(column.name, words.SNAPSHOT | words.COUNT)
    return (
        known
        and column.numbers is not None
        and 2 <= column.distinct <= 101
        and not words.has(column.name, words.WRITTEN)
    )


def _may_be_rating(name: str) -> bool:
    return not words.has(
        name, words.COUNT | words.SNAPSHOT | {"age", "year", "month", "week", "hour", "price"} | words.ORDER
    )


def _heavy(column: ColumnFacts) -> bool:
    """Counts as a few do very much: whole numbers from 1, the largest far above the middle."""
    if column.numbers is None or not column.whole or column.distinct < 20:
        return False
    low, middle, high = column.numbers.min(), column.numbers.median(), column.numbers.max()
    return as_float(low) >= 0 and as_float(high) > 20 * max(1.0, as_float(middle))


def _kind(columns: Sequence[ColumnFacts], events: FileTable, item: str) -> str | None:
    """The first column with kinds of events. What one item always has is a kind of items (tea, coffee)."""
    kinds = [c.name for c in columns if words.has(c.name, words.KIND) and c.numbers is None and 2 <= c.distinct <= 12]
    if events.columns[item].distinct < 0.9 * events.rows:
        kinds = [name for name in kinds if determined(events.frame, item, name) < 0.99]
    return kinds[0] if kinds else None


def _ones(columns: Sequence[ColumnFacts]) -> str | None:
    ones = [c.name for c in columns if words.has(c.name, words.LABEL) and c.numbers is not None
            and c.distinct == 1 and float(c.numbers[0]) == 1.0]  # fmt: skip
    return ones[0] if ones else None


@dataclass(frozen=True)
class Cut:
    """A proposal for `like_above`: the share of likes, and the shares of the other cuts in words."""

    above: float
    share: float
    told: str


def propose_cut(numbers: pl.Series) -> Cut:
    """The cut at or above the middle of the scale that comes nearest to one half of likes."""
    values = sorted(float(value) for value in numbers.unique().to_list())
    cuts = values[:-1] if len(values) <= 21 else [as_float(numbers.quantile(q)) for q in (0.25, 0.5, 0.75)]
    shares = {cut: as_float((numbers > cut).mean()) for cut in cuts}
    middle = (values[0] + values[-1]) / 2
    upper = [cut for cut in cuts if cut >= middle] or cuts
    best = min(upper, key=lambda cut: (abs(shares[cut] - 0.5), cut))
    near = [cut for cut in cuts if abs(cuts.index(cut) - cuts.index(best)) <= 2]
    return Cut(best, shares[best], ", ".join(f"above {_short(cut)}: {shares[cut]:.1%}" for cut in near))


def find_silent(numbers: pl.Series) -> tuple[float, str] | None:
    """(value, evidence) that may say nothing instead of being a rating: a 0 below a scale from 1, a negative one."""
    values = sorted(float(value) for value in numbers.unique().to_list())
    if len(values) < 3:
        return None
    low, share = values[0], as_float((numbers == values[0]).mean())
    rest = f"the others are {_short(values[1])} to {_short(values[-1])}"
    if low < 0 <= values[1]:
        return low, f"{share:.1%} of the ratings are {_short(low)}, {rest}"
    if low == 0 and values[1] == 1 and share > 0.1 and share > as_float((numbers == 1).mean()):
        return low, f"{share:.1%} of the ratings are 0, {rest}"
    return None


def twin_of_rating(flag: pl.Series, rating: pl.Series) -> float | None:
    """The cut t such that the flag is 1 exactly where the rating is above t; None if there is none."""
    ones, zeros = rating.filter(flag == 1).drop_nulls(), rating.filter(flag == 0).drop_nulls()
    if not len(ones) or not len(zeros) or as_float(zeros.max()) >= as_float(ones.min()):
        return None
    return as_float(zeros.max())


def _short(value: float) -> str:
    return f"{value:g}"
