"""Publishers' forms, written by hand as their publishers write them: what is kept of each, and errors by line."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from corella_edge.cli import cli
from corella_edge.errors import InputError
from corella_edge_export.data.prepare import prepare
from corella_edge_export.data.prepared import SPLITS, PreparedData
from corella_edge_export.data.table.parse import read_description
from corella_edge_export.data.table.prepare import prepare_table

USERS, ITEMS, ROWS = 8, 6, 48
START = 1_400_000_000


def events() -> Iterator[tuple[int, int, int, int]]:
    """(user, item, rating, time): every user has rated every item, a day apart."""
    ratings = islice(cycle([5, 2, 4, 1, 3, 5, 4]), ROWS)
    for row, rating in enumerate(ratings):
        yield row % USERS, row // USERS % ITEMS, rating, START + 86_400 * row


def write_lines(path: Path, values: Any, form: Callable[[Any], str] = json.dumps) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(f"{form(value)}\n" for value in values).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def old_reviews() -> list[dict[str, Any]]:
    return [
        {"reviewerID": f"A{user}", "asin": f"000{item}", "overall": float(rating), "unixReviewTime": time}
        for user, item, rating, time in events()
    ]


def amazon_2014(source: Path) -> None:
    """The metadata are Python dictionaries; an item has several paths of categories."""
    write_lines(source / "reviews_Tea_5.json.gz", old_reviews())
    items = [
        {"asin": f"000{item}", "title": f"Tea &amp; Co. no. {item}", "categories": [["Tea", "Green"], ["Tea", "Cups"]],
         "related": {"also_bought": ["0001"]}, "price": 3.5, "brand": "Tom's"}
        for item in range(ITEMS)
    ]  # fmt: skip
    write_lines(source / "meta_Tea.json.gz", items, repr)


def amazon_2018(source: Path) -> None:
    write_lines(source / "Tea_5.json.gz", old_reviews())
    items = [
        {"asin": f"000{item}", "title": f"Tea &amp; Co. no. {item}", "category": ["Tea", "Green", "Cups"],
         "also_buy": ["0001"], "price": "$3.50", "brand": "Tom's"}
        for item in range(ITEMS)
    ]  # fmt: skip
    write_lines(source / "meta_Tea.json.gz", items)


def amazon_2023(source: Path) -> None:
    reviews = [
        {"user_id": f"A{user}", "parent_asin": f"000{item}", "rating": float(rating), "timestamp": time * 1000}
        for user, item, rating, time in events()
    ]  # fmt: skip
    write_lines(source / "Tea.jsonl.gz", reviews)
    items = [
        {"parent_asin": f"000{item}", "title": f"Tea &amp; Co. no. {item}", "categories": ["Tea", "Green", "Cups"],
         "store": "Tom's", "average_rating": 4.0, "rating_number": 7}
        for item in range(ITEMS)
    ]  # fmt: skip
    write_lines(source / "meta_Tea.jsonl.gz", items)


def ml_100k(source: Path) -> None:
    def line(fields: list[Any], separator: str) -> str:
        return separator.join(map(str, fields))

    tab, bar = (lambda row: line(row, "\t")), (lambda row: line(row, "|"))
    write_lines(source / "u.data", [[user, f"000{item}", rating, time] for user, item, rating, time in events()], tab)
    flags = [0, 1, 1, *([0] * 16)]
    items = [[f"000{item}", f"Tea & Co. no. {item}", "01-Jan-1995", "", "http://x", *flags] for item in range(ITEMS)]
    write_lines(source / "u.item", items, bar)
    write_lines(source / "u.user", [[user, 24, "F", "writer", "85711"] for user in range(USERS)], bar)


def ml_csv(source: Path) -> None:
    def line(fields: list[Any]) -> str:
        return ",".join(map(str, fields))

    rows = [[user, f"000{item}", rating - 0.5, time] for user, item, rating, time in events()]
    write_lines(source / "ratings.csv", [["userId", "movieId", "rating", "timestamp"], *rows], line)
    items = [[f"000{item}", f'"Tea & Co. no. {item}"', "Green|Cups"] for item in range(ITEMS)]
    write_lines(source / "movies.csv", [["movieId", "title", "genres"], *items], line)


def recbole(source: Path) -> None:
    def line(fields: list[Any]) -> str:
        return "\t".join(map(str, fields))

    header = ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    rows = [[user, f"000{item}", float(rating), float(time)] for user, item, rating, time in events()]
    write_lines(source / "tea.inter", [header, *rows], line)
    items = [[f"000{item}", f"Tea & Co. no. {item}", "Green Cups", 1995.0] for item in range(ITEMS)]
    header = ["item_id:token", "item_title:token_seq", "class:token_seq", "year:float"]
    write_lines(source / "tea.item", [header, *items], line)


def gorse(source: Path) -> None:
    feedback = [
        {"FeedbackType": "star" if rating > 2 else "read", "UserId": f"u{user}", "ItemId": f"000{item}",
         "Timestamp": f"2024-01-{1 + row // 24:02}T{row % 24:02}:00:00.123Z"}
        for row, (user, item, rating, _) in enumerate(events())
    ]  # fmt: skip
    write_lines(source / "feedback.jsonl", feedback)
    items = [
        {"ItemId": f"000{item}", "Comment": f"Tea & Co. no. {item}", "Categories": ["Tea"],
         "Labels": {"kind": ["Green"]}}
        for item in range(ITEMS)
    ]  # fmt: skip
    write_lines(source / "items.jsonl", items)
    write_lines(source / "users.jsonl", [{"UserId": f"u{user}", "Labels": ["loyal"]} for user in range(USERS)])


RATED = {
    "amazon-2014": amazon_2014,
    "amazon-2018": amazon_2018,
    "amazon-2023": amazon_2023,
    "ml-100k": ml_100k,
    "ml-csv": ml_csv,
    "recbole": recbole,
}


@pytest.mark.parametrize("name", RATED)
def test_a_publishers_files_are_prepared(name: str, tmp_path: Path) -> None:
    RATED[name](tmp_path / "source")
    prepare(name, tmp_path / "source", tmp_path / "out")
    data = PreparedData.open(tmp_path / "out")
    assert data.info["ledger"]["read"] == data.info["ledger"]["kept"] == ROWS
    assert data.item_ids == [f"000{item}" for item in range(ITEMS)]
    assert data.items["title"] == [f"Tea & Co. no. {item}" for item in range(ITEMS)]
    assert sum(int(data.split(split).labels.sum()) for split in SPLITS) > 0
    assert data.log.times.min() == START
    assert not [path for path in tmp_path.iterdir() if path.name not in ("source", "out")]


def test_what_leaks_is_no_attribute(tmp_path: Path) -> None:
    found = {}
    for name, write in RATED.items():
        write(tmp_path / name / "source")
        prepare(name, tmp_path / name / "source", tmp_path / name / "out")
        found[name] = set(PreparedData.open(tmp_path / name / "out").item_attributes)
    assert found["amazon-2014"] == found["amazon-2018"] == {"brand", "category"}
    assert found["amazon-2023"] == {"store", "categories"}


def test_gorses_reads_are_no_likes(tmp_path: Path) -> None:
    gorse(tmp_path / "source")
    prepare("gorse", tmp_path / "source", tmp_path / "out")
    data = PreparedData.open(tmp_path / "out")
    likes = sum(rating > 2 for *_, rating, _ in events())
    assert data.info["ledger"]["kept"] == likes == len(data.log.items)
    assert data.items["Labels"] == [["Green"]] * ITEMS
    assert data.info["history"]["types"] == ["star"]


def test_impressions_become_rows(tmp_path: Path) -> None:
    source = tmp_path / "source"
    rows = [
        f"{row}\tU{user}\t11/12/2019 2:{row % 60:02}:46 PM\tN9\tN{item}-1 N{(item + 1) % ITEMS}-0"
        for row, (user, item, _, _) in enumerate(events())
    ]
    write_lines(source / "behaviors.tsv", rows, str)
    news = [f'N{item}\tnews\tlocal\tThe "news" no. {item}\tAn abstract\turl\t[]\t[]' for item in range(ITEMS)]
    write_lines(source / "news.tsv", news, str)
    prepare("mind", source, tmp_path / "out")
    data = PreparedData.open(tmp_path / "out")
    assert data.info["ledger"]["read"] == 2 * ROWS
    assert data.items["title"][0] == 'The "news" no. 0'
    write_lines(source / "behaviors.tsv", [*rows, "9\tU1\t11/12/2019 2:00:46 PM\tN9\tN1-2"], str)
    with pytest.raises(InputError, match=rf"behaviors\.tsv line {ROWS + 1}: 'N1-2' is not an item with -0 or -1"):
        prepare("mind", source, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("headers", [True, False])
def test_zero_is_no_rating_of_a_book(headers: bool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    rated = [
        f'"{user}";"000{item}";"{2 * rating if row % 3 else 0}"' for row, (user, item, rating, _) in enumerate(events())
    ]
    books = [f"000{item};Tea \\& Co. no. {item};Me;1999;Press;s;m;l" for item in range(ITEMS)]
    first = (
        '"User-ID";"ISBN";"Book-Rating"',
        '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"S";"M";"L"',
    )
    write_lines(source / "BX-Book-Ratings.csv", [first[0], *rated] if headers else rated, str)
    write_lines(source / "BX-Books.csv", [first[1] if headers else "0;1;2;3;4;5;6;7", *books], str)
    prepare("book-crossing", source, tmp_path / "out")
    data = PreparedData.open(tmp_path / "out")
    assert data.info["ledger"]["kept"] == ROWS - ROWS // 3
    assert data.items["title"][0] == ("Tea & Co. no. 0" if headers else "Tea \\& Co. no. 0")


def test_sequences_without_times_keep_their_order(tmp_path: Path) -> None:
    source = tmp_path / "source"
    own = [list(range(user, user + ITEMS)) for user in range(USERS)]
    lines = [f"{user}\t{' '.join(map(str, items[:-1]))}\t{items[-1]}" for user, items in enumerate(own)]
    write_lines(source / "Tea.test.inter", ["user_id:token\titem_id_list:token_seq\titem_id:token", *lines], str)
    items = [f"{item}\tTea no. {item}" for item in range(20)]
    write_lines(source / "Tea.item", ["item_id:token\ttitle:token_seq", *items], str)
    prepare("recbole", source, tmp_path / "out")
    data = PreparedData.open(tmp_path / "out")
    test = data.split("test")
    assert {data.item_ids[item] for item in test.items[test.labels == 1]} == {str(items[-1]) for items in own}
    assert [data.item_ids[item] for item in data.log.items[:ITEMS]] == [str(item) for item in own[0]]


def test_errors_name_the_line(tmp_path: Path) -> None:
    amazon_2014(tmp_path)
    meta = gzip.decompress((tmp_path / "meta_Tea.json.gz").read_bytes())
    (tmp_path / "meta_Tea.json.gz").write_bytes(gzip.compress(meta + b"{'asin': \n"))
    with pytest.raises(InputError, match=rf"meta_Tea\.json\.gz line {ITEMS + 1}: neither JSON nor a Python dictionary"):
        prepare("amazon-2014", tmp_path, tmp_path / "out")
    (tmp_path / "reviews_Tea_5.json.gz").unlink()
    with pytest.raises(InputError, match="no file with the reviews is here"):
        prepare("amazon-2014", tmp_path, tmp_path / "out")


def test_a_refusal_says_where_its_key_is_written(tmp_path: Path) -> None:
    amazon_2018(tmp_path / "source")
    items = [{"asin": f"x{item}", "title": "Tea"} for item in range(ITEMS)]  # and no brand
    write_lines(tmp_path / "source" / "meta_Tea.json.gz", items)
    with pytest.raises(InputError, match=r"min_join under \[items\] of the data\.toml that `corella-edge data desc"):
        prepare("amazon-2018", tmp_path / "source", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_paths_start_where_the_command_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    amazon_2014(tmp_path / "source")
    monkeypatch.chdir(tmp_path)
    assert prepare("amazon-2014", Path("source"), Path("out"))["counts"]["interactions"] == ROWS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_a_readers_description_can_be_changed(tmp_path: Path) -> None:
    amazon_2014(tmp_path / "source")
    command = ["data", "describe", "amazon-2014", "--source", str(tmp_path / "source"), "--out", str(tmp_path / "told")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    config = tmp_path / "told" / "data.toml"
    config.write_text(config.read_text().replace("like_above = 3", "like_above = 4"))
    prepare("amazon-2014", tmp_path / "source", tmp_path / "as-published")
    prepare_table(read_description(config), tmp_path / "changed")
    before, after = (PreparedData.open(tmp_path / name) for name in ("as-published", "changed"))
    assert before.items == after.items
    assert 0 < after.log.labels.sum() < before.log.labels.sum()
    with pytest.raises(InputError, match="by rules of its own"):
        CliRunner().invoke(
            cli,
            ["data", "describe", "ml-1m", "--source", str(tmp_path / "source"), "--out", str(tmp_path / "x")],
            catch_exceptions=False,
        )
