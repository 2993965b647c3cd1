"""`Reader` and `RawData`: a data set, what its reader returns, and the checks that must pass before it is prepared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from corella_edge.errors import InputError
from corella_edge.history import MAX_TIME
from corella_edge.messages import MAX_ID_CHARS, MAX_TEXT_CHARS, MAX_VALUES
from corella_edge_export.data.prepared import SPLITS

KINDS: dict[str, pl.DataType] = {
    "categorical": pl.String(),
    "multi": pl.List(pl.String()),
    "numeric": pl.Float64(),
    "text": pl.String(),
    "sequence": pl.List(pl.String()),
}
INTERACTIONS: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "rating": pl.Float32(),
    "timestamp": pl.Int64(),
}
SPLIT_ROWS: dict[str, pl.DataType] = {
    "user_id": pl.String(),
    "item_id": pl.String(),
    "label": pl.Int8(),
    "rating": pl.Float32(),
    "timestamp": pl.Int64(),
    "position": pl.Int32(),
}


@dataclass(frozen=True)
class PublishedSplits:
    """Splits that the publisher made, kept as they are, and the history of each of their rows.

    Attributes:
        rows: "train", "valid", "test" → user_id, item_id, label (1 = liked), rating (null = none), timestamp,
            position: the row's history is the first `position` of its user's interactions.
        rule: how the rows were split, in words.
        history_events: which events the interactions hold: "all", "liked" ones only, or "some": liked ones and a
            part of the others. Unless it is "all", the row's own item need not be the interaction at its position.
        history_rule: the same in words.
    """

    rows: Mapping[str, pl.DataFrame]
    rule: str
    history_events: Literal["all", "liked", "some"]
    history_rule: str


@dataclass(frozen=True)
class RawData:
    """One data set as its publisher means it, before splitting.

    Attributes:
        interactions: user_id String, item_id String, rating Float32, timestamp Int64 (Unix seconds), in
            source order. A reader of data without ratings adds `label` Int8 (1 = liked) and leaves them null.
        users: user_id and one column an attribute. items: item_id, title (String) and the attributes.
        user_attributes, item_attributes: column → its kind, a key of KINDS, whose value is the column's type.
            The title is no attribute.
        like_above: a rating above this is a like.
        sources: file name → {"sha256", "bytes"}; empty for generated data.
        generator: the settings that generated the data, None for a publisher's files.
        published: splits that come with the data; `interactions` are then the events that form histories,
            each user's in the order of that history. None = split by our own rule.
    """

    name: str
    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    user_attributes: Mapping[str, str]
    item_attributes: Mapping[str, str]
    like_above: float
    licence: str
    redistributable: bool
    sources: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    generator: Mapping[str, Any] | None = None
    published: PublishedSplits | None = None


@dataclass
class Work:
    """A folder for rewritten files. `notes`: which file was rewritten, for dataset.json."""

    folder: Path
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Reader:
    """A data set that can be prepared; a module of `readers` lists its own in READERS, by name.

    Attributes:
        read: from the folder of the publisher's files (None for generated data) and further options, of which there
            is at least `seed`; what a reader of published files does not know, it ignores. None if it describes.
        summary: what it reads, in one line.
        describe: from the folder of the publisher's files, and a place for what has to be rewritten first, to the
            text of a `data.toml`; the files are then read as a person's own table is.
        needs_source: whether there are files to read.
        extras: the kinds of further rows that `prepare --extra` may name.
    """

    read: Callable[[Path | None, Mapping[str, Any]], RawData] | None
    summary: str
    describe: Callable[[Path, Work], str] | None = None
    needs_source: bool = True
    extras: tuple[str, ...] = ()


def check(raw: RawData) -> None:
    """Refuse data that would break a later step.

    Raises:
        InputError: names the table, the column, and the first bad value.
    """
    columns = dict(INTERACTIONS)
    if "label" in raw.interactions.columns:
        columns["label"] = pl.Int8()
    _check_columns(raw, "interactions", raw.interactions, columns)
    events = {"interactions": raw.interactions}
    if raw.published is not None:
        events |= {name: raw.published.rows[name] for name in SPLITS}
        for name in SPLITS:
            _check_columns(raw, name, events[name], SPLIT_ROWS)
    users = {"user_id": pl.String(), **_types(raw.user_attributes)}
    items = {"item_id": pl.String(), "title": pl.String(), **_types(raw.item_attributes)}
    _check_columns(raw, "users", raw.users, users)
    _check_columns(raw, "items", raw.items, items)
    _check_sizes(raw)
    _check_ids(raw, "users", raw.users["user_id"])
    _check_ids(raw, "items", raw.items["item_id"])
    for name, frame in events.items():
        _check_known(raw, name, frame, "user_id", raw.users["user_id"])
        _check_known(raw, name, frame, "item_id", raw.items["item_id"])
        _check_values(raw, name, frame)
    if raw.items["title"].null_count() or raw.items["title"].str.strip_chars().eq("").any():
        raise InputError(f"{raw.name}: items: a title is empty; a reader without titles can use the ids")
    if raw.published is not None:
        for name in SPLITS:
            _check_positions(raw, name, events[name])


def _types(attributes: Mapping[str, str]) -> dict[str, pl.DataType]:
    return {name: KINDS[kind] for name, kind in attributes.items()}


def _check_columns(raw: RawData, table: str, frame: pl.DataFrame, columns: Mapping[str, pl.DataType]) -> None:
    if dict(frame.schema) != dict(columns):
        wanted = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        found = ", ".join(f"{name} {kind}" for name, kind in frame.schema.items())
        raise InputError(f"{raw.name}: the table of {table} must have the columns {wanted}; it has {found}")
    if frame.is_empty():
        raise InputError(f"{raw.name}: the table of {table} has no rows")


def _check_sizes(raw: RawData) -> None:
    """A user's attributes travel in requests, which have bounds."""
    for name, kind in raw.user_attributes.items():
        column = raw.users[name]
        if isinstance(KINDS[kind], pl.List):
            sizes, most, what = column.list.len(), MAX_VALUES, "values"
        elif KINDS[kind] == pl.String():
            sizes, most, what = column.str.len_chars(), MAX_TEXT_CHARS, "characters"
        else:
            continue
        long = (sizes > most).fill_null(False)
        if long.any():
            row = int(long.arg_true()[0])
            raise InputError(
                f"{raw.name}: users: {name} of {raw.users['user_id'][row]!r} has {sizes[row]:,} {what}; a request may "
                f"have {most:,}; keep the latest, or leave the attribute out"
            )


