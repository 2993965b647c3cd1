"""The LLM fails in mid-load: no request may fail, and none that did not need the LLM may be late.

A steady mix of easy requests (new users, nothing routed) and hard ones (returning users, everything routed, the
server's own deadline), in pairs of a calm segment and one with a fault, by turns in either order. Faults: `kill`, the
LLM's process is killed every second; `stall`, it is stopped (SIGSTOP) throughout; `nan`, its logits are NaN. Each
segment begins when the LLM answers again. The ratio is that of the easy requests' 99th percentiles within a pair, from
the moment each was meant to be sent.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge.errors import InputError
from corella_edge.request_json import request_body
from corella_edge_runtime.bench.load.mix import Mix, Stream, mix
from corella_edge_runtime.bench.load.outcome import Outcome
from harness.judged import at_most, none_of
from harness.load.server import Server, ServerError
from harness.load.setting import ServerUnderLoad, setting
from harness.load.summary import answered, percentiles
from harness.load.traffic import prepared
from harness.pairs import ratio_of

KINDS = ("kill", "stall", "nan")
SITE = Path(__file__).parents[2] / "faults"  # its sitecustomize.py makes the logits NaN while a file is there
VARIABLE = "CORELLA_EDGE_FAULT_NAN"
KILL_EVERY = 1.0
RECOVERY = 60.0
LIMIT = 1.5
Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kinds", default=",".join(KINDS), help="of fault (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=15, help="of a calm and a faulty segment, for each kind")
    parser.add_argument("--segment", type=float, default=6.0, help="seconds")
    parser.add_argument("--easy", type=float, default=100.0, help="requests a second of which nothing is routed")
    parser.add_argument("--hard", type=float, default=10.0, help="requests a second of which all is routed")
    parser.add_argument("--candidates", type=int, default=20)


def measure(options: argparse.Namespace) -> Row:
    """Every kind of fault on one server."""
    kinds = [kind for kind in options.kinds.split(",") if kind]
    if unknown := set(kinds) - set(KINDS):
        raise InputError(f"--kinds {sorted(unknown)[0]!r}: known are {', '.join(KINDS)}")
    with tempfile.TemporaryDirectory(prefix="corella-faults-") as folder:
        flag = Path(folder) / "nan"
        paths = os.pathsep.join(filter(None, (str(SITE), os.environ.get("PYTHONPATH"))))
        environment = {VARIABLE: str(flag), "PYTHONPATH": paths} if "nan" in kinds else {}
        with setting(options, ["--require-llm"], environment) as run:
            rows = [of_kind(kind, run, flag, options) for kind in kinds]
    load = {name: max(row["load"][name] for row in rows) for name in ("foreign", "steal")}
    return {
        "pairs": options.pairs, "segment_s": options.segment, "candidates": options.candidates, "faults": rows,
        "rates_per_s": {"easy": options.easy, "hard": options.hard}, "load": load,
        "generator_share": max(row["generator_share"] for row in rows), "void": any(row["void"] for row in rows),
    }  # fmt: skip


def of_kind(kind: str, run: ServerUnderLoad, flag: Path, options: argparse.Namespace) -> Row:
    """All pairs of one kind of fault."""
    easy = prepared(run.source.strangers(300, options.candidates, options.seed, "ratio:0"))
    hard = run.source.users_again(300, options.candidates, options.seed + 1, "ratio:1")
    faults: dict[str, Callable[[], AbstractContextManager[None]]] = {
        "kill": lambda: killed(run.server), "stall": lambda: stopped(run.server), "nan": lambda: present(flag)
    }  # fmt: skip
    probe, sides = request_body(hard[0]), {"calm": Side(), "fault": Side()}
    streams = [Stream("easy", options.easy, easy), Stream("hard", options.hard, prepared(hard))]
    recover(run.server, probe)
    run.put(mix(streams, 2.0, options.seed))
    run.quiet_from_now()
    for number in range(options.pairs):
        load = mix(streams, options.segment, options.seed + number)
        for name in ("calm", "fault") if number % 2 else ("fault", "calm"):
            sides[name].add(*segment(run, load, faults[kind]() if name == "fault" else nullcontext()), load)
            recover(run.server, probe)
    ratios = [b / a for a, b in zip(sides["calm"].p99, sides["fault"].p99, strict=True)]
    return {
        "fault": kind, "p99_ratio": ratio_of(ratios).to_json(), "calm": sides["calm"].to_json(),
        "faulty": sides["fault"].to_json(), "failed": sides["calm"].failed + sides["fault"].failed, **run.verdict(),
    }  # fmt: skip


def segment(run: ServerUnderLoad, load: Mix, fault: AbstractContextManager[None]) -> tuple[Outcome, Counter[str]]:
    """What became of a load under a fault, and how many candidates were scored with which outcome."""
    before = run.server.outcomes()
    with fault:
        done = run.put(load)
    return done, run.server.outcomes() - before


class Side:
    """All segments with the fault, or all without."""

    def __init__(self) -> None:
        self.p99: list[float] = []
        self.failed = 0
        self._easy: list[Any] = []
        self._hard: list[Any] = []
        self._outcomes: Counter[str] = Counter()

    def add(self, done: Outcome, scored: Counter[str], load: Mix) -> None:
        """One more segment, and its candidates by outcome."""
        self._outcomes += scored
        easy, hard = done.latency[load.of("easy")], done.latency[load.of("hard")]
        self.p99.append(float(np.percentile(answered(easy), 99)))
        self.failed += int((done.status != 200).sum())
        self._easy.append(easy)
        self._hard.append(hard)

    def to_json(self) -> Row:
        return {"easy": percentiles(np.concatenate(self._easy)), "hard": percentiles(np.concatenate(self._hard)),
                "candidates": dict(self._outcomes)}  # fmt: skip


@contextmanager
def meanwhile(step: Callable[[], None], every: float) -> Iterator[None]:
    """`step` at once and every so many seconds, beside the block."""
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            step()
            over.wait(every)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def killed(server: Server) -> Iterator[None]:
    """The LLM's process is killed every second, as often as there is one."""

    def kill() -> None:
        for child in server.children:
            send(child, signal.SIGKILL)

    with meanwhile(kill, KILL_EVERY):
        yield


