"""SIGKILL at random moments while events are appended: is anything acknowledged lost, torn, doubled or reordered?

    python benchmarks/kill_events.py --out benchmarks/results/kill-events-store.json
    python benchmarks/kill_events.py --bundle BUNDLE --out benchmarks/results/kill-events.json

With a bundle against `corella-edge serve --store` over HTTP, otherwise against a process with the store alone. Each
thread appends two events at a time under a key, numbered; what was under way when the process was killed is sent again
with its key. Every eighth kill comes while the process still starts.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from corella_edge.request import Event
from corella_edge_runtime.store.users import UserStore
from harness.results import write

THREADS = 4
EVERYTHING = 10**9
START_SECONDS = 120.0
Starts = dict[int, int]  # thread → number of its next append


@dataclass
class AppendFaults:
    """Of appends: lost though acknowledged, torn in halves, doubled, out of order; kept though unacknowledged."""

    lost: int = 0
    torn: int = 0
    doubled: int = 0
    reordered: int = 0
    unacknowledged_kept: int = 0

    def add(self, other: AppendFaults) -> None:
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def bad(self) -> int:
        return self.lost + self.torn + self.doubled + self.reordered


def items_of(thread: int, number: int) -> tuple[str, str]:
    """The two events of an append."""
    return f"{thread}-{number}-a", f"{thread}-{number}-b"


def judge(thread: int, acknowledged: int, held: list[str]) -> AppendFaults:
    """What became of a thread's appends: those below `acknowledged` were answered, that one was perhaps sent."""
    counts = Counter(held)
    numbers = range(max(acknowledged, *(int(item.split("-")[1]) for item in held), 0) + 1)
    there = {n: [counts[item] for item in items_of(thread, n)] for n in numbers}
    return AppendFaults(
        lost=sum(there[n] == [0, 0] for n in range(acknowledged)),
        torn=sum((a == 0) != (b == 0) for a, b in there.values()),
        doubled=sum(max(pair) > 1 for pair in there.values()),
        reordered=int(held != sorted(held, key=_place)),
        unacknowledged_kept=sum(min(there[n]) > 0 for n in numbers if n >= acknowledged),
    )


def _place(item: str) -> tuple[int, str]:
    _, number, half = item.split("-")
    return int(number), half


class Victim(Protocol):
    """Something that holds events and can be killed."""

    def appended(self, starts: Starts, seconds: float) -> Starts:
        """Append from `starts` on, kill so many seconds after the first answer; the next numbers."""
        ...

    def killed_early(self, seconds: float) -> None:
        """Start, and kill so many seconds later."""
        ...

    def held(self) -> dict[int, list[str]]:
        """The events held on each thread's user."""
        ...


def killed(process: subprocess.Popen[bytes]) -> bytes:
    """What it has still said. A process that ended by itself would prove nothing."""
    process.kill()
    said = process.communicate()[0]
    if process.returncode != -signal.SIGKILL:
        raise RuntimeError(f"the process ended by itself, with code {process.returncode}")
    return said


