"""`prepare table`: complete or nothing, the same a second time, and the real tables row by row."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from broken_tables import Broken, lay_out
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.table.parse import read_description
from corella_edge_export.data.table.prepare import look_at_table, prepare_table

SHOP = "user,item,when,stars\n" + "".join(
    f"u{n % 7},i{n % 11},{1600000000 + 60 * n},{1 + n * n % 5}\n" for n in range(200)
)
ITEMS = "id,title\n" + "".join(f"i{n},Thing {n}\n" for n in range(11))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lay_out(Broken({"e.csv": SHOP.encode(), "i.csv": ITEMS.encode()}, {"split": {"rule": "time"}}), tmp_path)
    return tmp_path


def command(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "corella_edge", "prepare", "table", "--config", "data.toml", *more]
    return subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_command_prints_the_ledger_and_writes_the_folder(folder: Path) -> None:
    (folder / "data.toml").write_text((folder / "data.toml").read_text().replace('s"\n', 's"\nrequire = ["user"]\n', 1))
    (folder / "e.csv").write_text(SHOP + ",i1,1600000000,3\n")
    done = command(folder, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("201 rows read\n  1 dropped: no user\n200 kept\n\nshop: 200 interactions of 7 users")
    info = PreparedData.open(folder / "out").info
    assert info["ledger"] == {"read": 201, "dropped": {"no user": 1}, "kept": 200}
    assert set(info["sources"]) == {"e.csv", "i.csv"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_dry_says_the_same_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.iterdir())
    dry = command(folder, "--dry")
    assert sorted(folder.iterdir()) == before
    assert dry.stdout.endswith("nothing was written (--dry)\n")
    assert dry.stderr.splitlines()[-1].startswith("next: corella-edge prepare table --config data.toml --out data/")
    wet = command(folder, "--out", "out")
    assert wet.stderr.splitlines()[-1] == "next: corella-edge train generic --data out --out runs/out"
    assert dry.stdout.splitlines()[:-1] == wet.stdout.splitlines()[:-1]
    found = look_at_table(read_description(folder / "data.toml"))
    assert found["ledger"]["kept"] == 200


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--out", "x"],
            "prepare table needs --config data.toml; `corella-edge init FILE... --out data.toml` writes one",
        ),
        (["--config", "data.toml", "--source", ".", "--out", "x"], "leave out --source and --extra"),
        (["--config", "data.toml"], "Missing option '--out'."),
        (["--config", "absent.toml", "--out", "x"], "absent.toml: no such file"),
        (["--config", "data.toml", "--out", "x", "--memory", "lots"], "'lots' is no size, such as 512MiB or 4GiB"),
        (["--config", "data.toml", "--out", "x", "--memory", "1MiB"], "--memory: 1 MiB is too little"),
    ],
)
def test_wrong_options_are_one_line(folder: Path, arguments: list[str], told: str) -> None:
    done = subprocess.run([sys.executable, "-m", "corella_edge", "prepare", "table", *arguments], cwd=folder,
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr.splitlines()[-1]
    assert not (folder / "x").exists()


def many(folder: Path, rows: int) -> None:
    with (folder / "e.csv").open("w") as file:
        file.write("user,item,when,stars\n")
        file.writelines(f"u{n % 997},i{n % 11},{1500000000 + n},{1 + n % 5}\n" for n in range(rows))


@pytest.mark.slow
@pytest.mark.parametrize(("said", "sign"), [("judging", signal.SIGKILL), ("writing", signal.SIGKILL),
                                            ("judging", signal.SIGINT)])  # fmt: skip
def test_stopped_in_the_middle_nothing_is_there_and_a_second_start_works(
    folder: Path, said: str, sign: signal.Signals
) -> None:
    many(folder, 200_000)
    arguments = [sys.executable, "-m", "corella_edge", "prepare", "table", "--config", "data.toml", "--out", "out"]
    process = subprocess.Popen(arguments, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    with process:
        assert process.stderr is not None
        assert any(line.startswith(said) for line in process.stderr)
        process.send_signal(sign)
        rest = process.stderr.read()
    assert process.returncode == (-signal.SIGKILL if sign == signal.SIGKILL else 130), rest
    assert not (folder / "out").exists()
    # What the first has left beside it, the second removes.
    assert command(folder, "--out", "out").returncode == 0
    assert PreparedData.open(folder / "out").info["ledger"]["kept"] == 200_000
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_second_run_costs_a_look_at_the_files(folder: Path) -> None:
    description = read_description(folder / "data.toml")
    first = prepare_table(description, folder / "out")
    written = (folder / "out" / "dataset.json").stat().st_mtime_ns
    second = prepare_table(description, folder / "out")
    assert (first["already"], second["already"]) == (False, True)
    assert {**first, "seconds": 0, "already": True} == {**second, "seconds": 0}
    assert (folder / "out" / "dataset.json").stat().st_mtime_ns == written


# The real tables: what each file holds is counted a second time by polars.


def test_who_only_occurs_after_training_keeps_the_attributes_of_the_events_files(tmp_path: Path) -> None:
    """From the 180th row on, users and items are new; a user of training rows has another town there."""
    rows = [
        (f"u{n % 7}", f"i{n % 11}", n, "York", "old") if n < 180 else (f"n{n % 3}", f"j{n % 4}", n, "Bath", "new")
        for n in range(200)
    ]
    rows[-5:] = [("u1", "i1", 199, "Bath", "new")] * 5
    lines = (f"{u},{i},{16 * 10**8 + 60 * n},{t},{k},{n * n % 5 % 2}\n" for u, i, n, t, k in rows)
    (tmp_path / "e.csv").write_text("user,item,when,town,kind,liked\n" + "".join(lines))
    (tmp_path / "data.toml").write_text(
        """name = "shop"
        [events]
        files = ["e.csv"]
        user = "user"
        item = "item"
        time = "when"
        time_unit = "s"
        [label]
        column = "liked"
        [items]
        missing_title = "id"
        attributes = { kind = "categorical" }
        [users]
        attributes = { town = "categorical" }
        [split]
        rule = "time"
        """.replace("        ", "")
    )
    prepare_table(read_description(tmp_path / "data.toml"), tmp_path / "out")
    users, items = (pl.read_parquet(tmp_path / f"out/{name}.parquet") for name in ("users", "items"))
    assert dict(users.rows()) == {
        **{f"u{n}": "York" for n in range(7)}, **{f"n{n}": "Bath" for n in range(3)}
    }  # fmt: skip
    assert {item: kind for item, _, kind in items.rows()} == {
        **{f"i{n}": "old" for n in range(11)}, **{f"j{n}": "new" for n in range(4)}
    }  # fmt: skip


def shared(name: str) -> Path:
    root = os.environ.get("CORELLA_EDGE_TEST_DATA")
    if not root or not (Path(root) / name).is_dir():
        pytest.skip(f"CORELLA_EDGE_TEST_DATA has no folder {name}")
    return Path(root).absolute() / name


def prepared(tmp_path: Path, text: str) -> tuple[dict[str, object], dict[str, pl.DataFrame]]:
    config = tmp_path / "data.toml"
    config.write_text(text)
    found = prepare_table(read_description(config), tmp_path / "out")
    tables = {
        name: pl.read_parquet(tmp_path / "out" / f"{name}.parquet") for name in ("interactions", "items", "users")
    }
    return found["ledger"], tables


RETAIL = """
name = "online-retail"
[events]
files = [{file}]
user = "CustomerID"
item = "StockCode"
time = "InvoiceDate"
time_unit = "%m/%d/%Y %H:%M"
require = ["user"]
drop = {{ InvoiceNo = "^C", Quantity = "<=0" }}
repeats = "first"
quantity = "Quantity"
[label]
positives_only = true
[negatives]
[items]
title = "Description"
[users]
attributes = {{ Country = "categorical" }}
[split]
rule = "time"
"""


def test_online_retail(tmp_path: Path) -> None:
    file = shared("uci-online-retail-lf") / "OnlineRetail.csv"
    ledger, tables = prepared(tmp_path, RETAIL.format(file=json.dumps(str(file))))
    raw = pl.read_csv(file, infer_schema=False, encoding="utf8-lossy")
    with_user = raw.filter(pl.col("CustomerID").is_not_null())
    sold = with_user.filter(~pl.col("InvoiceNo").str.starts_with("C"), pl.col("Quantity").cast(pl.Int64) > 0)
    once = sold.unique(["CustomerID", "StockCode", "InvoiceDate"])
    dropped = {"no user": len(raw) - len(with_user), "InvoiceNo matches ^C": len(with_user) - len(sold),
               "a repeat": len(sold) - len(once)}  # fmt: skip
    assert ledger == {"read": len(raw), "dropped": {k: v for k, v in dropped.items() if v}, "kept": len(once)}
    moments = once["InvoiceDate"].str.strptime(pl.Datetime, "%m/%d/%Y %H:%M").dt.epoch("s")
    assert sorted(tables["interactions"]["timestamp"]) == sorted(moments)
    assert set(tables["items"]["item_id"]) == set(once["StockCode"])
    countries = once.group_by("CustomerID").agg(pl.col("Country").mode().first())
    assert dict(tables["users"].iter_rows()) == dict(countries.iter_rows())


ML_100K = """
name = "ml-100k"
[events]
files = [{events}]
separator = "\\t"
quote = ""
header = false
columns = ["user", "item", "rating", "time"]
user = "user"
item = "item"
time = "time"
time_unit = "s"
[label]
rating = "rating"
like_above = 3
[items]
files = [{items}]
separator = "|"
quote = ""
header = false
encoding = "latin-1"
columns = [{columns}]
id = "c0"
title = "c1"
[split]
rule = "time"
"""


def test_ml_100k(tmp_path: Path) -> None:
    source = shared("ml-100k")
    columns = ", ".join(f'"c{number}"' for number in range(24))
    events, items = (json.dumps(str(source / name)) for name in ("u.data", "u.item"))
    ledger, tables = prepared(tmp_path, ML_100K.format(events=events, items=items, columns=columns))
    raw = pl.read_csv(source / "u.data", separator="\t", has_header=False, infer_schema=False)
    assert ledger == {"read": len(raw), "dropped": {}, "kept": len(raw)}
    found = tables["interactions"].select("user_id", "item_id", "label", "timestamp")
    wanted = raw.select(
        "column_0", "column_1", (pl.col("column_2").cast(pl.Int8) > 3).cast(pl.Int8), pl.col("column_3").cast(pl.Int64)
    )
    assert sorted(found.iter_rows()) == sorted(wanted.iter_rows())
    lines = [line.split("|") for line in (source / "u.item").read_text("latin-1").splitlines()]
    assert dict(tables["items"].select("item_id", "title").iter_rows()) == {line[0]: line[1].strip() for line in lines}


GIFTS = """
name = "gifts"
[events]
files = [{events}]
user = "reviewerID"
item = "asin"
time = "unixReviewTime"
time_unit = "s"
[label]
rating = "overall"
like_above = 4
[items]
files = [{items}]
id = "asin"
title = "title"
attributes = {{ brand = "categorical", category = "multi" }}
[split]
rule = "random"
"""


def test_amazon_2018_gift_cards(tmp_path: Path) -> None:
    source = shared("amazon2018-gift-cards")
    events, meta = source / "Gift_Cards_5.json.gz", source / "meta_Gift_Cards.json.gz"
    text = GIFTS.format(events=json.dumps(str(events)), items=json.dumps(str(meta)))
    ledger, tables = prepared(tmp_path, text)
    raw = pl.read_ndjson(events).select("reviewerID", "asin", "overall", "unixReviewTime")
    assert ledger == {"read": len(raw), "dropped": {}, "kept": len(raw)}
    assert len(raw) == 2972
    found = tables["interactions"].select("user_id", "item_id", pl.col("rating").cast(pl.Float64), "timestamp")
    assert sorted(found.iter_rows()) == sorted(raw.iter_rows())
    titles = tables["items"]["title"]
    assert len(titles) == len(set(pl.read_ndjson(meta, infer_schema_length=None)["asin"]))
    assert not [title for title in titles if re.search(r"&\w+;|<\w|^\s|\s$", title)]


def test_who_trains_nothing_keeps_the_attributes_of_the_events(tmp_path: Path) -> None:
    """Of who trains, the training events decide; of the others, all events."""
    rows = [
        f"u{n % 7},i{n % 11},{1600000000 + 60 * n},{1 + n * n % 5},{'old' if n < 150 else 'new'}" for n in range(200)
    ]
    rows += [f"late,i{n},{1600020000 + 60 * n},4,late" for n in range(5)]
    (tmp_path / "e.csv").write_text("user,item,when,stars,country\n" + "\n".join(rows) + "\n")
    (tmp_path / "data.toml").write_text(
        'name = "a"\n[events]\nfiles = ["e.csv"]\nuser = "user"\nitem = "item"\ntime = "when"\ntime_unit = "s"\n'
        '[label]\nrating = "stars"\nlike_above = 2\n[items]\nmissing_title = "id"\n'
        '[users]\nattributes = { country = "categorical" }\n[split]\nrule = "time"\n'
    )
    prepare_table(read_description(tmp_path / "data.toml"), tmp_path / "out")
    users = pl.read_parquet(tmp_path / "out" / "users.parquet")
    assert dict(users.iter_rows()) == {f"u{n}": "old" for n in range(7)} | {"late": "late"}
