"""The MovieLens-1M split published with CoLLM (arXiv 2310.19488): train, valid and test as Parquet files.

A row's published history `his` holds the user's earlier liked items of all three files, oldest first, after one
leading 0. So a user's log is the sequence of his liked rows, and a row points into it by how many came before.
`extra` puts disliked rows into the logs: extra data, which no published figure on this split had.
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
from corella_edge.history import MAX_TIME
from corella_edge_export.data.contract import SPLIT_ROWS, PublishedSplits, RawData, Reader
from corella_edge_export.data.prepared import SPLITS
from corella_edge_export.data.readers import movielens as ml_1m
from corella_edge_export.data.readers import movielens_abstracts, titles
from corella_edge_export.data.readers.delimited import Table, read_table

LICENCE = f"CoLLM's code and split: BSD-3-Clause; the data: {ml_1m.LICENCE}"
PUBLISHED = (33_891, 10_401, 7_331)  # rows of train, valid, test
Columns = dict[str, tuple[pl.DataType, str]]
COLUMNS: Columns = {
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
# Which disliked rows `extra` adds to the histories, by the files they stand in.
EXTRA: dict[str, tuple[str, ...]] = {"disliked-train": ("train",), "disliked": SPLITS}
EXTRA_RULE = (
    "extra data: the user's earlier liked items of all three files and his earlier disliked ones of {files}; the rows "
    "of interactions.parquet of that user whose position is smaller"
)
LIKED, DISLIKED = 4.0, 2.0  # ratings that stand for the labels in such histories
MOVIES = "movies.dat"
ABSTRACTS = "abstracts.parquet"
ABSTRACT_COLUMNS: Columns = {
    "title": (pl.String(), "text"),
    "year": (pl.Int64(), "integers"),
    "genres": (pl.List(pl.String()), "lists of texts"),
    "abstract": (pl.String(), "text"),
}


def read(source: Path | None, options: Mapping[str, Any]) -> RawData:
    """Read the three files of the folder `source`; the option `extra` may be one of EXTRA.

    Genres and abstracts are no part of the split. They are added, and noted, where an abstracts.parquet lies beside
    (columns title, year, genres, abstract), and genres where MovieLens-1M's own movies.dat does.

    Raises:
        InputError: names the file and the row of the first missing, malformed or contradictory entry.
    """
    assert source is not None  # the registry sees to it
    files = {name: _read_file(source / f"{name}.parquet") for name in SPLITS}
    rows = pl.concat([file.frame.with_columns(split=pl.lit(name)) for name, file in files.items()])
    _check_rows(files, rows)
    rows = _with_positions(rows, pl.col("label") == 1)
    _check_histories(files, rows)
    extra = options.get("extra")
    added = EXTRA[extra] if extra else ()
    in_log = (pl.col("label") == 1) | pl.col("split").is_in(added)
    rows = _with_ratings(_with_positions(rows, in_log), bool(added))
    movies = read_table(source / MOVIES, ml_1m.MOVIES) if (source / MOVIES).exists() else None
    abstracts = _read_abstracts(source / ABSTRACTS) if (source / ABSTRACTS).exists() else None
    attributes = {"year": "categorical", "decade": "categorical"}
    if movies is not None or abstracts is not None:
        attributes = {"genres": "multi", **attributes}
    if abstracts is not None:
        attributes |= {"abstract": "categorical"}
    tables = [*files.values(), *(table for table in (movies, abstracts) if table is not None)]
    splits = {name: _events(rows.filter(pl.col("split") == name)) for name in SPLITS}
    logged = _events(rows.filter(in_log))
    rule = EXTRA_RULE.format(files=", ".join(added)) if added else HISTORY_RULE
    return RawData(
        name=f"collm-ml-1m+{extra}" if extra else "collm-ml-1m",
        interactions=logged.select("user_id", "item_id", "rating", "timestamp", "label"),
        users=rows.select(user_id=pl.col("uid").cast(pl.String)).unique(),
        items=_items(rows, movies, abstracts),
        user_attributes={},
        item_attributes=attributes,
        like_above=3.0,
        licence=LICENCE,
        redistributable=False,
        sources={table.path.name: table.source for table in tables},
        notes=_notes(files, movies, abstracts, added),
        published=PublishedSplits(splits, SPLIT_RULE, "some" if added else "liked", rule),
    )


READERS = {
    "collm-ml-1m": Reader(read, "CoLLM's split of MovieLens-1M: train, valid and test.parquet", extras=tuple(EXTRA))
}


def _read_file(path: Path, columns: Columns = COLUMNS) -> Table:
    try:
        data = path.read_bytes()
        frame = pl.read_parquet(io.BytesIO(data))
    except FileNotFoundError:
        raise InputError(f"{path}: the file is missing; --source must hold {', '.join(SPLITS)} (.parquet)") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: cannot be read as Parquet: {reason}; get it again") from None
    for name, (kind, words) in columns.items():
        if name not in frame.columns:
            raise InputError(f"{path}: the column {name} is missing; it has {', '.join(frame.columns)}")
        if not _same_kind(frame.schema[name], kind):
            raise InputError(f"{path}: the column {name} holds {frame.schema[name]}, not {words}")
    if frame.is_empty():
        raise InputError(f"{path}: the file has no rows; get it again")
    frame = frame.select(pl.col(name).cast(kind, strict=False) for name, (kind, _) in columns.items())
    return Table(path, frame, {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}, "row")


def _read_abstracts(path: Path) -> Table:
    table = _read_file(path, ABSTRACT_COLUMNS)
    for name in ("title", "year"):
        table.refuse(table.frame[name].is_null(), f"{name} is missing")
    return table


def _same_kind(found: pl.DataType, wanted: pl.DataType) -> bool:
    """Integers of any width are alike."""
    if isinstance(found, pl.List) and isinstance(wanted, pl.List):
        return found.inner == wanted.inner or (found.inner.is_integer() and wanted.inner.is_integer())
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


def _with_positions(rows: pl.DataFrame, in_log: pl.Expr) -> pl.DataFrame:
    """`position`: how many of the user's rows that form histories come before, files and rows in published order."""
    counted = in_log.cast(pl.Int32)
    return rows.with_columns(position=counted.cum_sum().over("uid") - counted)