class StoreAlone:
    """A process that appends by itself and says so on a pipe."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def appended(self, starts: Starts, seconds: float) -> Starts:
        process = self._start(starts)
        assert process.stdout is not None
        said = process.stdout.readline()
        time.sleep(seconds)
        said += killed(process)
        answered = {int(thread): int(number) + 1 for thread, number in map(bytes.split, said.splitlines())}
        return starts | answered

    def killed_early(self, seconds: float) -> None:
        process = self._start({})
        time.sleep(seconds)
        killed(process)

    def held(self) -> dict[int, list[str]]:
        with UserStore.open(self.path) as store:
            users = {thread: store.user(user_of(thread), EVERYTHING) for thread in range(THREADS)}
        return {thread: [e.item for e in user.history] if user else [] for thread, user in users.items()}

    def _start(self, starts: Starts) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, __file__, "--child", str(self.path), json.dumps(starts)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE)


def user_of(thread: int) -> str:
    return f"user {thread}"


def child(path: Path, starts: Starts) -> None:
    """The process of `StoreAlone`."""
    store = UserStore.open(path)
    for thread, start in starts.items():
        threading.Thread(target=append_for_ever, args=(store, thread, start)).start()
    signal.pause()  # it is ended by a kill alone


def append_for_ever(store: UserStore, thread: int, start: int) -> None:
    for number in range(start, sys.maxsize):
        events = [Event(item) for item in items_of(thread, number)]
        store.append(user_of(thread), events, {"last": number}, str(number))
        os.write(1, f"{thread} {number}\n".encode())


class StoreServer:
    """`corella-edge serve --store`, with clients in this process."""

    def __init__(self, bundle: Path, path: Path) -> None:
        self.command = [
            sys.executable, "-m", "corella_edge", "serve", str(bundle), "--store", str(path), "--port", "0", "--no-llm",
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def appended(self, starts: Starts, seconds: float) -> Starts:
        self._ready()
        process, first = self._started(), threading.Event()
        with ThreadPoolExecutor(THREADS) as pool:
            clients = {thread: pool.submit(self._client, thread, start, first) for thread, start in starts.items()}
            first.wait(START_SECONDS)
            time.sleep(seconds)
            killed(process)
            numbers = {thread: client.result() for thread, client in clients.items()}
        self.process, self.address = None, ""
        return numbers

    def killed_early(self, seconds: float) -> None:
        self._end()
        self._started()
        time.sleep(seconds)
        self._end()

    def held(self) -> dict[int, list[str]]:
        self._ready()
        found = {thread: self._call("GET", f"/v1/users/user%20{thread}") for thread in range(THREADS)}
        assert {status for status, _ in found.values()} <= {200, 404}
        return {thread: [e["item"] for e in json.loads(body).get("events", [])] for thread, (_, body) in found.items()}

    def _client(self, thread: int, number: int, first: threading.Event) -> int:
        """Appends until the server is gone; the number of the first that was not answered."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            while True:
                events = [{"item": item} for item in items_of(thread, number)]
                body = {"user_id": user_of(thread), "events": events, "features": {"last": number}, "key": number}
                connection.request("POST", "/v1/events", json.dumps(body))
                answer = connection.getresponse()
                text = answer.read()
                if answer.status != 200 or json.loads(text)["appended"] != 2:
                    raise RuntimeError(f"{answer.status}: {text.decode()}")
                first.set()
                number += 1
        except (http.client.HTTPException, OSError):
            return number
        finally:
            connection.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE)
        return self.process

    def _ready(self) -> None:
        """Until it answers; a server that runs already is kept."""
        process = self._started()
        assert process.stdout is not None
        if not self.address:
            line = process.stdout.readline()
            self.address = urlsplit(line.decode().split()[-1]).netloc if line else ""
        end = time.monotonic() + START_SECONDS
        while self._call("GET", "/v2/health/ready")[0] != 200:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the server does not start")
            time.sleep(0.02)

    def _call(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.address, timeout=60)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _end(self) -> None:
        if self.process is not None:
            killed(self.process)
        self.process, self.address = None, ""


def kill_often(victim: Victim, kills: int, seconds: float, seed: int) -> tuple[Starts, AppendFaults, int]:
    """The numbers reached, what was found after each kill, and how many came while the process started."""
    rng, found, early = random.Random(seed), AppendFaults(), 0
    starts = dict.fromkeys(range(THREADS), 0)
    for kill in range(1, kills + 1):
        if kill % 8 == 0:
            victim.killed_early(rng.uniform(0, 0.5))
            early += 1
        else:
            starts = victim.appended(starts, rng.uniform(0, seconds))
        for thread, held in victim.held().items():
            found.add(judge(thread, starts[thread], held))
        if sys.stderr.isatty():
            print(f"\r{kill} kills, {sum(starts.values())} appends, {found.bad} bad", end="", file=sys.stderr)
    return starts, found, early


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="serve this one; left out: the store alone")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=0.3, help="longest time from the first answer to the kill")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "users.db"
        victim: Victim = StoreServer(options.bundle, path) if options.bundle else StoreAlone(path)
        starts, found, early = kill_often(victim, options.kills, options.seconds, options.seed)
        if isinstance(victim, StoreServer):
            victim.killed_early(0)
    result = {
        "what": "events after SIGKILLs", "against": "corella-edge serve --store" if options.bundle else "the store",
        "kills": options.kills, "kills_while_starting": early, "threads": THREADS,
        "acknowledged_appends": sum(starts.values()), "acknowledged_events": 2 * sum(starts.values()),
        **asdict(found), "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip
    print(json.dumps(result))
    if options.out:
        write(options.out, result)
    return 1 if found.bad else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(Path(sys.argv[2]), {int(thread): start for thread, start in json.loads(sys.argv[3]).items()})
    else:
        sys.exit(main())