@contextmanager
def stopped(server: Server) -> Iterator[None]:
    """The LLM's process is stopped throughout, and so is one that takes its place."""
    known: set[int] = set()

    def stop() -> None:
        for child in set(server.children) - known:
            send(child, signal.SIGSTOP)
            known.add(child)

    try:
        with meanwhile(stop, 0.1):
            yield
    finally:
        for child in known:
            send(child, signal.SIGCONT)


@contextmanager
def present(flag: Path) -> Iterator[None]:
    """The file is there."""
    flag.touch()
    try:
        yield
    finally:
        flag.unlink()


def send(process: int, number: int) -> None:
    """A signal to a process that may be gone."""
    try:
        os.kill(process, number)
    except ProcessLookupError:
        return


def recover(server: Server, probe: bytes) -> None:
    """Until the LLM answers.

    Raises:
        ServerError: it does not in time.
    """
    end = time.monotonic() + RECOVERY
    while time.monotonic() < end:
        status, body = server.ask("POST", "/v1/rank", probe)
        if status == 200 and all(row["routed"] for row in json.loads(body)["candidates"]):
            return
        time.sleep(0.2)
    raise ServerError(f"the LLM has not come back within {RECOVERY:.0f} s")


def targets(part: Row) -> list[Row]:
    """For each kind: nothing failed, easy requests hardly slower."""
    return [target for row in part["faults"] for target in (
        none_of(f"{row['fault']}: failed requests", row["failed"], row["void"]),
        at_most(f"{row['fault']}: p99 of requests with nothing routed, to the calm ones", row["p99_ratio"], LIMIT,
                row["void"]),
    )]  # fmt: skip
