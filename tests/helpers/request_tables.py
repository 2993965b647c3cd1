"""Tables of requests as Parquet, made of requests of JSON lines; and answers of JSON lines as rows of a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Json = dict[str, Any]


def row_of(message: Json) -> Json:
    """The row that says what a JSON request says, as far as a table can."""
    user, candidates = message["user"], message.get("candidates")
    history = user.get("history")
    row: Json = {name: message.get(name) for name in ("id", "threshold", "top_k", "timeout_ms", "adapter")}
    row["user_id"] = user.get("id")
    row |= user.get("features", {})
    for column, name in (("history_items", "item"), ("history_ratings", "rating"), ("history_times", "time")):
        row[column] = None if history is None else [event.get(name) for event in history]
    row["candidates"] = None if candidates is None else [candidate["item"] for candidate in candidates]
    row["candidate_features"] = candidates and [candidate.get("features") for candidate in candidates]
    return row


TYPES = {
    "id": pa.string(),
    "user_id": pa.string(),
    "history_items": pa.list_(pa.string()),
    "history_ratings": pa.list_(pa.float64()),
    "history_times": pa.list_(pa.int64()),
    "candidates": pa.list_(pa.string()),
}


def table_of(messages: list[Json], **others: Any) -> pa.Table:
    """The table of plain requests; `others`: further columns."""
    rows = [row_of(message) for message in messages]
    columns = {name: pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()}
    return pa.table({**columns, **others})


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def flat(answers: list[Json], requests: list[Json]) -> list[Json]:
    """Answers of JSON lines as rows of a table, without the user's id."""
    return [
        {"row": row, "id": answer.get("id"), "user_id": request["user"].get("id"), "unknown": [], **scored}
        for row, (answer, request) in enumerate(zip(answers, requests, strict=True))
        for scored in answer["candidates"]
    ]


def rows(path: Path) -> list[Json]:
    """The rows of a file of answers, or of a folder of them in the order of their names."""
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]
