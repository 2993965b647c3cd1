"""The store on a machine whose clock is wrong: nothing is forgotten too early, keys are known, and the log says why."""

from __future__ import annotations

import itertools
import logging
import sqlite3
from pathlib import Path

import pytest

from corella_edge.request import Event
from corella_edge_runtime.machine.timekeeping import FLOOR, PROBATION, TENTHS, Reading
from corella_edge_runtime.store import tables
from corella_edge_runtime.store.users import UserStore

DAY = 86_400.0
START = FLOOR + 300 * DAY
MONTH = 30 * DAY


class Clocks:
    """What the test sets; `truth` is Unix time."""

    def __init__(self, error: float | None = 0.0) -> None:
        self.boots, self.uptime, self.truth, self.error = 1, 5000.0, START, error

    def __call__(self) -> Reading:
        wall = self.uptime if self.error is None else self.truth + self.error
        return Reading(str(self.boots), self.uptime, wall)

    def run(self, seconds: float) -> None:
        self.uptime += seconds
        self.truth += seconds

    def reboot(self, off: float) -> None:
        self.boots, self.uptime, self.truth = self.boots + 1, 30.0, self.truth + off


def items(store: UserStore, user_id: str) -> list[str]:
    user = store.user(user_id, 100)
    return [event.item for event in user.history] if user else []


def days(store: UserStore, clocks: Clocks, number: float) -> int:
    """Retention of 30 days, every six hours; events removed."""
    removed = 0
    for _ in range(int(number * 4)):
        clocks.run(DAY / 4)
        removed += store.prune(MONTH, None)
    return removed


@pytest.mark.parametrize("restart", [False, True])
@pytest.mark.parametrize("error", [None, 3650 * DAY, 50 * DAY])
def test_what_arrived_under_a_wrong_clock_stays_its_time_and_no_longer(
    tmp_path: Path, error: float | None, restart: bool
) -> None:
    clocks = Clocks(error)
    path = tmp_path / "users.db"
    with UserStore.open(path, clocks) as store:
        store.append("u", [Event("a"), Event("b")], None, "k")
        clocks.run(300.0)
        store.prune(MONTH, None)
        clocks.error = 0.0
        assert store.append("u", [Event("a"), Event("b")], None, "k") == 2
        assert store.prune(MONTH, None) == 0
    if restart:
        clocks.reboot(100.0)
    with UserStore.open(path, clocks) as store:
        assert store.prune(MONTH, None) == 0
        assert store.append("u", [Event("a"), Event("b")], None, "k") == 2
        assert days(store, clocks, 29) == 0
        assert items(store, "u") == ["a", "b"]
        assert days(store, clocks, 5) == 2
        assert store.export("u") is None


def test_a_clock_that_jumps_ahead_for_a_while_forgets_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    with UserStore.open(tmp_path / "users.db", clocks) as store:
        store.append("u", [Event("a")], None, "k")
        clocks.error = 3650 * DAY
        assert days(store, clocks, 0.75) == 0
        assert "3650.0 days ahead of the uptime" in caplog.text
        clocks.error = 0.0
        assert days(store, clocks, 5) == 0
        assert store.append("u", [Event("a")], None, "k") == 1
        assert "set back by 3650.0 days" in caplog.text


