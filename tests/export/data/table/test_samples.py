"""The prepared folder of a person's table: complete or absent, the same at any number of threads, restarted cheaply."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from corella_edge.errors import InputError
from corella_edge_export.data.contract import KINDS, SPLIT_ROWS
from corella_edge_export.data.database import connect
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.prepared import SPLITS, PreparedData
from corella_edge_export.data.table import restart, samples
from corella_edge_export.data.table.description import Files, Label, Negatives, SplitPlan
from corella_edge_export.data.table.samples import write
from tables import Event, described, fill, prepared

NAMES = {*(f"{name}.parquet" for name in (*SPLITS, "interactions", "users", "items")), "dataset.json", "requests.jsonl"}


def likes(shop: list[Event]) -> list[Event]:
    return [replace(event, label=1, rating=None) for event in shop]


@pytest.mark.parametrize("rule", ["time", "random"])
def test_threads_and_memory_change_no_byte(shop: list[Event], tmp_path: Path, rule: Any) -> None:
    ways = ((1, 256), (3, 1024), (2, 128))
    plan = SplitPlan(rule=rule, min_user=3, min_item=2)
    found = [
        prepared(tmp_path / str(threads) / "out", likes(shop), plan, Negatives(2), threads=threads, memory=memory << 20)
        for threads, memory in ways
    ]
    contents = [{path.name: path.read_bytes() for path in data.root.iterdir()} for data in found]
    assert contents[0] == contents[1] == contents[2]
    assert contents[0].keys() == NAMES


def test_every_kind_of_attribute_is_stored_in_its_type(shop: list[Event], tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "categorical": "a", "multi": ["b", "c"], "numeric": 1.5, "text": "plain words", "sequence": ["x", "x", "y"]
    }  # fmt: skip
    ids = {f"i{n}" for n in range(0, 60, 2)}
    items: Any = {f"the {kind}": (kind, dict.fromkeys(ids, value)) for kind, value in values.items()}
    users: Any = {kind: (kind, {"u1": value}) for kind, value in values.items()}
    data = prepared(tmp_path / "out", shop, SplitPlan(), items=items, users=users, more_items=["cold"])
    assert data.item_attributes == {f"the {kind}": kind for kind in values}
    assert data.user_attributes == {kind: kind for kind in values}
    table = pl.read_parquet(data.root / "items.parquet")
    assert dict(table.schema) == {
        "item_id": pl.String(),
        "title": pl.String(),
        **{f"the {k}": KINDS[k] for k in values},
    }
    assert table["item_id"].to_list() == sorted({event.item for event in shop} | {"cold"})
    row = data.item_ids.index("i4")
    assert {kind: data.items[f"the {kind}"][row] for kind in values} == values
    assert {kind: data.items[f"the {kind}"][data.item_ids.index("i5")] for kind in values} == dict.fromkeys(values)
    assert {kind: data.users[kind][data.user_ids.index("u1")] for kind in values} == values
    request = data.request(data.user_ids.index("u1"), 0, [row])
    assert request.user.features == values


def test_columns_have_the_types_of_the_contract(shop: list[Event], tmp_path: Path) -> None:
    data = prepared(tmp_path / "out", shop, SplitPlan(), requests=7)
    for name in (*SPLITS, "interactions"):
        assert dict(pl.read_parquet(data.root / f"{name}.parquet").schema) == SPLIT_ROWS
    assert data.info["requests"]["count"] == 7
    assert len((data.root / "requests.jsonl").read_text().splitlines()) == 7
    assert data.info["like"] == {"above": None, "rule": "liked is 1"}
    assert data.info["sources"] == {"source.csv": restart.file_hash(tmp_path / "source.csv")}


def test_labels_that_are_all_the_same_are_refused_and_nearly_all_noted(shop: list[Event], tmp_path: Path) -> None:
    for label in (0, 1):
        same = [replace(event, label=label) for event in shop]
        with pytest.raises(
            InputError, match=rf"\[label\] every training row has the label {label}, .*column of the label"
        ):
            prepared(tmp_path / "out", same, SplitPlan())
    with pytest.raises(InputError, match="raise like_above = 3"):
        prepared(tmp_path / "out", same, SplitPlan(), label=Label(rating="stars", like_above=3.0))
    few = [replace(event, label=int(n % 150 > 0)) for n, event in enumerate(shop)]
    notes = prepared(tmp_path / "few", few, SplitPlan()).info["notes"]
    assert any(note.startswith("train: 99.3% of the rows have label 1") for note in notes)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("plan", "changes", "note"),
    [
        (SplitPlan(rule="random"), {}, "random split: figures are optimistic"),
        (SplitPlan(rule="leave-one-out"), {}, "leave-one-out split: figures are optimistic"),
        (SplitPlan(rule="per-user"), {}, "per-user split: figures are optimistic"),
        (SplitPlan(), {"time": None, "time_unit": "none"}, 'no times (time_unit = "none")'),
        (SplitPlan(ties="include"), {}, 'ties = "include": events of the same moment'),
        (SplitPlan(), {}, None),
    ],
)
def test_what_flatters_figures_is_stamped(
    shop: list[Event], tmp_path: Path, plan: SplitPlan, changes: dict[str, Any], note: str | None
) -> None:
    plain = described(tmp_path / "source.csv", plan)
    (tmp_path / "source.csv").write_text("x")
    description = replace(plain, events=replace(plain.events, **changes))
    with connect() as db:
        fill(db, shop)
        notes = write(description, db, Ledger(len(shop)), tmp_path / "out", requests=3)["notes"]
    assert [found.startswith(note or "") for found in notes] == ([True] if note else [])


def test_a_failure_leaves_nothing(shop: list[Event], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(samples, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        prepared(tmp_path / "out", shop, SplitPlan())
    assert [path.name for path in tmp_path.iterdir()] == ["source.csv"]


def finished(data: PreparedData, plan: SplitPlan, **changes: Any) -> dict[str, Any] | None:
    source = data.root.with_name("source.csv")
    return restart.finished(described(source, plan, **changes), data.root, seed=0, requests=5)


def test_a_second_run_finds_its_folder_and_refuses_others(shop: list[Event], tmp_path: Path) -> None:
    plan = SplitPlan(min_user=2)
    data = prepared(tmp_path / "out", shop, plan)
    assert finished(data, plan) == data.info
    with pytest.raises(InputError, match=r"was prepared with other settings: split.min_user was 2 and is 3; remove it"):
        finished(data, SplitPlan(min_user=3))
    with pytest.raises(InputError, match=r"other settings: label\.rating was None and is 'stars'"):
        finished(data, plan, label=Label(rating="stars", like_above=3.0))
    source = tmp_path / "source.csv"
    kept = source.read_bytes()
    source.write_bytes(kept[::-1])  # of the same size
    with pytest.raises(InputError, match=r"was prepared from other files: source\.csv differs; remove it or name"):
        finished(data, plan)
    source.write_bytes(kept)
    with (data.root / "train.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="differs from what dataset"):
        finished(data, plan)
    assert restart.finished(described(source, plan), tmp_path / "new", seed=0, requests=5) is None


def test_a_folder_of_another_reader_is_refused(shop: list[Event], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "dataset.json").write_text('{"name": "ml-1m", "sources": {}}')
    with pytest.raises(InputError, match="holds data that were prepared otherwise; name another folder"):
        restart.finished(described(tmp_path / "source.csv", SplitPlan()), tmp_path / "out", seed=0, requests=5)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    paths = [tmp_path / "jan" / "events.csv", tmp_path / "feb" / "events.csv", tmp_path / "items.csv"]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(str(path))
    plain = described(paths[2], SplitPlan())
    description = replace(plain, events=replace(plain.events, files=Files((paths[0], paths[1]))))
    found = restart.source_hashes(description)
    assert set(found) == {"jan/events.csv", "feb/events.csv", "items.csv"}
    assert len({source["sha256"] for source in found.values()}) == 3
    told = restart.settings(description, seed=0, requests=1)
    assert told["events"]["files"]["paths"] == ["jan/events.csv", "feb/events.csv"]
    assert str(tmp_path) not in str(told)
