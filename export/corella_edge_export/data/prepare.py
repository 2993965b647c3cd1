"""From a reader's tables to the prepared folder: order, label, history rule, split, files."""

from __future__ import annotations

import hashlib
import json
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
from corella_edge_export.data.prepared import FORMAT_VERSION, SPLITS, PreparedData
from corella_edge_export.data.sampling import CANDIDATES, draw_requests, request_line

Progress = Callable[[str], None]
MIN_HISTORY = 5
SPLIT_RULE = (
    "order all rows by (timestamp, user id, item id), ids compared as strings, stable; drop rows with fewer "
    "than 5 earlier rows of the same user; the first int(0.8 n) are train, the next int(0.1 n) valid, the "
    "rest test"
)
HISTORY_RULE = (
    "all earlier events of the user, liked or not, dropped rows included: the rows of interactions.parquet "
    "of that user whose position is smaller"
)
SUMMARY = ("name", "counts", "unseen", "notes")
COLUMNS = tuple(SPLIT_ROWS)


def prepare(
    reader_name: str,
    source: Path | None,
    out: Path,
    *,
    seed: int = 0,
    requests: int = 1000,
    options: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read a data set and write its prepared folder `out`, complete or not at all.

    Args:
        source: folder of the publisher's files; None for generated data.
        seed: draws the requests, and the data themselves if they are generated.
        requests: how many held-out requests to write. options: more settings of the reader.

    Returns:
        The summary: out, seconds, and of dataset.json name, counts, unseen, notes.

    Raises:
        InputError: unknown reader, bad input (file and line), too few rows, or `out` is taken.
    """
    say = progress or (lambda message: None)
    check_free(out)
    start = time.perf_counter()
    wanted = {"seed": seed, **(options or {})}
    registry.check(reader_name, source, wanted)
    say(f"reading {reader_name}")
    raw = registry.read(reader_name, source, wanted)
    info = write_prepared(raw, out, seed=seed, requests=requests, progress=progress)
    seconds = round(time.perf_counter() - start, 2)
    return {"out": str(out), "seconds": seconds, **{key: info[key] for key in SUMMARY}}


def write_prepared(
    raw: RawData, out: Path, *, seed: int = 0, requests: int = 1000, progress: Progress | None = None
) -> dict[str, Any]:
    """Split checked data and write the folder; returns dataset.json's content. Raises as `prepare`."""
    say = progress or (lambda message: None)
    check(raw)
    say("splitting")
    tables = split_tables(raw)
    info = _describe(raw, tables, seed)
    with new_folder(out) as folder:
        for name, frame in tables.items():
            say(f"writing {name}.parquet")
            _write_table(frame, folder / f"{name}.parquet")
        say("writing requests.jsonl")
        _write_requests(PreparedData(folder, info), requests, seed)
        _write_info(folder, info)
    return info


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


def _describe(raw: RawData, tables: Mapping[str, pl.DataFrame], seed: int) -> dict[str, Any]:
    counts = {name: len(frame) for name, frame in tables.items()}
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
        "counts": {**counts, "dropped": _dropped(raw, tables)},
        "unseen": {name: _unseen(tables[name], tables["train"]) for name in ("valid", "test")},
        "splits": {name: _span(tables[name]) for name in SPLITS},
    }


def _rules(published: PublishedSplits | None) -> dict[str, Any]:
    if published is None:
        return {
            "split": {"rule": SPLIT_RULE, "min_history": MIN_HISTORY, "shares": [0.8, 0.1, 0.1]},
            "history": {"events": "all", "rule": HISTORY_RULE},
        }
    return {
        "split": {"rule": published.rule},
        "history": {"events": published.history_events, "rule": published.history_rule},
    }


def _dropped(raw: RawData, tables: Mapping[str, pl.DataFrame]) -> int:
    """How many events are in no split and only serve as history."""
    events = tables["interactions"]
    if raw.published is None:
        return len(events) - sum(len(tables[name]) for name in SPLITS)
    key = ["user_id", "item_id", "timestamp"]
    return len(events.join(pl.concat([tables[name].select(key) for name in SPLITS]), on=key, how="anti"))


def _unseen(split: pl.DataFrame, train: pl.DataFrame) -> dict[str, float]:
    """Shares absent from train: of distinct users and items, and of the rows that belong to them."""
    shares = {}
    for name in ("user", "item"):
        ids = split[f"{name}_id"]
        new = ~ids.is_in(train[f"{name}_id"].unique().implode())
        shares[f"{name}s"] = round(ids.filter(new).n_unique() / ids.n_unique(), 6)
        shares[f"{name}_rows"] = round(int(new.sum()) / len(ids), 6)
    return shares


def _span(split: pl.DataFrame) -> dict[str, Any]:
    times, likes = split["timestamp"], int(split["label"].sum())
    return {
        "rows": len(split),
        "users": split["user_id"].n_unique(),
        "items": split["item_id"].n_unique(),
        "like_share": round(likes / len(split), 6),
        "first_time": times[0],
        "last_time": times[-1],
    }


def _write_table(frame: pl.DataFrame, path: Path) -> None:
    try:
        # A fixed row-group size keeps the bytes the same whatever the number of threads.
        with path.open("wb") as file:  # polars takes paths in UTF-8 only
            frame.write_parquet(file, compression="zstd", row_group_size=1 << 20)
    except pl.exceptions.PolarsError as error:
        # polars wraps the system's refusals (a full disk) in errors of its own.
        raise OSError(f"{path.name}: {error}") from error


def _write_requests(data: PreparedData, count: int, seed: int) -> None:
    with (data.root / "requests.jsonl").open("w", encoding="utf-8", newline="\n") as file:
        written = [file.write(request_line(request)) for request in draw_requests(data, count, seed)]
    data.info["requests"] = {"count": len(written), "candidates": CANDIDATES, "split": "test"}


def _write_info(folder: Path, info: dict[str, Any]) -> None:
    info["files"] = {path.name: _hash(path) for path in sorted(folder.iterdir())}
    text = json.dumps(info, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8")


def _hash(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
