"""From a reader's tables to the prepared folder: order, label, history rule, split, files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl

from corella_edge import __version__
from corella_edge.atomic import check_free, new_folder
from corella_edge.errors import InputError
from corella_edge_export.data import registry
from corella_edge_export.data.contract import SPLIT_ROWS, PublishedSplits, RawData, check
from corella_edge_export.data.database import MEMORY, connect
from corella_edge_export.data.finish import finish
from corella_edge_export.data.prepared import FORMAT_VERSION, SPLITS
from corella_edge_export.data.table.prepare import prepare_described

Progress = Callable[[str], None]
MIN_HISTORY = 5
SPLIT_RULE = (
    "order all rows by (timestamp, user id, item id), ids compared as strings, stable; drop rows with fewer "
    "than 5 earlier rows of the same user; the first int(0.8 n) are train, the next int(0.1 n) valid, the "
    "rest test"
)
HISTORY_RULE = (
    "all earlier events of the user, liked or not, dropped rows included: the rows of interactions.parquet "
    "of that user whose position is smaller; events of the same moment, in the order of their item ids, enter each "
    "other's history"
)
SUMMARY = ("name", "counts", "unseen", "notes", "splits")
COLUMNS = tuple(SPLIT_ROWS)


def prepare(
    reader_name: str,
    source: Path | None,
    out: Path,
    *,
    seed: int = 0,
    requests: int = 1000,
    options: Mapping[str, Any] | None = None,
    memory: int = MEMORY,
    negatives: int | None = None,
    hide_items: float | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read a data set and write its prepared folder `out`, complete or not at all.

    Args:
        source: folder of the publisher's files; None for generated data.
        seed: draws the requests, and the data themselves if they are generated.
        requests: how many held-out requests to write. options: more settings of the reader.
        memory: bytes that DuckDB may hold; negatives, hide_items: as `changed` of the table's preparation has them; all
            for a reader that describes its files.

    Returns:
        The summary: out, seconds, and of dataset.json name, counts, unseen, notes, splits.

    Raises:
        InputError: unknown reader, bad input (file and line), too few rows, or `out` is taken.
    """
    say = progress or (lambda message: None)
    wanted = {"seed": seed, **(options or {})}
    chosen = registry.check(reader_name, source, wanted)
    if chosen.describe is not None and source is not None:
        settings: dict[str, Any] = {"seed": seed, "requests": requests, "memory": memory, "progress": progress}
        settings |= {"negatives": negatives, "hide_items": hide_items}
        return prepare_described(reader_name, chosen.describe, source, out, **settings)
    for option, value in (("--negatives", negatives), ("--hide-items", hide_items)):
        if value is not None:
            raise InputError(f"{option}: the reader {reader_name} splits its data by rules of its own; leave it out")
    check_free(out)
    start = time.perf_counter()
    say(f"reading {reader_name}")
    raw = registry.read(reader_name, source, wanted)
    info = write_prepared(raw, out, seed=seed, requests=requests, progress=progress)
    seconds = round(time.perf_counter() - start, 2)
    return {"out": str(out), "seconds": seconds, **{key: info[key] for key in SUMMARY}}


def look(reader_name: str, source: Path | None, **settings: Any) -> dict[str, Any]:
    """What `prepare` would return and raise for a reader that describes its files; nothing is left but the answer.

    Raises:
        InputError: as `prepare`, or the reader does not describe its files.
    """
    chosen = registry.check(reader_name, source, settings)
    if chosen.describe is None or source is None:
        raise InputError(f"--dry: the reader {reader_name} has nothing to drop; leave it out")
    return prepare_described(reader_name, chosen.describe, source, None, **settings)


