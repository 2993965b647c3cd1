"""Splits against a plain recomputation: a partition, in order, no moment cut in two, histories strictly earlier."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.database import connect
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.prepared import SPLITS, PreparedData
from corella_edge_export.data.table.coding import code_events
from corella_edge_export.data.table.description import SplitPlan, SplitRule
from corella_edge_export.data.table.splitting import split_rows
from tables import Event, fill, prepared

EVENTS = st.lists(
    st.builds(Event, st.sampled_from("ab"), st.sampled_from("xyz"), st.integers(0, 15), st.integers(0, 1)),
    min_size=12, max_size=60,
)  # fmt: skip
Row = tuple[str, int, int, int, str | None]  # user, time, row, position, part


def split(events: list[Event], plan: SplitPlan) -> list[Row]:
    with connect(threads=1) as db:
        fill(db, events)
        code_events(db, plan, Ledger(len(events)))
        split_rows(db, plan)
        query = 'SELECT user_id, ts, "row", position, part FROM rows JOIN user_codes USING (u) ORDER BY "row"'
        return db.execute(query).fetchall()


def try_split(events: list[Event], plan: SplitPlan) -> list[Row]:
    """Empty where a split would be."""
    try:
        return split(events, plan)
    except InputError as error:
        if "would have no rows" not in str(error) and "has so many earlier ones" not in str(error):
            raise
        return []


@given(EVENTS, st.sampled_from(["time", "per-user", "leave-one-out", "random"]), st.integers(0, 3), st.booleans())
@settings(deadline=None, max_examples=25)
def test_histories_are_strictly_earlier_and_rows_are_parted(
    events: list[Event], rule: SplitRule, least: int, include: bool
) -> None:
    plan = SplitPlan(rule=rule, min_history=least, ties="include" if include else "exclude")
    for user, time, row, position, part in try_split(events, plan):
        own = [(e.time, n) for n, e in enumerate(events) if e.user == user]
        earlier = sum(moment < time for moment, _ in own)
        assert position == (sum(place < (time, row) for place in own) if include else earlier)
        assert (part is None) == (position < least)


@given(EVENTS, st.integers(0, 2))
@settings(deadline=None, max_examples=25)
def test_a_split_by_time_is_the_nearest_that_cuts_no_moment(events: list[Event], least: int) -> None:
    rows = try_split(events, SplitPlan(min_history=least))
    times = {part: [time for _, time, _, _, own in rows if own == part] for part in SPLITS}
    if not rows:
        return
    assert max(times["train"]) < min(times["valid"])
    assert max(times["valid"]) < min(times["test"])
    able = sorted(time for _, time, _, _, part in rows if part is not None)
    ends = [n for n in range(1, len(able)) if able[n - 1] < able[n]]
    wanted = int(0.8 * len(able))
    # The first cut leaves room for a second one only if it can.
    assert abs(len(times["train"]) - wanted) == min(abs(end - wanted) for end in ends)


@given(EVENTS)
@settings(deadline=None, max_examples=20)
def test_each_users_latest_rows_are_held_out(events: list[Event]) -> None:
    plan = SplitPlan(rule="per-user", shares=(0.5, 0.25, 0.25), min_history=0)
    by_user = defaultdict(list)
    for user, time, _, _, part in try_split(events, plan):
        by_user[user].append((time, SPLITS.index(str(part))))
    for rows in by_user.values():
        total = len(rows)
        for time, part in rows:
            before = sum(other < time for other, _ in rows)
            assert part == (0 if before * 2 < total else 1 if before * 4 < total * 3 else 2)


@given(EVENTS)
@settings(deadline=None, max_examples=20)
def test_one_row_of_a_user_is_left_out(events: list[Event]) -> None:
    rows = try_split(events, SplitPlan(rule="leave-one-out", min_history=0))
    for user in {row[0] for row in rows}:
        own = [part for _, _, _, part in sorted((time, row, position, part) for u, time, row, position, part in rows
                                                if u == user)]  # fmt: skip
        if len(own) < 3:
            assert set(own) == {"train"}
        else:
            assert own == ["train"] * (len(own) - 2) + ["valid", "test"]


def test_random_rows_are_as_many_as_asked_for_and_depend_on_the_seed(shop: list[Event]) -> None:
    found = [split(shop, SplitPlan(rule="random", seed=seed, min_history=0)) for seed in (1, 1, 2)]
    assert found[0] == found[1] != found[2]
    for rows in found:
        assert Counter(row[4] for row in rows) == {"train": 960, "valid": 120, "test": 120}
    held = [{row[2] for row in rows if row[4] == "test"} for rows in found]
    assert len(held[0] & held[2]) < 40  # 12 by chance


def test_files_keep_their_rows(shop: list[Event], tmp_path: Path) -> None:
    parts = [("train", "train", "valid", "test")[n % 4] for n in range(len(shop))]
    events = [Event(e.user, e.item, e.time, e.label, part=part) for e, part in zip(shop, parts, strict=True)]
    data = prepared(tmp_path / "out", events, SplitPlan(rule="files", min_history=0))
    assert [len(data.split(part).users) for part in SPLITS] == [600, 300, 300]
    (note,) = data.info["notes"]
    assert "of the training rows hold events of valid or test" in note
    in_time = sorted(shop, key=lambda event: event.time)
    parts = ["train"] * 900 + ["valid"] * 150 + ["test"] * 150
    ordered = [replace(event, part=part) for event, part in zip(in_time, parts, strict=True)]
    assert prepared(tmp_path / "ordered", ordered, SplitPlan(rule="files")).info["notes"] == []


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (SplitPlan(min_history=99), "min_history = 99: no event has so many earlier ones"),
        (
            SplitPlan(shares=(0.9, 0.1, 0.0), rule="per-user"),
            r"test would have no rows. Of [\d,]+ rows .*: train .*, test 0",
        ),
        (SplitPlan(min_user=5000), r"min_user = 5000, min_item = 1: no event is left of 1,200; lower them"),
    ],
)
def test_what_leaves_no_rows_is_refused_with_the_remedy(shop: list[Event], plan: SplitPlan, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split(shop, plan)


def test_one_moment_for_all_is_refused_with_counts() -> None:
    events = [Event(f"u{n % 5}", f"i{n}", 7) for n in range(50)]
    with pytest.raises(
        InputError, match=r'rule = "time": valid and test would .* Of 50 rows: train 50, valid 0, test 0'
    ):
        split(events, SplitPlan(min_history=0))


def plain_core(events: list[Event], users: int, items: int) -> list[Event]:
    while True:
        of_user, of_item = Counter(e.user for e in events), Counter(e.item for e in events)
        kept = [e for e in events if of_user[e.user] >= users and of_item[e.item] >= items]
        if len(kept) == len(events):
            return kept
        events = kept


@given(EVENTS, st.integers(1, 12), st.integers(1, 12))
@settings(deadline=None, max_examples=20)
def test_the_k_core_equals_a_plain_one_and_the_ledger_says_what_it_drops(
    events: list[Event], users: int, items: int
) -> None:
    kept, ledger = plain_core(events, users, items), Ledger(len(events))
    with connect(threads=1) as db:
        fill(db, events, more_items=["never"])
        if not kept:
            with pytest.raises(InputError, match="no event is left"):
                code_events(db, SplitPlan(min_user=users, min_item=items), ledger)
            return
        code_events(db, SplitPlan(min_user=users, min_item=items), ledger)
        query = (
            'SELECT user_id, item_id, ts FROM coded JOIN user_codes USING (u) JOIN item_codes USING (i) ORDER BY "row"'
        )
        assert db.execute(query).fetchall() == [(e.user, e.item, e.time) for e in kept]
        assert ids(db, "user") == {e.user for e in kept}
        assert ids(db, "item") == ({e.item for e in kept} if items > 1 else {e.item for e in events} | {"never"})
    assert ledger.kept == len(kept)


def ids(db: duckdb.DuckDBPyConnection, side: str) -> set[str]:
    return {row[0] for row in db.execute(f"SELECT {side}_id FROM {side}_codes").fetchall()}


def test_an_event_of_an_unknown_item_is_refused() -> None:
    with connect() as db:
        fill(db, [Event("a", "x", 1), Event("a", "y", 2)])
        db.execute("DELETE FROM items WHERE item_id = 'y'")
        with pytest.raises(InputError, match=r"1 events are of items that are not in the table of items; .* 'y'"):
            code_events(db, SplitPlan(), Ledger(2))


@pytest.mark.parametrize("ties", ["exclude", "include"])
def test_the_folder_is_sorted_and_points_at_what_came_before(shop: list[Event], tmp_path: Path, ties: str) -> None:
    plan = SplitPlan(ties="include" if ties == "include" else "exclude")
    data = prepared(tmp_path / "out", list(reversed(shop)), plan)
    log = pl.read_parquet(data.root / "interactions.parquet")
    assert log.select("user_id", "timestamp").rows() == sorted((e.user, e.time) for e in shop)
    places = [place for _, own in itertools.groupby(log["user_id"]) for place, _ in enumerate(own)]
    assert log["position"].to_list() == places
    for part in SPLITS:
        rows = data.split(part)
        assert (rows.times[:-1] <= rows.times[1:]).all()
        for user, time, position in zip(rows.users, rows.times, rows.positions, strict=True):
            own = data.log.times[data.log.offsets[user] : data.log.offsets[user + 1]]
            assert (own[:position] <= time).all()
            if ties == "exclude":
                assert (own[:position] < time).all()
                assert (own[position:] >= time).all()
    assert data.rows_in_log == (ties == "include")
    assert data.history_events == "all"
    assert data.info["history"]["ties"] == ties
    assert any("same moment" in note for note in data.info["notes"]) == (ties == "include")
    assert data.info["ledger"] == {"read": 1200, "dropped": {}, "kept": 1200}
    assert sum(data.info["counts"][part] for part in SPLITS) + data.info["counts"]["dropped"] == 1200


def test_rows_without_equal_moments_are_events_of_the_log(tmp_path: Path) -> None:
    events = [Event(f"u{n % 3}", f"i{n % 7}", n, n % 2) for n in range(60)]
    data: PreparedData = prepared(tmp_path / "out", events, SplitPlan())
    assert data.rows_in_log
    for part in SPLITS:
        rows = data.split(part)
        assert (data.log.items[data.log.offsets[rows.users] + rows.positions] == rows.items).all()
