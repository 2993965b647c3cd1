"""Items hidden from training: no training row of them, no other row changed, and histories that still fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.database import connect
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table import restart
from corella_edge_export.data.table.coding import code_events
from corella_edge_export.data.table.description import Label, Negatives, SplitPlan
from corella_edge_export.data.table.hiding import REASON, Hidden, hide_items
from corella_edge_export.data.table.prepare import changed
from corella_edge_export.data.table.samples import POSITIVES_ONLY
from corella_edge_export.data.table.splitting import split_rows
from tables import Event, described, fill, prepared

EVENTS = st.lists(
    st.builds(Event, st.sampled_from("ab"), st.sampled_from("pqrstuvwxyz"), st.integers(0, 15)),
    min_size=12, max_size=60,
)  # fmt: skip
PLAN = SplitPlan(rule="leave-one-out")
ITEMS = "pqrstuvw"  # every user has all of them, each begins with another
SHOP = [Event(user, ITEMS[(n + time) % 8], time) for n, user in enumerate("abcdefgh") for time in range(8)]
Row = tuple[int, str, int, str | None]  # row, item, position, part


def rows_of(db: duckdb.DuckDBPyConnection) -> list[Row]:
    return db.execute(
        'SELECT "row", item_id, position, part FROM rows JOIN item_codes USING (i) ORDER BY "row"'
    ).fetchall()


def hiding(events: list[Event], plan: SplitPlan) -> tuple[list[Row], list[Row], set[str], Hidden | None, Ledger]:
    """The rows before and after, and the hidden items."""
    ledger = Ledger(len(events))
    with connect(threads=1) as db:
        fill(db, events)
        code_events(db, plan, ledger)
        split_rows(db, plan)
        before = rows_of(db)
        told = hide_items(db, plan, ledger)
        hidden = db.execute("SELECT item_id FROM hidden JOIN item_codes USING (i)").fetchall()
        return before, rows_of(db), {item for (item,) in hidden}, told, ledger


@given(EVENTS, st.floats(0.05, 0.9), st.integers(0, 2), st.booleans(), st.integers(0, 3))
@settings(deadline=None, max_examples=30)
def test_only_hidden_items_lose_rows(events: list[Event], share: float, least: int, include: bool, seed: int) -> None:
    plan = SplitPlan("leave-one-out", min_history=least, ties="include" if include else "exclude", seed=seed)
    try:
        before, after, hidden, told, ledger = hiding(events, replace(plan, hide_items=share))
    except InputError as error:
        if "no training row is left" not in str(error) and "would have no rows" not in str(error):
            raise
        return
    held = {"valid", "test"}
    kept = [row for row in before if row[1] not in hidden or row[3] in held]
    assert [(row, item) for row, item, _, _ in after] == [(row, item) for row, item, _, _ in kept]
    assert [row[3] if row[3] in held else None for row in after] == [row[3] if row[3] in held else None for row in kept]
    left = [events[row] for row, *_ in after]
    for row, item, position, part in after:
        mine = events[row]
        own = [(e.time, place) for (place, *_), e in zip(after, left, strict=True) if e.user == mine.user]
        earlier = sum((t, n) < (mine.time, row) if include else t < mine.time for t, n in own)
        assert position == earlier
        assert part != "train" or (item not in hidden and position >= least)
        assert part in held or (part == "train") == (position >= least and before_part(before, row) == "train")
    assert told is not None
    assert told.items == len(hidden) == round(share * len({event.item for event in events}))
    assert told.events == len(before) - len(after) == ledger.dropped.get(REASON, 0)
    assert sum(told.rows.values()) == sum(item in hidden for _, item, _, _ in after)


def before_part(rows: list[Row], row: int) -> str | None:
    return next(part for number, _, _, part in rows if number == row)


def test_nothing_is_hidden_unless_asked() -> None:
    before, after, hidden, told, ledger = hiding(SHOP, PLAN)
    assert (before, hidden, told, ledger.dropped) == (after, set(), None, {})


def test_the_seed_decides_which() -> None:
    drawn = {seed: hiding(SHOP, replace(PLAN, hide_items=0.5, seed=seed))[2] for seed in range(6)}
    assert all(len(items) == 4 for items in drawn.values())
    assert len({frozenset(items) for items in drawn.values()}) > 1
    assert hiding(SHOP, replace(PLAN, hide_items=0.5, seed=3))[2] == drawn[3]


def test_the_folder_tells_it_and_holds_new_items(tmp_path: Path) -> None:
    data = prepared(tmp_path / "out", SHOP, replace(PLAN, hide_items=0.25, seed=2), label=Label(positives_only=True))
    told, notes = data.info["hidden"], " ".join(data.info["notes"])
    assert told["share"] == 0.25
    assert told["items"] == 2
    assert "hide_items = 0.25: 2 items" in notes
    assert data.info["ledger"]["dropped"] == {REASON: told["events_dropped"]}
    split = data.split("test")
    assert int(data.unseen_items(split).sum()) == told["rows"].get("test", 0)
    assert "hidden" not in prepared(tmp_path / "plain", SHOP, PLAN, label=Label(positives_only=True)).info


def test_no_training_negative_is_of_a_hidden_item(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    events = [Event(user, str(item), t) for user in "abcdefghij" for t, item in enumerate(rng.choice(30, 12, False))]
    rule = replace(PLAN, hide_items=0.3)
    hidden = hiding(events, rule)[2]
    for weight in ("popularity-before", "uniform"):
        plan = Negatives(3, "catalogue" if weight == "uniform" else "seen-before", weight)
        data = prepared(tmp_path / weight, events, rule, plan)
        drawn = {name: pl.read_parquet(data.root / f"{name}.parquet").filter(label=0) for name in ("train", "test")}
        assert not set(drawn["train"]["item_id"]) & hidden
        assert set(drawn["test"]["item_id"]) & hidden
        if weight == "uniform":  # nobody had anything before the first moments, so "seen-before" finds fewer
            assert len(drawn["train"]) == 3 * int((data.split("train").labels == 1).sum())


def test_all_items_hidden_is_refused() -> None:
    with pytest.raises(InputError, match=r"hide_items = 0\.99: no training row is left; lower it"):
        hiding(SHOP, replace(PLAN, hide_items=0.99))


def test_a_folder_from_before_the_key_is_still_the_same(tmp_path: Path) -> None:
    label = Label(positives_only=True)
    data = prepared(tmp_path / "out", SHOP, PLAN, label=label)
    description = described(tmp_path / "source.csv", PLAN, label=label)
    path = data.root / "dataset.json"
    info = json.loads(path.read_text())
    assert info["settings"]["split"].pop("hide_items") is None
    path.write_text(json.dumps(info))
    assert restart.finished(description, data.root, seed=0, requests=5) is not None
    other = replace(description, split=replace(PLAN, hide_items=0.1))
    with pytest.raises(InputError, match=r"split\.hide_items was None and is 0\.1"):
        restart.finished(other, data.root, seed=0, requests=5)


def test_positives_alone(tmp_path: Path) -> None:
    data = prepared(tmp_path / "out", SHOP, PLAN, label=Label(positives_only=True))
    assert all((data.split(name).labels == 1).all() for name in ("train", "valid", "test"))
    assert POSITIVES_ONLY in data.info["notes"]
    assert data.rows_in_log
    assert data.told_by == "being there"


def test_choices_of_the_command_line(tmp_path: Path) -> None:
    drawn = described(tmp_path / "s.csv", PLAN, Negatives(4, seed=7))
    assert changed(drawn, None, None) == drawn
    assert changed(drawn, 0, None).negatives is None
    assert changed(drawn, 2, 0.1).negatives == Negatives(2, seed=7)
    assert changed(drawn, 2, 0.1).split.hide_items == 0.1
    assert changed(changed(drawn, 0, 0.1), 3, 0.0) == replace(drawn, negatives=Negatives(3))
    with pytest.raises(InputError, match="--negatives 2: these data have dislikes of their own"):
        changed(described(tmp_path / "s.csv", PLAN), 2, None)
