"""From files and their description to events, items and users: what each key means, whatever form the files have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
import zstandard

from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table.html import plain
from corella_edge_export.data.table.load import Sources, load
from corella_edge_export.data.table.parse import parse_description

ROWS = [
    {"user": "u1", "item": "007", "when": 1600000000, "stars": 5},
    {"user": "u1", "item": "8", "when": 1600000060, "stars": 1},
    {"user": "u2", "item": "007", "when": 1600000120, "stars": 4},
    {"user": "u2", "item": "8", "when": 1600000120, "stars": 3},
]
ITEMS = [
    {"id": "007", "title": "Tea &amp; <b>milk</b>", "tags": ["hot", "sweet", "hot"], "price": 1.5},
    {"id": "8", "title": " Cup\n of\ttea ", "tags": [], "price": 2},
]
TOML = """
name = "shop"
[events]
files = [{events}]
user = "user"
item = "item"
time = "when"
{more}
[label]
{label}
[items]
{items}
[split]
{split}
"""


class Loaded:
    """A description read in a folder, and what is in the database then."""

    def __init__(self, folder: Path, **parts: str) -> None:
        usual = {
            "events": '"e.csv"', "more": 'time_unit = "s"', "label": 'rating = "stars"\nlike_above = 3',
            "items": 'missing_title = "id"', "split": 'rule = "random"',
        }  # fmt: skip
        self.ledger, self.db = Ledger(), duckdb.connect()
        description = parse_description(TOML.format(**{**usual, **parts}), folder)
        self.sources: Sources = load(description, self.db, self.ledger)

    def table(self, name: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return self.db.execute(f"SELECT {columns} FROM {name} ORDER BY 1").fetchall()

    def events(self, columns: str) -> list[tuple[Any, ...]]:
        return self.db.execute(f"SELECT {columns} FROM events ORDER BY row").fetchall()


def csv_of(rows: list[dict[str, Any]]) -> str:
    lines = [",".join(rows[0])]
    lines += [",".join(f'"{value}"' for value in row.values()) for row in rows]
    return "\n".join(lines) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "e.csv").write_text(csv_of(ROWS))
    return tmp_path


def as_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(csv_of([{k: "|".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows]))


def as_json(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    pl.DataFrame(rows, strict=False).write_parquet(path)


FORMS: dict[str, Callable[[Path, list[dict[str, Any]]], None]] = {
    "csv": as_csv, "jsonl": as_json, "parquet": as_parquet
}  # fmt: skip


@pytest.mark.parametrize("packing", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_tables(tmp_path: Path, form: str, packing: str) -> None:
    for name, rows in (("e", ROWS), ("i", ITEMS)):
        path = tmp_path / f"{name}.{form}"
        FORMS[form](path, rows)
        if packing != "none" and form != "parquet":
            path.write_bytes({"gzip": gzip.compress, "zstd": zstandard.compress}[packing](path.read_bytes()))
    kind = "multi:|" if form == "csv" else "multi"
    items = f'files = ["i.{form}"]\nid = "id"\ntitle = "title"\nattributes = {{ tags = "{kind}", price = "numeric" }}'
    found = Loaded(tmp_path, events=f'"e.{form}"', items=items)
    assert found.events("*") == [
        (0, None, "u1", "007", 5, 1, 1600000000, None, None),
        (1, None, "u1", "8", 1, 0, 1600000060, None, None),
        (2, None, "u2", "007", 4, 1, 1600000120, None, None),
        (3, None, "u2", "8", 3, 0, 1600000120, None, None),
    ]
    cups = [] if form != "csv" else None  # an empty text is a missing value
    assert found.table("items") == [("007", "Tea & milk", ["hot", "sweet"], 1.5), ("8", "Cup of tea", cups, 2)]
    assert found.sources.joined == {"items": 1}


def test_many_files_are_one(folder: Path) -> None:
    whole = Loaded(folder).events("*")
    for number, row in enumerate(ROWS):
        (folder / f"p{number}.csv").write_text(csv_of([row]))
    assert Loaded(folder, events='"p*.csv"').events("*") == whole


def test_every_row_is_kept_or_has_a_reason(folder: Path) -> None:
    """The first reason counts: what is missing, then the rules in their order, then ignored ratings, then repeats."""
    rows = [
        *ROWS,
        {"user": "", "item": "C8", "when": 1600000200, "stars": 0},
        {"user": "u3", "item": "C8", "when": 1600000200, "stars": 0},
        {"user": "u3", "item": "8", "when": 1600000200, "stars": -1},
        {"user": "u3", "item": "8", "when": 1600000200, "stars": 0},
        {"user": "u3", "item": "8", "when": 1600000200, "stars": 5},
        {"user": "u3", "item": "8", "when": 1600000200, "stars": 4.5},
        {"user": "?", "item": "8", "when": 1600000200, "stars": 4.5},
    ]
    (folder / "e.csv").write_text(csv_of(rows) + "short\n")
    more = 'time_unit = "s"\nrequire = ["user"]\ndrop = { item = "^C", stars = "<0" }\nrepeats = "first"\n'
    more += 'missing = ["?"]\nbad_rows = "drop"'
    found = Loaded(folder, more=more, label='rating = "stars"\nlike_above = 3\nignore = [0]')
    assert found.ledger.to_json() == {
        "read": 12,
        "dropped": {
            "a row that cannot be read": 1, "no user": 2, "item matches ^C": 1, "stars <0": 1, "stars 0 is ignored": 1,
            "a repeat": 1,
        },
        "kept": 5,
    }  # fmt: skip
    assert found.events("row, rating")[-1] == (8, 5)


@pytest.mark.parametrize(("repeats", "kept"), [("keep", [0, 1, 2]), ("first", [0, 2]), ("last", [1, 2])])
def test_repeats(folder: Path, repeats: str, kept: list[int]) -> None:
    """A view and a purchase at one moment are two events."""
    lines = "user,item,when,kind\nu,i,1600000000,view\nu,i,1600000000,view\nu,i,1600000000,purchase\n"
    (folder / "e.csv").write_text(lines)
    more = f'time_unit = "s"\nevent_type = "kind"\nrepeats = "{repeats}"'
    positives = "positives_only = true\n[negatives]"
    assert [row[0] for row in Loaded(folder, more=more, label=positives).events("row")] == kept


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("1600000000", "s"),
        ("1600000000.9", "s"),
        ("1.6e9", "s"),
        ("1600000000999", "ms"),
        ("1600000000999999", "us"),
        ("9/13/2020 12:26", "%m/%d/%Y %H:%M"),
        ("13 Sep 2020 12:26:40 PM", "%d %b %Y %I:%M:%S %p"),
        ("2020-09-13T14:26:40+02:00", "%Y-%m-%dT%H:%M:%S%z"),
        (" 2020-09-13 12:26:40.5 ", "%Y-%m-%d %H:%M:%S.%f"),
    ],
)
def test_times_are_whole_seconds(folder: Path, text: str, unit: str) -> None:
    (folder / "e.csv").write_text(f'user,item,when,stars\nu,i,"{text}",5\n')
    seconds = 1600000000 if "%H:%M" not in unit or "%S" in unit else 1599999960
    assert Loaded(folder, more=f'time_unit = "{unit}"').events("timestamp") == [(seconds,)]


def test_a_time_of_no_zone_is_of_the_one_that_is_said(folder: Path) -> None:
    """Summer and winter differ; a zone in the text wins."""
    lines = "user,item,when,stars\nu,i,2020-07-01 12:00,5\nu,i,2020-01-01 12:00,5\n"
    (folder / "e.csv").write_text(lines)
    found = Loaded(folder, more='time_unit = "%Y-%m-%d %H:%M"\ntimezone = "Europe/Berlin"').events("timestamp")
    assert found == [
        (int(datetime(2020, month, 1, hour, tzinfo=UTC).timestamp()),) for month, hour in ((7, 10), (1, 11))
    ]


def test_times_of_parquet_are_read_by_their_type(folder: Path) -> None:
    moment = datetime(2020, 9, 13, 12, 26, 40, 999_999)
    frame = pl.DataFrame({"user": [1], "item": [2.0], "when": [moment], "stars": [5], "day": [moment.date()]})
    frame.write_parquet(folder / "e.parquet")
    found = Loaded(folder, events='"e.parquet"', more='time_unit = "timestamp"')
    assert found.events("user_id, item_id, timestamp") == [("1", "2", 1600000000)]
    berlin = Loaded(folder, events='"e.parquet"', more='time_unit = "timestamp"\ntimezone = "Europe/Berlin"')
    assert berlin.events("timestamp") == [(1600000000 - 7200,)]


def test_without_times_the_order_is_the_files(folder: Path) -> None:
    lines = "user,item,stars\nu,b,5\nu,a,1\n"
    (folder / "e.csv").write_text(lines)
    toml = TOML.replace('time = "when"\n', "")
    description = parse_description(
        toml.format(events='"e.csv"', more='time_unit = "none"', label='rating = "stars"\nlike_above = 3',
                    items='missing_title = "id"', split='rule = "random"'), folder)  # fmt: skip
    db = duckdb.connect()
    load(description, db, Ledger())
    assert db.execute("SELECT item_id, timestamp FROM events ORDER BY row").fetchall() == [("b", 0), ("a", 1)]


@pytest.mark.parametrize(("texts", "labels"), [("1 0 1.0", [1, 0, 1]), ("true False TRUE", [1, 0, 1])])
def test_a_column_of_labels(folder: Path, texts: str, labels: list[int]) -> None:
    rows = [f"u,i{n},160000000{n},{text}\n" for n, text in enumerate(texts.split())]
    (folder / "e.csv").write_text("user,item,when,liked\n" + "".join(rows))
    found = Loaded(folder, label='column = "liked"').events("label, rating")
    assert found == [(label, None) for label in labels]


def test_the_files_of_each_part(folder: Path) -> None:
    for number, part in enumerate(("train", "valid", "test")):
        (folder / f"{part}.csv").write_text(csv_of(ROWS[number : number + 1 + (number == 2)]))
    toml = TOML.replace("files = [{events}]\n", "")
    description = parse_description(
        toml.format(more='time_unit = "s"', label='rating = "stars"\nlike_above = 3', items='missing_title = "id"',
                    split='rule = "files"\ntrain = ["train.csv"]\nvalid = ["valid.csv"]\ntest = ["test.csv"]'),
        folder)  # fmt: skip
    db = duckdb.connect()
    load(description, db, Ledger())
    parts = db.execute("SELECT part FROM events ORDER BY row").fetchall()
    assert [part for (part,) in parts] == ["train", "valid", "test", "test"]


def test_items_of_the_events_take_the_value_of_most_rows(folder: Path) -> None:
    """Of as many rows the first value; a missing one does not count."""
    lines = ["user,item,when,stars,name,where"]
    values = [
        ("a", "Tee", "x"),
        ("a", "Tea", "y"),
        ("a", "Tea", ""),
        ("b", "", "z"),
        ("b", "Cup", "z"),
        ("b", "Mug", ""),
    ]
    lines += [f"u{n},{item},160000000{n},5,{name},{where}" for n, (item, name, where) in enumerate(values)]
    (folder / "e.csv").write_text("\n".join(lines))
    found = Loaded(folder, items='title = "name"\nattributes = { where = "categorical" }')
    assert found.table("items") == [("a", "Tea", "x"), ("b", "Cup", "z")]
    assert found.sources.notes == (
        "2 of 2 items have several values of title ('a', 'b'); that of most rows was taken",
        "1 of 2 items have several values of where ('a'); that of most rows was taken",
    )


def test_kinds_of_attributes(folder: Path) -> None:
    rows = [
        {"id": "007", "name": "Tea", "Hot": 1, "Cold": 0, "flat": " a, b,,a ", "steps": "x y x", "about": "1 &lt; 2"},
        {"id": "8", "name": "Cup", "Hot": 0, "Cold": 0, "flat": "", "steps": "", "about": "<p>One</p>\n<p>two</p>"},
    ]
    (folder / "i.csv").write_text(csv_of(rows))
    items = """files = ["i.csv"]
