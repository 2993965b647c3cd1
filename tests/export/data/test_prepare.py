"""The split against a slow recomputation, determinism, and folders that are complete or absent."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.contract import INTERACTIONS, SPLIT_ROWS, PublishedSplits, RawData
from corella_edge_export.data.prepare import prepare, split_tables, write_prepared
from corella_edge_export.data.prepared import PreparedData

Row = tuple[str, str, float, int]
SMALL: dict[str, Any] = {"users": 40, "items": 60, "genres": 2, "events": 15.0}
FILES = {"train", "valid", "test", "interactions", "users", "items"}
NAMES = {f"{name}.parquet" for name in FILES} | {"dataset.json", "requests.jsonl"}


def raw_data(rows: list[Row]) -> RawData:
    users, items = sorted({row[0] for row in rows}), sorted({row[1] for row in rows})
    return RawData(
        name="made",
        interactions=pl.DataFrame(rows, schema=INTERACTIONS, orient="row"),
        users=pl.DataFrame({"user_id": users}),
        items=pl.DataFrame({"item_id": items, "title": items}),
        user_attributes={},
        item_attributes={},
        like_above=3.0,
        licence="none",
        redistributable=True,
    )


def plain_split(rows: list[Row]) -> dict[str, list[tuple[Any, ...]]]:
    """The documented split rule, row by row."""
    before: dict[str, int] = {}
    kept = []
    for user, item, rating, time in sorted(rows, key=lambda row: (row[3], row[0], row[1])):
        position = before.get(user, 0)
        before[user] = position + 1
        if position >= 5:
            kept.append((user, item, int(rating > 3), rating, time, position))
    train, valid = int(0.8 * len(kept)), int(0.1 * len(kept))
    return {"train": kept[:train], "valid": kept[train : train + valid], "test": kept[train + valid :]}


row_lists = st.lists(
    st.tuples(
        st.sampled_from(["1", "2", "10", "é"]),
        st.sampled_from(["3", "20", "100", "4"]),
        st.sampled_from([1.0, 3.0, 3.5, 5.0]),
        st.integers(0, 12),
    ),
    min_size=30,
    max_size=120,
)


@given(row_lists)
@settings(deadline=None, max_examples=60)
def test_split_equals_a_plain_recomputation(rows: list[Row]) -> None:
    tables = split_tables(raw_data(rows))
    assert {name: tables[name].rows() for name in ("train", "valid", "test")} == plain_split(rows)


@given(row_lists)
@settings(deadline=None, max_examples=30)
def test_interactions_hold_every_row_by_user_and_time(rows: list[Row]) -> None:
    table = split_tables(raw_data(rows))["interactions"]
    wanted = sorted(rows, key=lambda row: (row[0], row[3], row[1]))
    assert table.select("user_id", "item_id", "rating", "timestamp").rows() == wanted
    positions = [sum(other[0] == row[0] for other in wanted[:i]) for i, row in enumerate(wanted)]
    assert table["position"].to_list() == positions


def test_too_few_rows_are_refused() -> None:
    rows = [("u", str(i), 4.0, i) for i in range(14)]
    with pytest.raises(InputError, match="only 9 rows have 5 earlier rows"):
        split_tables(raw_data(rows))
    assert len(split_tables(raw_data([*rows, ("u", "x", 4.0, 99)]))["valid"]) == 1


def test_labels_may_come_without_ratings(tmp_path: Path) -> None:
    raw = raw_data([("u", str(i), 4.0, i) for i in range(40)])
    labels = [i % 2 for i in range(40)]
    null = pl.lit(None, pl.Float32)
    frame = raw.interactions.with_columns(rating=null, label=pl.Series(labels, dtype=pl.Int8))
    write_prepared(RawData(**{**vars(raw), "interactions": frame}), tmp_path / "out", requests=3)
    data = PreparedData.open(tmp_path / "out")
    assert data.log.labels.tolist() == labels
    # What a label says of an event is told as its rating, 0 or 1.
    assert [event.rating for event in data.request(0, 6, [1]).user.history] == labels[:6]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        prepare("synthetic", None, tmp_path / name, seed=5, requests=20, options=SMALL)
    a, b = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b"))
    assert a == b
    assert a.keys() == NAMES


def test_dataset_json_says_what_is_there(small: PreparedData) -> None:
    info, root = small.info, small.root
    for name in FILES:
        assert info["counts"][name] == len(pl.read_parquet(root / f"{name}.parquet"))
    train = {name: set(pl.read_parquet(root / "train.parquet")[name]) for name in ("user_id", "item_id")}
    for split in ("valid", "test"):
        rows = pl.read_parquet(root / f"{split}.parquet")
        for name in ("user", "item"):
            ids = rows[f"{name}_id"].to_list()
            new = [one not in train[f"{name}_id"] for one in ids]
            distinct = len(set(ids) - train[f"{name}_id"]) / len(set(ids))
            assert info["unseen"][split][f"{name}_rows"] == pytest.approx(sum(new) / len(new), abs=1e-6)
            assert info["unseen"][split][f"{name}s"] == pytest.approx(distinct, abs=1e-6)
    assert str(root.parent) not in (root / "dataset.json").read_text()
    assert info["generator"]["users"] == 60


def test_the_summary(tmp_path: Path) -> None:
    messages: list[str] = []
    summary = prepare("synthetic", None, tmp_path / "new" / "out", options=SMALL, progress=messages.append)
    assert summary["counts"]["users"] == 40
    assert summary.keys() == {"name", "out", "counts", "unseen", "notes", "splits", "seconds"}
    assert messages[0] == "reading synthetic"


def test_an_empty_folder_is_taken_and_a_full_one_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    prepare("synthetic", None, out, requests=5, options=SMALL)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(InputError, match="exists and is not empty"):
        prepare("synthetic", None, out, options=SMALL)
    with pytest.raises(InputError, match="is not a folder"):
        prepare("synthetic", None, out / "dataset.json", options=SMALL)
    with pytest.raises(InputError, match="cannot be written"):
        prepare("synthetic", None, out / "dataset.json" / "below", options=SMALL)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize("moment", ["writing train", "writing items", "writing requests"])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interruption_leaves_nothing(tmp_path: Path, moment: str, error: BaseException) -> None:
    def stop(message: str) -> None:
        if message.startswith(moment):
            raise error

    wanted = InputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(wanted):
        prepare("synthetic", None, tmp_path / "out", options=SMALL, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, old[1]))
        with pytest.raises(InputError, match="writing failed: "):
            prepare("synthetic", None, tmp_path / "out", options=SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from corella_edge_export.data.prepare import prepare
def stop(message):
    if message.startswith("writing users"):
        os.kill(os.getpid(), signal.SIGKILL)
prepare("synthetic", None, Path(sys.argv[1]), options={"users": 40, "items": 60}, progress=stop)
"""


