"""Any table of texts, written in any dialect, is read back as it was, by DuckDB and record by record alike."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import polars as pl
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.table import raw
from corella_edge_export.data.table.description import Files
from corella_edge_export.data.table.raw import RawTable, load_raw

PACKERS: dict[str, Callable[[bytes], bytes]] = {"none": bytes, "gzip": gzip.compress, "zstd": zstandard.compress}
MANY = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
# What texts are made of: signs that dialects give a meaning, blanks, letters of one, two and three bytes.
LETTERS = "ab1 ,;|:\"'\\\n\r\té€"
TEXT = st.text(LETTERS, max_size=6)
Rows = list[tuple[str, ...]]


def tables(texts: st.SearchStrategy[str]) -> st.SearchStrategy[Rows]:
    return st.integers(2, 4).flatmap(lambda width: st.lists(st.tuples(*[texts] * width), min_size=1, max_size=8))


@pytest.fixture(scope="module")
def db() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def loaded(db: duckdb.DuckDBPyConnection, files: Files, columns: list[str] | None = None) -> tuple[RawTable, Rows]:
    """What is read, null as an empty text, and the table that it is in."""
    wanted = {name: name for name in columns or files.columns}
    db.execute("DROP TABLE IF EXISTS t")
    table = load_raw(db, "t", files, wanted, lambda text: None)
    rows = db.execute("SELECT * FROM t ORDER BY rowid").fetchall()
    assert table.rows == len(rows)
    return table, [tuple(value or "" for value in row) for row in rows]


def one_by_one() -> Any:
    """Keeps DuckDB from reading the file itself."""
    return patch.multiple(raw._FileReading, _from_csv=lambda *_: None, _from_json=lambda *_: None)


def written(rows: Rows, dialect: dict[str, Any]) -> str:
    text = io.StringIO()
    csv.writer(text, **dialect).writerows(rows)
    return text.getvalue()


@MANY
@given(
    rows=tables(TEXT),
    separator=st.sampled_from([",", ";", "\t", "|", "¦"]),
    quote=st.sampled_from(['"', "'"]),
    escape=st.sampled_from(["", "\\"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "cp1252", "utf-16"]),
    packing=st.sampled_from(list(PACKERS)),
    last_end=st.booleans(),
)
@example([("a", 'x" ,y'), (" b", "c")], ",", '"', "", csv.QUOTE_MINIMAL, "\n", "utf-8", "none", True)
def test_what_python_writes_is_read_exactly(
    db: duckdb.DuckDBPyConnection,
    tmp_path_factory: pytest.TempPathFactory,
    rows: Rows,
    separator: str,
    quote: str,
    escape: str,
    quoting: int,
    end: str,
    encoding: str,
    packing: str,
    last_end: bool,
) -> None:
    """Line ends, separators and quotation marks inside of values too."""
    if any(set(value) & {"\n", "\r"} for row in rows for value in row):
        quoting = csv.QUOTE_ALL  # Python's own writer leaves a line end of another kind without quotation marks
    doubled = {"escapechar": escape, "doublequote": False} if escape else {}
    text = written(
        rows, {"delimiter": separator, "quotechar": quote, "quoting": quoting, "lineterminator": end, **doubled}
    )
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(PACKERS[packing]((text if last_end else text.removesuffix(end)).encode(encoding)))
    names = tuple(f"n{number}" for number in range(len(rows[0])))
    files = Files(
        (path,), separator=separator, quote=quote, escape=escape, header=False, columns=names, encoding=encoding
    )
    assert loaded(db, files)[1] == rows
    with one_by_one():
        assert loaded(db, files)[1] == rows


@MANY
@given(rows=tables(st.text("ab \"'é:", max_size=5)), end=st.sampled_from(["\n", "\r\n", "\r"]))
def test_without_quotation_marks_nothing_has_a_meaning(
    db: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory, rows: Rows, end: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.tsv"
    path.write_bytes("".join("\t".join(row) + end for row in rows).encode())
    names = tuple(f"n{number}" for number in range(len(rows[0])))
    files = Files((path,), separator="\t", quote="", header=False, columns=names)
    assert loaded(db, files)[1] == rows


@MANY
@given(rows=tables(st.text('ab,:"é\n', max_size=5)), separator=st.sampled_from(["::", ", ", "||", "<>"]))
def test_separators_of_several_letters(
    db: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory, rows: Rows, separator: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "several.dat"
    quoted = [['"' + value.replace('"', '""') + '"' for value in row] for row in rows]
    path.write_bytes("".join(separator.join(row) + "\n" for row in quoted).encode())
    names = tuple(f"n{number}" for number in range(len(rows[0])))
    files = Files((path,), separator=separator, header=False, columns=names)
    assert loaded(db, files)[1] == rows


@settings(MANY, max_examples=250)
@given(
    data=st.lists(st.sampled_from(["a", ",", '"', "\n", "\r\n", " ", "a,b\n", '"a",b\n', '"a"",",b\n']), max_size=9),
    quote=st.sampled_from(['"', ""]),
)
@example(["a,b,,,"], '"')
@example(['a, "b"'], '"')
@example(['a,"b" \n'], '"')
@example(['"', '"', " ", '"a",b\n'], '"')
@example(['"', '"', "  ", '"a",b\n'], '"')
@example(["a", '"a"",",b\n', '"', " "], '"')
def test_duckdb_takes_and_refuses_what_the_records_do(
    db: duckdb.DuckDBPyConnection, tmp_path_factory: pytest.TempPathFactory, data: list[str], quote: str
) -> None:
    """Of any bytes: what DuckDB reads silently is what stands there."""
    path = tmp_path_factory.getbasetemp() / "bytes.csv"
    path.write_bytes("".join(data).encode())
    files = Files((path,), header=False, columns=("x", "y"), quote=quote)

    def answer() -> Rows | str:
        try:
            return loaded(db, files)[1]
        except InputError as error:
            return str(error)

    found = answer()
    with one_by_one():
        assert answer() == found


VALUES = st.one_of(st.text(LETTERS, max_size=5), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
                   st.booleans(), st.lists(st.text("a é\"", max_size=3), max_size=3))  # fmt: skip


@MANY
@given(
    rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=6),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    packing=st.sampled_from(list(PACKERS)),
)
def test_json_lines_are_read_exactly(
    db: duckdb.DuckDBPyConnection,
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[Any, Any]],
    end: str,
    packing: str,
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    lines = [json.dumps({"x": x, "y": {"z": y}}) + end for x, y in rows]
    path.write_bytes(PACKERS[packing]("".join(lines).encode()))
    files = Files((path,), format="jsonl")
    found = loaded(db, files, ["x", "y.z"])[1]
    with one_by_one():
        assert loaded(db, files, ["x", "y.z"])[0].rows == len(rows)
        again = loaded(db, files, ["x", "y.z"])[1]
    for texts in (found, again):
        values = [tuple(map(value_of, texts, pair)) for texts, pair in zip(texts, rows, strict=True)]
        assert values == rows


def value_of(text: str, like: Any) -> Any:
    """The value that a text stands for, of the type of another."""
    return text if isinstance(like, str) else type(like)(json.loads(text))


def test_an_id_keeps_its_zeros_and_a_whole_number_has_no_point(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    csv_, jsonl, parquet = tmp_path / "a.csv", tmp_path / "a.jsonl", tmp_path / "a.parquet"
    csv_.write_text("id,x\n00123,1.0\n")
    jsonl.write_text('{"id": "00123", "x": 1.0}\n')
    pl.DataFrame({"id": ["00123"], "x": [1.0]}).write_parquet(parquet)
    assert loaded(db, Files((csv_,)), ["id", "x"])[1] == [("00123", "1.0")]
    assert loaded(db, Files((jsonl,), format="jsonl"), ["id", "x"])[1] == [("00123", "1")]
    assert loaded(db, Files((parquet,), format="parquet"), ["id", "x"])[1] == [("00123", "1")]


@pytest.mark.parametrize("packing", PACKERS)
def test_several_files_are_one_table_in_their_order(
    db: duckdb.DuckDBPyConnection, tmp_path: Path, packing: str
) -> None:
    """Their columns may stand in another order; a row's place is the file's own line."""
    first, second = tmp_path / "b[1].csv", tmp_path / "a*.csv"
    first.write_bytes(PACKERS[packing](b"id,x\n1,a\n2,b\n"))
    second.write_bytes(PACKERS[packing](b'x,id\n"c\nc",3\nd,4\n'))
    table, rows = loaded(db, Files((first, second)), ["id", "x"])
    assert rows == [("1", "a"), ("2", "b"), ("3", "c\nc"), ("4", "d")]
    assert [table.place(row) for row in range(4)] == [f"{first} line 2", f"{first} line 3", f"{second} line 2",
                                                      f"{second} line 4"]  # fmt: skip


def test_bad_rows_are_dropped_and_counted_and_lines_stay_right(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,x\n1,a\n2\n3,"c\n4,d\n5,e,f\n6,"g\ng"\n')
    table, rows = loaded(db, Files((path,), bad_rows="drop"), ["id", "x"])
    assert rows == [("1", "a"), ("4", "d"), ("6", "g\ng")]
    assert (table.rows, table.bad) == (3, 3)
    assert [table.place(row) for row in range(3)] == [f"{path} line {line}" for line in (2, 5, 7)]


def test_lines_that_end_in_cr_are_read_and_said(db: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    path = tmp_path / "mac.csv"
    path.write_bytes(b"id,x\r1,a\r2,b\r")
    table, rows = loaded(db, Files((path,)), ["id", "x"])
    assert rows == [("1", "a"), ("2", "b")]
    assert table.notes == ["mac.csv: lines end in CR alone, as old Macs wrote them; they were read so"]
    assert table.place(1) == f"{path} line 3"
