"""One column: how many values, of which kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import polars as pl

MISSING = ("?", "NA", "N/A", "n/a", "null", "NULL", "None", "nan", "NaN", "\\N", "-", "#N/A", "(null)", "undefined",
           "<NA>", "NaT", "none", "Null", "NONE", "#NULL!")  # fmt: skip
SEPARATORS = ("|", ";", ",")  # of several values in one field
_ADDRESS = r"^(https?|ftp)://|^www\."
_SAMPLE = 20_000
_ANSWERS = (("yes", "no"), ("y", "n"), ("t", "f"))


@dataclass(frozen=True)
class Multi:
    """A field of several values: what separates them, and how many different ones there are."""

    separator: str
    parts: int
    each: float


@dataclass(eq=False)
class ColumnFacts:
    """A column of a table; what is asked of it is computed once.

    Attributes:
        values: String, null = missing. type: "list", "object", "bool", "number" or "moment" if
            the file's format says it.
    """

    name: str
    values: pl.Series
    type: str = ""

    @cached_property
    def filled(self) -> pl.Series:
        """The values that are there."""
        return self.values.drop_nulls()

    @property
    def rows(self) -> int:
        return len(self.values)

    @property
    def missing(self) -> int:
        return int(self.values.null_count())

    @cached_property
    def distinct(self) -> int:
        return int(self.filled.n_unique())

    @cached_property
    def unique(self) -> bool:
        """Whether the values tell rows apart, as an id of a table does."""
        return len(self.filled) > 0 and self.missing <= 0.02 * self.rows and self.distinct >= 0.98 * len(self.filled)

    @cached_property
    def numbers(self) -> pl.Series | None:
        """Float64 if all values but a few are numbers (one in a thousand, or two of many); true and false are 1 and 0.

        `prepare` names the line of each of the others.
        """
        if self.type in ("list", "object") or not len(self.filled):
            return None
        values = self.filled.str.strip_chars()
        if self.distinct <= 2 and bool(values.str.to_lowercase().is_in(["true", "false"]).all()):
            return (values.str.to_lowercase() == "true").cast(pl.Float64)
        found = values.cast(pl.Float64, strict=False)
        bad = found.is_null() | found.is_nan() | found.is_infinite()
        return found.filter(~bad) if int(bad.sum()) <= max(0.001 * len(found), min(2, len(found) // 40)) else None

    @cached_property
    def range(self) -> tuple[float, float]:
        """The least and the greatest number."""
        return (0.0, 0.0) if self.numbers is None else (as_float(self.numbers.min()), as_float(self.numbers.max()))

    @cached_property
    def whole(self) -> bool:
        """Whether they are whole numbers, however they are written (5 or 5.0)."""
        return self.numbers is not None and bool((self.numbers == self.numbers.floor()).all())

    @cached_property
    def flag(self) -> bool:
        """Whether the values are 0 and 1, and both occur."""
        return self.numbers is not None and self.distinct == 2 and set(self.numbers.unique().to_list()) == {0.0, 1.0}

    @cached_property
    def answers(self) -> pl.Series | None:
        """Float64 of 1 and 0 where the values are yes and no, Y and N, T and F; null where they are missing."""
        texts = self.values.str.strip_chars().str.to_lowercase()
        for yes, no in _ANSWERS:
            if self.distinct >= 2 and bool(texts.drop_nulls().is_in([yes, no]).all()):
                return (texts == yes).cast(pl.Float64)
        return None

    @cached_property
    def scale(self) -> bool:
        """Whether the values look like marks: few numbers, evenly spread, again and again."""
        if self.numbers is None or not 3 <= self.distinct <= 21 or self.rows < 3 * self.distinct:
            return False
        steps = self.numbers.unique().sort().diff().drop_nulls()
        even = bool((steps <= max(1.0, 2 * as_float(steps.min()))).all())
        return even and self.range[0] >= -1 and self.range[1] <= 100

    @cached_property
    def sample(self) -> pl.Series:
        """The first values, no more than are needed to judge by."""
        return self.filled.head(_SAMPLE)

    def share(self, pattern: str) -> float:
        """Share of the values in which a regular expression is found."""
        return as_float(self.sample.str.contains(pattern).mean()) if len(self.sample) else 0.0

    @cached_property
    def letters(self) -> float:
        """Mean number of characters."""
        return as_float(self.sample.str.len_chars().mean()) if len(self.sample) else 0.0

    @cached_property
    def address(self) -> bool:
        return self.share(_ADDRESS) > 0.5

    @cached_property
    def nested(self) -> str:
        """ "list" or "object" where the values are such, in JSON or as Python writes them."""
        if self.type in ("list", "object"):
            return self.type
        for kind, pattern in (("object", r"(?s)^\s*\{.*\}\s*$"), ("list", r"(?s)^\s*\[.*\]\s*$")):
            if self.share(pattern) > 0.9:
                return kind
        return ""

    @cached_property
    def multi(self) -> Multi | None:
        """Whether fields hold several values, the same ones again and again, with a separator."""
        if self.numbers is not None or self.nested or self.address:
            return None
        for separator in SEPARATORS:
            if self.share(re.escape(separator)) >= 0.1 and (found := _multi(self.sample, separator)):
                return found
        return None

    @cached_property
    def prose(self) -> bool:
        """Whether values are texts of many words."""
        return self.letters > 150 or (
            self.letters > 60 and self.share(r"\s\S+\s\S+\s\S+\s\S+\s\S+\s\S+\s\S+\s\S+\s") > 0.5
        )

    @cached_property
    def spaced(self) -> float:
        """Share of values of several words."""
        return self.share(r"\pL\S* \S")

    @cached_property
    def counted(self) -> bool:
        """Whether it only counts the rows: 0, 1, 2, … from top to bottom."""
        if self.numbers is None or self.missing or self.rows < 3 or not self.whole:
            return False
        steps = self.numbers.diff().drop_nulls()
        return len(self.numbers) == self.rows and bool((steps == 1).all())

    @cached_property
    def top(self) -> list[tuple[str, int]]:
        """The three commonest values with their counts."""
        counts = self.filled.value_counts(sort=True, name="n").sort(["n", self.filled.name], descending=[True, False])
        return [(str(value), int(n)) for value, n in counts.head(3).iter_rows()]


def as_float(value: object) -> float:
    """A figure that polars computed, whose type it leaves open; 0 where there were no values."""
    return float(value) if isinstance(value, (int, float)) else 0.0


def _multi(sample: pl.Series, separator: str) -> Multi | None:
    parts = sample.str.split(separator).explode().str.strip_chars()
    parts = parts.filter(parts != "")
    many, different = len(parts), int(parts.n_unique())
    longest = as_float(parts.str.len_chars().quantile(0.99))
    if different < 2 or different > max(0.1 * many, 2) or longest > 40 or different >= 0.8 * int(sample.n_unique()):
        return None
    return Multi(separator, different, many / len(sample))


def stand_ins(values: pl.Series) -> tuple[str, ...]:
    """Texts such as "?" that stand for a missing value: any among numbers, frequent ones among other texts."""
    counts = values.drop_nulls().str.strip_chars().value_counts(name="n")
    known = counts.filter(pl.col(counts.columns[0]).is_in(MISSING))
    if not known.height:
        return ()
    others = counts.filter(~pl.col(counts.columns[0]).is_in(MISSING))
    numbers = others.to_series(0).cast(pl.Float64, strict=False)
    numeric = len(numbers) > 0 and int(numbers.null_count()) <= 0.001 * len(numbers)
    least = 1 if numeric else max(3, 0.005 * len(values))
    return tuple(sorted(str(value) for value, n in known.iter_rows() if n >= least))
