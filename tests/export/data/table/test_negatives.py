"""Negatives: never an item of the user's, never one not yet seen, as many as can be, by the weights asked for."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError
from corella_edge_export.data.database import connect
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.prepared import SPLITS
from corella_edge_export.data.table import negatives
from corella_edge_export.data.table.coding import code_events
from corella_edge_export.data.table.description import Negatives, SplitPlan
from corella_edge_export.data.table.draws import draw
from corella_edge_export.data.table.negatives import Drawn, draw_negatives
from corella_edge_export.data.table.splitting import split_rows
from tables import Event, fill, prepared

PLAN = SplitPlan(rule="random", min_history=0, shares=(0.4, 0.3, 0.3))
Found = dict[int, list[str]]  # row of the positive → items


def drawn(
    events: Sequence[Event], plan: Negatives, memory: int = 1 << 30, threads: int = 1, items: Sequence[str] = (),
    split: SplitPlan = PLAN,
) -> tuple[Found, Drawn]:  # fmt: skip
    with connect(threads=threads) as db:
        fill(db, events, more_items=items)
        code_events(db, split, Ledger(len(events)))
        split_rows(db, split)
        told = draw_negatives(db, plan, memory)
        found: Found = defaultdict(list)
        for row, item in db.execute('SELECT "row", item_id FROM drawn JOIN item_codes USING (i)').fetchall():
            found[row].append(item)
        times = (
            'SELECT count(*) FROM drawn JOIN rows USING ("row") WHERE drawn.ts != rows.ts OR drawn.part != rows.part '
        )
        assert db.execute(f"{times} OR drawn.position != rows.position OR drawn.u != rows.u").fetchall() == [(0,)]
        return found, told


def may_be_drawn(events: Sequence[Event], row: int, everything: set[str] | None = None) -> set[str]:
    """By the definition: seen by somebody before, and of no event of the user's, later ones included."""
    mine = events[row]
    seen = {e.item for e in events if e.time < mine.time} if everything is None else everything
    return seen - {e.item for e in events if e.user == mine.user}


def had_before(events: Sequence[Event], event: Event) -> bool:
    """Its user had its item at an earlier moment."""
    return any((e.user, e.item) == (event.user, event.item) and e.time < event.time for e in events)


def nobody_had(events: Sequence[Event], event: Event) -> bool:
    """No event of its item is earlier."""
    return not any(e.item == event.item and e.time < event.time for e in events)


EVENTS = st.lists(
    st.builds(Event, st.sampled_from("abcde"), st.sampled_from("pqrstuvwxyz"), st.integers(0, 9)),
    min_size=10, max_size=50,
)  # fmt: skip
WAYS = [("seen-before", "popularity-before"), ("seen-before", "uniform"), ("catalogue", "uniform")]
From, Weight = Literal["seen-before", "catalogue"], Literal["popularity-before", "uniform"]


