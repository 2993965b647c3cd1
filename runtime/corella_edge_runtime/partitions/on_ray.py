"""Partitions scored by the workers of a Ray cluster. The one file that knows ray (extra [ray]).

A worker is an actor, so that the bundle is opened once in each. One that dies is replaced, and its partition is given
to the next that is free, which goes on with the pieces that are finished.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from io import TextIOBase
from pathlib import Path
from typing import Any

import corella_edge
from corella_edge.bundle import artefact
from corella_edge.errors import ComputeError, InputError, InterruptedRunError
from corella_edge_runtime.batch import Progress, Tally
from corella_edge_runtime.partitions import layout, parquet, scoring
from corella_edge_runtime.partitions.layout import Partition
from corella_edge_runtime.partitions.worker import EngineWorker, raised

MOST_TRIES = 3  # of a partition, and of the first worker
WAIT = 0.5  # seconds between looks at how far the workers are
_STOPS = (signal.SIGINT, signal.SIGTERM)
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PartitionJob:
    """What every worker is told.

    Attributes:
        cpus: of each worker. options: others of `Engine.open`. force: see `scoring.check_places`.
    """

    bundle: Path
    cpus: int
    options: dict[str, Any]
    force: bool


@dataclass(slots=True)
class Tell:
    """Whom the driver tells what: progress, a warning, what -v shows, the columns that nothing reads."""

    progress: Progress
    warn: Callable[[str], None]
    left: Callable[[list[str]], None]


def score_all(found: Sequence[Partition], job: PartitionJob, address: str, workers: int | None, tell: Tell) -> Tally:
    """Score every partition that is not there yet.

    Args:
        address: "auto", "ray://host:port", or "local" for a cluster of this run's own.
        workers: None = as many as there are CPUs for.

    Raises:
        InputError: no such cluster; or what `scoring.score_all` says. ComputeError: workers die again and again.
    """
    with _connected(address) as ray:
        return _Driver(ray, found, job, tell).run(workers or room(ray.nodes(), job.cpus))


def room(nodes: Sequence[dict[str, Any]], cpus: int) -> int:
    """Workers that the CPUs of the nodes suffice for. Raises InputError: for none."""
    found = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Alive"]]
    if not (count := sum(each // cpus for each in found)):
        raise InputError(
            f"--worker-cpus {cpus}: no node of the cluster has so many; the largest has {max(found, default=0)}"
        )
    return count


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected; nothing of it is sent anywhere, and what it prints is a debug message."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    logging.getLogger("ray").setLevel(logging.ERROR)
    import ray

    with redirect_stdout(_Debug()), _interruptible(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="ray")
        try:
            _begin(ray, address)
            yield ray
        finally:
            ray.shutdown()


def _begin(ray: Any, address: str) -> None:
    # A cluster of its own needs no dashboard; of another one these options would be refused.
    own = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        hint = "start one (ray start --head), or name it: --ray-address ray://HOST:10001, or local"
        raise InputError(f"--ray-address {address}: no Ray cluster ({first}); {hint}") from None
    _listen()  # Ray's own way to end at SIGTERM is a trace


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and SIGTERM as an error, so that Ray is left in order: processes of a cluster of its own would stay."""
    before = {number: signal.getsignal(number) for number in _STOPS}
    _listen()
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; run the same command again to resume") from None
    finally:
        if _is_main():
            for number, handler in before.items():
                signal.signal(number, handler)


def _listen() -> None:
    """What is ignored stays so, as in any background job of a script."""
    for number in _STOPS if _is_main() else ():
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _is_main() -> bool:
    return threading.current_thread() is threading.main_thread()


class _Debug(TextIOBase):
    """A standard output whose lines are debug messages."""

    def write(self, text: str) -> int:
        if text.strip():
            _LOG.debug("%s", text.strip())
        return len(text)


