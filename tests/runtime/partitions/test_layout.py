"""Which files are partitions, and where their answers may go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from corella_edge.errors import InputError
from corella_edge_runtime.partitions import layout
from corella_edge_runtime.partitions.layout import check_strays, difference, is_table, partitions


def test_files_of_a_folder_by_name_without_those_of_writers(table: Path, tmp_path: Path) -> None:
    for name in ("_SUCCESS", "_delta_log/0.parquet", ".b.parquet.crc", ".tmp/x.parquet", "readme.txt", "_x.parquet"):
        (table / name).parent.mkdir(exist_ok=True)
        (table / name).touch()
    found = partitions(table, tmp_path / "out")
    assert [partition.name for partition in found] == ["a.parquet", "day=2/b.parquet"]
    assert [partition.out for partition in found] == [tmp_path / "out/a.parquet", tmp_path / "out/day=2/b.parquet"]
    assert found[1].work == tmp_path / "out/day=2/.b.parquet.partial"


def test_a_file_is_one_partition(table: Path, tmp_path: Path) -> None:
    (found,) = partitions(table / "a.parquet", tmp_path / "scores.parquet")
    assert (found.source, found.out) == (table / "a.parquet", tmp_path / "scores.parquet")


def test_what_a_table_is_is_told_by_bytes(table: Path, tmp_path: Path) -> None:
    renamed = (table / "a.parquet").rename(table / "a.jsonl")
    (tmp_path / "text.parquet").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    paths = [table, renamed, tmp_path / "text.parquet", tmp_path / "pipe", tmp_path / "none", None]
    assert [is_table(path) for path in paths] == [True, True, False, False, False, False]


@pytest.mark.parametrize(
    ("source", "out", "message"),
    [
        ("in", "in", "lies in the input, or the input in it"),
        ("in", "in/out", "lies in the input, or the input in it"),
        ("in/day=2", "in", "lies in the input, or the input in it"),
        ("in", "file", "exists and is not a folder"),
        ("in/a.parquet", "in", "exists and is not a file"),
        ("in/a.parquet", "in/a.parquet", "is the input itself"),
        ("in/a.parquet", "none/out.parquet", "does not exist"),
        ("empty", "out", "holds no .parquet files"),
    ],
)
def test_places_that_would_lose_something_are_refused(
    table: Path, tmp_path: Path, source: str, out: str, message: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        partitions(tmp_path / source, tmp_path / out)


def test_a_file_that_no_partition_accounts_for_is_refused(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = partitions(table, out)
    check_strays(out, found)
    (out / ".a.parquet.partial").mkdir(parents=True)
    (out / "a.parquet").touch()
    check_strays(out, found)
    (out / "old.parquet").touch()
    with pytest.raises(InputError, match=r"holds old\.parquet, which no partition of the input gives"):
        check_strays(out, found)


def test_a_label_differs_in_what_was_set_and_not_in_its_input() -> None:
    wanted = {"bundle": "a", "threshold": "0.5"}
    assert difference({**wanted, layout._INPUT: "x"}, wanted) == ""
    assert difference({**wanted, "threshold": "0.6"}, wanted) == "was scored with another threshold"
    assert difference(None, wanted) == "was not written by `corella-edge score`"
