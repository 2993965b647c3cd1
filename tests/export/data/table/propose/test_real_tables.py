"""Real tables, of which it is known what is odd about them: every oddity is decided or asked."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from corella_edge.errors import InputError
from corella_edge_export.data.table.propose.proposal import describe
from shop_tables import parsed

DATA = Path(os.environ.get("CORELLA_EDGE_TEST_DATA", "no-data"))


def looked_at(folder: str) -> tuple[dict[str, Any], str]:
    """The description of a folder, as TOML and as text."""
    if not (DATA / folder).is_dir():
        pytest.skip(f"needs the folder {folder} of CORELLA_EDGE_TEST_DATA")
    found = describe([DATA / folder], Path("data.toml"), lambda message: None)
    return parsed(found.text), found.text


def said(text: str, *parts: str) -> None:
    """Every part stands in the text, however its lines are wrapped."""
    flat = " ".join(text.replace("\n# ", " ").split())
    assert [part for part in parts if part not in flat] == []


def test_ratings_whose_titles_hold_html() -> None:
    found, text = looked_at("amazon2018-gift-cards")
    events = found["events"]
    assert (events["user"], events["item"], events["time"], events["time_unit"]) == (
        "reviewerID", "asin", "unixReviewTime", "s")  # fmt: skip
    assert events["repeats"] == "last"
    assert found["label"] == {"rating": "overall", "like_above": 4}
    assert (found["items"]["id"], found["items"]["title"], found["items"]["unescape"]) == ("asin", "title", True)
    assert found["items"]["attributes"] == {"category": "multi", "main_cat": "categorical"}
    said(text, "2,972 rows", "above 3: 97.8%", "whole days", "78.4% of the rows share user and moment", "7 rows repeat",
         "titles with HTML (&amp; or tags): 178", "titles begin or end with blanks", "price: amounts as text",
         "also_buy: leaks", "also_view: leaks", "rank: leaks", "reviewText: leaks", "vote: leaks")  # fmt: skip


def test_a_published_split_that_looks_into_the_future() -> None:
    found, text = looked_at("amazon2023-all-beauty-5core")
    assert (found["events"]["user"], found["events"]["item"], found["events"]["time_unit"]) == (
        "user_id",
        "parent_asin",
        "ms",
    )
    assert found["split"]["rule"] == "CHOOSE: files | time — 205 of 253 test rows precede the last training row"
    assert [Path(found["split"][part][0]).name for part in ("train", "valid", "test")] == [
        "All_Beauty.train.csv", "All_Beauty.valid.csv", "All_Beauty.test.csv"]  # fmt: skip
    said(text, "train 2,029, valid 253, test 253 rows", "history: lists items", "details: nested objects",
         "336 of 356 are empty", "(column without a name): only counts the rows")  # fmt: skip


def test_purchases_with_the_titles_among_them() -> None:
    found, text = looked_at("uci-online-retail-lf")
    events = found["events"]
    assert (events["user"], events["item"], events["time"]) == ("CustomerID", "StockCode", "InvoiceDate")
    assert events["time_unit"] == "CHOOSE: %m/%d/%Y %H:%M | %d/%m/%Y %H:%M — which number is the month (%m)?"
    assert (events["require"], events["quantity"]) == (["user"], "Quantity")
    assert found["label"] == {"positives_only": True}
    assert found["items"]["title"] == "Description"
    assert found["users"]["attributes"] == {"Country": "categorical"}
    assert found["split"]["ties"] == "exclude"
    said(text, "4,688 rows", "161 different", "1,455 different", "1,177 rows have no user", "81 rows of the file",
         "99.3% of the rows share user and moment", "ids have several titles", "UnitPrice: known only")  # fmt: skip


def test_play_counts_without_times() -> None:
    found, text = looked_at("lastfm-hetrec")
    assert (found["events"]["user"], found["events"]["item"], found["events"]["time_unit"]) == (
        "userID",
        "artistID",
        "none",
    )
    assert found["label"]["positives_only"].startswith("CHOOSE: true | a rating")
    assert (found["items"]["title"], found["items"]["quote"]) == ("name", "")
    assert found["split"]["rule"] == "random"
    said(text, "1 to 352,698", "lines end in CR LF", "artists.dat: 17,632 rows, 4 columns, lines end in LF", "Warning")


def test_three_tables_without_headers() -> None:
    found, text = looked_at("ml-100k")
    assert found["events"]["columns"] == ["user", "item", "rating", "time"]
    assert [Path(found[table]["files"][0]).name for table in ("events", "items", "users")] == [
        "u.data",
        "u.item",
        "u.user",
    ]
    assert found["items"]["encoding"] == "latin-1"
    assert len(found["items"]["attributes"]["flags"]["columns"]) == 19
    assert found["split"]["rule"] == "time"
    said(text, '"unknown" (1 times)', "75.8% of the rows share user and moment", "1997-09-20 to 1998-04-22")


def test_backslashes_that_are_no_escape() -> None:
    found, text = looked_at("book-crossing-part")
    assert (found["events"]["header"], found["items"]["header"]) == (False, True)
    assert (found["items"]["separator"], found["items"]["escape"], found["items"]["encoding"]) == (";", "", "latin-1")
    assert found["label"]["ignore"].startswith("CHOOSE: [0] | []")
    assert found["items"]["missing_title"].startswith("CHOOSE: drop | id")
    assert (found["items"]["id"], found["items"]["title"], found["items"]["min_join"]) == ("0", "1", 0.29)
    said(text, "39,268 rows", "as an escape it would swallow 78 rows", "61.5% of the ratings are 0",
         "the first line only counts the columns", "the last line has no end")  # fmt: skip


def test_a_label_and_a_split_by_time() -> None:
    found, text = looked_at("collm-ml-1m")
    assert found["label"] == {"column": "label"}
    assert found["split"]["rule"] == "files"
    said(text, "each later than the one before", "his: lists items", "corella-edge prepare collm-ml-1m")


@pytest.mark.slow
def test_times_that_were_filled_in() -> None:
    found, text = looked_at("ml-1m")
    assert [Path(found[table]["files"][0]).name for table in ("events", "items", "users")] == [
        "ratings.dat", "movies.dat", "users.dat"]  # fmt: skip
    assert found["split"]["rule"] == "CHOOSE: per-user | time — the times look made up, in steps of 20 s"
    assert found["items"]["attributes"] == {"column3": "multi:|"}
    said(text, "1,000,209 rows", "corella-edge prepare ml-1m", "Left out: exact_timestamps.parquet")


def test_ratings_without_titles(tmp_path: Path) -> None:
    archive = DATA / "amazon-musical-instruments" / "Musical_Instruments.zip"
    if not archive.is_file():
        pytest.skip("needs the folder amazon-musical-instruments of CORELLA_EDGE_TEST_DATA")
    with pytest.raises(InputError, match="is a zip archive; unpack it"):
        describe([archive], Path("data.toml"), lambda message: None)
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path)
    found = describe([tmp_path], tmp_path / "data.toml", lambda message: None)
    table = parsed(found.text)
    assert (table["events"]["user"], table["events"]["item"], table["events"]["time"]) == (
        "reviewerID", "asin", "unixReviewTime")  # fmt: skip
    assert table["items"] == {"missing_title": "id"}
    assert "users" not in table
    said(found.text, "10,261 rows", "helpful: leaks", "No column holds titles")


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("mind-small-part", "column 5 lists all that was shown in one row"),
        ("amazon-games", "lists a user's items, and only"),
    ],
)
def test_rows_that_are_no_events(folder: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        looked_at(folder)