class _Driver:
    """Gives partitions to workers, and takes what they say."""

    def __init__(self, ray: Any, found: Sequence[Partition], job: PartitionJob, tell: Tell) -> None:
        self._ray, self._job, self._tell, self._all = ray, job, tell, found
        self._waiting = deque(found)
        self._tries: Counter[str] = Counter()
        # What is awaited → the worker, and its partition; None where it opens the bundle.
        self._running: dict[Any, tuple[Any, Partition | None]] = {}
        self._asked: dict[Any, Any] = {}  # a worker → its answer how far it is
        self._far: dict[Any, int] = {}
        self._wanted: dict[str, Any] | None = None  # the label of all partitions, known from the first worker on
        self._told: set[str] = set()
        self._tally, self._begun = Tally(), time.perf_counter()

    def run(self, workers: int) -> Tally:
        for _ in range(min(workers, len(self._all))):
            self._start()
        while self._running:
            ready, _ = self._ray.wait([*self._running], num_returns=1, timeout=WAIT)
            for awaited in ready:
                self._ended(awaited, *self._running.pop(awaited))
            self._show()
        return self._tally

    def _start(self) -> None:
        """Another worker, as soon as the cluster has the CPUs."""
        job = self._job
        manifest = artefact.sha256(job.bundle / artefact.MANIFEST)
        # Two calls at a time: one scores, the other says how far it is.
        kind = self._ray.remote(num_cpus=job.cpus, max_restarts=0, max_concurrency=2)(EngineWorker)
        worker = kind.remote(str(job.bundle.resolve()), manifest, corella_edge.__version__, job.cpus, job.options)
        self._running[worker.open.remote()] = worker, None

    def _ended(self, awaited: Any, worker: Any, partition: Partition | None) -> None:
        errors = self._ray.exceptions
        self._far.pop(worker, None)
        try:
            found = self._ray.get(awaited)
        except errors.RayTaskError:  # a fault of ours, with its trace
            raise
        except errors.RayError as error:
            self._lost(partition, error)
            return
        if partition is None:
            self._opened(raised(found))
        else:
            self._scored(partition, raised(found))
        self._next(worker)

    def _lost(self, partition: Partition | None, error: Exception) -> None:
        """A worker has died: another one takes its place, its partition waits again."""
        name = partition.name if partition else ""
        self._tries[name] += 1
        _LOG.debug("a worker has ended: %s", error)
        if self._tries[name] >= MOST_TRIES:
            why = (str(error).strip().splitlines() or [type(error).__name__])[-1][:300]
            if name:
                raise ComputeError(f"{name}: the worker that scores it has died {MOST_TRIES} times: {why}")
            need = "every machine needs the same release of corella-edge, with its extras"
            raise ComputeError(f"a worker that opens the bundle has died {MOST_TRIES} times: {why}; {need}")
        if partition:
            self._tell.warn(f"a worker has died; {name} goes on with another one")
            self._waiting.appendleft(partition)
        self._start()

    def _opened(self, found: dict[str, Any]) -> None:
        self._tries[""] = 0
        _LOG.debug("worker on %s, pid %d: %s", found["host"], found["pid"], found["setup"])
        for warning in found["warnings"]:
            if warning not in self._told:
                self._told.add(warning)
                self._tell.warn(f"{found['host']}: {warning}")
        wanted = scoring.same(self._job.bundle, found["threshold"], found["llm"], self._job.options["deterministic"])
        if self._wanted is None:
            self._tally.total = scoring.count(self._all, found["features"], self._tell.left)
            scoring.check_places(self._all, wanted, self._job.force)
            self._wanted = wanted
        elif wanted != self._wanted:
            which = "an LLM, and others have none" if found["llm"] else "no LLM, and others have one"
            raise InputError(
                f"the worker on {found['host']} has {which}; install the same everywhere, or pass --no-llm"
            )

    def _scored(self, partition: Partition, found: dict[str, Any]) -> None:
        label = parquet.label(partition.out)
        if label is None or layout.difference(label, self._wanted or {}):
            raise InputError(f"--out {partition.out}: a worker has written it, and it is not here; workers need one "
                             "--out, on a path that all of them reach")  # fmt: skip
        self._tally.include(Tally.from_json(found))

    def _next(self, worker: Any) -> None:
        """Give a worker what waits and is not there yet; where nothing is, let it go."""
        while self._waiting:
            partition = self._waiting.popleft()
            label = partition.label(self._wanted or {})
            if scoring.is_finished(partition, label):
                self._tally.kept += parquet.count(partition.source)
                continue
            awaited = worker.score.remote(
                partition.name, *map(str, (partition.source.resolve(), partition.out.absolute())), label
            )
            self._running[awaited] = worker, partition
            return
        self._ray.kill(worker)

    def _show(self) -> None:
        """What is finished, and what the workers are at."""
        for worker, asked in [*self._asked.items()]:
            if self._ray.wait([asked], timeout=0)[0]:
                del self._asked[worker]
                with suppress(self._ray.exceptions.RayError):  # that it has died is told by what it was asked for
                    self._far[worker] = self._ray.get(asked)
        at_work = [worker for worker, partition in self._running.values() if partition]
        self._asked |= {worker: worker.done.remote() for worker in at_work if worker not in self._asked}
        self._tally.seconds = time.perf_counter() - self._begun
        far = sum(self._far.get(worker, 0) for worker in at_work)
        shown = Tally(
            self._tally.total, kept=self._tally.kept, requests=self._tally.requests + far, seconds=self._tally.seconds
        )
        self._tell.progress(shown)
