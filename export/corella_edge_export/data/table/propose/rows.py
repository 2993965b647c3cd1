"""What is odd about the rows of the events: copies, repeats, baskets, rows without a user, cancelled orders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from corella_edge_export.data.table.propose import words
from corella_edge_export.data.table.propose.columns import ColumnFacts, as_float
from corella_edge_export.data.table.propose.tables import FileTable


@dataclass(frozen=True)
class SampleRows:
    """Counts over the events.

    Attributes:
        copies: rows that are another row, field by field. pairs: rows whose user and item have an earlier row.
        repeats: the same, at the same time too. together: share of the rows with user and time that share both with
            another row. users: of rows with user and item. followed: rows with a strictly earlier row of their user.
        absent: role → rows without a value.
    """

    rows: int
    users: int
    items: int
    copies: int
    pairs: int
    repeats: int
    together: float
    followed: int
    absent: Mapping[str, int]


def count_rows(events: FileTable, user: str, item: str, seconds: pl.Series | None) -> SampleRows:
    """Count what `SampleRows` says; rows without user or item count in `rows`, `copies` and `absent` alone."""
    frame = events.frame.select(pl.col(user).alias("user"), pl.col(item).alias("item"))
    absent = {"user": int(frame["user"].null_count()), "item": int(frame["item"].null_count())}
    if seconds is not None:
        frame = frame.with_columns(seconds.alias("time"))
        absent["time"] = int(seconds.null_count())
    kept = frame.drop_nulls()
    pairs = kept.select("user", "item").n_unique()
    timed = seconds is not None
    together = kept.select("user", "time").is_duplicated().mean() if timed and kept.height else 0.0
    first = pl.col("time") > pl.col("time").min().over("user")
    followed = int(kept.select(first.sum()).item()) if timed and kept.height else 0
    return SampleRows(
        rows=frame.height, users=kept["user"].n_unique(), items=kept["item"].n_unique(),
        copies=events.frame.height - events.frame.unique().height, pairs=kept.height - pairs,
        repeats=kept.height - kept.n_unique(), together=as_float(together), followed=followed, absent=absent,
    )  # fmt: skip


def find_drops(events: FileTable, counts: tuple[str, ...], user: str) -> dict[str, tuple[str, str]]:
    """Column → (rule, evidence) of rows that took something back: no positive quantity, and how its order is marked."""
    found: dict[str, tuple[str, str]] = {}
    for name in counts[:1]:
        numbers = events.frame[name].str.strip_chars().cast(pl.Float64, strict=False)
        back = (numbers <= 0).fill_null(False)
        if 0 < int(back.sum()) < 0.3 * events.rows:
            for mark, evidence in _marks(events, back, (name, user)):
                found[mark[0]] = (mark[1], evidence)
            found[name] = ("<=0", f"{int(back.sum()):,} rows are returns or corrections ({name} is not positive)")
    return found or _marked_orders(events)


def _marks(events: FileTable, back: pl.Series, others: tuple[str, ...]) -> list[tuple[tuple[str, str], str]]:
    """A letter before the order's number that only rows have which take something back."""
    found = []
    for name, column in events.columns.items():
        if name in others or name in events.moments or not words.has(name, words.ORDER):
            continue
        letter = column.values.str.extract(r"^([A-Za-z]{1,3})\d")
        lettered = letter.is_not_null()
        inside = int((lettered & back).sum())
        if inside and inside >= 0.9 * int(lettered.sum()):
            prefix = str(letter.drop_nulls().mode().sort()[0])
            found.append(
                ((name, f"^{prefix}"), f"{int(lettered.sum()):,} rows have the letter {prefix} before the number")
            )
    return found


def _marked_orders(events: FileTable) -> dict[str, tuple[str, str]]:
    """Orders of which a few have a C for "cancelled" before their number."""
    for name, column in events.columns.items():
        if words.has(name, words.ORDER) and column.numbers is None and _plainly_numbered(column):
            count = int(column.values.str.contains(r"^[Cc]\d").sum())
            if 0 < count < 0.3 * events.rows:
                return {name: ("^[Cc]", f"{count:,} orders have a C before the number, as cancelled ones have")}
    return {}


def _plainly_numbered(column: ColumnFacts) -> bool:
    return column.share(r"^\d+$") > 0.5


def made_up_step(user: pl.Series, seconds: pl.Series) -> tuple[int, float] | None:
    """(seconds, share) if most steps between a user's rows are equal, as of times that a program filled in."""
    frame = pl.DataFrame({"user": user, "time": seconds}).drop_nulls().sort("user", "time")
    steps = frame.select((pl.col("time").diff().over("user")).alias("step")).drop_nulls().filter(pl.col("step") > 0)
    if steps.height < 20:
        return None
    counts = steps["step"].value_counts(sort=True, name="n")
    step, share = int(counts["step"][0]), int(counts["n"][0]) / steps.height
    return (step, share) if share > 0.5 and step % 86_400 else None
