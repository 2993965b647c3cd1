"""Erasure and retention: what is removed is in no byte of the store's files."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from corella_edge.errors import StoreError
from corella_edge.request import Event
from corella_edge_runtime.machine.timekeeping import FLOOR, Reading
from corella_edge_runtime.store import opening, rows
from corella_edge_runtime.store.events import NewEvents
from corella_edge_runtime.store.rows import KEY_SECONDS, REWRITE_SECONDS
from corella_edge_runtime.store.users import UserStore, retention_task

START = FLOOR + 1_000_000


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = float(START)

    def __call__(self) -> Reading:
        return Reading("a boot", self.seconds, self.seconds)


def found(folder: Path, *needles: str) -> dict[str, int]:
    """How often each needle stands in the files of a store."""
    data = b"".join(path.read_bytes() for path in folder.iterdir())
    return {needle: data.count(needle.encode()) for needle in needles if needle.encode() in data}


def user_id(u: int) -> str:
    return f"user<{u}>" + "x" * (u % 50)


def fill(store: UserStore, users: Sequence[int], rounds: int, seed: int) -> list[str]:
    """Appends in random order, so that pages split; every text of user 7 holds its mark `<7>`. All marks."""
    rng, waiting = random.Random(seed), []
    for i in range(rounds):
        u = rng.choice(users)
        events = tuple(
            Event(f"item<{u}>" + "z" * rng.randrange(60), time=rng.choice([None, rng.randrange(10**6)]))
            for _ in range(rng.randrange(1, 6))
        )
        profile = {"about": f"profile<{u}>" + "y" * rng.randrange(300)}
        waiting.append(store.append_soon(NewEvents(user_id(u), events, profile, f"key<{u}>{i}")))
    for future in waiting:
        future.result()
    return [f"<{u}>" for u in users]


def one_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    """All users in the same tables, so that a few make many pages."""
    for place in ("tables", "rows"):
        monkeypatch.setattr(f"corella_edge_runtime.store.{place}.shard_of", lambda user_id: 3)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_of_a_deleted_user_is_in_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    one_shard(monkeypatch)
    with UserStore.open(tmp_path / "users.db") as store:
        fill(store, range(300), 1500, seed)
        gone = [u for u in range(0, 300, 10) if store.user(user_id(u), 5)]
        before = {u: store.export(user_id(u)) for u in range(300) if u not in gone}
        assert len(found(tmp_path, *(f"<{u}>" for u in gone))) == len(gone)
        assert all(store.delete(user_id(u)) for u in gone)
        assert not any(store.delete(user_id(u)) for u in gone)
        assert found(tmp_path, *(f"<{u}>" for u in gone)) == {}
        assert all(store.user(user_id(u), 5) is None and store.export(user_id(u)) is None for u in gone)
        assert {u: store.export(user_id(u)) for u in before} == before
    assert found(tmp_path, *(f"<{u}>" for u in gone)) == {}
    check_database(tmp_path / "users.db")


def test_sqlite_alone_would_leave_copies_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search finds what a deletion with `secure_delete` but without rewriting leaves: the test above can fail."""
    one_shard(monkeypatch)
    monkeypatch.setattr("corella_edge_runtime.store.rows.rewrite", lambda db, shard: None)
    with UserStore.open(tmp_path / "users.db") as store:
        fill(store, range(300), 1500, 1)
        gone = [u for u in range(0, 300, 10) if store.delete(user_id(u))]
        assert found(tmp_path, *(f"<{u}>" for u in gone))


def check_database(path: Path) -> None:
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def test_a_deleted_user_leaves_the_cache_and_may_come_back_as_new(tmp_path: Path) -> None:
    with UserStore.open(tmp_path / "users.db") as store:
        store.append("u", [Event("a")], {"age": 3}, "k")
        assert store.user("u", 5)
        assert store.delete("u")
        assert len(store._cache) == 0
        assert store.user("u", 5) is None
        assert store.append("u", [Event("b")], None, "k") == 1
        user = store.user("u", 5)
        assert user is not None
        assert (user.features, user.history) == ({}, (Event("b"),))


def test_a_reader_in_the_way_makes_a_deletion_an_error_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "BUSY_SECONDS", 0.05)
    with UserStore.open(tmp_path / "users.db") as store:
        store.append("user<1>", [Event("item<1>")])
        backup = sqlite3.connect(store.path, isolation_level=None)
        backup.execute("BEGIN")
        backup.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        with pytest.raises(StoreError, match="another program reads it"):
            store.delete("user<1>")
        assert store.user("user<1>", 5) is None
        with pytest.raises(StoreError, match="another program reads it"):
            store.delete("user<1>")
        assert store.append("u", [Event("a")]) == 1
        backup.close()
        assert store.delete("user<1>") is False
        assert found(tmp_path, "<1>") == {}


def test_what_a_kill_left_in_the_log_is_gone_when_the_store_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    with UserStore.open(path) as store:
        store.append("user<1>", [Event("item<1>")])
    db = opening.writer(path)
    db.execute("BEGIN")
    assert rows.delete(db, "user<1>")
    db.execute("COMMIT")
    killed = {file: file.read_bytes() for file in tmp_path.iterdir()}  # before its log was emptied
    db.close()
    for file, data in killed.items():
        file.write_bytes(data)
    assert found(tmp_path, "<1>")
    with UserStore.open(path) as store:
        assert found(tmp_path, "<1>") == {}
        assert store.user("user<1>", 1) is None


