"""Which split the data can bear: published files, one moment for everybody, each user's latest rows, or chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from corella_edge_export.data.table.propose.columns import as_float
from corella_edge_export.data.table.propose.sheet import Sheet
from corella_edge_export.data.table.propose.tables import part_of

PARTS = ("train", "valid", "test")


@dataclass(frozen=True)
class SplitProposal:
    """A proposal: the rule, further ones that may be meant, and why; `warning` is what figures must be read with,
    `short` the question in few words."""

    rule: str
    others: tuple[str, ...]
    why: str
    warning: str = ""
    short: str = ""
    parts: dict[str, list[Path]] = field(default_factory=dict)


def find_parts(sheets: Sequence[Sheet]) -> dict[str, list[Path]]:
    """Part → its files, if the files' names say train, valid and test; else nothing."""
    parts: dict[str, list[Path]] = {}
    for sheet in sheets:
        part = part_of(sheet.path.name)
        if part is None:
            return {}
        parts.setdefault(PARTS[part], []).append(sheet.path)
    return {part: parts[part] for part in PARTS} if len(parts) == 3 else {}


def propose_split(
    sheets: Sequence[Sheet], user: pl.Series, seconds: pl.Series | None, step: tuple[int, float] | None
) -> SplitProposal:
    """The split for these events; `user` and `seconds` are of all rows, in the order of the sheets."""
    if parts := find_parts(sheets):
        return _published(sheets, parts, seconds)
    if seconds is None:
        warning = "without times nothing says what came first: every figure is stamped with it"
        return SplitProposal("random", (), "there is no time to split by", warning)
    frame = pl.DataFrame({"user": user, "time": seconds}).drop_nulls()
    return _by_time(frame, step)


def _published(sheets: Sequence[Sheet], parts: dict[str, list[Path]], seconds: pl.Series | None) -> SplitProposal:
    """The files' own split; a question if it tests on what came before the training rows."""
    rows = ", ".join(f"{part} {sum(s.rows for s in sheets if s.path in files):,}" for part, files in parts.items())
    why = f"the files are a published split ({rows} rows)"
    if seconds is None:
        return SplitProposal("files", (), why, parts=parts)
    of = pl.Series([part for s in sheets for part in [_part(parts, s.path)] * s.rows], dtype=pl.String)
    last = seconds.filter(of == "train").max()
    early = int((seconds.filter(of == "test") < last).sum()) if last is not None else 0
    total = int((of == "test").sum())
    if not early:
        return SplitProposal("files", (), f"{why}, each later than the one before", parts=parts)
    told = (f"{early:,} of the {total:,} test rows are earlier than the last training row: figures of it look into the "
            "future. Keep it to stand beside published figures; time is the honest one")  # fmt: skip
    short = f"{early:,} of {total:,} test rows precede the last training row"
    return SplitProposal("files", ("time",), f"{why}; {told}", short=short, parts=parts)


def _part(parts: dict[str, list[Path]], path: Path) -> str:
    return next(part for part, files in parts.items() if path in files)


def _by_time(frame: pl.DataFrame, step: tuple[int, float] | None) -> SplitProposal:
    """One moment for everybody where times are real and spread; else each user's latest rows."""
    times = frame["time"].sort()
    if not len(times):
        return SplitProposal("random", (), "no row has a time", "without times nothing says what came first")
    first, second = (int(times[min(len(times) - 1, int(share * len(times)))]) for share in (0.8, 0.9))
    late = frame.filter(pl.col("time") >= second)
    middle = frame.filter((pl.col("time") >= first) & (pl.col("time") < second)).height
    if middle < 0.02 * len(times) or late.height > 0.3 * len(times) or first <= int(times[0]):
        why = f"{frame['time'].n_unique():,} different moments cannot be cut 80/10/10"
        return SplitProposal("per-user", (), why, "each user's latest rows: models see others' later rows")
    seen = as_float(late["user"].is_in(frame.filter(pl.col("time") < first)["user"].unique().implode()).mean())
    why = (f"cut at {_day(first)} and {_day(second)}, test gets {late.height:,} rows, {seen:.0%} of them of users "
           "that occur in train")  # fmt: skip
    if step:
        steps = f"{step[1]:.0%} of the steps between a user's rows are exactly {step[0]} s"
        odd = f"{steps}, as if a program had filled in the times"
        told = f"{odd}; the order within a user may be real, the moments are not. By time: {why}"
        return SplitProposal("per-user", ("time",), told, short=f"the times look made up, in steps of {step[0]} s")
    return SplitProposal("time", (), why)


def _day(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M}"