@pytest.mark.slow
@given(EVENTS, st.integers(1, 4), st.sampled_from(WAYS), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_every_negative_could_be_one_and_none_is_missing(
    events: list[Event], each: int, way: tuple[From, Weight], seed: int
) -> None:
    everything = {e.item for e in events} | {"cold"} if way[0] == "catalogue" else None
    try:
        found, told = drawn(events, Negatives(each, *way, seed), items=["cold"])
    except InputError as error:  # where a split has no positive that can have one
        if "none could be drawn" not in str(error):
            raise
        return
    missing = 0
    for row in range(len(events)):
        usable = may_be_drawn(events, row, everything)
        assert set(found[row]) <= usable
        assert len(set(found[row])) == len(found[row]) == min(each, len(usable))
        missing += each - len(found[row])
    assert told.wanted - told.found == missing
    again = [event for event in events if had_before(events, event)]
    fresh = [event for event in events if way[0] == "seen-before" and nobody_had(events, event)]
    assert (told.again, told.fresh) == (len(again), len(fresh))
    assert len(told.notes()) == (missing > 0) + bool(again or fresh)


@pytest.mark.parametrize("way", WAYS)
def test_rounds_of_draws_find_the_same_sets_as_the_search(
    shop: list[Event], way: tuple[From, Weight], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a large catalogue most come from draws; in a small one what is left is searched for."""
    monkeypatch.setattr(negatives, "_FEW_ITEMS", 0)
    everything = {e.item for e in shop} if way[0] == "catalogue" else None
    found, told = drawn(shop, Negatives(6, *way))
    for row in range(len(shop)):
        usable = may_be_drawn(shop, row, everything)
        assert set(found[row]) <= usable
        assert len(set(found[row])) == len(found[row]) == min(6, len(usable))
    assert told.found == sum(map(len, found.values()))


@pytest.mark.parametrize("way", WAYS)
def test_threads_and_memory_change_nothing_and_the_seed_does(shop: list[Event], way: tuple[From, Weight]) -> None:
    runs = [
        drawn(shop, Negatives(3, *way, seed), memory, threads)[0]
        for seed, memory, threads in ((1, 1 << 30, 1), (1, 1 << 18, 3), (2, 1 << 30, 1))
    ]
    sets = [{row: sorted(items) for row, items in run.items()} for run in runs]
    assert sets[0] == sets[1] != sets[2]


def weighted_shop() -> list[Event]:
    """3,000 users whose only event comes last; before, item "n" was bought n times by others, n = 1 to 8."""
    before = [Event(f"b{item}-{n}", str(item), n) for item in range(1, 9) for n in range(item)]
    return [*before, *(Event(f"late{n}", "9", 100) for n in range(3000))]


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize("weight", ["popularity-before", "uniform"])
def test_items_are_drawn_by_their_weight(weight: Weight, search: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By draws in rounds and, where these find nothing, by the search among all items."""
    if search:
        monkeypatch.setattr(negatives, "_round", lambda *args: "SELECT r, 0 FROM open WHERE false")
    found, _ = drawn(weighted_shop(), Negatives(1, weight=weight))
    late = Counter(items[0] for row, items in found.items() if row >= 36)
    counts = np.asarray([late[str(item)] for item in range(1, 9)])
    weights = np.arange(1, 9) if weight == "popularity-before" else np.ones(8)
    wanted = 3000 * weights / weights.sum()
    assert counts.sum() == 3000
    # Pearson's chi-squared with 7 degrees of freedom: above 24.3 once in a thousand seeds.
    assert ((counts - wanted) ** 2 / wanted).sum() < 24.3


def test_what_cannot_be_drawn_is_refused(shop: list[Event]) -> None:
    with pytest.raises(InputError, match='weight = "uniform", or from = "seen-before"'):
        drawn(shop, Negatives(1, "catalogue", "popularity-before"))
    everything = [Event(f"u{user}", f"i{item}", 10 * item + user) for user in range(4) for item in range(12)]
    with pytest.raises(InputError, match=r"\[negatives\] none could be drawn for train: .* `from = \"catalogue\"`"):
        drawn(everything, Negatives(2))
    found, told = drawn(everything, Negatives(2, "catalogue", "uniform"), items=["new"])
    assert all(items == ["new"] for items in found.values())
    assert told.wanted == 2 * told.found
    assert told.notes()[0].startswith("48 positives have fewer negatives than asked for (48 are missing)")


def test_what_no_drawn_row_is_like_only_serves_as_history_if_asked(tmp_path: Path) -> None:
    """Everybody buys one item of a dozen again and again, two of them in one moment, and new ones between."""
    rng = np.random.default_rng(5)
    events = [
        Event(f"u{user}", f"i{user % 12 if again else 12 + rng.integers(40)}", 1_500_000_000 + 100 * n + user)
        for n, again in enumerate([True, False, True, False] * 6)
        for user in range(30)
    ]
    events += [Event("u1", "i60", 1_500_009_000), Event("u1", "i60", 1_500_009_000)]
    kept, new = (
        prepared(tmp_path / way, events, SplitPlan(), Negatives(2, unlike_drawn=way)) for way in ("keep", "history")
    )
    again, fresh = ({e for e in events if unlike(events, e)} for unlike in (had_before, nobody_had))
    told = kept.info["negatives"]
    assert told["positives_had_before"] == sum(event in again for event in events) > 300
    assert 0 < told["positives_first_ever"] <= len(fresh)
    assert any("positives are of items that their user had before, " in note for note in kept.info["notes"])
    assert not any("had before" in note for note in new.info["notes"])
    assert len(pl.read_parquet(new.root / "interactions.parquet")) == len(events)
    for part in SPLITS:
        rows, old = (pl.read_parquet(data.root / f"{part}.parquet") for data in (new, kept))
        bought = rows.filter(pl.col("label") == 1)
        key = ["user_id", "item_id", "timestamp"]
        assert not {Event(*row) for row in bought.select(key).rows()} & (again | fresh)
        left_out = old.filter(pl.col("label") == 1).join(rows, on=key, how="anti")
        assert {Event(*row) for row in left_out.select(key).rows()} <= again | fresh


def test_nothing_but_what_no_drawn_row_is_like_is_refused() -> None:
    events = [Event(f"u{user}", f"i{user}", 10 * n) for n in range(20) for user in range(4)]
    with pytest.raises(InputError, match=r'unlike_drawn = "history" leaves no row for (valid|test); write "keep"'):
        drawn(events, Negatives(1, "catalogue", "uniform", unlike_drawn="history"), split=SplitPlan(min_history=0))


@pytest.mark.parametrize("rule", ["time", "per-user", "leave-one-out", "random"])
def test_negatives_stand_beside_their_positives_and_in_no_history(
    shop: list[Event], tmp_path: Path, rule: Literal["time", "per-user", "leave-one-out", "random"]
) -> None:
    likes = [Event(event.user, event.item, event.time) for event in shop]
    data = prepared(tmp_path / "out", likes, SplitPlan(rule=rule), Negatives(2))
    log = pl.read_parquet(data.root / "interactions.parquet")
    assert len(log) == 1200
    assert log["label"].unique().to_list() == [1]
    assert not data.rows_in_log
    own = set(log.select("user_id", "item_id").rows())
    for part in SPLITS:
        rows = pl.read_parquet(data.root / f"{part}.parquet")
        bought, others = (rows.filter(pl.col("label") == label) for label in (1, 0))
        assert set(bought.select("user_id", "item_id").rows()) <= own
        assert not set(others.select("user_id", "item_id").rows()) & own
        key = ["user_id", "timestamp", "position"]
        assert set(others.select(key).rows()) <= set(bought.select(key).rows())
        assert others["rating"].is_null().all()
        assert data.info["splits"][part]["like_share"] == round(len(bought) / len(rows), 6)
        # Within a moment and user the label must not decide the place.
        assert rows["label"].to_list()[::3] != [1] * len(rows["label"].to_list()[::3])
    told = data.info["negatives"]
    assert told["drawn"] == sum(data.info["counts"][part] for part in SPLITS) - told["wanted"] // 2


def test_the_hash_that_draws_depend_on_is_still_the_same() -> None:
    """If this fails after an update of DuckDB, prepared data of the same seed differ: say so in CHANGELOG.md."""
    with connect() as db:
        found = db.execute(f"SELECT {draw(1, 'negatives', 'n', '7')} FROM range(3) t(n)").fetchall()
        assert [row[0] for row in found] == [478145259392800502, 964608950500726180, 3899807193725177736]
        spread = db.execute(
            f"SELECT {draw(5, 'split', 'n')} % 10 AS bin, count(*) FROM range(100000) t(n) GROUP BY bin"
        )
        assert all(9_600 < count < 10_400 for _, count in spread.fetchall())
