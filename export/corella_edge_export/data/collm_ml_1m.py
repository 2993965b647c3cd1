"""The MovieLens-1M split published with CoLLM (arXiv 2310.19488): train, valid and test as Parquet files.

A row's published history `his` holds the user's earlier liked items of all three files, oldest first, after one
leading 0. So a user's log is the sequence of his liked rows, and a row points into it by how many came before.
"""

from __future__ import annotations

import hashlib
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from corella_edge.errors import InputError
from corella_edge.request import MAX_TIME
from corella_edge_export.data import ml_1m, titles
from corella_edge_export.data.delimited import Table, read_table
from corella_edge_export.data.prepared import SPLITS
from corella_edge_export.data.raw import SPLIT_ROWS, PublishedSplits, RawData

LICENCE = f"CoLLM's code and split: BSD-3-Clause; the data: {ml_1m.LICENCE}"
PUBLISHED = (33_891, 10_401, 7_331)  # rows of train, valid, test
COLUMNS: dict[str, tuple[pl.DataType, str]] = {
    "uid": (pl.Int64(), "integers"),
    "iid": (pl.Int64(), "integers"),
    "label": (pl.Int64(), "integers"),
    "timestamp": (pl.Int64(), "integers"),
    "his": (pl.List(pl.Int64()), "lists of integers"),
    "title": (pl.String(), "text"),
}
SPLIT_RULE = "as published with CoLLM: the rows of train.parquet, valid.parquet and test.parquet"
HISTORY_RULE = (
    "the published histories: the user's earlier liked items of all three files, no disliked ones; the rows of "
    "interactions.parquet of that user whose position is smaller"
)
MOVIES = "movies.dat"


def read(source: Path | None, options: Mapping[str, Any]) -> RawData:
    """Read the three files of the folder `source`; `options` change nothing.

    Genres are no part of the split. They are added, and noted, where MovieLens-1M's own movies.dat lies beside.

    Raises:
        InputError: names the file and the row of the first missing, malformed or contradictory entry.
    """
    assert source is not None  # the registry sees to it
    files = {name: _read_file(source / f"{name}.parquet") for name in SPLITS}
    rows = pl.concat([file.frame.with_columns(split=pl.lit(name)) for name, file in files.items()])
    _check_rows(files, rows)
    rows = _with_positions(rows)
    _check_histories(files, rows)
    movies = read_table(source / MOVIES, ml_1m.MOVIES) if (source / MOVIES).exists() else None
    attributes = {"year": "categorical", "decade": "categorical"}
    sources: dict[str, dict[str, Any]] = {file.path.name: file.source for file in files.values()}
    if movies is not None:
        attributes, sources = {"genres": "multi", **attributes}, {**sources, MOVIES: movies.source}
    splits = {name: _events(rows.filter(pl.col("split") == name)) for name in SPLITS}
    liked = _events(rows.filter(pl.col("label") == 1))
    return RawData(
        name="collm-ml-1m",
        interactions=liked.select("user_id", "item_id", "rating", "timestamp", "label"),
        users=rows.select(user_id=pl.col("uid").cast(pl.String)).unique(),
        items=_items(rows, movies),
        user_attributes={},
        item_attributes=attributes,
        like_above=3.0,
        licence=LICENCE,
        redistributable=False,
        sources=sources,
        notes=_notes(files, movies),
        published=PublishedSplits(splits, SPLIT_RULE, "liked", HISTORY_RULE),
    )


def _read_file(path: Path) -> Table:
    try:
        data = path.read_bytes()
        frame = pl.read_parquet(io.BytesIO(data))
    except FileNotFoundError:
        raise InputError(f"{path}: the file is missing; --source must hold {', '.join(SPLITS)} (.parquet)") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: can not be read as Parquet: {reason}; get it again") from None
    for name, (kind, words) in COLUMNS.items():
        if name not in frame.columns:
            raise InputError(f"{path}: the column {name} is missing; it has {', '.join(frame.columns)}")
        if not _same_kind(frame.schema[name], kind):
            raise InputError(f"{path}: the column {name} holds {frame.schema[name]}, not {words}")
    if frame.is_empty():
        raise InputError(f"{path}: the file has no rows; get it again")
    frame = frame.select(pl.col(name).cast(kind, strict=False) for name, (kind, _) in COLUMNS.items())
    return Table(path, frame, {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}, "row")


def _same_kind(found: pl.DataType, wanted: pl.DataType) -> bool:
    """Integers of any width are alike."""
    if isinstance(found, pl.List) and isinstance(wanted, pl.List):
        return found.inner.is_integer()
    return found == wanted or (found.is_integer() and wanted.is_integer())


