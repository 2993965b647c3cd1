"""Files that people have: other types for the same values, any row groups, damage; and files of answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import request_tables as tables
from corella_edge.errors import InputError
from corella_edge_runtime.partitions import parquet
from corella_edge_runtime.partitions.columns import AnswerColumns, request_of
from corella_edge_runtime.partitions.parquet import RequestTable

AT = 1_700_000_000
ZONE = timezone(timedelta(hours=2))


def opened(path: Path, features: tuple[str, ...] = ("gender",), **columns: Any) -> RequestTable:
    return RequestTable(tables.write(path, pa.table(columns)), features)


@pytest.mark.parametrize("start", [0, 1, 29, 30, 31, 64, 99, 100])
def test_rows_are_read_from_anywhere(table: Path, messages: list[dict], start: int) -> None:
    found = RequestTable(table / "a.parquet", [])
    assert found.rows == 100
    rows = [*found.read(start)]
    assert [row for row, _ in rows] == [*range(start, 100)]
    assert [values["id"] for _, values in rows] == [message["id"] for message in messages[start:100]]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("user_id", pa.array([7], pa.uint64())),
        ("user_id", pa.array(["7"], pa.large_string())),
        ("user_id", pa.array(["7"], pa.string_view())),
        ("user_id", pa.array(["7"]).dictionary_encode()),
        ("history_items", pa.array([[1, 2]], pa.list_(pa.int32()))),
        ("history_items", pa.array([[1, 2]], pa.large_list(pa.uint8()))),
        ("history_items", pa.array([[1, 2]], pa.list_(pa.int64(), 2))),
        ("history_items", pa.array([["1", "2"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))),
        ("history_items", pa.array([["1", "2"]], pa.large_list(pa.large_string()))),
        ("history_items", pa.array([["1", "2"]], pa.list_(pa.string(), 2))),
        ("history_ratings", pa.array([[4, 5]], pa.list_(pa.int8()))),
        ("history_ratings", pa.array([[Decimal("4.0"), Decimal("5.0")]], pa.list_(pa.decimal128(3, 1)))),
        ("history_times", pa.array([[AT, AT + 1]], pa.list_(pa.int32()))),
        ("history_times", pa.array([[AT, AT + 1]], pa.large_list(pa.int64())).cast(pa.large_list(pa.timestamp("s")))),
        *(("history_times", pa.array([[datetime.fromtimestamp(AT + i, zone).replace(tzinfo=kept) for i in (0, 1)]],
                                     pa.list_(pa.timestamp(unit, str(kept and "+02:00") if kept else None))))
          for unit in ("ms", "us", "ns") for zone, kept in ((UTC, None), (ZONE, ZONE))),
        ("candidates", pa.array([[9]], pa.list_(pa.int64()))),
        ("top_k", pa.array([1], pa.int16())),
        ("top_k", pa.nulls(1)),
    ],
)  # fmt: skip
def test_the_same_values_in_other_types_are_the_same_request(tmp_path: Path, column: str, values: pa.Array) -> None:
    plain = {"user_id": ["7"], "history_items": [["1", "2"]], "history_ratings": [[4.0, 5.0]],
             "history_times": [[AT, AT + 1]], "candidates": [["9"]], "top_k": [1]}  # fmt: skip
    if values.type == pa.null():
        plain["top_k"] = [None]
    made = [
        [request_of(values, []) for _, values in opened(tmp_path / name, **columns).read()]
        for name, columns in (("a.parquet", plain), ("b.parquet", {**plain, column: values}))
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user_id": [1.0]}, "column 'user_id': expected text or whole numbers, is double; cast it"),
        ({"user_id": ["u"], "candidates": ["a"]}, "column 'candidates': expected lists of text or whole numbers, is"),
        ({"user_id": ["u"], "history_items": [[1.5]]}, "column 'history_items': expected lists of text or whole"),
        ({"user_id": ["u"], "gender": [{"a": 1}]}, "column 'gender': expected text, numbers, true or false, or lists"),
        ({"user_id": ["u"], "top_k": [1.0]}, "column 'top_k': expected whole numbers, is double"),
        ({"label": [1]}, "is no table of requests"),
    ],
)
def test_a_column_of_another_type_is_refused(tmp_path: Path, columns: dict, message: str) -> None:
    with pytest.raises(InputError) as told:
        opened(tmp_path / "in.parquet", **columns)
    assert str(told.value).startswith(f"{tmp_path / 'in.parquet'}: {message}")


@pytest.mark.parametrize(
    "change", [lambda raw: raw[:-20], lambda raw: raw[:40] + b"\0" * 99 + raw[139:], lambda raw: b"no"]
)
def test_a_damaged_file_is_named(tmp_path: Path, messages: list[dict], change: Any) -> None:
    path = tables.write(tmp_path / "in.parquet", tables.table_of(messages))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InputError) as told:
        [*RequestTable(path, []).read()]
    assert str(told.value).startswith(f"{path}: cannot be read as Parquet: ")
    assert "\n" not in str(told.value)


def test_pieces_become_one_file_with_its_label(tmp_path: Path, engine: Any, messages: list[dict], table: Path) -> None:
    paths = []
    for first in (0, 1, 7):
        answers = AnswerColumns()
        for row, values in [*RequestTable(table / "a.parquet", []).read(first)][:2]:
            request = request_of(values, [])
            answers.add(row, request, engine.rank(request))
        paths.append(tmp_path / f"{first}.piece")
        parquet.write(answers, paths[-1])
    parquet.join(paths, tmp_path / "out.parquet", {"bundle": "x", "LLM": False})
    assert parquet.label(tmp_path / "out.parquet") == {"bundle": "x", "LLM": False}
    assert pq.ParquetFile(tmp_path / "out.parquet").schema_arrow.remove_metadata() == parquet.ANSWERS
    assert [row["row"] for row in tables.rows(tmp_path / "out.parquet")] == [0] * 3 + [1] * 6 + [2] * 3 + [7] * 3 + [
        8
    ] * 3


def test_other_files_have_no_label(table: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("PAR1")
    assert [parquet.label(path) for path in (table / "a.parquet", tmp_path / "text", tmp_path / "none")] == [None] * 3


@pytest.mark.parametrize("column", ["user_id", "history_items", "candidates"])
def test_text_that_is_not_utf_8_is_one_error(tmp_path: Path, column: str) -> None:
    bad = pa.array([b"\xff"], pa.binary()).view(pa.string())
    lists = {name: [["1"]] for name in ("history_items", "candidates")}
    value = bad if column == "user_id" else pa.ListArray.from_arrays([0, 1], bad)
    found = opened(tmp_path / "a.parquet", **{"user_id": ["u"], **lists, column: value})
    with pytest.raises(InputError, match=rf"a\.parquet: column '{column}': holds the byte 0xff, which is not UTF-8"):
        next(found.read())
