"""Rankings of a catalogue for held-out likes: which rows ask, what they are held against, and what is kept."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from corella_edge.metrics import Bootstrap
from corella_edge.ranking import means
from corella_edge.request import User
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.rowset import HistoryCut
from corella_edge_export.data.table.description import Label, SplitPlan
from corella_edge_export.evaluation import ranking, rivals
from corella_edge_export.evaluation.ranking import THIRDS, Targets, choose_targets, judge, simple, slices
from tables import Event, prepared

ITEMS = [f"i{n:02d}" for n in range(30)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """40 users who walk along the items from a place of their own, every fifth event one that they dislike."""
    events = [
        Event(f"u{user:02d}", ITEMS[(3 * user + step) % 30], 100 * user + step, label=int(step % 5 != 2))
        for user in range(40) for step in range(6 + user % 7)
    ]  # fmt: skip
    return prepared(tmp_path_factory.mktemp("walks") / "out", events, SplitPlan("leave-one-out"))


def chosen(data: PreparedData, count: int = 0, seed: int = 0, keep: bool = False) -> Targets:
    return choose_targets(data, "test", count, seed, HistoryCut(50), keep)


def candidates(targets: Targets) -> np.ndarray:
    """How many items each row's target stands among."""
    gone = [set(targets.before(row).tolist()) - {int(targets.split.items[row])} for row in range(len(targets))]
    return len(targets.data.item_ids) - np.array([len(items) for items in gone])


def nothing(what: str, done: int, of: int) -> None:
    pass


def ranked(targets: Targets, folder: Path, vectors: np.ndarray | None = None) -> dict[str, np.ndarray]:
    return ranking.rank(targets, {}, simple(targets, vectors), folder, nothing)


def test_liked_rows_alone_ask_with_the_history_before_them(data) -> None:
    targets, split = chosen(data), data.split("test")
    assert len(targets) == int((split.labels > 0).sum()) < len(split.labels)
    assert (targets.split.labels == 1).all()
    for row in range(len(targets)):
        user, position = int(targets.split.users[row]), int(targets.split.positions[row])
        log = data.log.items[data.log.offsets[user] : data.log.offsets[user + 1]].tolist()
        assert targets.before(row).tolist() == log[:position]
        assert [data.item_ids.index(event.item) for event in targets.user(row).history] == log[:position]
        assert log[position] == targets.split.items[row]


def test_a_sample_is_of_whole_users_and_by_seed(data) -> None:
    every, some = chosen(data), chosen(data, 12, seed=3)
    assert 12 <= len(some) < len(every)
    assert set(some.split.users) <= set(every.split.users)
    assert some.split.users.tolist() == chosen(data, 12, seed=3).split.users.tolist()
    assert some.split.users.tolist() != chosen(data, 12, seed=4).split.users.tolist()


def test_simple_rankings_by_hand(data) -> None:
    train = data.split("train")
    counts = [int(((train.items == item) & (train.labels > 0)).sum()) for item in range(30)]
    assert rivals.popular(data)([np.array([1]), np.array([2])]).tolist() == [counts, counts]
    followed = dict.fromkeys(range(30), 0)
    for user, position, item, label in zip(train.users, train.positions, train.items, train.labels, strict=True):
        followed[int(item)] += int(label and data.log.items[data.log.offsets[user] + position - 1] == 4)
    found = rivals.following(data)([np.array([7]), np.array([9, 4])])[1]
    assert np.floor(found).tolist() == list(followed.values())
    assert max(followed.values()) > 0
    ties = [item for item in range(30) if followed[item] == 0]
    assert all((found[a] > found[b]) == (counts[a] > counts[b]) for a in ties for b in ties)
    assert (rivals.following(data)([np.array([], dtype=np.int64)]) < 1).all()
    latest = rivals.recent(data)([np.array([3]), np.array([7, 2, 7, 5])])[1]
    assert np.argsort(-latest, kind="stable")[:3].tolist() == [5, 7, 2]
    others = [item for item in range(30) if item not in (2, 5, 7)]
    assert latest[others].max() < 1


def test_cosine_with_the_latest_titles() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 4)).astype(np.float32) * rng.uniform(1, 9, (6, 1)).astype(np.float32)
    vectors[5] = 0
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    mean = (unit[1] + unit[2] + unit[3]) / 3
    score = rivals.alike(vectors)
    histories = [np.array([0, 1, 2, 3]), np.array([4]), np.array([], dtype=np.int64), np.array([5])]
    found = score(histories)
    assert found[0] == pytest.approx(unit @ mean / np.linalg.norm(mean), abs=1e-6)
    assert found[1, 4] == pytest.approx(1.0)
    assert found[2].tolist() == [0.0] * 6
    assert found[3, 0] == 0.0
    assert score([histories[0]]) == pytest.approx(found[:1], abs=1e-6)


