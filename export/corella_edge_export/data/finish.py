"""The last step of every preparation: what the six Parquet files say of themselves, the requests, `dataset.json`.

It reads the files through DuckDB, so it needs no more memory for a large data set than for a small one.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from corella_edge.request import Request
from corella_edge.request_json import request_line
from corella_edge_export.data.database import literal, one, plain_path
from corella_edge_export.data.prepared import PARQUET, SPLITS, PreparedData
from corella_edge_export.data.sampling import CANDIDATES, candidates

PARQUET_OPTIONS = "(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 1048576)"
LONGEST = 10_000  # events in a request's history
Say = Callable[[str], None]


def finish(
    db: duckdb.DuckDBPyConnection,
    folder: Path,
    about: Mapping[str, Any],
    *,
    history_only: int | None,
    requests: int,
    seed: int,
    say: Say,
) -> dict[str, Any]:
    """Write requests.jsonl and dataset.json beside the six Parquet files of `folder`.

    Args:
        about: the entries of dataset.json that the files do not tell.
        history_only: events that are in no split; None = those without a row of the same user, item and time.

    Returns:
        The content of dataset.json.
    """
    with plain_path(folder) as plain:
        say("counting")
        info = {**about, **figures(db, plain, history_only)}
        say("writing requests.jsonl")
        with (folder / "requests.jsonl").open("w", encoding="utf-8", newline="\n") as file:
            drawn = draw_requests(db, plain, info, requests, seed)
            written = [file.write(request_line(request)) for request in drawn]
    info["requests"] = {"count": len(written), "candidates": CANDIDATES, "split": "test"}
    info["files"] = {path.name: file_hash(path) for path in sorted(folder.iterdir())}
    text = json.dumps(info, ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    (folder / "dataset.json").write_text(text, encoding="utf-8")
    return info


def figures(db: duckdb.DuckDBPyConnection, folder: Path, history_only: int | None = None) -> dict[str, Any]:
    """`counts`, `unseen` and `splits` of dataset.json, from the Parquet files of `folder`, a plain path."""
    counts = {name: one(db, f"SELECT count(*) FROM {_file(folder, name)}")[0] for name in PARQUET}
    dropped = _in_no_split(db, folder) if history_only is None else history_only
    parts = {(name, side): _side(db, folder, name, side) for name in SPLITS for side in ("user", "item")}
    return {
        "counts": {**counts, "dropped": dropped},
        "unseen": {name: _unseen(parts, name) for name in ("valid", "test")},
        "splits": {name: _span(db, folder, name, parts) for name in SPLITS},
    }


Parts = Mapping[tuple[str, str], tuple[int, int, int, int]]


def _side(db: duckdb.DuckDBPyConnection, folder: Path, split: str, side: str) -> tuple[int, int, int, int]:
    """(ids, those absent from train, rows, rows of those) of a split's users or items."""
    query = f"""
        WITH known AS (SELECT DISTINCT {side}_id AS id FROM {_file(folder, "train")}),
            ids AS (SELECT {side}_id AS id, count(*) AS rows FROM {_file(folder, split)} GROUP BY ALL)
        SELECT count(*), count(*) FILTER (known.id IS NULL), coalesce(sum(rows), 0)::BIGINT,
            coalesce(sum(rows) FILTER (known.id IS NULL), 0)::BIGINT
        FROM ids LEFT JOIN known USING (id)"""
    ids, new, rows, new_rows = one(db, query)
    return ids, new, rows, new_rows


def _unseen(parts: Parts, split: str) -> dict[str, float]:
    """Shares absent from train: of distinct users and items, and of the rows that belong to them."""
    shares = {}
    for side in ("user", "item"):
        ids, new, rows, new_rows = parts[split, side]
        shares[f"{side}s"] = round(new / ids, 6)
        shares[f"{side}_rows"] = round(new_rows / rows, 6)
    return shares