def _check_rows(files: Mapping[str, Table], rows: pl.DataFrame) -> None:
    """What can be said of each row alone, and of ids across the files."""
    for file in files.values():
        frame = file.frame
        for name in COLUMNS:
            file.refuse(frame[name].is_null(), f"{name} is missing")
        file.refuse(~frame["label"].is_in([0, 1]), "label {label} is neither 0 nor 1")
        file.refuse(~frame["timestamp"].is_between(0, MAX_TIME), "timestamp {timestamp} is no Unix time in seconds")
        file.refuse(~frame["title"].str.contains(f"^{titles.PATTERN}$"), f"title {{title!r}} is not {titles.EXPECTED}")
        file.refuse(frame["his"].list.first().ne_missing(0), "his does not begin with one 0")
    titled = rows.group_by("iid").agg(pl.col("title").n_unique()).filter(pl.col("title") > 1)["iid"]
    again = ~rows.select(pair=pl.struct("uid", "iid"))["pair"].is_first_distinct()
    earlier = rows.select(bad=pl.col("timestamp") < pl.col("timestamp").cum_max().over("uid"))["bad"]
    for file, start in _starts(files):
        part = slice(start, start + len(file.frame))
        file.refuse(file.frame["iid"].is_in(titled.implode()), "item {iid} has two titles, one of them {title!r}")
        file.refuse(again[part], "user {uid} meets item {iid} a second time")
        file.refuse(earlier[part], "timestamp {timestamp} is earlier than the row before of user {uid}")


def _starts(files: Mapping[str, Table]) -> Iterator[tuple[Table, int]]:
    """Each file and the place of its first row among all rows."""
    start = 0
    for file in files.values():
        yield file, start
        start += len(file.frame)


def _with_positions(rows: pl.DataFrame) -> pl.DataFrame:
    """`position`: how many liked rows of the user come before, files and rows in published order."""
    liked = pl.col("label").cast(pl.Int32)
    return rows.with_columns(position=liked.cum_sum().over("uid") - liked)


def _check_histories(files: Mapping[str, Table], rows: pl.DataFrame) -> None:
    """`his` must be the first `position` liked items of the user, or no pointer could stand for it."""
    known = set(rows["iid"].to_list())
    logs: defaultdict[int, list[int]] = defaultdict(list)
    for user, item in rows.filter(pl.col("label") == 1).select("uid", "iid").iter_rows():
        logs[user].append(item)
    for file, start in _starts(files):
        part = rows[start : start + len(file.frame)].select("uid", "his", "position")
        for row, (user, (_, *history), position) in enumerate(part.iter_rows()):
            if history != logs[user][:position]:
                unknown = [item for item in history if item not in known]
                if unknown:
                    file.stop(row, f"his holds the item {unknown[0]}, which is in no row of the three files")
                file.stop(row, f"his is not the {position} items that user {user} liked before, in their order")


def _events(rows: pl.DataFrame) -> pl.DataFrame:
    ids = {"user_id": pl.col("uid").cast(pl.String), "item_id": pl.col("iid").cast(pl.String)}
    frame = rows.with_columns(rating=pl.lit(None), **ids)
    return frame.select(pl.col(name).cast(kind) for name, kind in SPLIT_ROWS.items())


def _items(rows: pl.DataFrame, movies: Table | None) -> pl.DataFrame:
    frame = rows.unique("iid", keep="first", maintain_order=True)
    parts = {"title": titles.title("title"), "year": titles.year("title"), "decade": titles.decade("title")}
    if movies is not None:
        genres = movies.frame.select(title="Title", genres=pl.col("Genres").str.split("|"))
        frame = frame.join(genres.unique("title", keep="first"), on="title", how="left", maintain_order="left")
        parts = {"title": parts.pop("title"), "genres": pl.col("genres"), **parts}
    return frame.select(item_id=pl.col("iid").cast(pl.String), **parts)


def _notes(files: Mapping[str, Table], movies: Table | None) -> tuple[str, ...]:
    notes = []
    found = tuple(len(file.frame) for file in files.values())
    if found != PUBLISHED:
        words = "{:,} / {:,} / {:,} rows"
        notes.append(f"not the whole of the published split: {words.format(*found)}, not {words.format(*PUBLISHED)}")
    if movies is not None:
        notes.append("extra data: the genres come from movies.dat and are no part of the published split")
    return tuple(notes)
