"""Rows that are no events of the log (baskets, drawn negatives): whoever reads the log takes what came before alone."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from corella_edge_export.data.prepared import SPLITS, PreparedData
from corella_edge_export.data.rowset import HistoryCut, choose_users
from corella_edge_export.data.table.description import Negatives, SplitPlan
from corella_edge_export.evaluation import evaluate
from corella_edge_export.study import study
from corella_edge_export.study.predictions import Predictions
from corella_edge_export.training.run import Run
from tables import Event, prepared
from tiny_run import recipe


@pytest.fixture(scope="module")
def baskets(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Users come and go, so that some of valid and test have no training row."""
    rng = np.random.default_rng(3)
    events = [
        Event(f"u{basket // 20 + rng.integers(4)}", f"i{item}", 1_500_000_000 + 900 * basket)
        for basket in range(150)
        for item in rng.choice(25, size=rng.integers(1, 4), replace=False)
    ]
    return prepared(
        tmp_path_factory.mktemp("rows") / "out", events, SplitPlan(min_history=2), Negatives(2), requests=60
    )


def test_seen_users_are_those_with_a_training_row_as_histories_hold_all_events(baskets: PreparedData) -> None:
    train = {baskets.user_ids[user] for user in baskets.split("train").users.tolist()}
    schema = SimpleNamespace(vocabularies={"user_id": SimpleNamespace(index_of=dict.fromkeys(train, 1))})
    rows = choose_users(baskets, "test", 0, 0, HistoryCut(10))
    engine: Any = SimpleNamespace(encoder=SimpleNamespace(schema=schema))
    known, names = evaluate._known(engine, rows)
    assert names == ("seen users", "unseen users")
    assert known.tolist() == [baskets.user_ids[user] in train for user in rows.users.tolist()]
    assert 0 < known.sum() < len(known)
    assert study._parts(baskets) == []
    judged = Predictions.__new__(Predictions)
    judged.run = SimpleNamespace(data=baskets)  # type: ignore[assignment]
    split = baskets.split("test")
    assert judged._seen(split).tolist() == [baskets.user_ids[user] in train for user in split.users.tolist()]


def test_whole_items_are_those_of_training_rows_and_of_their_histories(baskets: PreparedData, tmp_path: Path) -> None:
    run = Run(tmp_path, recipe(), baskets)
    _, catalog = run.fit_inputs()
    train, log = baskets.split("train"), baskets.log
    items = set(train.items.tolist())
    for user, position in zip(train.users.tolist(), train.positions.tolist(), strict=True):
        items |= set(log.items[log.offsets[user] : log.offsets[user] + position].tolist())
    assert len(items) > len(set(train.items.tolist())) or items == set(train.items.tolist())
    texts = run._whole_texts(catalog)
    titles = {f"Title of {item_id}" for row, item_id in enumerate(baskets.item_ids) if row in items}
    found = {text.partition("[")[2].partition("]")[0] for text in texts if "[" in text}
    assert found == titles


def test_requests_hold_what_was_strictly_before_and_their_row_first(baskets: PreparedData) -> None:
    split = baskets.split("test")
    lines = (baskets.root / "requests.jsonl").read_text("utf-8").splitlines()
    assert len(lines) == min(60, len(split.users))
    for request in map(json.loads, lines):
        row = int(request["id"].removeprefix("test-"))
        assert request["user"]["id"] == baskets.user_ids[split.users[row]]
        assert request["candidates"][0]["item"] == baskets.item_ids[split.items[row]]
        assert len(request["user"]["history"]) == split.positions[row]
        assert all(event["time"] < split.times[row] for event in request["user"]["history"])


@pytest.mark.parametrize("name", SPLITS)
def test_no_history_holds_the_rows_own_moment_or_a_drawn_item(baskets: PreparedData, name: str) -> None:
    split, log = baskets.split(name), baskets.log
    for user, item, label, time, position in zip(
        split.users, split.items, split.labels, split.times, split.positions, strict=True
    ):
        own = slice(log.offsets[user], log.offsets[user + 1])
        assert (log.times[own][:position] < time).all()
        assert (log.times[own][position:] >= time).all()
        assert (item in log.items[own]) == bool(label)
