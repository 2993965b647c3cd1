"""`PreparedData`: pointers against explicit histories, requests, and damaged folders."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge.request import Request, User
from corella_edge.request_json import request_json
from corella_edge.request_message import parse_request
from corella_edge_export.data.contract import RawData
from corella_edge_export.data.prepared import PARQUET, PreparedData


def explicit_histories(raw: RawData) -> dict[str, list[tuple[str, float, int]]]:
    histories = defaultdict(list)
    for user, item, rating, time in sorted(raw.interactions.rows(), key=lambda row: (row[3], row[1])):
        histories[user].append((item, rating, time))
    return histories


def test_pointers_equal_explicit_histories(small: PreparedData, small_raw: RawData) -> None:
    histories, log = explicit_histories(small_raw), small.log
    for name in ("train", "valid", "test"):
        split = small.split(name)
        assert np.all(np.diff(split.times) >= 0)
        for row in range(len(split.users)):
            user, position = split.users[row], split.positions[row]
            past = histories[small.user_ids[user]]
            first = log.offsets[user]
            items = log.items[first : first + position]
            assert [small.item_ids[item] for item in items] == [item for item, _, _ in past[:position]]
            event = (small.item_ids[split.items[row]], float(split.ratings[row]), int(split.times[row]))
            assert event == past[position]
            assert split.labels[row] == (event[1] > 3)


def test_array_types_and_attributes(small: PreparedData, small_raw: RawData) -> None:
    log, split = small.log, small.split("valid")
    kinds = [array.dtype.name for array in (log.offsets, log.items, log.ratings, log.times, log.labels)]
    assert kinds == ["int64", "int32", "float32", "int64", "int8"]
    columns = (split.users, split.items, split.labels, split.ratings, split.times, split.positions)
    assert [c.dtype.name for c in columns] == ["int32", "int32", "int8", "float32", "int64", "int32"]
    assert all(column.flags.writeable and column.flags.c_contiguous for column in (*columns, log.items))
    assert log.offsets[-1] == len(log.items) == len(small_raw.interactions)
    assert small.item_ids == sorted(small_raw.items["item_id"])
    titles = dict(small_raw.items.select("item_id", "title").rows())
    assert small.items["title"] == [titles[item] for item in small.item_ids]
    assert small.item_attributes == {"genres": "multi", "minutes": "numeric"}
    assert set(small.users) == {"age", "interests"}


@given(st.integers(0, 5000), st.integers(1, 100), st.integers(1, 20))
def test_history_is_cut_in_blocks(position: int, history_max: int, block: int) -> None:
    start = PreparedData(Path(), {}).history_start(position, history_max, block)
    assert start % block == 0
    if position <= history_max:
        assert start == 0
    else:
        assert history_max <= position - start <= history_max + block - 1


def test_a_request_is_what_a_service_would_get(small: PreparedData, small_raw: RawData) -> None:
    split = small.split("test")
    row = int(split.positions.argmax())
    user, position = int(split.users[row]), int(split.positions[row])
    request = small.request(user, position, [3, 1], history_max=10, id="r", block=4)
    past = explicit_histories(small_raw)[small.user_ids[user]][(position - 10) // 4 * 4 : position]
    assert [(event.item, event.rating, event.time) for event in request.user.history] == past
    assert request.candidates is not None
    assert [candidate.item for candidate in request.candidates] == [small.item_ids[3], small.item_ids[1]]
    assert request.user.features["age"] == small.users["age"][user]
    assert len(small.request(user, position, []).user.history) == position
    assert parse_request(json.loads(json.dumps(request_json(request)))) == request


def test_request_json_keeps_only_what_is_set() -> None:
    assert request_json(Request(User())) == {"user": {"features": {}, "history": []}}
    value = {
        "id": "a",
        "user": {"id": "u", "features": {"n": 2.5}, "history": [{"item": "i", "rating": 4.5}]},
        "candidates": [{"item": "x", "features": {"title": "T"}}, {"item": "y"}],
        "threshold": "ratio:0.05",
        "top_k": 3,
        "timeout_ms": 50,
    }
    assert request_json(parse_request(value)) == value


def test_requests_are_held_out_and_whole(small: PreparedData) -> None:
    split, log = small.split("test"), small.log
    lines = (small.root / "requests.jsonl").read_text().splitlines()
    assert len(lines) == small.info["requests"]["count"] == 40
    index = {item: number for number, item in enumerate(small.item_ids)}
    for line in lines:
        request = parse_request(json.loads(line))
        assert request.id is not None
        assert request.candidates is not None
        row = int(request.id.removeprefix("test-"))
        user, position = int(split.users[row]), int(split.positions[row])
        assert request.user == small.request(user, position, []).user
        candidates = [index[candidate.item] for candidate in request.candidates]
        own = log.items[log.offsets[user] : log.offsets[user + 1]].tolist()
        following = own[position:][:20]
        assert candidates[: len(following)] == following
        assert len(set(candidates)) == len(candidates) == 20
        assert not set(candidates[len(following) :]) & set(own)


@pytest.fixture
def copy(small: PreparedData, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.root, tmp_path / "copy"))


@pytest.mark.parametrize("name", [*(f"{name}.parquet" for name in PARQUET), "dataset.json"])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        PreparedData.open(copy)


@pytest.mark.parametrize("name", PARQUET)
def test_a_changed_file_is_named(copy: Path, name: str) -> None:
    path = copy / f"{name}.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}\.parquet: differs"):
        PreparedData.open(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "format_version None"),
        ('{"format_version": 2}', "format_version 2, this version reads 1"),
        ('{"format_version": 1}', "the entry 'attributes' is missing"),
        ("\udcff", "cannot be read as JSON"),
    ],
)
def test_a_malformed_dataset_json(copy: Path, text: str, message: str) -> None:
    (copy / "dataset.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=message):
        PreparedData.open(copy)


def test_other_wrong_inputs(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        PreparedData.open(tmp_path / "absent")
    data = PreparedData.open(copy)
    with pytest.raises(InputError, match="unknown split 'dev'; known splits: train, valid, test"):
        data.split("dev")
    pl.read_parquet(copy / "users.parquet")[1:].write_parquet(copy / "users.parquet")
    with pytest.raises(InputError, match=r"train\.parquet: an id is in neither"):
        data.split("train")
    (copy / "valid.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match=r"valid\.parquet: cannot be read as Parquet"):
        PreparedData(copy, data.info).split("valid")