def test_a_ranking_that_knows_finds_all_and_one_that_says_nothing_none(data, tmp_path: Path) -> None:
    targets = chosen(data)
    following = {id_: int(item) for id_, item in zip(
        (data.user_ids[u] for u in targets.split.users), targets.split.items, strict=True)}  # fmt: skip

    def knows(user: User) -> np.ndarray:
        return (np.arange(30) == following[str(user.id)]).astype(np.float32)

    def silent(user: User) -> np.ndarray:
        return np.zeros(30, np.float32)

    places = ranking.rank(targets, {"crm": knows, "base": silent}, {}, tmp_path, nothing)
    assert (places["crm"] == 1).all()
    assert places["base"].tolist() == candidates(targets).tolist()
    found = judge(targets, places, draws=50)["all"]
    assert found["rankings"]["crm"]["hr@10"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert found["gains"]["crm"]["base"]["ndcg@10"]["low"] > 0.9


def test_history_left_out_or_kept(data, tmp_path: Path) -> None:
    out, kept = chosen(data), chosen(data, keep=True)
    for name in ("out", "kept"):
        (tmp_path / name).mkdir()
    without, with_ = ranked(out, tmp_path / "out"), ranked(kept, tmp_path / "kept")
    assert (without["popular"] <= with_["popular"]).all()
    assert (without["popular"] < with_["popular"]).any()
    assert "recent" in with_
    assert "recent" not in without
    assert "left out" in out.protocol()
    assert "stay among them" in kept.protocol()


def test_interrupted_is_uninterrupted(data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "MOST_AT_ONCE", 7)
    targets, calls = chosen(data), []
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = ranked(targets, whole)

    def stops(what: str, done: int, of: int) -> None:
        calls.append(done)
        if done >= 14:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ranking.rank(targets, {}, simple(targets), parts, stops)
    assert calls == [0, 7, 14]
    calls.clear()
    found = ranking.rank(targets, {}, simple(targets), parts, lambda what, done, of: calls.append(done))
    assert calls[0] == 14
    assert {name: places.tolist() for name, places in found.items()} == {k: v.tolist() for k, v in expected.items()}


def test_slices_and_their_figures(data, tmp_path: Path) -> None:
    targets = chosen(data)
    places = ranked(targets, tmp_path)
    masks, found = slices(targets), judge(targets, places, draws=50)
    assert list(found) == list(masks)
    counts = rivals.liked_counts(data)[targets.split.items]
    thirds = [masks[name] for name in THIRDS if name in masks]
    assert (np.sum(thirds, axis=0) == 1).all()
    assert all(counts[a].max() < counts[b].min() for a, b in itertools.pairwise(thirds))
    for name, mask in masks.items():
        part = found[name]
        assert (part["rows"], part["users"]) == (mask.sum(), len(set(targets.split.users[mask])))
        values = {metric: own["value"] for metric, own in part["rankings"]["popular"].items()}
        assert values == pytest.approx(means(places["popular"][mask]))
        assert part["gains"] == {}
    assert Bootstrap(targets.split.users).users == found["all"]["users"]


def test_new_items_are_a_slice(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    events = [Event(f"u{u}", str(i), t) for u in range(30) for t, i in enumerate(rng.choice(20, 8, False))]
    plan = SplitPlan("leave-one-out", hide_items=0.3)
    hidden = prepared(tmp_path / "out", events, plan, label=Label(positives_only=True))
    targets = chosen(hidden)
    mask = slices(targets)["unseen items"]
    assert mask.sum() == hidden.info["hidden"]["rows"]["test"] > 0
    places = ranked(targets, tmp_path)
    assert places["popular"][mask].tolist() == candidates(targets)[mask].tolist()  # nobody was seen to like them


def test_text_vectors_in_the_order_of_the_data(data) -> None:
    """Of a catalogue in another order that lacks the data's last item."""
    order = np.random.default_rng(2).permutation(29)
    row_of = {data.item_ids[item]: row for row, item in enumerate(order.tolist())}
    vectors = np.random.default_rng(3).normal(size=(29, 4)).astype(np.float16)

    def rows(ids: list[str]) -> np.ndarray:
        return np.array([row_of.get(id_, 29) for id_ in ids])

    encoder = SimpleNamespace(catalog=SimpleNamespace(vectors=vectors), rows=rows)
    found = ranking.vectors_of(encoder, data)
    assert found is not None
    assert (found[order] == vectors).all()
    assert (found[29] == 0).all()
    assert "alike" in simple(chosen(data), found)
    assert ranking.vectors_of(SimpleNamespace(catalog=SimpleNamespace(vectors=None)), data) is None