def test_what_a_killed_run_left_is_cleaned_up(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False, timeout=60)
    assert process.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name == ".out.partial"
    assert any(left.iterdir())
    (left / "deeper").mkdir()
    prepare("synthetic", None, out, requests=5, options=SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in out.iterdir()} == NAMES


def test_two_runs_into_one_folder(tmp_path: Path) -> None:
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    (partial / "theirs").write_text("x")
    handle = os.open(partial, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(InputError, match="another run is writing it"):
            prepare("synthetic", None, tmp_path / "out", options=SMALL)
    finally:
        os.close(handle)
    assert (partial / "theirs").read_text() == "x"


def test_a_place_taken_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    def take(message: str) -> None:
        if message == "writing requests.jsonl":
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "theirs").write_text("x")

    with pytest.raises(InputError, match="filled by something else meanwhile"):
        prepare("synthetic", None, tmp_path / "out", options=SMALL, progress=take)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["theirs"]


BAD = {
    "must have the columns user_id String, item_id": lambda raw: {
        "interactions": raw.interactions.with_columns(rating=pl.lit(None))
    },
    "a rating is missing": lambda raw: {"interactions": raw.interactions.with_columns(rating=pl.lit(None, pl.Float32))},
    "a rating is not a finite": lambda raw: {
        "interactions": raw.interactions.with_columns(rating=pl.lit(float("nan"), pl.Float32))
    },
    "a timestamp is missing": lambda raw: {"interactions": raw.interactions.with_columns(timestamp=pl.lit(2**60))},
    "user_id 'u' is in no row of the users": lambda raw: {"users": pl.DataFrame({"user_id": ["v"]})},
    "the id 'u' occurs twice": lambda raw: {"users": pl.DataFrame({"user_id": ["u", "u"]})},
    "has not 1 to 256 characters": lambda raw: {"users": pl.DataFrame({"user_id": ["u", ""]})},
    "the table of interactions has no rows": lambda raw: {"interactions": raw.interactions[:0]},
    "users: path of 'u' has 1,025 values; a request may have 1,024": lambda raw: {
        "users": raw.users.select("user_id", path=pl.lit([["p"] * 1025]).list.first()),
        "user_attributes": {"path": "sequence"},
    },
    "users: about of 'u' has 16,385 characters; a request may have 16,384": lambda raw: {
        "users": raw.users.select("user_id", about=pl.lit("x" * 16_385)),
        "user_attributes": {"about": "text"},
    },
    "a title is empty": lambda raw: {"items": raw.items.with_columns(title=pl.lit(" "))},
    "must have the columns item_id String, title": lambda raw: {"items": raw.items.select("item_id")},
}


