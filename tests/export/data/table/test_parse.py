"""A data.toml with every key, and the lines of its errors wherever a key may stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from corella_edge.errors import InputError
from corella_edge_export.data.table.description import (
    Description,
    Entities,
    Events,
    Files,
    Label,
    Negatives,
    SplitPlan,
)
from corella_edge_export.data.table.parse import parse_description, read_description

WHOLE = """
name = "shop"
licence = "CC BY 4.0"
redistributable = true

[events]
files = ["part-*.csv.gz", "more.csv"]
separator = ";"
header = false
encoding = "latin-1"
quote = "'"
escape = "\\\\"
columns = ["CustomerID", "StockCode", "InvoiceDate", "InvoiceNo", "Quantity", "Kind"]
user = "CustomerID"
item = "StockCode"
time = "InvoiceDate"
time_unit = "%m/%d/%Y %H:%M"
timezone = "Europe/Berlin"
missing = ["?"]
require = ["user", "time"]
drop = { InvoiceNo = "^C", Quantity = "<=0" }
repeats = "last"
bad_rows = "drop"
quantity = "Quantity"
event_type = "Kind"

[label]
positives_only = true

[negatives]
per_positive = 2
from = "catalogue"
weight = "uniform"
seed = 3
unlike_drawn = "history"

[items]
files = ["items.jsonl"]
id = "id"
title = "name"
text = ["about"]
missing_title = "drop"
unescape = false
min_join = 0.5
allow_leaks = ["rank"]
[items.attributes]
tags = "multi:|"
rank = "numeric"
heat = { kind = "multi", columns = ["hot", "cold"] }
colour = { column = "details.color", kind = "categorical" }

[users]
files = ["users.parquet"]
id = "uid"
attributes = { age = "numeric", path = "sequence: " }

[split]
rule = "per-user"
shares = [0.6, 0.2, 0.2]
min_history = 0
min_user = 2
min_item = 3
ties = "include"
seed = 5
hide_items = 0.1
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("part-2.csv.gz", "part-1.csv.gz", "more.csv", "items.jsonl", "users.parquet"):
        (tmp_path / name).touch()
    return tmp_path


def test_every_key_is_read(folder: Path) -> None:
    (folder / "data.toml").write_text(WHOLE)
    columns = ("CustomerID", "StockCode", "InvoiceDate", "InvoiceNo", "Quantity", "Kind")
    paths = tuple(folder / name for name in ("part-1.csv.gz", "part-2.csv.gz", "more.csv"))
    assert read_description(folder / "data.toml") == Description(
        name="shop",
        events=Events(
            Files(paths, "csv", ";", "'", "\\", False, columns, "iso8859-1", ("?",), "drop"),
            "CustomerID", "StockCode", "InvoiceDate", "%m/%d/%Y %H:%M", "Europe/Berlin", ("user", "time"),
            {"InvoiceNo": "^C", "Quantity": "<=0"}, "last", "Kind", "Quantity",
        ),
        label=Label(positives_only=True),
        negatives=Negatives(2, "catalogue", "uniform", 3, "history"),
        items=Entities(
            Files((folder / "items.jsonl",), "jsonl"), "id", "name",
            {"about": "text", "tags": "multi", "rank": "numeric", "heat": "multi", "colour": "categorical"},
            missing_title="drop", unescape=False, allow_leaks=("rank",), min_join=0.5,
            columns={"heat": ("hot", "cold"), "colour": ("details.color",)}, separators={"tags": "|"},
        ),
        users=Entities(
            Files((folder / "users.parquet",), "parquet"), "uid", None, {"age": "numeric", "path": "sequence"},
            separators={"path": " "},
        ),
        split=SplitPlan("per-user", (0.6, 0.2, 0.2), 0, 2, 3, "include", 5, hide_items=0.1),
        licence="CC BY 4.0",
        redistributable=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "key"),
    [
        ("per_positive = 2", "per_positive = -1", "negatives.per_positive"),
        ("hide_items = 0.1", "hide_items = 1", "split.hide_items"),
        ("hide_items = 0.1", "hide_items = -0.1", "split.hide_items"),
        ('InvoiceNo = "^C"', 'InvoiceNo = "("', "events.drop.InvoiceNo"),
        ('tags = "multi:|"', 'tags = "many"', "items.attributes.tags"),
        ('kind = "multi", columns', 'kind = "numeric", columns', "items.attributes.heat.columns"),
        ('age = "numeric"', "age = 1", "users.attributes.age"),
        ("min_join = 0.5", "min_join = 95", "items.min_join"),
        ("unescape = false", "unescaped = false", "items.unescaped"),
        ('text = ["about"]', 'text = ["about", 1]', "items.text"),
        ("redistributable = true", 'redistributable = "yes"', "redistributable"),
    ],
)
def test_the_line_is_that_of_the_key(folder: Path, before: str, after: str, key: str) -> None:
    """In tables, in inline tables, and at the top."""
    text = WHOLE.replace(before, after)
    line = next(number for number, line in enumerate(text.split("\n"), 1) if after in line)
    with pytest.raises(InputError) as refusal:
        parse_description(text, folder)
    assert str(refusal.value).startswith(f"data.toml line {line}: {key}: ")


def test_no_negatives_are_described_by_a_number_alone(folder: Path) -> None:
    table = WHOLE[WHOLE.index("[negatives]") : WHOLE.index("[items]")]
    (folder / "data.toml").write_text(WHOLE.replace(table, "[negatives]\nper_positive = 0\n"))
    assert read_description(folder / "data.toml").negatives is None
    (folder / "data.toml").write_text(WHOLE.replace("per_positive = 2", "per_positive = 0"))
    with pytest.raises(InputError, match=r"negatives\.from: .* draws none; leave it out"):
        read_description(folder / "data.toml")


def test_relative_paths_start_at_the_file_and_absolute_ones_do_not(folder: Path) -> None:
    (folder / "sub").mkdir()
    text = WHOLE.replace('"part-*.csv.gz", "more.csv"', f'"../part-*.csv.gz", "{folder}/mo*.csv"')
    text = text.replace('"items.jsonl"', '"../items.jsonl"').replace('"users.parquet"', '"../users.parquet"')
    found = parse_description(text, folder / "sub").events.files.paths
    assert [path.resolve() for path in found] == [
        folder / name for name in ("part-1.csv.gz", "part-2.csv.gz", "more.csv")
    ]