id = "id"
title = "name"
text = ["about"]
[items.attributes]
heat = { kind = "multi", columns = ["Hot", "Cold"] }
flat = "multi:,"
path = { kind = "sequence", column = "steps", separator = " " }
"""
    assert Loaded(folder, items=items).table("items") == [
        ("007", "Tea", "1 < 2", ["Hot"], ["a", "b"], ["x", "y", "x"]),
        ("8", "Cup", "One two", [], None, None),
    ]


def test_nested_values_of_json_and_parquet(folder: Path) -> None:
    """By a path with dots; a key that holds the dots itself comes first."""
    rows = [{**row, "more": {"where": {"city": "Rome"}}, "more.size": "L"} for row in ROWS]
    as_json(folder / "e.jsonl", rows)
    as_parquet(folder / "e.parquet", rows)
    items = 'missing_title = "id"\n[items.attributes]\n"more.where.city" = "categorical"\n"more.size" = "categorical"'
    for form in ("jsonl", "parquet"):
        found = Loaded(folder, events=f'"e.{form}"', items=items).table("items")
        assert found == [("007", "007", "Rome", "L"), ("8", "8", "Rome", "L")]


@pytest.mark.parametrize(
    ("rule", "items", "rows"),
    [("id", [("007", "Tea"), ("8", "8")], 4), ("drop", [("007", "Tea")], 2)],
)
def test_items_without_a_title(folder: Path, rule: str, items: list[tuple[str, str]], rows: int) -> None:
    (folder / "i.csv").write_text("id,title\n007,Tea\n")
    found = Loaded(
        folder, items=f'files = ["i.csv"]\nid = "id"\ntitle = "title"\nmissing_title = "{rule}"\nmin_join = 0.5'
    )
    assert found.table("items") == items
    assert found.sources.joined == {"items": 0.5}
    assert found.ledger.kept == len(found.events("row")) == rows


def test_users_of_their_own_file_and_of_the_events(folder: Path) -> None:
    (folder / "u.csv").write_text("id,age\nu1,30\nu9,\n")
    users = 'rule = "random"\n[users]\nfiles = ["u.csv"]\nid = "id"\nattributes = { age = "numeric" }\nmin_join = 0.5'
    found = Loaded(folder, split=users)
    assert found.table("users") == [("u1", 30), ("u2", None), ("u9", None)]
    assert "1 users are not in the table of users; they have no attributes" in found.sources.notes
    own = Loaded(folder, split='rule = "random"\n[users]\nattributes = { stars = "numeric" }')
    assert own.table("users") == [("u1", 5), ("u2", 4)]


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("I &lt;3 tea &amp;amp; milk", "I <3 tea & milk"),
        ("a < b > c", "a < b > c"),
        ("<p class='x'>One<br/>two</p><!-- no --><script>x()</script>", "One two"),
        ("caf&eacute;&nbsp;&#39;x&#39;", "café 'x'"),
    ],
)
def test_texts_of_web_pages(text: str, seen: str) -> None:
    assert plain(text) == seen


def tables(found: Loaded) -> list[str]:
    return [row[0] for row in found.db.execute("SHOW TABLES").fetchall()]


def test_nothing_is_left_in_the_database_but_the_tables(folder: Path) -> None:
    (folder / "i.csv").write_text("id,title\n007,Tea\n8,Cup\n")
    found = Loaded(folder, items='files = ["i.csv"]\nid = "id"\ntitle = "title"')
    assert tables(found) == ["events", "items"]
    found.sources.settle()
    assert tables(found) == ["events", "items"]


SHOP = [
    ("a", "x", "Old name", "blue", 1), ("b", "x", "New name", "red", 9), ("c", "x", "New name", "red", 9),
    ("a", "y", "Cup", "", 2), ("b", "y", "Cup", "green", 8), ("c", "z", "Late", "pink", 9),
]  # fmt: skip


def test_what_stands_in_the_events_comes_from_training_events_where_there_are_any(folder: Path) -> None:
    head = ("user", "item", "name", "colour", "when")
    rows = [dict(zip(head, (*row[:4], 1600000000 + row[4]), strict=True)) for row in SHOP]
    (folder / "own.csv").write_text(csv_of(rows))
    found = Loaded(
        folder, events='"own.csv"', label='positives_only = true\n[negatives]',
        items='title = "name"\nattributes = { colour = "categorical" }',
    )  # fmt: skip
    assert found.table("items") == [("x", "New name", "red"), ("y", "Cup", "green"), ("z", "Late", "pink")]
    found.db.execute(
        """CREATE TABLE rows AS SELECT "row", CASE WHEN "row" IN (0, 3) THEN 'train' END AS part FROM events"""
    )
    found.sources.settle()
    # Of y the training event has no colour; z has no training event.
    assert found.table("items") == [("x", "Old name", "blue"), ("y", "Cup", None), ("z", "Late", "pink")]
    assert tables(found) == ["events", "items", "rows"]