def _check_ids(raw: RawData, table: str, ids: pl.Series) -> None:
    bad = ids.filter(ids.is_null() | ~ids.str.len_chars().is_between(1, MAX_ID_CHARS))
    if len(bad):
        raise InputError(f"{raw.name}: {table}: the id {bad[0]!r} has not 1 to {MAX_ID_CHARS} characters")
    twice = ids.filter(ids.is_duplicated())
    if len(twice):
        raise InputError(f"{raw.name}: {table}: the id {twice[0]!r} occurs twice")


def _check_known(raw: RawData, table: str, frame: pl.DataFrame, column: str, known: pl.Series) -> None:
    ids = frame[column]
    bad = ids.filter(ids.is_null() | ~ids.is_in(known.implode()))
    if len(bad):
        raise InputError(f"{raw.name}: {table}: {column} {bad[0]!r} is in no row of the {column[:4]}s")


def _check_values(raw: RawData, table: str, rows: pl.DataFrame) -> None:
    times = rows["timestamp"]
    if times.null_count() or not times.is_between(-MAX_TIME, MAX_TIME).all():
        raise InputError(f"{raw.name}: {table}: a timestamp is missing or out of range (Unix seconds, before 2100)")
    required = "label" if "label" in rows.columns else "rating"
    if rows[required].null_count():
        raise InputError(f"{raw.name}: {table}: a {required} is missing")
    if "label" in rows.columns and not rows["label"].is_in([0, 1]).all():
        raise InputError(f"{raw.name}: {table}: a label is neither 0 nor 1")
    if not rows["rating"].drop_nulls().is_finite().all():
        raise InputError(f"{raw.name}: {table}: a rating is not a finite number")


def _check_positions(raw: RawData, table: str, rows: pl.DataFrame) -> None:
    """A history must exist, and no event of it may be later than the row."""
    log = raw.interactions.select(
        "user_id",
        position=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("user_id"),
        latest=pl.col("timestamp").cum_max().over("user_id"),
    )
    found = rows.join(log, on=["user_id", "position"], how="left", maintain_order="left")
    position = found["position"]
    bad = position.is_null() | (position < 0) | ((position > 0) & found["latest"].is_null())
    if bad.any():
        row = found.row(int(bad.arg_true()[0]), named=True)
        raise InputError(f"{raw.name}: {table}: the user {row['user_id']!r} has no {row['position']} earlier events")
    late = (found["latest"] > found["timestamp"]).fill_null(False)
    if late.any():
        row = found.row(int(late.arg_true()[0]), named=True)
        problem = f"the history of user {row['user_id']!r}, item {row['item_id']!r} holds a later event"
        raise InputError(f"{raw.name}: {table}: {problem}")
