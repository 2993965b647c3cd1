"""Half an hour of random users: does the memory of the server and of its LLM process grow?

Users whom nobody has seen, each with a history of its own: easy, partly routed and wholly routed requests, answers in
two phases, new items with and without text, events that are appended to the store and users who come back by their id
alone, and requests that are refused. Every minute has new ones. Resident memory is read every 5 seconds; judged is the
slope of its sum over the last two thirds, by least squares, with the interval from blocks of a minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.errors import InputError
from corella_edge.request import Candidates, Request, User
from corella_edge_runtime.bench.load.http import post
from corella_edge_runtime.bench.load.mix import Mix, Stream, mix
from corella_edge_runtime.bench.load.outcome import Outcome
from harness.judged import at_most, none_of
from harness.load.server import Server, resident
from harness.load.setting import setting
from harness.load.summary import Floats, percentiles, slope
from harness.load.traffic import RANK, TrafficSource, prepared, unknown_items

EVERY = 5.0  # seconds between two looks at the memory
BLOCK = 12  # looks that are drawn together
SHORTEST = 0.5  # minutes
LIMIT = 0.5  # MB a minute
MB = 1e6
EVENTS = "/v1/events"
# Kind → its share of the requests.
SHARES = {"easy": 0.4, "partly routed": 0.2, "routed": 0.05, "progressive": 0.05, "new items": 0.1, "refused": 0.1,
          "events": 0.05, "stored users": 0.05}  # fmt: skip
THRESHOLDS = {"easy": "ratio:0", "routed": "ratio:1"}
USUAL = "ratio:0.3"
REFUSED = (b"{", b"[]", b'{"user": {}, "user": {}}', b'{"user": 7}', b'{"user": {}, "candidates": []}', b"\xff\xfe",
           b'{"user": {"history": [{"item": "a", "rating": 1e400}]}}', b'{"user": {}, "no such field": 1}')  # fmt: skip
Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float, default=60.0, help="requests a second")
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--stretch", type=float, default=60.0, help="seconds until new requests are made")


def measure(options: argparse.Namespace) -> Row:
    """One stretch after the other, the next one's requests being made meanwhile.

    Raises:
        InputError: too short for a slope.
    """
    if options.minutes < SHORTEST:
        raise InputError(f"--minutes {options.minutes:g}: a slope needs at least {SHORTEST:g}")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="corella-soak-"))
        run = stack.enter_context(setting(options, ["--store", str(Path(folder) / "users.sqlite")]))
        seen = stack.enter_context(memory(run.server))
        maker = stack.enter_context(ThreadPoolExecutor(1))
        stretches, began, number = Stretches(), time.monotonic(), 0
        run.quiet_from_now()
        coming: Future[Mix] = maker.submit(made, run.source, number, options)
        while time.monotonic() - began < 60.0 * options.minutes:
            load, number = coming.result(), number + 1
            coming = maker.submit(made, run.source, number, options)
            stretches.add(run.put(load), load)
        return {
            "minutes": options.minutes, "rate_per_s": options.rate, "candidates": options.candidates,
            **stretches.to_json(), "memory": [[round(x, 2) for x in row] for row in seen],
            "slope_mb_per_min": growth(np.asarray(seen)), **run.verdict(timed=False),
            # A new process begins with less memory.
            "restarts": int(run.server.total("corella_edge_llm_restarts_total")),
        }  # fmt: skip


def made(source: TrafficSource, number: int, options: argparse.Namespace) -> Mix:
    """The requests of one stretch, every one of a user of its own."""
    rng = np.random.default_rng([options.seed, number, 41])
    streams = []
    for kind, part in SHARES.items():
        rate, seed = part * options.rate, int(rng.integers(2**31))
        count = int(1.5 * rate * options.stretch) + 10
        # Those whose events are appended are those who come back.
        whose = number if kind in ("events", "stored users") else seed
        asked = source.strangers(count, options.candidates, whose, THRESHOLDS.get(kind, USUAL))
        streams.append(Stream(kind, rate, requests_of(kind, asked, np.random.default_rng([seed, 42]))))
    return mix(streams, options.stretch, options.seed + number)


def requests_of(kind: str, asked: Sequence[Request], rng: np.random.Generator) -> list[bytes]:
    """The requests in the form of their kind."""
    match kind:
        case "refused":
            return [post(RANK, body) for body in REFUSED]
        case "events":
            return [post(EVENTS, events_of(request)) for request in asked]
        case "stored users":
            return prepared([replace(request, user=User(request.user.id)) for request in asked])
        case "new items":
            return prepared([new_items(request, number, rng) for number, request in enumerate(asked)])
        case "progressive":
            return prepared(asked, f"{RANK}?mode=progressive")
    return prepared(asked)


def new_items(request: Request, number: int, rng: np.random.Generator) -> Request:
    """Every second time with titles of their own, which the LLM can be asked about."""
    new = unknown_items(request, 5, rng)
    if number % 2:
        return new
    titled = tuple(replace(c, features={"title": f"Title {rng.integers(2**62)}"}) if c.item.startswith("new-") else c
                   for c in new.candidates or ())  # fmt: skip
    return replace(new, candidates=Candidates.of(titled))


def events_of(request: Request) -> bytes:
    """The last events of a user, as they are appended to the store."""
    events = [{"item": e.item, "rating": e.rating, "time": e.time} for e in request.user.history[-3:]]
    return json.dumps({"user_id": request.user.id, "events": events}).encode()


class Stretches:
    """What became of the requests so far, by kind."""

    def __init__(self) -> None:
        self.failed: dict[str, int] = {}
        self._latency: dict[str, list[Floats]] = {}

    def add(self, done: Outcome, load: Mix) -> None:
        for kind in dict.fromkeys(load.kinds):
            mine = load.of(kind)
            wanted = np.isin(done.status[mine], (400, 422) if kind == "refused" else (200,))
            self.failed[kind] = self.failed.get(kind, 0) + int((~wanted).sum())
            self._latency.setdefault(kind, []).append(done.latency[mine])

    def to_json(self) -> Row:
        return {"failed": self.failed, "latency": {
            kind: percentiles(np.concatenate(parts)) for kind, parts in self._latency.items()}}  # fmt: skip


@contextmanager
def memory(server: Server) -> Iterator[list[tuple[float, float, float]]]:
    """Rows of minutes, MB of the server, MB of its children; the list grows until the end of the block."""
    seen: list[tuple[float, float, float]] = []
    over, began = threading.Event(), time.monotonic()

    def look() -> None:
        while not over.wait(EVERY):
            children = sum(map(resident, server.processes()[1:]))
            seen.append(((time.monotonic() - began) / 60.0, resident(server.pid) / MB, children / MB))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def growth(seen: Floats) -> Row:
    """MB a minute over the last two thirds: of the server, of its children, and of both together."""
    late = seen[seen[:, 0] >= seen[-1, 0] / 3.0]
    columns = {"server": late[:, 1], "llm": late[:, 2], "both": late[:, 1] + late[:, 2]}
    return {name: slope(late[:, 0], values, BLOCK).to_json() for name, values in columns.items()}


def targets(part: Row) -> list[Row]:
    """Memory, and no request with another status than was to be expected."""
    return [
        at_most(
            "soak: resident memory of server and LLM, MB a minute",
            part["slope_mb_per_min"]["both"],
            LIMIT,
            part["void"],
        ),
        none_of("soak: unexpected statuses", sum(part["failed"].values()), part["void"]),
    ]
