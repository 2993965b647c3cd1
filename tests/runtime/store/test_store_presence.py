"""A store whose file is moved, deleted or replaced while it is open: nothing is acknowledged, nothing is damaged."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from corella_edge.errors import InputError, StoreGoneError
from corella_edge.request import Event
from corella_edge_runtime.machine.timekeeping import Reading
from corella_edge_runtime.store.events import NewEvents
from corella_edge_runtime.store.opening import LOCKS, beside
from corella_edge_runtime.store.presence import Index, is_moved
from corella_edge_runtime.store.users import UserStore
from corella_edge_runtime.store.writer import WriteStep


def items(store: UserStore, user_id: str) -> list[str]:
    user = store.user(user_id, 100)
    return [event.item for event in user.history] if user else []


def files(path: Path) -> list[Path]:
    return sorted(file for file in path.parent.iterdir() if file.name.startswith(path.name))


def check_database(path: Path) -> None:
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()


def backup(path: Path, copy: Path) -> Path:
    source, target = sqlite3.connect(path), sqlite3.connect(copy)
    source.backup(target)
    target.close()
    source.close()
    return copy


def delete(path: Path) -> None:
    for file in files(path):
        file.unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def replace(path: Path) -> None:
    backup(path, path.with_name("backup.db")).replace(path)


def overwrite(path: Path) -> None:
    time.sleep(0.02)  # file systems count time in steps
    path.write_bytes(backup(path, path.with_name("backup.db")).read_bytes())


def truncate(path: Path) -> None:
    time.sleep(0.02)
    path.write_bytes(b"")


def without_log(path: Path) -> None:
    beside(path, "-wal").unlink()


def without_index(path: Path) -> None:
    beside(path, "-shm").unlink()


def without_lock(path: Path) -> None:
    beside(path, LOCKS[0]).unlink()


def folder_moved(path: Path) -> None:
    path.parent.rename(path.parent.with_name("moved"))


ALL = [delete, move, replace, overwrite, truncate, without_log, without_index, without_lock, folder_moved]


@pytest.mark.parametrize("damage", ALL)
def test_nothing_is_acknowledged_for_a_file_that_is_gone(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "here" / "users.db"
    path.parent.mkdir()
    with UserStore.open(path) as store:
        store.append("u", [Event("a")])
        store.append("v", [Event("a")])
        assert items(store, "u") == ["a"]
        assert store.lost == ""
        damage(path)
        for _ in range(2):
            with pytest.raises(StoreGoneError, match=r"users\.db.* was .* put that file back, or restart") as error:
                store.append("u", [Event("b")])
            assert "\n" not in str(error.value)
            with pytest.raises(StoreGoneError):
                store.delete("u")
        assert store.lost
        with pytest.raises(StoreGoneError):
            store.export("u")
        with pytest.raises(StoreGoneError):
            store.user("v", 100)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", *LOCKS])
def test_a_file_that_is_put_back_works_again(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / "users.db"
    with UserStore.open(path) as store:
        store.append("u", [Event("a")])
        beside(path, suffix).rename(tmp_path / "elsewhere")
        with pytest.raises(StoreGoneError):
            store.append("u", [Event("b")])
        (tmp_path / "elsewhere").rename(beside(path, suffix))
        assert store.append("u", [Event("c")]) == 2
        assert items(store, "u") == ["a", "c"]
    check_database(path)


def checkpoint(path: Path, mode: str) -> None:
    """In a process of its own: here SQLite would share what it knows of the file."""
    run = f"import sqlite3; sqlite3.connect({str(path)!r}).execute('PRAGMA wal_checkpoint({mode})').fetchall()"
    subprocess.run([sys.executable, "-c", run], check=True)


@pytest.mark.parametrize("mode", ["PASSIVE", "FULL", "RESTART", "TRUNCATE"])
def test_another_program_may_move_the_log_into_the_file(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "u.db"
    with UserStore.open(path) as store:
        for name in "abc":
            store.append("u", [Event(name)])
            before = path.stat().st_mtime_ns
            time.sleep(0.02)  # file systems count time in steps
            checkpoint(path, mode)
            assert path.stat().st_mtime_ns > before
        store.append("u", [Event("d")])
        assert not store.lost
    with UserStore.open(path) as store:
        assert items(store, "u") == list("abcd")


def content(path: Path) -> bytes:
    """Read by another process: where this one closes the file, SQLite's locks are dropped."""
    return subprocess.run(["cat", path], stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize("moment", [None, (10**9, 10**9)])
def test_a_file_that_was_touched_is_still_the_store(tmp_path: Path, moment: tuple[int, int] | None) -> None:
    path = tmp_path / "users.db"
    with UserStore.open(path) as store:
        for name in "abc":
            store.append("u", [Event(name)])
            before = path.stat().st_mtime_ns
            time.sleep(0.02)  # file systems count time in steps
            os.utime(path, moment)
            assert path.stat().st_mtime_ns != before or name > "a"
        assert store.append("u", [Event("d")]) == 4
        assert not store.lost
        assert items(store, "u") == list("abcd")


def test_the_files_own_earlier_content_is_told_from_a_touch(tmp_path: Path) -> None:
    """It is of the same size, and has the same header: no page was added meanwhile."""
    path, now = tmp_path / "users.db", 10**9
    with UserStore.open(path, lambda: Reading("a boot", now, now)) as store:
        store.append("u", [Event("a")])
        checkpoint(path, "PASSIVE")
        before = content(path)
        now += 2
        store.append("u", [Event("b")])
        checkpoint(path, "PASSIVE")
        store.append("u", [Event("c")])
        after = content(path)
        assert (len(before), before[:100]) == (len(after), after[:100])
        time.sleep(0.02)  # file systems count time in steps
        path.write_bytes(before)
        with pytest.raises(StoreGoneError, match="was overwritten"):
            store.append("u", [Event("d")])


@pytest.mark.parametrize(
    ("now", "moved"),
    [
        (Index(7, 9, 0, 0), False),  # nothing of the kind: the file was overwritten
        (Index(7, 9, 0, 9), True),  # under way
        (Index(7, 9, 9, 9), True),
        (Index(7, 0, 0, 0), True),  # and the log starts again
        (Index(8, 10, 9, 9), False),  # and somebody else has written
    ],
)
def test_what_tells_that_the_log_was_moved(now: Index, moved: bool) -> None:
    assert is_moved(Index(7, 9, 0, 0), now) is moved


def test_what_vanishes_during_the_commit_is_not_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    with UserStore.open(path) as store:
        store.append("u", [Event("a")])
        lost = store._writer.submit(WriteStep(lambda db: move(path)))
        with pytest.raises(StoreGoneError):
            lost.result()
        waiting = [store.append_soon(NewEvents("u", (Event("b"),))) for _ in range(20)]
        for future in waiting:
            with pytest.raises(StoreGoneError):
                future.result()
        path.with_name("elsewhere.db").rename(path)
        assert store.append("u", [Event("c")]) == 2


def test_after_a_backup_was_put_in_place_the_next_start_has_the_backup(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    with UserStore.open(path) as store:
        store.append("old", [Event("a")])
        copy = backup(path, tmp_path / "backup.db")
        store.append("mid", [Event("a")])
        copy.replace(path)
        with pytest.raises(StoreGoneError):
            store.append("new", [Event("a")])
    check_database(path)
    with UserStore.open(path) as store:
        assert [bool(items(store, user_id)) for user_id in ("old", "mid", "new")] == [True, False, False]
        assert store.append("new", [Event("a")]) == 1
    check_database(path)


def test_a_log_of_another_server_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    store = UserStore.open(path)
    store.append("u", [Event("a")])
    for file in [*files(path), beside(path, LOCKS[1])]:
        file.unlink()
    with UserStore.open(path) as other:
        other.append("v", [Event("b")])
        store.close()  # it does not take the other's log with it
        assert beside(path, "-wal").exists()
        assert other.append("v", [Event("c")]) == 2
    with UserStore.open(path) as other:
        assert items(other, "v") == ["b", "c"]
    check_database(path)


OPEN = """
import sys
from pathlib import Path
from corella_edge.errors import CorellaError
from corella_edge_runtime.store.users import UserStore
try:
    UserStore.open(Path(sys.argv[1])).close()
    print("opened")
except CorellaError as error:
    print(error)
"""


def another(path: Path) -> str:
    done = subprocess.run([sys.executable, "-c", OPEN, path], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_another_process_is_refused_even_when_the_files_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    with UserStore.open(path) as store:
        store.append("u", [Event("a")])
        delete(path)
        assert "in use by another process" in another(path)
        assert not path.exists()
    assert another(path) == "opened"


def killed(path: Path) -> None:
    """Leave the files of a process that was killed with something in its log."""
    store = UserStore.open(path)
    store.append("u", [Event("kept")])
    copies = [shutil.copy(file, file.with_name("copy-" + file.name)) for file in files(path)]
    store.close()
    for copied in map(Path, copies):
        target = path.with_name(copied.name.removeprefix("copy-"))
        if target == path:
            path.write_bytes(copied.read_bytes())  # the same file
            copied.unlink()
        else:
            copied.replace(target)


def test_the_log_of_another_file_is_not_played_into_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    UserStore.open(path).close()
    copy = backup(path, tmp_path / "backup.db")
    killed(path)
    copy.replace(path)
    with pytest.raises(
        InputError, match=r"users\.db-wal: belongs to another file .* move it away .* or remove \.users"
    ):
        UserStore.open(path)
    beside(path, "-wal").unlink()
    beside(path, "-shm").unlink(missing_ok=True)
    with UserStore.open(path) as store:
        assert items(store, "u") == []
    check_database(path)


def test_after_a_kill_the_log_is_played_in(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    killed(path)
    with UserStore.open(path) as store:
        assert items(store, "u") == ["kept"]
    check_database(path)


def test_looking_costs_little(tmp_path: Path) -> None:
    with UserStore.open(tmp_path / "users.db") as store:
        taken = []
        for _ in range(50):
            began = time.perf_counter()
            store._presence.check()
            taken.append(time.perf_counter() - began)
    assert min(taken) < 0.0005
