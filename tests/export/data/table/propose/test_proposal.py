"""Small tables made by hand, each with one trap: it is found, and decided or asked, with its reason."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.table.propose import survey
from corella_edge_export.data.table.propose.proposal import Proposal, describe, propose
from shop_tables import START, as_csv, changed, events, items, parsed, put, without

E, ITEMS = events(), items()
Made = Callable[..., tuple[dict[str, Any], Proposal]]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """`made({"e.csv": text, …})`: the description as TOML, and the proposal; the files lie beside it."""

    def make(files: dict[str, str | bytes], *names: str) -> tuple[dict[str, Any], Proposal]:
        paths = [put(tmp_path, name, text) for name, text in files.items()]
        found = describe([tmp_path / n for n in names] or paths, tmp_path / "data.toml", lambda message: None)
        return parsed(found.text), found

    return make


def test_a_table_of_ten_rows(made: Made) -> None:
    text = "user,item,title,stars,day\nann,1,Green tea,5,2024-01-03\nann,2,Black tea,3,2024-01-04\n" \
        "bob,1,Green tea,4,2024-01-04\nbob,3,White tea,2,2024-01-06\ncyd,2,Black tea,5,2024-01-07\n" \
        "cyd,3,White tea,4,2024-01-08\ndan,1,Green tea,1,2024-01-09\ndan,2,Black tea,4,2024-01-11\n" \
        "ann,3,White tea,5,2024-01-12\nbob,2,Black tea,2,2024-01-13\n"  # fmt: skip
    found, proposal = made({"ten.csv": text})
    assert {key: found["events"][key] for key in ("files", "user", "item", "time", "time_unit")} == {
        "files": ["ten.csv"], "user": "user", "item": "item", "time": "day", "time_unit": "%Y-%m-%d"}  # fmt: skip
    assert found["label"] == {"rating": "stars", "like_above": 3}
    assert found["items"]["title"] == "title"
    assert found["split"]["rule"] == "time"
    assert proposal.questions == []
    assert proposal.rows[1].split() == ["ann", "1", "Green", "tea", "5", "2024-01-03"]
    assert proposal.next.startswith("corella-edge prepare table --config ")


def test_every_line_has_its_reason(made: Made) -> None:
    _, proposal = made({"e.csv": as_csv(E), "i.csv": as_csv(ITEMS)})
    lines = proposal.text.splitlines()
    plain = {"files", "format", "timezone", "columns", "seed", "missing_title"}
    for before, line in pairwise(lines):
        if " = " in line and not line.startswith("#") and line.split(" = ")[0] not in plain:
            assert "  # " in line or before.startswith("# "), line


def test_items_with_a_table_of_their_own(made: Made) -> None:
    found, proposal = made({"e.csv": as_csv(E), "i.csv": as_csv(ITEMS)})
    assert found["items"]["files"] == ["i.csv"]
    assert (found["items"]["id"], found["items"]["title"]) == ("item_id", "title")
    assert found["items"]["attributes"] == {"kind": "categorical", "tags": "multi:|", "price": "numeric"}
    assert "joins 100 % with i.csv column 'item_id'" in proposal.text


def test_join_rates_tell_the_tables_apart_without_a_header(made: Made) -> None:
    """Ids of users are ids of items, too; only one way fits both."""
    plain = [{**row, "user_id": row["user_id"][1:], "item_id": row["item_id"][1:]} for row in E]
    users = [{"id": u, "age": 20 + u % 9, "city": f"town {u % 4}"} for u in range(25)]
    titled = [{**row, "item_id": row["item_id"][1:]} for row in ITEMS]
    found, _ = made({"a.dat": as_csv(plain, "::", header=False), "b.dat": as_csv(titled, "::", header=False),
                     "c.dat": as_csv(users, "::", header=False)})  # fmt: skip
    assert found["events"]["columns"] == ["user", "item", "rating", "time"]
    assert found["items"]["files"] == ["b.dat"]
    assert found["items"]["columns"][:2] == ["item", "title"]
    assert found["users"]["files"] == ["c.dat"]
    assert found["users"]["attributes"] == {"column2": "categorical", "column3": "categorical"}


def test_users_and_items_that_nothing_tells_apart_are_asked(made: Made) -> None:
    _, proposal = made({"e.tsv": as_csv(E, "\t", header=False)})
    assert [question.partition(": ")[2] for question in proposal.questions] == [
        "user: column1 | column2 — which column is the user?",
        "item: column2 | column1 — which column is the item?",
    ]


def test_two_columns_of_users_are_asked(made: Made) -> None:
    found, _ = made({"e.csv": as_csv(changed(E, member_id=lambda i, r: f"m{i % 40}"))})
    assert found["events"]["user"] == "CHOOSE: user_id | member_id — which column is the user?"


def test_a_second_name_of_the_user_is_left_out(made: Made) -> None:
    found, proposal = made({"e.csv": as_csv(changed(E, user_name=lambda i, r: "name of " + r["user_id"]))})
    assert found["events"]["user"] == "user_id"
    assert "users" not in found
    assert "user_name: another name of the user" in proposal.text


def test_a_session_stands_for_a_user_where_there_is_none(made: Made) -> None:
    rows = [{"session_id": row["user_id"], "item_id": row["item_id"], "timestamp": row["timestamp"]} for row in E]
    assert made({"e.csv": as_csv(rows)})[0]["events"]["user"] == "session_id"


def test_purchases_are_positives(made: Made) -> None:
    rows = changed(without(E, "rating"), Quantity=lambda i, r: 1 + i % 4, InvoiceNo=lambda i, r: 5000 + i // 3)
    found, proposal = made({"e.csv": as_csv(rows)})
    assert found["label"] == {"positives_only": True}
    assert found["negatives"]["per_positive"] == 4
    assert found["events"]["quantity"] == "Quantity"
    assert "InvoiceNo: known only with the event" in proposal.text
    assert found["negatives"]["unlike_drawn"] == "keep"


def test_items_that_their_user_had_before_are_counted(made: Made) -> None:
    rows = [*without(E, "rating"), *({**row, "timestamp": 1_600_000_000 + i} for i, row in enumerate(E[:7]))]
    rows = [{key: row[key] for key in ("user_id", "item_id", "timestamp")} for row in rows]
    again = len(rows) - len({(row["user_id"], row["item_id"]) for row in rows})
    found, proposal = made({"e.csv": as_csv(rows)})
    assert found["negatives"]["unlike_drawn"] == "keep"
    assert f"{again} rows are of an item that their user had before" in proposal.text


def test_cancelled_orders_are_dropped(made: Made) -> None:
    rows = changed(without(E, "rating"), InvoiceNo=lambda i, r: ("C" if i % 20 == 0 else "") + str(5000 + i),
                   Quantity=lambda i, r: -1 if i % 20 == 0 else 1 + i % 4)  # fmt: skip
    found, proposal = made({"e.csv": as_csv(rows)})
    assert found["events"]["drop"] == {"InvoiceNo": "^C", "Quantity": "<=0"}
    assert "20 rows have the letter C before the number" in proposal.text


def test_rows_without_a_user_are_dropped_and_stand_ins_known(made: Made) -> None:
    rows = changed(E, user_id=lambda i, r: "?" if i % 10 == 0 else "" if i % 10 == 5 else r["user_id"],
                   rating=lambda i, r: "NA" if i % 50 == 1 else r["rating"])  # fmt: skip
    found, proposal = made({"e.csv": as_csv(rows)})
    assert found["events"]["missing"] == ["?", "NA"]
    assert found["events"]["require"] == ["user", "rating"]
    assert "80 rows have no user, 8 rows have no rating" in proposal.text


def test_two_ratings_are_asked(made: Made) -> None:
    found, _ = made({"e.csv": as_csv(changed(E, rating_service=lambda i, r: 1 + i % 5))})
    assert found["label"]["rating"] == "CHOOSE: rating | rating_service — which rating is the one?"


def test_a_rating_of_0_is_asked(made: Made) -> None:
    rows = changed(E, rating=lambda i, r: 0 if i % 2 else 1 + i % 10)
    found, proposal = made({"e.csv": as_csv(rows)})
    assert found["label"]["ignore"].startswith("CHOOSE: [0] | []")
    assert "50.0% of the ratings are 0" in proposal.text


def test_a_column_of_0_and_1_is_the_label(made: Made) -> None:
    found, _ = made({"e.csv": as_csv(without(changed(E, clicked=lambda i, r: int(r["rating"] > 3)), "rating"))})
    assert found["label"] == {"column": "clicked"}
    assert "negatives" not in found


def test_a_flag_that_may_be_the_label_is_asked(made: Made) -> None:
    found, proposal = made({"e.csv": as_csv(without(changed(E, verified=lambda i, r: i % 2), "rating"))})
    assert found["label"]["positives_only"].startswith("CHOOSE: true | a column")
    assert '# column = "verified"' in proposal.text


def test_a_label_that_the_rating_decides_gives_the_cut(made: Made) -> None:
    found, proposal = made({"e.csv": as_csv(changed(E, liked=lambda i, r: int(r["rating"] > 2)))})
    assert found["label"] == {"rating": "rating", "like_above": 2}
    assert "liked is 1 exactly there" in proposal.text


def test_numbers_that_may_be_ratings_are_asked(made: Made) -> None:
    found, _ = made({"e.csv": as_csv(without(changed(E, value=lambda i, r: r["rating"]), "rating"))})
    assert found["label"]["rating"].startswith("CHOOSE: value | none")


def test_counts_without_times_are_asked(made: Made) -> None:
    pairs = [
        {"userID": f"u{u}", "itemID": f"p{p}", "weight": (u * p * 37) % 900 + 1} for u in range(30) for p in range(9)
    ]
    found, proposal = made({"e.tsv": as_csv(pairs, "\t")})
    assert found["label"]["positives_only"].startswith("CHOOSE: true | a rating")
    assert re.search(r'# rating = "weight"\n# like_above = \d+', proposal.text)
    assert found["negatives"]["from"] == "catalogue"
    assert found["split"]["rule"] == "random"
    assert "Warning: without times" in proposal.text


def test_kinds_of_events_are_asked(made: Made) -> None:
    rows = without(changed(E, event=lambda i, r: ["view", "view", "buy"][i % 3]), "rating")
    found, _ = made({"e.csv": as_csv(rows)})
    assert found["events"]["event_type"] == "event"
    assert found["events"]["drop"]["event"].startswith("CHOOSE: ^$ | ^(view)$ — ")


@pytest.mark.parametrize(
    ("time", "unit"),
    [
        (lambda t: t * 1000, "ms"),
        (lambda t: f"{t % 12 + 1}/{t % 11 + 1}/2020", "CHOOSE: %m/%d/%Y | %d/%m/%Y — which number is the month (%m)?"),
        (lambda t: t * (1000 if t % 2 else 1), "CHOOSE: s | ms | none — not all are of one unit"),
        (lambda t: t - START, "CHOOSE: s | none — what are numbers from"),
    ],
)  # fmt: skip
def test_units_of_time(made: Made, time: Callable[[int], object], unit: str) -> None:
    found, _ = made({"e.csv": as_csv(changed(E, timestamp=lambda i, r: time(r["timestamp"])))})
    assert found["events"]["time_unit"].startswith(unit)


def test_two_different_times_are_asked_and_twins_are_not(made: Made) -> None:
    late, _ = made({"e.csv": as_csv(changed(E, shipped_at=lambda i, r: r["timestamp"] + 86_400 * (5 + i % 9)))})
    assert late["events"]["time"] == "CHOOSE: timestamp | shipped_at — which column is the time?"
    twin, proposal = made(
        {"e.csv": as_csv(changed(E, day=lambda i, r: str(pl.from_epoch(pl.Series([r["timestamp"]]))[0])[:10]))}
    )
    assert twin["events"]["time"] == "timestamp"
    assert "day says the same" in proposal.text


def test_what_leaks_is_left_out_with_the_reason(made: Made) -> None:
    means = {i["item_id"]: 0.0 for i in ITEMS}
    for item in means:
        marks = [row["rating"] for row in E if row["item_id"] == item]
        means[item] = sum(marks) / len(marks)
    twin = changed(ITEMS, average_rating=lambda i, r: round(means[r["item_id"]], 1),
                   quality=lambda i, r: means[r["item_id"]] * 7,
                   num_reviews=lambda i, r: i * 3 % 7, also_bought=lambda i, r: f"p{i % 30} p{i * 7 % 30}",
                   neighbours=lambda i, r: f"p{i % 29} p{i * 3 % 30}")  # fmt: skip
    told = changed(E, review_text=lambda i, r: f"so good {i}", helpful=lambda i, r: i % 3)
    found, proposal = made({"e.csv": as_csv(told), "i.csv": as_csv(twin)})
    assert set(found["items"]["attributes"]) == {"kind", "tags", "price"}
    for name in ("average_rating", "quality", "num_reviews", "also_bought", "neighbours", "review_text", "helpful"):
        assert re.search(rf"#   {name}: leaks: ", proposal.text), name


def test_columns_that_say_nothing_are_left_out(made: Made) -> None:
    odd = changed(ITEMS, url=lambda i, r: f"http://a.b/{i}", blank=lambda i, r: "", same=lambda i, r: "x",
                  row=lambda i, r: i, amount=lambda i, r: f"${i}.50", details=lambda i, r: str({"Brand": i}),
                  born=lambda i, r: f"2001-02-{i % 27 + 1}",
                  code=lambda i, r: f"zz{i}", rare=lambda i, r: "y" if i == 3 else "")  # fmt: skip
    found, proposal = made({"e.csv": as_csv(E), "i.csv": as_csv(odd)})
    assert set(found["items"]["attributes"]) == {"kind", "tags", "price"}
    for name, why in {"url": "addresses", "blank": "empty in every row", "same": "one value only", "row": "only counts",
                      "amount": "amounts as text", "details": "nested objects", "born": "a date", "code": "its own",
                      "rare": "29 of 30 are empty"}.items():  # fmt: skip
        assert re.search(rf"#   {name}: .*{why}", proposal.text), name


def test_columns_of_0_and_1_side_by_side_are_one_attribute(made: Made) -> None:
    flags = changed(ITEMS, red=lambda i, r: i % 2, green=lambda i, r: i % 3 % 2, blue=lambda i, r: i % 5 % 2)
    found, _ = made({"e.csv": as_csv(E), "i.csv": as_csv(flags)})
    assert found["items"]["attributes"]["flags"] == {"kind": "multi", "columns": ["red", "green", "blue"]}


def test_attributes_in_the_events(made: Made) -> None:
    """What an item always has is the item's, what a user always has the user's; the rest comes with the event."""
    rows = changed(E, title=lambda i, r: ITEMS[int(r["item_id"][1:])]["title"],
                   colour=lambda i, r: "ab"[int(r["item_id"][1:]) % 2],
                   country=lambda i, r: "XYZ"[int(r["user_id"][1:]) % 3], paid=lambda i, r: i % 17 + 0.5)  # fmt: skip
    found, proposal = made({"e.csv": as_csv(rows)})
    assert found["items"]["attributes"] == {"colour": "categorical"}
    assert found["items"]["title"] == "title"
    assert found["users"]["attributes"] == {"country": "categorical"}
    assert "paid: known only with the event" in proposal.text


def test_copies_repeats_and_baskets(made: Made) -> None:
    rows = changed(E, timestamp=lambda i, r: START + i // 4 * 9999, user_id=lambda i, r: f"c{i // 4 % 20}")
    found, proposal = made({"e.csv": as_csv([*rows, *rows[:9]])})
    assert found["events"]["repeats"] == "first"
    every = [*rows, *rows[:9]]
    copies = len(every) - len({tuple(row.values()) for row in every})
    assert f"{copies} rows of the file are exact copies" in proposal.text.replace("\n# ", " ")
    assert found["split"]["ties"] == "exclude"
    assert "100.0% of the rows share user and moment with another" in proposal.text


def test_titles_are_looked_at(made: Made) -> None:
    odd = changed(ITEMS, title=lambda i, r: ["Tea &amp; milk", " oil lamp", "unknown", r["title"]][min(i, 3)])
    _, proposal = made({"e.csv": as_csv(E), "i.csv": as_csv(odd)})
    assert "titles with HTML (&amp; or tags): 1" in proposal.text
    assert "1 titles begin or end with blanks" in proposal.text
    assert '"unknown" (1 times)' in proposal.text


def test_items_without_a_title_are_asked(made: Made) -> None:
    found, _ = made({"e.csv": as_csv(E), "i.csv": as_csv(ITEMS[:20])})
    assert found["items"]["missing_title"].startswith("CHOOSE: drop | id")
    assert 0.6 <= found["items"]["min_join"] <= 0.7


def test_ids_that_two_files_write_in_two_ways(made: Made) -> None:
    found, proposal = made({"e.csv": as_csv(changed(E, item_id=lambda i, r: r["item_id"][1:] + ".0")),
                            "i.csv": as_csv(changed(ITEMS, item_id=lambda i, r: r["item_id"][1:]))})  # fmt: skip
    assert found["events"]["item"] == "item_id"
    assert any("100% of column 'item_id' are found in i.csv" in note for note in proposal.notes)


def test_published_parts_are_kept_or_asked(made: Made) -> None:
    late, _ = made({"train.csv": as_csv(E[:300]), "valid.csv": as_csv(E[300:350]), "test.csv": as_csv(E[350:])})
    assert late["split"]["rule"] == "files"
    assert late["split"]["test"] == ["test.csv"]
    assert "files" not in late["events"]
    mixed, proposal = made({"train.csv": as_csv(E[50:350]), "valid.csv": as_csv(E[350:]), "test.csv": as_csv(E[:50])})
    assert mixed["split"]["rule"] == "CHOOSE: files | time — 50 of 50 test rows precede the last training row"
    assert "# files = [" in proposal.text


def test_times_that_were_made_up_are_asked(made: Made) -> None:
    rows = changed(
        E,
        timestamp=lambda i, r: START + int(r["user_id"][1:]) * 86_401 + i * 20 // 25 * 20,
        user_id=lambda i, r: f"c{i // 16}",
    )
    steps = [{**row, "timestamp": START + number // 16 * 900_001 + number % 16 * 20} for number, row in enumerate(rows)]
    found, _ = made({"e.csv": as_csv(steps)})
    assert found["split"]["rule"] == "CHOOSE: per-user | time — the times look made up, in steps of 20 s"


def test_rows_with_another_number_of_fields_are_asked(made: Made) -> None:
    found, proposal = made({"e.csv": as_csv(E) + "c1,p2\n"})
    assert found["events"]["bad_rows"].startswith("CHOOSE: stop | drop")
    assert "row 402 of e.csv with 2" in proposal.text


@pytest.mark.parametrize("form", ["csv", "tsv", "gz", "crlf", "cr", "utf-16", "jsonl", "parquet"])
def test_the_same_table_in_any_form_is_described_alike(made: Made, tmp_path: Path, form: str) -> None:
    text = as_csv(E)
    if form == "parquet":
        pl.DataFrame(E).write_parquet(tmp_path / "e.parquet")
        data: str | bytes = (tmp_path / "e.parquet").read_bytes()
    else:
        data = {"csv": text, "tsv": as_csv(E, "\t"), "gz": gzip.compress(text.encode()),
                "crlf": text.replace("\n", "\r\n"), "cr": text.replace("\n", "\r"), "utf-16": text.encode("utf-16"),
                "jsonl": "".join(json.dumps(row) + "\n" for row in E)}[form]  # fmt: skip
    found, proposal = made({"e": data})
    plain, _ = made({"plain.csv": text})
    assert proposal.questions == []
    for key in ("user", "item", "time", "time_unit", "repeats"):
        assert found["events"][key] == plain["events"][key]
    assert (found["label"], found["split"]) == (plain["label"], plain["split"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.permutations(["user_id", "item_id", "rating", "timestamp"]),
    seed=st.integers(0, 99),
    separator=st.sampled_from(",;\t|"),
)
def test_the_order_of_columns_and_the_dialect_change_nothing(
    tmp_path: Path, order: list[str], seed: int, separator: str
) -> None:
    rows = [{name: row[name] for name in order} for row in events(120, seed=seed)]
    found = parsed(describe([put(tmp_path, "e.csv", as_csv(rows, separator))], tmp_path / "d.toml", print).text)
    assert [found["events"][key] for key in ("user", "item", "time", "time_unit", "separator")] == [
        "user_id", "item_id", "timestamp", "s", separator]  # fmt: skip
    assert found["label"]["rating"] == "rating"


def test_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    put(tmp_path, "README.md", "# About")
    put(tmp_path, "LICENCE", "All of it is ours.\nReally, it is.\nYes\n")
    put(tmp_path, "e.csv", as_csv(E))
    put(tmp_path, "i.csv", as_csv(ITEMS))
    found = describe([tmp_path], tmp_path / "data.toml", lambda message: None)
    assert parsed(found.text)["items"]["files"] == ["i.csv"]
    assert "Left out: LICENCE is no table." in found.notes


def test_the_text_is_the_same_each_time(made: Made) -> None:
    files = {"e.csv": as_csv(changed(E, a=lambda i, r: "xyz"[i % 3])), "i.csv": as_csv(ITEMS)}
    assert made(files)[1] == made(files)[1]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("e.json", json.dumps(E), r"e\.json: is one JSON array; make it JSON lines: cat e\.json \| python3 -c "),
        ("e.json", json.dumps(E[0], indent=1), "is one JSON document over several lines"),
        ("e.json", "\n".join(map(repr, E)), r"line 1: is a Python dict, not JSON; the reader amazon-2014"),
        ("e.json", json.dumps(E[0]) + '\n{"a": ', r"line 2: is not JSON \("),
        ("e.json", json.dumps(E[0]) + "\n7\n{", r"line 2: is JSON, but no object"),
        ("e.csv", "user,item,rating\n", "holds a header and no row"),
        ("e.csv", as_csv(E).replace("user_id", "item_id", 1), "line 1: two columns are named 'item_id'"),
        ("e.csv", as_csv(E).replace("user_id,", "", 1), "line 1: names 3 columns and the rows have 4"),
        ("e.csv", as_csv(without(E, "user_id")), r"no two columns look like a user and an item"),
        ("e.txt", "Read these terms.\nThen, sign.\nThanks\n", "no separator cuts its lines into columns"),
        ("e.tsv", "".join(f"{i}\tu{i % 9}\tp1-0 p{i}-1\n" for i in range(50)), "column 3 lists all that was shown"),
        ("e.parquet", b"PAR1 and nothing more", "cannot be read as Parquet"),
    ],
)  # fmt: skip
def test_what_cannot_be_described_is_told_with_a_way_out(
    made: Made, name: str, data: str | bytes, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        made({name: data})


def test_rows_that_are_whole_sequences_are_refused(made: Made) -> None:
    rows = [{"user_id": f"u{u}", "item_list": " ".join(f"p{(u * 7 + k) % 60}" for k in range(9)),
             "item_id": f"p{(u * 7 + 9) % 60}"} for u in range(200)]  # fmt: skip
    with pytest.raises(InputError, match="column 'item_list' lists a user's items, and only"):
        made(
            {
                "e.tsv": as_csv([*rows, *rows[:40]], "\t"),
                "i.tsv": as_csv([{"item_id": f"p{i}", "title": f"tea no {i}"} for i in range(60)], "\t"),
            }
        )


def test_nothing_is_replaced_and_nothing_half_written(tmp_path: Path) -> None:
    source, out = put(tmp_path, "e.csv", as_csv(E)), tmp_path / "data.toml"
    propose([source], out, lambda message: None)
    before = out.read_bytes()
    with pytest.raises(InputError, match=r"--out .*data\.toml: exists, and init replaces nothing"):
        propose([source], out, lambda message: None)
    assert out.read_bytes() == before
    with pytest.raises(InputError):
        propose([put(tmp_path, "bad.csv", "x")], tmp_path / "new.toml", lambda message: None)
    with pytest.raises(InputError, match="does not exist; make it"):
        propose([source], tmp_path / "no" / "data.toml", lambda message: None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.csv", "data.toml", "e.csv"]


def test_of_large_files_the_first_rows_are_counted_and_said(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from corella_edge_export.data.table.propose import content, sheet

    look = content.look
    monkeypatch.setattr(sheet.contents, "look", lambda path: look(path, cap=6000))
    _, proposal = made({"e.csv": as_csv(E)})
    assert re.search(r"e\.csv: the first \d\d\d rows \(a larger file", proposal.text)
    assert any("larger than what was looked at" in note for note in proposal.notes)


def test_publishers_forms_are_recognised(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"reviewerID": r["user_id"], "asin": r["item_id"], "overall": r["rating"], "unixReviewTime": r["timestamp"],
             "vote": "3"} for r in E]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    monkeypatch.setattr(survey.known, "recognise", lambda sheets: "synthetic")
    _, proposal = made({"e.json": text})
    assert any("corella-edge prepare synthetic --source DIR" in note for note in proposal.notes)
    monkeypatch.setattr(survey.known, "recognise", lambda sheets: "a-form-without-a-reader")
    assert made({"e.json": text})[1].notes == []


def test_what_is_no_table_of_anybodys_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match=r"pipe: is not a regular file; copy it to one"):
        propose([tmp_path / "pipe"], tmp_path / "data.toml", lambda message: None)
    monkeypatch.setattr(survey, "MOST_FILES", 2)
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text("user,item\n1,2\n")
    with pytest.raises(InputError, match="holds 3 files, more than 2; name those of the tables"):
        propose([tmp_path], tmp_path / "data.toml", lambda message: None)
    assert not (tmp_path / "data.toml").exists()
