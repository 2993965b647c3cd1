"""The user store on a full disk, and killed at any moment: an error or the whole append, and nothing twice."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from corella_edge.errors import StoreFullError
from corella_edge.request import Event
from corella_edge_runtime.store.events import NewEvents
from corella_edge_runtime.store.users import UserStore
from corella_edge_runtime.store.writer import WriteStep

CHILD = Path(__file__).with_name("store_child.py")
KILLS = 15


def items(store: UserStore, user_id: str) -> list[str]:
    user = store.user(user_id, 10**6)
    return [event.item for event in user.history] if user else []


def limit_pages(store: UserStore, more: int) -> None:
    """Let the file grow by so many pages."""
    count = store._writer.submit(WriteStep(lambda db: db.execute("PRAGMA page_count").fetchone()[0])).result()
    store._writer.submit(WriteStep(lambda db: db.execute(f"PRAGMA max_page_count = {count + more}"))).result()


def test_without_room_an_append_is_one_error_and_wholly_absent(tmp_path: Path) -> None:
    with UserStore.open(tmp_path / "users.db") as store:
        store.append("u", [Event("first")], {"age": 3})
        limit_pages(store, 4)
        large = tuple(Event("large" + "x" * 200) for _ in range(1000))
        waiting = [store.append_soon(NewEvents(*new)) for new in (
            ("u", (Event("small"),)), ("u", large, {"age": 4}, "k"), ("u", (Event("small too"),)),
        )]  # fmt: skip
        assert waiting[0].result() == 2
        with pytest.raises(StoreFullError, match=r"users\.db: cannot be written .* make room") as error:
            waiting[1].result()
        assert "\n" not in str(error.value)
        assert error.value.exit_code == 6
        assert waiting[2].result() == 3
        assert items(store, "u") == ["first", "small", "small too"]
        user = store.user("u", 1)
        assert user is not None
        assert user.features == {"age": 3}
        limit_pages(store, 10_000)
        assert store.append("u", large, {"age": 4}, "k") == 1003
    with UserStore.open(tmp_path / "users.db") as store:
        assert Counter(items(store, "u")) == Counter(["first", "small", "small too", *(event.item for event in large)])


# No file may grow beyond so many bytes.
NARROW = """
import resource, signal, sys
from pathlib import Path
from corella_edge.errors import StoreFullError
from corella_edge_runtime.store.users import UserStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    UserStore.open(Path(sys.argv[1]))
except StoreFullError as error:
    print(error)
"""


@pytest.mark.parametrize("there", [False, True])
def test_without_room_to_open_it_the_advice_is_to_start_again(tmp_path: Path, there: bool) -> None:
    path = tmp_path / "users.db"
    if there:
        with UserStore.open(path) as store:
            store.append("u", [Event("first")])
    command = [sys.executable, "-c", NARROW, path, "100"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "users.db: cannot be written" in said
    assert said.endswith("make room on its disk and start again\n")


def check_filled(done: dict[str, Any], path: Path) -> None:
    assert done["acknowledged"] > 0
    assert len(done["errors"]) == 1
    assert "users.db: cannot be written" in done["errors"][0]
    assert done["deleted"] == "False" or "users.db" in done["deleted"]
    assert done["read"] == 1 + done["acknowledged"]
    assert done["after"] == len(done["held"]) == 2 + done["acknowledged"]
    assert done["held"][0] == "first"
    assert done["held"][-1] == "after"
    with UserStore.open(path) as store:
        assert items(store, "u") == done["held"]


def test_a_limit_on_file_sizes_is_an_error_until_it_is_lifted(tmp_path: Path) -> None:
    path = tmp_path / "users.db"
    done = subprocess.run(
        [sys.executable, CHILD, "fill", path, "limit"], capture_output=True, text=True, check=True, timeout=60
    )
    check_filled(json.loads(done.stdout), path)


# A disk of 3 MB that exists for this process alone; what is on it is copied to $1 at the end.
SMALL_DISK = """
set -e
mount -t tmpfs -o size=3m tmpfs "$1"
head -c 1000000 /dev/zero > "$1/ballast"
"$2" "$3" fill "$1/users.db" "$1/ballast"
cp "$1/users.db" "$4"
"""


def test_a_full_disk_is_an_error_until_there_is_room(tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no mounts of one's own")
    disk, copy = tmp_path / "disk", tmp_path / "users.db"
    disk.mkdir()
    done = subprocess.run(
        [unshare, "-rm", "sh", "-c", SMALL_DISK, "sh", disk, sys.executable, CHILD, copy],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check_filled(json.loads(done.stdout), copy)


def killed(path: Path, starts: dict[str, int], seconds: float) -> dict[str, int]:
    """The last number each thread of a child said before it was killed."""
    child = subprocess.Popen([sys.executable, CHILD, "append", path, json.dumps(starts)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    said = child.stdout.readline()  # from here on it is at work
    time.sleep(seconds)
    child.kill()
    said += child.stdout.read()
    child.stdout.close()
    assert child.wait() == -signal.SIGKILL  # it did not end by itself
    return {thread: int(number) for thread, number in (line.split() for line in said.decode().splitlines())}


@pytest.mark.slow
def test_nothing_acknowledged_is_lost_and_nothing_doubled_by_kills(tmp_path: Path) -> None:
    path, rng = tmp_path / "users.db", random.Random(7)
    starts = {str(thread): 0 for thread in range(4)}
    for _ in range(KILLS):
        for thread, number in killed(path, starts, rng.uniform(0, 0.1)).items():
            starts[thread] = number + 1
        with UserStore.open(path) as store:
            for thread, start in starts.items():
                held = items(store, f"u{thread}")
                # Acknowledged: all there. Under way when killed: whole or not at all.
                assert held in (expected(thread, start), expected(thread, start + 1))
    assert sum(starts.values()) >= KILLS


def expected(thread: str, numbers: int) -> list[str]:
    return [f"{thread}-{i}-{half}" for i in range(numbers) for half in "ab"]