def test_after_a_long_pause_a_tenth_of_the_users_an_hour_goes_and_the_log_says_what(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clocks = Clocks()
    with UserStore.open(tmp_path / "users.db", clocks) as store:
        users = 300
        for u in range(users):
            store.append(f"u{u}", [Event("a")])
        clocks.reboot(90 * DAY)
        removed = []
        for _ in range(int(2 * PROBATION / 3600) + TENTHS + 2):
            clocks.run(3600.0)
            removed.append(store.prune(MONTH, None))
        assert sum(removed) == users
        assert sum(removed[: int(PROBATION / 3600) - 1]) == 0
        assert max(removed) <= users * 0.2
        assert sum(map(bool, removed)) == TENTHS
    said = [text for text in caplog.messages if text.startswith("retention: removed")]
    assert len(said) == TENTHS
    assert said[0].endswith("arrived before 2027-01-05T00:00:00Z") or "arrived before 202" in said[0]
    assert "u1" not in caplog.text


def test_arrivals_are_told_in_true_time_once_it_is_known(tmp_path: Path) -> None:
    clocks = Clocks(None)
    with UserStore.open(tmp_path / "users.db", clocks) as store:
        store.append("u", [Event("a")], None, "k")
        clocks.run(500.0)
        clocks.error = 0.0
        store.append("u", [Event("b")])
        found = store.export("u")
        assert found is not None
        assert [event["arrived"] for event in found["events"]] == [START, START + 500]
        assert found["keys"] == [{"key": "k", "arrived": START}]
        assert found["updated"] == START + 500


def test_the_time_outlives_the_process_that_was_killed(tmp_path: Path) -> None:
    clocks, path = Clocks(), tmp_path / "users.db"
    with UserStore.open(path, clocks) as store:
        for i in range(50):
            clocks.run(0.3)
            store.append("u", [Event(f"{i}")])
            kept = sqlite3.connect(path)
            (arrived,) = kept.execute(f"SELECT max(arrived) FROM events_{tables.shard_of('u')}").fetchone()
            (stamp,) = kept.execute("SELECT json_extract(value, '$.stamp') FROM clock WHERE part = 'now'").fetchone()
            kept.close()
            assert arrived <= stamp + 2


def old_form(path: Path, arrivals: dict[str, int]) -> None:
    """A store of format 1: arrivals are what the clock showed."""
    with UserStore.open(path) as store:
        for user_id in arrivals:
            store.append(user_id, [Event("a")], None, "k")
    db = sqlite3.connect(path)
    for user_id, arrived in arrivals.items():
        n = tables.shard_of(user_id)
        db.execute(f"UPDATE users_{n} SET updated = ?1, oldest = ?1 WHERE id = ?2", (arrived, user_id))
        db.execute(f"UPDATE events_{n} SET arrived = ? WHERE user = ?", (arrived, user_id))
        db.execute(f"UPDATE keys_{n} SET arrived = ? WHERE user = ?", (arrived, user_id))
    for n, column in itertools.product(range(tables.SHARDS), ("type", "quantity")):
        db.execute(f"ALTER TABLE events_{n} DROP COLUMN {column}")
    db.execute("DROP TABLE clock")
    db.execute("PRAGMA user_version = 1")
    db.commit()
    db.close()


def test_a_store_of_the_first_form_goes_on_and_impossible_arrivals_count_from_the_last(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clocks = tmp_path / "users.db", Clocks()
    old_form(path, {"1970": 40, "2036": int(START + 3650 * DAY), "old": int(START - 29 * DAY), "new": int(START - DAY)})
    with UserStore.open(path, clocks) as store:
        assert "2 events arrived while the clock was wrong" in caplog.text
        assert store.prune(MONTH, None) == 0
        found = store.export("old")
        assert found is not None
        assert found["events"][0]["arrived"] == int(START - 29 * DAY)
        assert days(store, clocks, 5) == 1
        assert store.export("old") is None
        assert days(store, clocks, 22) == 0
        assert days(store, clocks, 5) == 3
    assert sqlite3.connect(path).execute("PRAGMA user_version").fetchone() == (tables.VERSION,)


def test_retention_by_number_goes_by_time_where_it_is_known_else_by_arrival(tmp_path: Path) -> None:
    clocks = Clocks()
    now = int(START)
    with UserStore.open(tmp_path / "users.db", clocks) as store:
        store.append("u", [Event("3", time=now - 10), Event("2", time=now - 20), Event("1", time=now - 30)])
        clocks.run(100.0)
        store.append("u", [Event("4"), Event("5")])
        clocks.run(100.0)
        store.append("u", [Event("0", time=now - 40)])
        assert items(store, "u") == ["0", "1", "2", "3", "4", "5"]
        assert store.prune(None, 3) == 3
        assert items(store, "u") == ["3", "4", "5"]


def test_a_damaged_clock_is_told(tmp_path: Path) -> None:
    from corella_edge.errors import StoreError

    path = tmp_path / "users.db"
    UserStore.open(path).close()
    db = sqlite3.connect(path)
    db.execute("UPDATE clock SET value = '{}' WHERE part = 'now'")
    db.commit()
    db.close()
    with pytest.raises(StoreError, match="`clock` is damaged"):
        UserStore.open(path)
