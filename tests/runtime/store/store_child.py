"""A process with a store that the tests of test_store_disk.py kill, or run out of room.

python store_child.py append PATH '{"0": 17, …}'   four threads append without end from the given numbers on and say so
python store_child.py fill PATH limit|BALLAST      appends until there is no room, makes room, goes on; prints JSON
"""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from pathlib import Path

from corella_edge.errors import StoreFullError
from corella_edge.request import Event
from corella_edge_runtime.store.users import UserStore


def append(store: UserStore, thread: str, start: int) -> None:
    """Says `THREAD NUMBER` when an event is acknowledged; the key makes a repeated number harmless."""
    for i in range(start, sys.maxsize):
        store.append(f"u{thread}", [Event(f"{thread}-{i}-a"), Event(f"{thread}-{i}-b")], {"last": i}, str(i))
        os.write(1, f"{thread} {i}\n".encode())


def append_all(path: Path, starts: dict[str, int]) -> None:
    store = UserStore.open(path)
    for thread, start in starts.items():
        threading.Thread(target=append, args=(store, thread, start)).start()


def fill(path: Path, room: str) -> None:
    store = UserStore.open(path)
    store.append("u", [Event("first")])
    if room == "limit":
        limit(path.stat().st_size + 200_000)
    acknowledged, error = fill_up(store)
    errors = {fill_up(store)[1] for _ in range(3)}  # it stays so, and is not worse the second time
    user = store.user("u", 10**6)
    deleted = caught(store)
    make_room(room)
    after = store.append("u", [Event("after")])
    held = [event.item for event in store.user("u", 10**6).history]
    store.close()
    print(json.dumps({
        "acknowledged": acknowledged, "errors": sorted(errors | {error}), "after": after, "held": held,
        "read": len(user.history), "deleted": deleted,
    }))  # fmt: skip


def limit(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def make_room(room: str) -> None:
    if room == "limit":
        limit(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    else:
        Path(room).unlink()


def fill_up(store: UserStore) -> tuple[int, str]:
    """Events acknowledged, and the error that ended it."""
    for n in range(10**6):
        try:
            store.append("u", [Event(f"{i}" + "x" * 200) for i in range(20)])
        except StoreFullError as error:
            return 20 * n, str(error)
    raise AssertionError("the disk is not small")


def caught(store: UserStore) -> str:
    try:
        return str(store.delete("nobody"))
    except StoreFullError as error:
        return str(error)


if __name__ == "__main__":
    if sys.argv[1] == "append":
        append_all(Path(sys.argv[2]), json.loads(sys.argv[3]))
    else:
        fill(Path(sys.argv[2]), sys.argv[3])
