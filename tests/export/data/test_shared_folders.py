"""Publishers' real files by their readers: the ledger says what a few lines of polars count."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from corella_edge_export.data.prepare import prepare
from corella_edge_export.data.registry import known
from corella_edge_export.data.table.parse import read_description
from corella_edge_export.data.table.prepare import prepare_table, write_description

DATA = Path(os.environ.get("CORELLA_EDGE_TEST_DATA", "no-data"))


def shared(folder: str) -> Path:
    if not (DATA / folder).is_dir():
        pytest.skip(f"needs the folder {folder} of CORELLA_EDGE_TEST_DATA")
    return DATA / folder


def test_gift_cards(tmp_path: Path) -> None:
    source = shared("amazon2018-gift-cards")
    found = prepare("amazon-2018", source, tmp_path / "out", requests=5)["ledger"]
    rows = pl.read_ndjson(source / "Gift_Cards_5.json.gz")
    once = rows.select("reviewerID", "asin", "unixReviewTime", pl.col("overall") > 3).unique()
    assert (found["read"], found["kept"]) == (rows.height, once.height)


def test_all_beauty(tmp_path: Path) -> None:
    source = shared("amazon2023-all-beauty-5core")
    found = prepare("amazon-2023", source, tmp_path / "out", requests=5)["ledger"]
    rows = sum(pl.read_csv(path).height for path in source.glob("All_Beauty.*.csv"))
    assert (found["read"], found["kept"]) == (rows, rows)


def test_a_part_of_mind_by_its_description_changed(tmp_path: Path) -> None:
    source = shared("mind-small-part")
    reader = known()["mind"]
    assert reader.describe is not None
    config = write_description("mind", reader.describe, source, tmp_path / "told")
    text = config.read_text().replace("min_join = 0.95", "min_join = 0.03").replace('"stop"', '"id"')
    config.write_text(text)
    found = prepare_table(read_description(config), tmp_path / "out", requests=5)["ledger"]
    shown = [line.split("\t")[4].split() for line in (source / "behaviors.tsv").read_text("utf-8").splitlines()]
    assert found["read"] == found["kept"] == sum(map(len, shown))