def _span(db: duckdb.DuckDBPyConnection, folder: Path, split: str, parts: Parts) -> dict[str, Any]:
    query = f"SELECT sum(label)::BIGINT, min(timestamp), max(timestamp) FROM {_file(folder, split)}"
    likes, first, last = one(db, query)
    (users, _, rows, _), (items, *_) = parts[split, "user"], parts[split, "item"]
    share = round(likes / rows, 6)
    return {
        "rows": rows, "users": users, "items": items, "like_share": share, "first_time": first, "last_time": last
    }  # fmt: skip


def _in_no_split(db: duckdb.DuckDBPyConnection, folder: Path) -> int:
    rows = " UNION ALL ".join(f"SELECT user_id, item_id, timestamp FROM {_file(folder, name)}" for name in SPLITS)
    events = _file(folder, "interactions")
    return int(one(db, f"SELECT count(*) FROM {events} ANTI JOIN ({rows}) USING (user_id, item_id, timestamp)")[0])


def draw_requests(
    db: duckdb.DuckDBPyConnection, folder: Path, info: Mapping[str, Any], count: int, seed: int
) -> Iterator[Request]:
    """Draw `count` test rows (fewer if there are fewer), in time order, each as one request.

    A request carries the profile, the history before the event (of more than LONGEST events the latest), and up to 20
    candidates: the row's item and those of the user's later events, oldest first, filled up with random items the user
    has no event with. Its id is `test-R`, R the row's place in test.parquet.
    """
    rng = np.random.default_rng(seed)
    total = info["counts"]["test"]
    rows = np.sort(rng.choice(total, size=min(count, total), replace=False))
    with tempfile.TemporaryDirectory() as drawn:
        data = _excerpt(db, folder, Path(drawn), dict(info), rows)
        split, log = data.split("test"), data.log
        for place, row in enumerate(rows.tolist()):
            user, position = int(split.users[place]), int(split.positions[place])
            own = log.items[log.offsets[user] : log.offsets[user + 1]]
            items = candidates(int(split.items[place]), own, position, len(data.item_ids), rng)
            yield data.request(user, position, items, LONGEST, id=f"test-{row}")


def _excerpt(
    db: duckdb.DuckDBPyConnection, folder: Path, to: Path, info: dict[str, Any], rows: NDArray[np.int64]
) -> PreparedData:
    """Test rows, the profiles and events of their users, and all items' ids, as prepared data in the folder `to`."""
    test = f"read_parquet({literal(str(folder / 'test.parquet'))}, file_row_number = true)"
    log = f"read_parquet({literal(str(folder / 'interactions.parquet'))}, file_row_number = true)"
    # A semi join USING the only column selects none.
    chosen = f"user_id IN (SELECT user_id FROM {_file(to, 'test')})"
    queries = {
        "test": f"SELECT * EXCLUDE file_row_number FROM {test} WHERE file_row_number IN "
        f"(SELECT unnest({rows.tolist()})) ORDER BY file_row_number",
        "users": f"SELECT * FROM {_file(folder, 'users')} WHERE {chosen} ORDER BY user_id",
        "interactions": f"SELECT * EXCLUDE file_row_number FROM {log} WHERE {chosen} ORDER BY file_row_number",
        "items": f"SELECT item_id FROM {_file(folder, 'items')} ORDER BY item_id",
    }
    for name, query in queries.items():
        db.execute(f"COPY ({query}) TO {literal(str(to / f'{name}.parquet'))} {PARQUET_OPTIONS}")
    return PreparedData(to, info)


def _file(folder: Path, table: str) -> str:
    """A Parquet file as SQL reads it."""
    return f"read_parquet({literal(str(folder / f'{table}.parquet'))})"


def file_hash(path: Path) -> dict[str, Any]:
    """{"sha256", "bytes"} of a file."""
    with path.open("rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest(), "bytes": path.stat().st_size}