@pytest.mark.parametrize("message", BAD)
def test_a_reader_that_returns_bad_tables_is_told(tmp_path: Path, message: str) -> None:
    raw = raw_data([("u", str(i), 4.0, i) for i in range(40)])
    with pytest.raises(InputError, match=message):
        write_prepared(RawData(**{**vars(raw), **BAD[message](raw)}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_full_movielens(ml_1m: PreparedData) -> None:
    counts = ml_1m.info["counts"]
    assert [counts[name] for name in ("train", "valid", "test")] == [776_007, 97_000, 97_002]
    assert (counts["users"], counts["items"], counts["dropped"]) == (6_040, 3_883, 30_200)
    assert ml_1m.info["notes"] == []
    assert ml_1m.info["unseen"]["valid"]["user_rows"] == pytest.approx(0.99, abs=0.005)
    assert ml_1m.info["unseen"]["test"]["user_rows"] == pytest.approx(0.57, abs=0.005)
    assert len((ml_1m.root / "requests.jsonl").read_text().splitlines()) == 1000


@pytest.mark.slow
def test_full_movielens_against_a_plain_recomputation(ml_1m: PreparedData) -> None:
    source = Path(os.environ["CORELLA_EDGE_TEST_DATA"]) / "ml-1m" / "ratings.dat"
    fields = [line.split("::") for line in source.read_text("latin-1").splitlines()]
    rows = [(user, item, float(rating), int(time)) for user, item, rating, time in fields]
    wanted = plain_split(rows)
    for name, split in wanted.items():
        assert pl.read_parquet(ml_1m.root / f"{name}.parquet").rows() == split
    assert json.loads((ml_1m.root / "dataset.json").read_text())["redistributable"] is False


def published(rows: list[Row], **changes: Any) -> RawData:
    """Three splits of one row each behind a log of two events, of one moment, not in the order of their ids."""
    raw = raw_data(rows)
    row = {"user_id": "u", "item_id": "a", "label": 1, "rating": None, "timestamp": 9, "position": 2} | changes
    splits = {name: pl.DataFrame([row], schema=SPLIT_ROWS) for name in ("train", "valid", "test")}
    return RawData(**{**vars(raw), "published": PublishedSplits(splits, "as published", "liked", "earlier likes")})


LOG: list[Row] = [("u", "b", 5.0, 7), ("u", "a", 5.0, 7)]


def test_published_splits_and_the_order_of_their_histories_are_kept(tmp_path: Path) -> None:
    write_prepared(published(LOG), tmp_path / "out", requests=1)
    data = PreparedData.open(tmp_path / "out")
    assert [data.item_ids[item] for item in data.log.items] == ["b", "a"]
    assert [len(data.split(name).users) for name in ("train", "valid", "test")] == [1, 1, 1]
    assert data.split("test").positions.tolist() == [2]
    assert data.history_events == "liked"
    assert data.info["counts"]["dropped"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position": 3}, "made: train: the user 'u' has no 3 earlier events"),
        ({"position": -1}, "made: train: the user 'u' has no -1 earlier events"),
        ({"position": None}, "the user 'u' has no None earlier events"),
        ({"timestamp": 6}, "made: train: the history of user 'u', item 'a' holds a later event"),
        ({"label": 2}, "made: train: a label is neither 0 nor 1"),
        ({"item_id": "c"}, "made: train: item_id 'c' is in no row of the items"),
    ],
)
def test_bad_published_splits_are_told(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        write_prepared(published(LOG, **changes), tmp_path / "out")
    assert message in str(error.value)
    write_prepared(published(LOG, position=0, timestamp=6), tmp_path / "out")


def test_our_own_histories_hold_all_events(small: PreparedData) -> None:
    assert small.history_events == "all"
