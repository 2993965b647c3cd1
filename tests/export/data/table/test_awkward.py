"""Tables as shops really export them: read as a person would read them, or refused in one line that says what to do."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from corella_edge.errors import InputError
from corella_edge_export.data.table import raw
from corella_edge_export.data.table.description import Files
from corella_edge_export.data.table.look import Look
from corella_edge_export.data.table.parse import read_description
from corella_edge_export.data.table.prepare import prepare_table
from corella_edge_export.data.table.propose.proposal import describe

Row = tuple[str, str, int, int]
ROWS: list[Row] = [
    (
        f"u{n % 7}",
        f"i{(n * 3 + n // 7) % 9}",
        1_600_000_000 + n * 40_000 + n * n * 7919 % 39_000,
        1 + (n * 7 + n // 5) % 5,
    )
    for n in range(70)
]
HEADER = "user,item,time,rating\n"


def lines(form: Callable[[str, str, int, int], str], rows: list[Row] = ROWS, end: str = "\n") -> str:
    return "".join(form(*row) + end for row in rows)


def plain(user: str, item: str, time: int, rating: int) -> str:
    return f"{user},{item},{time},{rating}"


def told(time: int, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    return datetime.fromtimestamp(time, UTC).strftime(form)


def both(folder: Path, *files: str) -> tuple[str, dict[str, Any]]:
    """`init` and `prepare` of files in a folder: the data.toml, and dataset.json of the folder `out`."""
    text = describe([folder / file for file in files], folder / "data.toml", lambda message: None).text
    (folder / "data.toml").write_text(text, encoding="utf-8")
    prepare_table(read_description(folder / "data.toml"), folder / "out", requests=5)
    return text, json.loads((folder / "out" / "dataset.json").read_bytes())


def same(folder: Path) -> None:
    """What was prepared are the rows of ROWS, with their users, times and labels."""
    found = pl.read_parquet(folder / "out" / "interactions.parquet").sort("timestamp")
    assert found["user_id"].str.slice(-2).to_list() == [row[0] for row in ROWS]
    assert found["timestamp"].to_list() == [row[2] for row in ROWS]
    assert found["label"].sum() == sum(row[3] > 3 for row in ROWS)


Form = Callable[[str, str, int, int], str]
READ: dict[str, tuple[str, Form]] = {
    "trailing separator": ("user,item,time,rating,\n", lambda u, i, t, r: f"{u},{i},{t},{r},"),
    "blanks in the header": ("user, item, time, rating\n", lambda u, i, t, r: f"{u},{i},{t},{r}"),
    "decimal commas": ("user;item;time;rating\n", lambda u, i, t, r: f"{u};{i};{t};{r},5"),
    "quoted decimal commas": (HEADER, lambda u, i, t, r: f'{u},{i},{t},"{r},5"'),
    "line ends in values": (HEADER[:-1] + ",note\n", lambda u, i, t, r: f'{u},{i},{t},{r},"one\ntwo, {u}"'),
    "ISO 8601 with and without fractions": (
        HEADER, lambda u, i, t, r: f"{u},{i},{told(t, '%Y-%m-%dT%H:%M:%S')}{'.25' * (t % 3 > 0)}Z,{r}"),
    "ISO 8601 in two zones": (
        HEADER,
        lambda u, i, t, r: f"{u},{i}," + (
            f"{told(t + 7200, '%Y-%m-%dT%H:%M:%S')}+02:00" if t % 3 else f"{told(t, '%Y-%m-%dT%H:%M:%S')}Z") + f",{r}"),
    "days of a spreadsheet": (HEADER, lambda u, i, t, r: f"{u},{i},{t / 86_400 + 25_569:.7f},{r}"),
    "digits alone": (HEADER, lambda u, i, t, r: f"{u},{i},{told(t, '%Y%m%d%H%M%S')},{r}"),
    "nanoseconds": (HEADER, lambda u, i, t, r: f"{u},{i},{t}000000000,{r}"),
    "months in letters": (HEADER, lambda u, i, t, r: f"{u},{i},{told(t, '%b %d %Y %H:%M:%S')},{r}"),
    "yes and no": (HEADER.replace("rating", "clicked"), lambda u, i, t, r: f"{u},{i},{t},{'Yes' if r > 3 else 'no'}"),
    "Y and N": (HEADER.replace("rating", "liked"), lambda u, i, t, r: f"{u},{i},{t},{'Y' if r > 3 else 'N'}"),
    "addresses as ids": (HEADER, lambda u, i, t, r: f"{u},https://shop.example/x?i={i},{t},{r}"),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_read_as_a_person_would(name: str, tmp_path: Path) -> None:
    header, form = READ[name]
    (tmp_path / "e.csv").write_text(header + lines(form), encoding="utf-8")
    both(tmp_path, "e.csv")
    same(tmp_path)


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_header_between_rows_is_dropped_and_counted(mark: str, tmp_path: Path) -> None:
    half = len(ROWS) // 2
    text = mark + HEADER + lines(plain, ROWS[:half]) + mark + HEADER + lines(plain, ROWS[half:])
    (tmp_path / "e.csv").write_text(text, encoding="utf-8")
    (tmp_path / "items.csv").write_text(
        "item,title\n" + "".join(f"i{n},Tea no. {n}\n" for n in range(5)) + "item,title\n"
        + "".join(f"i{n},Tea no. {n}\n" for n in range(5, 9)), encoding="utf-8")  # fmt: skip
    text, info = both(tmp_path, "e.csv", "items.csv")
    assert info["ledger"]["dropped"] == {"the header again": 1}
    assert "The header stands 1 times more among the rows" in text
    assert "title" not in pl.read_parquet(tmp_path / "out" / "items.parquet")["title"]
    same(tmp_path)


def test_a_second_header_is_refused_by_its_line(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text("Customer,Product,When,Stars\n" + HEADER + lines(plain), encoding="utf-8")
    with pytest.raises(InputError, match=r"e\.csv line 2: Stars 'rating' is no number"):
        both(tmp_path, "e.csv")


@pytest.mark.parametrize(
    "form", [lambda r: f"{r}/5", lambda r: "★" * r, lambda r: "abcde"[r - 1] + "!", lambda r: f"{r}0%"]
)
def test_a_rating_without_numbers_is_asked_about(form: Callable[[int], str], tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(HEADER + lines(lambda u, i, t, r: f"{u},{i},{t},{form(r)}"), encoding="utf-8")
    text = describe([tmp_path / "e.csv"], tmp_path / "data.toml", lambda message: None).text
    assert 'positives_only = "CHOOSE: true | a rating (see below)' in text
    assert "rating is called like a rating, and its values are no numbers" in " ".join(text.replace("\n#", "").split())


def test_a_time_of_no_known_form_is_asked_about(tmp_path: Path) -> None:
    (tmp_path / "e.csv").write_text(HEADER + lines(lambda u, i, t, r: f"{u},{i},week {t % 53} of {t},{r}"))
    text = describe([tmp_path / "e.csv"], tmp_path / "data.toml", lambda message: None).text
    assert 'time_unit = "CHOOSE: none | a pattern (see below) — time holds times of no known form"' in text


NESTED: dict[str, Callable[[str, str, int, int], object]] = {
    "objects": lambda u, i, t, r: {"user": {"id": u, "name": "x"}, "product": {"sku": i}, "at": t, "rating": r},
    "dates of a document store": lambda u, i, t, r: {
        "_id": {"$oid": f"{t:024x}"}, "user": u, "item": i, "time": {"$date": told(t, "%Y-%m-%dT%H:%M:%SZ")},
        "rating": r},
    "quotes in keys": lambda u, i, t, r: {'the "user" id': u, "it'em id": i, "time": t, "rating": r},
    "numbers as texts": lambda u, i, t, r: {"user": u, "item": i, "time": str(t) if t % 2 else t, "rating": str(r)},
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_json_of_any_make(name: str, tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text(lines(lambda *row: json.dumps(NESTED[name](*row))), encoding="utf-8")
    both(tmp_path, "e.jsonl")
    same(tmp_path)


def frame() -> pl.DataFrame:
    return pl.DataFrame(ROWS, schema=["user", "item", "time", "rating"], orient="row")


PARQUET: dict[str, Callable[[pl.DataFrame], pl.DataFrame]] = {
    "structs": lambda f: f.select(pl.struct("user").alias("who"), pl.struct("item").alias("what"), "time", "rating"),
    "categories": lambda f: f.with_columns(pl.col("user", "item").cast(pl.Categorical)),
    "decimals": lambda f: f.with_columns(pl.col("rating").cast(pl.Decimal(5, 2))),
    "bytes": lambda f: f.with_columns(pl.col("user", "item").cast(pl.Binary)),
    "nanoseconds": lambda f: f.with_columns(pl.from_epoch("time").cast(pl.Datetime("ns"))),
    "zones": lambda f: f.with_columns(
        pl.from_epoch("time").dt.replace_time_zone("UTC").dt.convert_time_zone("Europe/Berlin")
    ),
}


@pytest.mark.parametrize("name", PARQUET)
def test_parquet_of_any_type(name: str, tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "_SUCCESS").touch()  # Spark's own
    PARQUET[name](frame()).write_parquet(tmp_path / "part" / "e.parquet", row_group_size=9)
    both(tmp_path, "part")
    same(tmp_path)


def test_bytes_that_are_no_text_have_no_role(tmp_path: Path) -> None:
    bad = pl.Series("user", [row[0].encode() + b"\xff" for row in ROWS])
    frame().with_columns(bad).write_parquet(tmp_path / "e.parquet")
    with pytest.raises(InputError, match="no two columns look like a user and an item"):
        both(tmp_path, "e.parquet")


def test_zeros_behind_packed_data(tmp_path: Path) -> None:
    data = (HEADER + lines(plain)).encode()
    (tmp_path / "e.csv.gz").write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]) + bytes(512))
    both(tmp_path, "e.csv.gz")
    same(tmp_path)


def test_columns_in_another_order_are_the_same_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER + lines(plain, ROWS[:35]))
    (tmp_path / "b.csv").write_text("rating,time,item,user\n" + lines(lambda u, i, t, r: f"{r},{t},{i},{u}", ROWS[35:]))
    both(tmp_path, "a.csv", "b.csv")
    same(tmp_path)


def test_what_is_left_out_says_why(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(HEADER + lines(plain))
    (tmp_path / "b.csv").write_text("user;item;time;rating;more\n" + lines(lambda u, i, t, r: f"{u};{i};{t};{r};x"))
    (tmp_path / "items.csv").write_text("item,title\n" + "".join(f"i{n},Tea\ni{n},Tea {n}\n" for n in range(9)))
    notes = describe([tmp_path], tmp_path / "data.toml", lambda message: None).notes
    assert any("b.csv" in note and "has the events' user and item and is of another form" in note for note in notes)
    assert any("items.csv" in note and "several times (9 different values in 18 rows)" in note for note in notes)


@pytest.mark.parametrize(
    ("other", "shown"),
    [("U{}", r"'U0', 'u0'"), ("u{}\u200b", "'u0', 'u0\\u200b'"), ("u{}.0", "'u0', 'u0.0'"), ("u{} ", "'u0', 'u0 '")],
)
def test_ids_that_look_alike_are_told(other: str, shown: str, tmp_path: Path) -> None:
    rows = [(row[0] if n % 2 else other.format(row[0][1:]), *row[1:]) for n, row in enumerate(ROWS)]
    (tmp_path / "e.csv").write_text(HEADER + lines(plain, rows), encoding="utf-8")
    notes = both(tmp_path, "e.csv")[1]["notes"]
    assert any("user ids differ only in blanks, case" in note and f"different ones ({shown})" in note for note in notes)
    assert any("begin or end with a blank" in note for note in notes) == other.endswith(" ")


REFUSED = {
    "one row": (HEADER + "u,i,1600000000,3\n", "holds 1 row, too few to tell what its columns are"),
    "one user": (HEADER + lines(lambda u, i, t, r: f"u,{i},{t},{r}"), "user has the same value in every row"),
    "several blanks": (
        "user  item  time  rating\n" + lines(lambda u, i, t, r: f"{u}  {i}  {t}  {r}"),
        "columns stand apart by several blanks; put one tab between them",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    text, problem = REFUSED[name]
    (tmp_path / "e.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(problem)):
        both(tmp_path, "e.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["e.csv"]


def test_a_file_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its hash would be that of other rows."""
    (tmp_path / "e.csv").write_text(HEADER + lines(plain))
    both(tmp_path, "e.csv")
    looked = raw.look

    def look(path: Path, files: Files) -> Look:
        found = looked(path, files)
        with path.open("a") as file:
            file.write("u1,i1,1600000000,3\n")
        return found

    monkeypatch.setattr(raw, "look", look)
    with pytest.raises(InputError, match=r"e\.csv: was written to while it was read"):
        prepare_table(read_description(tmp_path / "data.toml"), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.toml", "e.csv", "out"]


def test_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(InputError, match=r"pipe\.csv: is not a regular file; copy it to one"):
        both(tmp_path, "pipe.csv")
    packed = tmp_path / "e.parquet.gz"
    frame().write_parquet(tmp_path / "e.parquet")
    packed.write_bytes(gzip.compress((tmp_path / "e.parquet").read_bytes()))
    with pytest.raises(InputError, match="is a Parquet file packed with gzip; unpack it"):
        both(tmp_path, packed.name)
