"""Publishers' real files by their readers: the ledger says what a few lines of polars count."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from corella_edge.cli import cli
from corella_edge_export.data.prepare import prepare
from corella_edge_export.data.prepared import PreparedData
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


def test_sequences_of_games(tmp_path: Path) -> None:
    """The counts of LLMRank's cut, in which a user has at most 50 events: each user's last two are held out."""
    source = shared("amazon-games")
    prepare("recbole", source, tmp_path / "out", requests=5, negatives=0)
    data = PreparedData.open(tmp_path / "out")
    lines = [line.split("\t") for line in (source / "Games-6k.test.inter").read_text("utf-8").splitlines()[1:]]
    histories = [earlier.split(" ") for _, earlier, _ in lines]
    assert (len(lines), max(map(len, histories)), min(map(len, histories))) == (50_546, 49, 4)
    assert sum(map(len, histories)) + len(lines) == 440_264
    counts = {"train": 288_626, "valid": 50_546, "test": 50_546, "interactions": 440_264, "users": 50_546}
    assert data.info["counts"] == {**counts, "items": 16_859, "dropped": 50_546}
    for name, place in (("valid", -2), ("test", -1)):
        split = data.split(name)
        sequence = {user: [*earlier.split(" "), item][place] for user, earlier, item in lines}
        found = zip(split.users.tolist(), split.items.tolist(), strict=True)
        assert {data.user_ids[user]: data.item_ids[item] for user, item in found} == sequence
        assert (split.labels == 1).all()


# folder → the answers to what `init` asks, in order; and what a few lines count: rows, and those that stay.
ASKED: dict[str, tuple[list[str], Callable[[Path], tuple[int, int]]]] = {}


def counted(folder: str, *answers: str) -> Callable[[Callable[[Path], tuple[int, int]]], None]:
    return lambda count: ASKED.update({folder: ([*answers], count)})


@counted("uci-online-retail-lf", '"%m/%d/%Y %H:%M"')
def _purchases(source: Path) -> tuple[int, int]:
    rows = pl.read_csv(source / "OnlineRetail.csv", infer_schema=False, encoding="utf8-lossy")
    known = rows.filter(pl.col("CustomerID") != "")
    return rows.height, known.select("CustomerID", "StockCode", "InvoiceDate").unique().height


@counted("ml-100k")
def _ratings(source: Path) -> tuple[int, int]:
    rows = pl.read_csv(source / "u.data", separator="\t", has_header=False)
    return rows.height, rows.unique().height


@counted("book-crossing-part", "[0]", '"drop"')
def _books(source: Path) -> tuple[int, int]:
    raw = (source / "BX-Book-Ratings.csv").read_text("latin-1").splitlines()
    rows = pl.DataFrame([line.split(";") for line in raw], ["user", "item", "rating"], orient="row")
    lines = (source / "BX-Books.csv").read_text("latin-1").splitlines()
    titled = {line.split(";")[0].strip('"') for line in lines}
    return rows.height, rows.filter(
        ~pl.col("rating").str.contains('^"?0"?$') & pl.col("item").str.strip_chars('"').is_in(titled)
    ).height


@counted("lastfm-hetrec", "true")
def _plays(source: Path) -> tuple[int, int]:
    rows = pl.read_csv(source / "user_artists.dat", separator="\t")
    return rows.height, rows.select("userID", "artistID").unique().height


@pytest.mark.parametrize("folder", [*ASKED])
def test_init_prepare_inspect(tmp_path: Path, folder: str) -> None:
    source, (answers, count) = shared(folder), ASKED[folder]
    config, out = tmp_path / "data.toml", tmp_path / "out"
    assert CliRunner().invoke(cli, ["init", str(source), "--out", str(config)]).exit_code == 0
    text = config.read_text()
    for answer in answers:
        text = re.sub(r'"CHOOSE: .*"', answer.replace("\\", r"\\"), text, count=1)
    config.write_text(re.sub(r"(?m)^# A value that begins.*$", "#", text))
    done = CliRunner().invoke(cli, ["prepare", "table", "--config", str(config), "--out", str(out)])
    assert done.exit_code == 0, done.output
    read, kept = count(source)
    shown = CliRunner().invoke(cli, ["inspect", str(out)]).output
    assert shown.startswith(f"{read:,} rows read\n")
    assert f"{kept:,} kept\n" in shown