def items(store: UserStore, user_id: str) -> list[str]:
    user = store.user(user_id, 10**6)
    return [event.item for event in user.history] if user else []


def test_retention_by_age_counts_from_the_arrival(tmp_path: Path) -> None:
    clock = Clock()
    with UserStore.open(tmp_path / "users.db", clock) as store:
        store.append("u", [Event("old", time=START + 10**6), Event("old too")])
        store.append("old user", [Event("old")], {"age": 3}, "k")
        clock.seconds += 100
        store.append("u", [Event("new", time=5)])
        store.append("profile only", [], {"age": 3})
        assert store.user("old user", 5)
        assert store.prune(100, None) == 0
        assert store.prune(99, None) == 3
        assert items(store, "u") == ["new"]
        assert store.user("old user", 5) is None
        assert store.user("profile only", 5)
        assert store.append("u", [Event("newer")]) == 2
        clock.seconds += 100
        assert store.prune(99, None) == 2
        assert store.export("profile only") is None
        assert store.export("u") is None


def test_retention_by_number_keeps_the_latest_of_the_history(tmp_path: Path) -> None:
    with UserStore.open(tmp_path / "users.db", Clock()) as store:
        store.append("u", [Event(f"i{i}", time=i % 7) for i in range(20)])
        store.append("v", [Event("a"), Event("b")])
        everything = items(store, "u")
        assert store.prune(None, 3) == 17
        assert items(store, "u") == everything[-3:]
        assert items(store, "v") == ["a", "b"]
        assert store.append("u", [Event("x", time=3)]) == 4
        assert store.prune(None, 3) == 1
        assert items(store, "u") == everything[-3:]


def test_keys_are_kept_for_a_week_or_as_long_as_events(tmp_path: Path) -> None:
    clock = Clock()
    with UserStore.open(tmp_path / "users.db", clock) as store:
        store.append("u", [Event("a")], None, "k")
        clock.seconds += KEY_SECONDS
        store.prune(None, None)
        assert store.append("u", [Event("a")], None, "k") == 1
        clock.seconds += 1
        store.prune(None, None)
        assert store.append("u", [Event("a")], None, "k") == 2
        clock.seconds += 10
        store.prune(9, None)
        assert store.append("u", [Event("a")], None, "k") == 1


def test_what_is_pruned_is_in_no_file_a_day_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_shard(monkeypatch)
    clock = Clock()
    with UserStore.open(tmp_path / "users.db", clock) as store:
        marks = fill(store, range(0, 300, 2), 800, 3)
        clock.seconds += 10
        fill(store, range(1, 300, 2), 800, 4)
        kept = {u: store.export(user_id(u)) for u in range(1, 300, 2)}
        assert store.prune(9, None) > 1000
        clock.seconds += REWRITE_SECONDS - 1
        store.prune(10**6, None)
        assert found(tmp_path, *marks)
        clock.seconds += 1
        store.prune(10**6, None)
        assert found(tmp_path, *marks) == {}
        assert kept == {u: store.export(user_id(u)) for u in kept}
    check_database(tmp_path / "users.db")


def test_appends_go_on_while_pruning_runs(tmp_path: Path) -> None:
    clock = Clock()
    with UserStore.open(tmp_path / "users.db", clock) as store:
        for u in range(200):
            store.append_soon(NewEvents(user_id(u), (Event("a"),)))
        clock.seconds += 10
        thread = threading.Thread(target=store.prune, args=(5, None))
        thread.start()
        totals = [store.append("u", [Event(f"{i}")]) for i in range(100)]
        thread.join()
        assert totals == list(range(1, 101))
        assert items(store, "u") == [f"{i}" for i in range(100)]
        assert items(store, user_id(1)) == []


def test_the_task_prunes_at_its_start_and_again_and_ends_with_the_store(tmp_path: Path) -> None:
    clock = Clock()
    store = UserStore.open(tmp_path / "users.db", clock)
    store.append("old", [Event("a")])
    clock.seconds += 2 * 86_400
    store.append("u", [Event("b")])
    thread = retention_task(store, 1.0, None, every=0.05)
    until(lambda: items(store, "old") == [])
    assert items(store, "u") == ["b"]
    clock.seconds += 86_401
    until(lambda: items(store, "u") == [])
    store.close()
    thread.join(20)
    assert not thread.is_alive()


def test_the_task_survives_what_it_can_not_do_and_says_so_without_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = threading.Semaphore(0)

    def fails(self: UserStore, *limits: object) -> int:
        tried.release()
        raise StoreError("no room")

    monkeypatch.setattr(UserStore, "prune", fails)
    with UserStore.open(tmp_path / "users.db") as store:
        thread = retention_task(store, None, 5, every=0.01)
        assert tried.acquire(timeout=20)
        assert tried.acquire(timeout=20)
    thread.join(20)
    assert caplog.messages[0] == "retention: no room"


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
