"""The user store: what goes in comes out, in order, once, from many threads; and what is not a store is refused."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from corella_edge.errors import InputError, StoreError
from corella_edge.history import MAX_TIME
from corella_edge.messages import MAX_ID_CHARS
from corella_edge.request import Event, User
from corella_edge_runtime.machine.timekeeping import FLOOR, Reading
from corella_edge_runtime.store import opening, tables
from corella_edge_runtime.store.cache import UserCache
from corella_edge_runtime.store.events import NewEvents, new_events
from corella_edge_runtime.store.rows import Types
from corella_edge_runtime.store.users import UserStore
from corella_edge_runtime.store.writer import WriteStep

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=MAX_ID_CHARS)
SCALARS = TEXT | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**64), 2**64) | st.booleans()
FEATURES = st.dictionaries(TEXT, SCALARS | st.none() | st.lists(SCALARS, max_size=3), max_size=3)
EVENTS = st.builds(
    Event, IDS, st.none() | st.floats(-1e6, 1e6), st.none() | st.integers(-5, 5) | st.integers(-MAX_TIME, MAX_TIME)
)
APPENDS = st.tuples(IDS | st.sampled_from(["a", "b"]), st.lists(EVENTS, max_size=5), st.none() | FEATURES)
T0 = FLOOR


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = T0 + 1000.0

    def __call__(self) -> Reading:
        return Reading("a boot", self.seconds, self.seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[UserStore]:
    with UserStore.open(tmp_path / "users.db", clock) as opened:
        yield opened


def items(store: UserStore, user_id: str, most: int = 10**6) -> list[str]:
    user = store.user(user_id, most)
    return [event.item for event in user.history] if user else []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(appends=st.lists(APPENDS, max_size=8), most=st.integers(0, 6))
def test_what_is_appended_is_read_also_by_the_next_process(
    tmp_path_factory: pytest.TempPathFactory, appends: list[Any], most: int
) -> None:
    path = tmp_path_factory.mktemp("store") / "üsers #1?.db"
    expected: dict[str, tuple[Any, list[Event]]] = {}
    with UserStore.open(path, Clock()) as store:
        for user_id, events, features in appends:
            before, held = expected.get(user_id, ({}, []))
            given = list(new_events(user_id, events).events)  # in the order of their times, if all have one
            expected[user_id] = (before if features is None else features, held + given)
            assert store.append(user_id, events, features) == len(held) + len(events)
        check(store, expected, most)
    with UserStore.open(path) as store:
        check(store, expected, most)
        assert store.user("nobody at all", most) is None
        assert store.export("nobody at all") is None


def check(store: UserStore, expected: dict[str, tuple[Any, list[Event]]], most: int) -> None:
    for user_id, (features, events) in expected.items():
        events = sorted(events, key=lambda event: T0 + 1000 if event.time is None else event.time)
        latest = tuple(events[len(events) - most :]) if most < len(events) else tuple(events)
        assert store.user(user_id, most) == User(user_id, features, latest)
        export = store.export(user_id)
        assert export is not None
        assert export["features"] == features
        assert [(e["item"], e.get("rating"), e.get("time")) for e in export["events"]] == [
            (event.item, event.rating, event.time) for event in events
        ]


def test_events_lie_in_the_order_of_their_time_or_else_of_their_arrival(store: UserStore, clock: Clock) -> None:
    store.append("u", [Event("at 2000", time=T0 + 2000), Event("at 500", time=T0 + 500), Event("first")])
    clock.seconds = T0 + 1500.0
    store.append("u", [Event("second"), Event("third"), Event("also at 2000", time=T0 + 2000)])
    assert items(store, "u") == ["at 500", "first", "second", "third", "at 2000", "also at 2000"]
    assert items(store, "u", 3) == ["third", "at 2000", "also at 2000"]


def test_a_clock_that_is_set_back_does_not_reorder_arrivals(store: UserStore, clock: Clock) -> None:
    for seconds, item in ((1000, "a"), (10, "b"), (999, "c"), (1001, "d")):
        clock.seconds = T0 + seconds
        store.append("u", [Event(item)])
    assert items(store, "u") == ["a", "b", "c", "d"]


def test_a_profile_is_replaced_only_by_another(store: UserStore) -> None:
    store.append("u", [], {"gender": "F", "age": 25})
    store.append("u", [Event("a")])
    assert store.user("u", 5) == User("u", {"gender": "F", "age": 25}, (Event("a"),))
    store.append("u", [], {"age": 26})
    assert store.user("u", 5) == User("u", {"age": 26}, (Event("a"),))


def test_a_retry_with_its_key_adds_nothing(store: UserStore) -> None:
    assert store.append("u", [Event("a"), Event("b")], {"x": 1}, "k1") == 2
    assert store.append("u", [Event("a"), Event("b")], {"x": 1}, "k1") == 2
    assert store.append("u", [Event("a"), Event("b")], {"x": 1}, "k2") == 4
    assert store.append("other", [Event("c")], None, "k1") == 1
    assert items(store, "u") == ["a", "b", "a", "b"]


@pytest.mark.parametrize(
    "again", [([Event("b")], None), ([Event("a", 1.0)], None), ([Event("a")], {"x": 1}), ([], None)]
)
def test_a_key_of_other_events_is_refused_and_costs_nobody_else(store: UserStore, again: Any) -> None:
    store.append("u", [Event("a")], None, "k")
    gate = threading.Event()
    store._writer.submit(WriteStep(lambda db: gate.wait(20)))
    wrong = store.append_soon(NewEvents("u", tuple(again[0]), again[1], "k"))
    right = store.append_soon(NewEvents("u", (Event("c"),)))
    gate.set()
    with pytest.raises(InputError, match="key"):
        wrong.result()
    assert right.result() == 2
    assert items(store, "u") == ["a", "c"]


def test_the_same_history_is_the_same_object_until_it_changes(store: UserStore) -> None:
    store.append("u", [Event("a"), Event("b")])
    assert store.recent("u", 2) is None
    first = store.user("u", 2)
    assert first is not None
    assert store.recent("u", 2) is first
    assert store.user("u", 2) is first
    store.append("somebody else", [Event("a")])
    store.append("u", [], {"age": 3})
    second = store.user("u", 2)
    assert second is not None
    assert second.features == {"age": 3}
    assert second.history is first.history
    store.append("u", [Event("c")])
    assert items(store, "u", 2) == ["b", "c"]
    assert items(store, "u", 1) == ["c"]


def test_the_cache_keeps_the_most_recently_used_within_its_budget() -> None:
    cache = UserCache(80)
    for user_id, events in (("a", 20), ("b", 20), ("c", 20)):
        cache.put(user_id, User(user_id, {}, (Event("x"),) * events), 50, cache.version(user_id))
        assert cache.get("a", 50)
    assert [cache.get(user_id, 50) is not None for user_id in "abc"] == [True, False, True]
    cache.put("d", User("d", {}, (Event("x"),) * 71), 100, cache.version("d"))
    assert cache.get("d", 100) is None
    assert (len(cache), cache.events) == (2, 60)
    cache.put("a", User("a"), 50, cache.version("a"))
    cache.put("a", User("a", {}, (Event("x"),)), 50, cache.version("a"))
    assert (len(cache), cache.events) == (2, 41)
    assert cache.get("a", 49) is None
    cache.drop("a", "b", "c")
    assert (len(cache), cache.events) == (0, 0)


def test_a_read_that_a_write_overtakes_is_not_kept(store: UserStore, monkeypatch: pytest.MonkeyPatch) -> None:
    from corella_edge_runtime.store import rows

    store.append("u", [Event("a")])
    read = rows.user

    def overtaken(db: sqlite3.Connection, user_id: str, least: int, step: int, types: Types) -> User | None:
        found = read(db, user_id, least, step, types)
        store.append("u", [Event("b")])
        return found

    monkeypatch.setattr(rows, "user", overtaken)
    assert items(store, "u") == ["a"]
    monkeypatch.setattr(rows, "user", read)
    assert items(store, "u") == ["a", "b"]


def test_sixteen_threads_append_and_read_without_losing_or_mixing_anything(store: UserStore) -> None:
    def work(thread: int) -> None:
        for i in range(25):
            user_id = f"u{(thread + i) % 4}"
            total = store.append(user_id, [Event(f"{thread}-{i}")], None, f"{thread}-{i}")
            history = items(store, user_id)
            assert f"{thread}-{i}" in history
            assert len(history) >= total

    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(work, thread) for thread in range(16)]:
            future.result()
    everything = [item for user_id in ("u0", "u1", "u2", "u3") for item in items(store, user_id)]
    assert sorted(everything) == sorted(f"{thread}-{i}" for thread in range(16) for i in range(25))
    for user_id in ("u0", "u1", "u2", "u3"):
        for thread in range(16):
            own = [int(item.split("-")[1]) for item in items(store, user_id) if item.startswith(f"{thread}-")]
            assert own == sorted(own)


def test_appends_that_wait_share_one_commit_that_is_synced(store: UserStore) -> None:
    said: list[str] = []
    store._writer.submit(WriteStep(lambda db: db.set_trace_callback(said.append))).result()
    gate = threading.Event()
    store._writer.submit(WriteStep(lambda db: gate.wait(20)))
    waiting = [store.append_soon(NewEvents(f"u{i}", (Event("a"),))) for i in range(50)]
    gate.set()
    assert [future.result() for future in waiting] == [1] * 50
    assert said.count("COMMIT") == 2  # the gate's own, and that of all 50
    modes = [store._writer.submit(WriteStep(lambda db, m=m: db.execute(f"PRAGMA {m}").fetchone()[0])).result()
             for m in ("journal_mode", "synchronous", "secure_delete")]  # fmt: skip
    assert modes == ["wal", 2, 1]


def test_an_append_that_nobody_waits_for_any_more_is_dropped_whole(store: UserStore) -> None:
    gate = threading.Event()
    store._writer.submit(WriteStep(lambda db: gate.wait(20)))
    waiting = [store.append_soon(NewEvents("u", (Event(item),))) for item in "abc"]
    assert waiting[1].cancel()
    gate.set()
    assert waiting[2].result() == 2
    assert items(store, "u") == ["a", "c"]


def test_a_step_that_fails_leaves_nothing_and_the_others_go_on(store: UserStore) -> None:
    def half(db: sqlite3.Connection) -> None:
        db.execute(f"DELETE FROM events_{tables.shard_of('u')}")
        raise ZeroDivisionError

    store.append("u", [Event("a")])
    gate = threading.Event()
    store._writer.submit(WriteStep(lambda db: gate.wait(20)))
    failing, after = store._writer.submit(WriteStep(half)), store.append_soon(NewEvents("u", (Event("b"),)))
    gate.set()
    with pytest.raises(ZeroDivisionError):
        failing.result()
    assert after.result() == 2
    assert items(store, "u") == ["a", "b"]


def test_another_program_that_writes_is_an_error_until_it_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "BUSY_SECONDS", 0.3)
    with UserStore.open(tmp_path / "users.db") as store:
        store.append("u", [Event("a")])
        other = sqlite3.connect(store.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        waiting = [store.append_soon(NewEvents("u", (Event("b"),))) for _ in range(200)]
        for future in waiting:
            with pytest.raises(StoreError, match="another program is writing"):
                future.result()
        assert time.monotonic() - began < 20  # they waited together
        assert items(store, "u") == ["a"]
        other.close()
        assert store.append("u", [Event("b")]) == 2


def test_closing_finishes_what_was_asked_and_refuses_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    store = UserStore.open(path)
    waiting = [store.append_soon(NewEvents("u", (Event(f"i{i}"),))) for i in range(600)]
    store.close()
    assert [future.result() for future in waiting] == list(range(1, 601))
    for closed in (lambda: store.append("u", []), lambda: store.user("u", 1), lambda: store.export("u")):
        with pytest.raises(StoreError, match="closed"):
            closed()
    store.close()
    with UserStore.open(path) as again:
        assert len(items(again, "u")) == 600


def test_what_is_not_a_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, database, folder = tmp_path / "notes.txt", tmp_path / "other.db", tmp_path / "folder"
    text.write_text("not a database at all\n" * 50)
    folder.mkdir()
    with sqlite3.connect(database) as db:
        db.execute("CREATE TABLE users (id TEXT)")
    db.close()
    before = {path: path.read_bytes() for path in (text, database)}
    for path in (text, database, folder, tmp_path / "missing" / "users.db", Path("/proc/users.db")):
        with pytest.raises(InputError, match=path.name):
            UserStore.open(path)
    assert {path: path.read_bytes() for path in (text, database)} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "notes.txt", "other.db"]


def test_a_newer_format_and_damage_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    UserStore.open(path).close()
    whole = path.read_bytes()
    path.write_bytes(whole[:60] + (tables.VERSION + 1).to_bytes(4, "big") + whole[64:])
    with pytest.raises(InputError, match=f"format {tables.VERSION + 1}"):
        UserStore.open(path)
    path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    with pytest.raises(InputError, match="cannot be opened"):
        UserStore.open(path)
    path.write_bytes(whole)
    UserStore.open(path).close()


def test_damage_found_later_is_one_error_and_not_the_end(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    with UserStore.open(path) as store:
        store.append("u", [Event("a")])
    with sqlite3.connect(path) as db:
        query = f"SELECT rootpage FROM sqlite_schema WHERE name = 'users_{tables.shard_of('u')}'"
        start = 4096 * (db.execute(query).fetchone()[0] - 1)
    db.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:start] + b"\xff" * 4096 + whole[start + 4096 :])
    with UserStore.open(path) as store:
        for call in (lambda: store.append("u", [Event("b")]), lambda: store.user("u", 1), lambda: store.export("u")):
            with pytest.raises(StoreError, match=r"users\.db.*backup"):
                call()
        assert store.append("another", [Event("b")]) == 1


def test_a_store_is_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    code = (
        "import sys; from pathlib import Path; from corella_edge.errors import InputError\n"
        "from corella_edge_runtime.store.users import UserStore\n"
        "try: UserStore.open(Path(sys.argv[1])).close()\n"
        "except InputError as error: print(error)"
    )
    opened = [sys.executable, "-c", code, str(path)]
    with UserStore.open(path):
        (tmp_path / "link.db").symlink_to(path)
        for name in (path, tmp_path / "link.db"):
            with pytest.raises(InputError, match="in use by another process"):
                UserStore.open(name)
        assert "in use by another process" in subprocess.run(opened, capture_output=True, text=True, check=True).stdout
    assert subprocess.run(opened, capture_output=True, text=True, check=True).stdout == ""


def test_the_log_of_a_store_that_is_gone_is_not_played_into_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "users.db-wal").write_bytes(b"left")
    with pytest.raises(InputError, match=r"users\.db-wal"):
        UserStore.open(tmp_path / "users.db")


def test_only_the_owner_may_read_the_files(tmp_path: Path) -> None:
    with UserStore.open(tmp_path / "users.db") as store:
        store.append("u", [Event("a")])
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
        assert {path.name for path in tmp_path.iterdir()} >= {"users.db", "users.db-wal"}


def test_a_copy_made_by_sqlites_backup_while_appends_go_on_is_a_store(store: UserStore, tmp_path: Path) -> None:
    store.append("u", [Event("a")])
    source, target = sqlite3.connect(store.path), sqlite3.connect(tmp_path / "copy.db")
    source.backup(target)
    source.close()
    target.close()
    store.append("u", [Event("b")])
    with UserStore.open(tmp_path / "copy.db") as copy:
        assert items(copy, "u") == ["a"]
    assert items(store, "u") == ["a", "b"]


COUNTS = [(0, 0), (6, 6), (7, 7), (8, 8), (9, 9), (10, 7), (11, 8), (12, 9), (13, 7)]


@pytest.mark.parametrize(("events", "read"), COUNTS)
def test_what_is_left_out_of_a_history_is_a_multiple_of_the_step(store: UserStore, events: int, read: int) -> None:
    store.append("u", [Event(str(i)) for i in range(events)], {"a": 1})
    user = store.user("u", 7, 3)
    assert user is not None
    assert [event.item for event in user.history] == [str(i) for i in range(events - read, events)]
    assert store.recent("u", 7, 3) is user
    assert store.recent("u", 7, 1) is None