def _with_ratings(rows: pl.DataFrame, told: bool) -> pl.DataFrame:
    """`rating`: none as published; where histories hold both labels, a number that tells them apart."""
    number = pl.when(pl.col("label") == 1).then(LIKED).otherwise(DISLIKED) if told else pl.lit(None)
    return rows.with_columns(rating=number)


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
    frame = rows.with_columns(**ids)
    return frame.select(pl.col(name).cast(kind) for name, kind in SPLIT_ROWS.items())


def _items(rows: pl.DataFrame, movies: Table | None, abstracts: Table | None) -> pl.DataFrame:
    """Genres of movies.dat win over those of the abstracts."""
    frame = rows.unique("iid", keep="first", maintain_order=True)
    parts = {"title": titles.title("title"), "year": titles.year("title"), "decade": titles.decade("title")}
    if abstracts is not None:
        frame = pl.concat([frame, _found(frame, abstracts)], how="horizontal")
        parts |= {"genres": pl.col("genres"), "abstract": pl.col("abstract")}
    if movies is not None:
        genres = movies.frame.select(title="Title", official=pl.col("Genres").str.split("|"))
        frame = frame.join(genres.unique("title", keep="first"), on="title", how="left", maintain_order="left")
        parts |= {"genres": pl.col("official")}
    order = [name for name in ("title", "genres", "year", "decade", "abstract") if name in parts]
    return frame.select(item_id=pl.col("iid").cast(pl.String), **{name: parts[name] for name in order})


def _found(films: pl.DataFrame, abstracts: Table) -> pl.DataFrame:
    """`genres` and `abstract` of each film, null where it is not among the abstracts."""
    wanted = films.select(titles.bare("title"), titles.year("title").cast(pl.Int64).alias("year"))
    places = pl.Series(movielens_abstracts.find(abstracts.frame, wanted.iter_rows()), dtype=pl.UInt32)
    return abstracts.frame.select(pl.col("genres").gather(places), pl.col("abstract").gather(places))


def _notes(
    files: Mapping[str, Table], movies: Table | None, abstracts: Table | None, added: tuple[str, ...]
) -> tuple[str, ...]:
    notes = []
    if added:
        notes.append(
            f"extra data: histories also hold the user's earlier disliked rows of {', '.join(added)}; not comparable "
            f"with figures on the published histories. Ratings stand for labels: {LIKED:g} liked, {DISLIKED:g} not"
        )
    found = tuple(len(file.frame) for file in files.values())
    if found != PUBLISHED:
        words = "{:,} / {:,} / {:,} rows"
        notes.append(f"not the whole of the published split: {words.format(*found)}, not {words.format(*PUBLISHED)}")
    if movies is not None:
        notes.append("extra data: the genres come from movies.dat and are no part of the published split")
    if abstracts is not None:
        notes.append("side information: genres and abstracts of films come from abstracts.parquet")
    return tuple(notes)