def write_prepared(
    raw: RawData, out: Path, *, seed: int = 0, requests: int = 1000, progress: Progress | None = None
) -> dict[str, Any]:
    """Split checked data and write the folder; returns dataset.json's content. Raises as `prepare`."""
    say = progress or (lambda message: None)
    check(raw)
    say("splitting")
    tables = split_tables(raw)
    history_only = None if raw.published else len(tables["interactions"]) - sum(len(tables[name]) for name in SPLITS)
    with new_folder(out) as folder, connect() as db:
        for name, frame in tables.items():
            say(f"writing {name}.parquet")
            _write_table(frame, folder / f"{name}.parquet")
        about = _describe(raw, seed)
        return finish(db, folder, about, history_only=history_only, requests=requests, seed=seed, say=say)


def split_tables(raw: RawData) -> dict[str, pl.DataFrame]:
    """Apply the split rule, or keep the published one: table name → frame, for the six Parquet files.

    Raises:
        InputError: too few rows for every split to have one.
    """
    rows = _with_positions(raw)
    return {
        **(_cut(raw.name, rows) if raw.published is None else _published(raw.published)),
        "interactions": rows,
        "users": raw.users.sort("user_id"),
        "items": raw.items.sort("item_id"),
    }


def _cut(name: str, rows: pl.DataFrame) -> dict[str, pl.DataFrame]:
    order = ["timestamp", "user_id", "item_id"]
    kept = rows.filter(pl.col("position") >= MIN_HISTORY).sort(order, maintain_order=True)
    n = len(kept)
    n_train, n_valid = int(0.8 * n), int(0.1 * n)
    if not n_valid:
        raise InputError(
            f"{name}: only {n} rows have {MIN_HISTORY} earlier rows of the same user; at least 10 are needed"
        )
    return {"train": kept[:n_train], "valid": kept[n_train : n_train + n_valid], "test": kept[n_train + n_valid :]}


def _published(splits: PublishedSplits) -> dict[str, pl.DataFrame]:
    """In time order; rows of one moment keep the publisher's order."""
    return {name: splits.rows[name].select(COLUMNS).sort("timestamp", maintain_order=True) for name in SPLITS}


def _with_positions(raw: RawData) -> pl.DataFrame:
    """All events, by user and time, with label and the index into the user's sequence."""
    rows = raw.interactions
    if "label" not in rows.columns:
        rows = rows.with_columns(label=(pl.col("rating") > raw.like_above).cast(pl.Int8))
    # The order of published histories is the publisher's, also among events of one moment.
    order = ["user_id", "timestamp", "item_id"] if raw.published is None else ["user_id"]
    rows = rows.sort(order, maintain_order=True)
    return rows.with_columns(position=pl.int_range(pl.len(), dtype=pl.Int32).over("user_id")).select(COLUMNS)


def _describe(raw: RawData, seed: int) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "name": raw.name,
        "written_by": f"corella-edge {__version__}",
        "seed": seed,
        "licence": raw.licence,
        "redistributable": raw.redistributable,
        "notes": list(raw.notes),
        "generator": None if raw.generator is None else dict(raw.generator),
        "sources": {name: dict(source) for name, source in raw.sources.items()},
        "like": {"above": raw.like_above, "rule": f"rating > {raw.like_above:g}"},
        **_rules(raw.published),
        "attributes": {"users": dict(raw.user_attributes), "items": dict(raw.item_attributes)},
    }


def _rules(published: PublishedSplits | None) -> dict[str, Any]:
    if published is None:
        return {
            "split": {"rule": SPLIT_RULE, "min_history": MIN_HISTORY, "shares": [0.8, 0.1, 0.1]},
            "history": {"events": "all", "ties": "include", "rows_in_log": True, "rule": HISTORY_RULE},
        }
    return {
        "split": {"rule": published.rule},
        "history": {"events": published.history_events, "rule": published.history_rule},
    }


def _write_table(frame: pl.DataFrame, path: Path) -> None:
    try:
        # A fixed row-group size keeps the bytes the same whatever the number of threads.
        with path.open("wb") as file:  # polars takes paths in UTF-8 only
            frame.write_parquet(file, compression="zstd", row_group_size=1 << 20)
    except pl.exceptions.PolarsError as error:
        # polars wraps the system's refusals (a full disk) in errors of its own.
        raise OSError(f"{path.name}: {error}") from error
