"""Labelled rows: what is read is what was written, in every form of a file; what is wrong is named."""

from __future__ import annotations

import math
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.labelled_files import read_csv, read_json_lines
from corella_edge.routing.labelled import LabelledRows, gather, unread
from corella_edge_runtime.partitions import parquet

PROBABILITY = st.floats(0.0, 1.0)
ROW = st.fixed_dictionaries(
    {
        "request": st.text(min_size=1, max_size=3).filter(str.isprintable),
        "user": st.just("u"),
        "item": st.one_of(st.integers(0, 99), st.sampled_from(["é", "i1", "="])),
        "time": st.floats(-1e9, 4e9),
        "label": st.sampled_from([0, 1, 0.0, True]),
        "crm": PROBABILITY,
        "llm": st.none() | PROBABILITY,
    },
    optional={"propensity": st.floats(1e-6, 1.0), "input.age": st.none() | st.floats(-10, 10), "reason": st.just("x")},
)
ROWS = st.lists(ROW, min_size=1, max_size=6, unique_by=lambda row: (row["request"], str(row["item"])))
GOOD = {"request": "r", "user": "u", "item": "i", "time": 5, "label": 1, "crm": 0.5, "llm": 0.25}


def made(rows: list[dict[str, object]]) -> LabelledRows:
    return gather((f"row {number}", row) for number, row in enumerate(rows, 1))


def same(one: LabelledRows, other: LabelledRows) -> bool:
    columns, others = one.columns(), other.columns()
    return columns.keys() == others.keys() and all(
        np.array_equal(values, others[name], equal_nan=values.dtype.kind == "f") for name, values in columns.items()
    )


@given(ROWS)
def test_every_form_of_a_file_gives_the_same_rows_and_the_same_hash(rows: list[dict[str, object]]) -> None:
    found = made(rows)
    with tempfile.TemporaryDirectory() as name:
        lines, table = Path(name) / "rows.jsonl", Path(name) / "rows.parquet"
        lines.write_text("".join(found.lines()), "utf-8")
        parquet.write_labelled(found, table)
        assert same(read_json_lines(lines), found)
        assert same(parquet.read_labelled(table), found)
        assert read_json_lines(lines).sha256() == parquet.read_labelled(table).sha256() == found.sha256()


@given(ROWS, st.randoms())
def test_taking_rows_takes_every_column(rows: list[dict[str, object]], random: object) -> None:
    found = made(rows)
    places = np.arange(len(found))[::-1]
    back = found.take(places).take(places)
    assert same(back, found)
    assert len(found.take(found.known)) == sum(row["llm"] is not None for row in rows)


def test_a_csv_file_has_a_header_and_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("request,user,item,time,label,crm,llm,shelf\r\n1,2,007,3,1,0.5,,left\r\n1,2,b,3,0,.25,1e-1,\r\n")
    found = read_csv(path)
    assert found.item.tolist() == ["007", "b"]
    assert found.crm.tolist() == [0.5, 0.25]
    assert math.isnan(found.llm[0])
    assert found.llm[1] == 0.1
    assert found.propensity.tolist() == [1.0, 1.0]


def test_what_is_not_read_is_known() -> None:
    assert unread(["user", "input.age", "shelf", "llm"]) == ["shelf"]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("label", 2, "label: 2 is neither 0 nor 1"),
        ("label", None, "label: expected a number, not nothing"),
        ("crm", 1.5, "crm: 1.5 is not a probability"),
        ("crm", math.nan, "crm: expected a number"),
        ("crm", None, "crm: expected a number, not nothing"),
        ("llm", -0.1, "llm: -0.1 is not a probability"),
        ("llm", math.inf, "llm: expected a number"),
        ("time", "now", "time: expected Unix seconds, a number, not 'now'"),
        ("time", 1.7e12, "time: 1700000000000 looks like milliseconds; times are Unix seconds, before the year 2100"),
        ("time", 5e9, "time: 5000000000 looks like milliseconds; times are Unix seconds"),
        ("time", -1e30, "time: -1e+30 is none; times are Unix seconds, before the year 2100"),
        ("label", "yes", "label: 'yes' is neither 0 nor 1"),
        ("user", "", "user: expected text or a whole number"),
        ("item", 1.5, "item: expected text or a whole number"),
        ("propensity", 0, "propensity: 0 is the chance"),
        ("input.age", "old", "input.age: expected a number"),
    ],
)
def test_what_is_wrong_is_named(field: str, value: object, said: str) -> None:
    with pytest.raises(InputError, match=f"^row 2: {re.escape(said)}"):
        made([GOOD, {**GOOD, field: value}])


def test_missing_columns_are_named_with_what_may_be_meant() -> None:
    row = {name: value for name, value in GOOD.items() if name != "label"}
    with pytest.raises(InputError, match=r"row 1: label is missing; did you mean 'labels'\?; needed are request, user"):
        made([{**row, "labels": 1}])


def test_a_request_has_one_user() -> None:
    with pytest.raises(InputError, match="row 2: request: 'r' is of user 'u' in an earlier row and of 'v' here"):
        made([GOOD, {**GOOD, "user": "v"}])


def test_a_request_has_one_row_of_an_item_in_every_form_of_a_file(tmp_path: Path) -> None:
    others = [{**GOOD, "request": "s"}, {**GOOD, "item": "j"}]
    assert len(made([GOOD, *others])) == 3
    said = "item: 'i' has a row of request 'r' already"
    with pytest.raises(InputError, match=f"^row 4: {said}"):
        made([GOOD, *others, {**GOOD, "label": 0}])
    header, cells = ",".join(GOOD), ",".join(map(str, GOOD.values()))
    table, lines, columns = (tmp_path / f"rows.{kind}" for kind in ("csv", "jsonl", "parquet"))
    table.write_text(f"{header}\n{cells}\n{cells}\n")
    with pytest.raises(InputError, match=rf"rows\.csv line 3: {said}"):
        read_csv(table)
    one = made([GOOD])
    lines.write_text("".join([*one.lines(), *one.lines()]))
    with pytest.raises(InputError, match=rf"rows\.jsonl row 2: {said}"):
        read_json_lines(lines)
    parquet.write_labelled(one.take(np.array([0, 0])), columns)
    with pytest.raises(InputError, match=rf"rows\.parquet: row 2: {said}"):
        parquet.read_labelled(columns)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no row"),
        ("request,user\n1\n", "line 2: 1 cells, the header has 2"),
        ("user,user\n1,2\n", "line 1: a column's name occurs twice"),
        ('request,user,item,time,label,crm,llm\n"1"2,u,i,3,1,0.5,\n', "line 2: not CSV"),
        ("request;user;item;time;label;crm;llm\n1;u;i;3;1;0.5;\n", "line 1: the columns are separated by ';'"),
        ("request,user,item,time,label,crm,llm\n1,u,i,3,1,half,\n", "line 2: crm: expected a number, not 'half'"),
    ],
)
def test_a_bad_csv_file_is_named_with_its_line(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=f"bad.csv.*{said}"):
        read_csv(path)


def test_a_bad_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("[]\n")
    with pytest.raises(InputError, match=r"bad\.jsonl"):
        read_json_lines(path)
    path.write_text('"x"\n')
    with pytest.raises(InputError, match=r"bad\.jsonl line 1: expected an object"):
        read_json_lines(path)


def test_a_bad_parquet_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"
    path.write_text("PAR1 no")
    with pytest.raises(InputError, match=r"bad\.parquet: cannot be read as Parquet"):
        parquet.read_labelled(path)
