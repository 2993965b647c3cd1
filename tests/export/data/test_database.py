"""Work within a limit: spilled beside the folder that is made, refused in words, and nothing left behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import duckdb
import pytest

from corella_edge.atomic import working_folder
from corella_edge.errors import InputError
from corella_edge_export.data.database import (
    LEAST_MEMORY,
    connect,
    literal,
    name,
    one,
    readable_errors,
    working_database,
)


def test_sorting_more_than_the_limit_spills_and_leaves_nothing(tmp_path: Path) -> None:
    with working_database(tmp_path / "out", LEAST_MEMORY, threads=1) as db:
        db.execute("CREATE TABLE t AS SELECT hash(n) AS h, n FROM range(6000000) t(n) ORDER BY h")
        assert [path.name for path in tmp_path.iterdir()] == [".out.work"]
        assert one(db, "SELECT count(*), min(n), max(n) FROM t") == (6_000_000, 0, 5_999_999)
        pairs = "SELECT count(*) FROM t a JOIN t b ON b.rowid = a.rowid + 1 WHERE a.rowid < 100000 AND a.h > b.h"
        assert one(db, pairs) == (0,)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.work").mkdir()
    (tmp_path / ".out.work" / "tables.duckdb").write_text("half")
    with working_database(tmp_path / "out") as db:
        assert one(db, "SELECT 1") == (1,)
    assert list(tmp_path.iterdir()) == []


def test_a_second_run_is_refused(tmp_path: Path) -> None:
    with (
        working_folder(tmp_path / "out"),
        pytest.raises(InputError, match="another run is writing it"),
        working_database(tmp_path / "out"),
    ):
        pass


def test_too_little_memory_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--memory: 1 MiB is too little; give at least 128 MiB"), \
            working_database(tmp_path / "out", 1 << 20):  # fmt: skip
        pass
    wide = "SELECT list(repeat('x', 1000) || n) FROM range(2000000) t(n)"
    with (
        pytest.raises(InputError, match=r"the memory limit is too low \(.*\); raise --memory, or use fewer threads"),
        working_database(tmp_path / "out", LEAST_MEMORY) as db,
    ):
        db.execute(wide)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_the_systems_refusal() -> None:
    with pytest.raises(OSError, match="no space left") as error, readable_errors(Path("x")):
        raise duckdb.IOException("IO Error: Could not write file: No space left on device")
    with pytest.raises(OSError, match="no space left"), readable_errors(Path("x")):
        raise duckdb.TransactionException("Failed to commit: Could not write file: No space left on device")
    with pytest.raises(OSError, match="no file of this size"), readable_errors(Path("x")):
        raise duckdb.IOException("IO Error: Could not write file: File too large")
    assert error.value.errno == errno.ENOSPC


@pytest.mark.parametrize("odd", ["[a]*", "it's", "dé ja", "100%"])
def test_folders_of_odd_names_work(tmp_path: Path, odd: str) -> None:
    with working_database(tmp_path / odd / "out") as db:
        db.execute("CREATE TABLE t AS SELECT 1 AS one")


@pytest.mark.parametrize("odd", ["what?", os.fsdecode(b"\xff"), "a\nb"])
def test_folders_where_duckdb_cannot_work_are_refused(tmp_path: Path, odd: str) -> None:
    with pytest.raises(InputError, match="name a folder without odd letters"), working_database(tmp_path / odd / "out"):
        pass


def test_names_and_texts_are_quoted() -> None:
    with connect() as db:
        text, column = literal("it's"), name('a "b"')
        assert one(db, f"SELECT {column} FROM (SELECT {text} AS {column})") == ("it's",)
