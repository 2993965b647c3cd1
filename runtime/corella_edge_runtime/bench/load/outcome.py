"""Put a load on a server and see what became of it: starts the generator, reads what it wrote."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corella_edge.errors import CorellaError
from corella_edge.stopping import LOOK, Stopped, never
from corella_edge_runtime.bench.load.plan import Happened, LoadPlan, read_happened, write_plan

GENERATOR = "corella_edge_runtime.bench.load.generator"
MOST_OF_A_CORE = 0.10  # above it the generator is part of what it measures
LATE = 600.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of every request of a plan, in its order.

    Attributes:
        moments: float64 [n], seconds from the beginning at which each was meant to be sent.
        which: int64 [n], indices of the requests.
    """

    moments: Floats
    which: npt.NDArray[np.int64]
    happened: Happened

    @property
    def latency(self) -> Floats:
        """Seconds from the moment meant to the end of the reply, [n]; inf where no reply came."""
        return np.nan_to_num(np.asarray(self.happened.end) - self.moments, nan=np.inf)

    @property
    def lag(self) -> Floats:
        """Seconds by which each was sent late, [n]; nan for those that were not sent."""
        return np.asarray(self.happened.sent) - self.moments

    @property
    def status(self) -> npt.NDArray[np.int64]:
        return np.asarray(self.happened.status, np.int64)

    @property
    def share(self) -> float:
        """Of a core, used by the generator; above `MOST_OF_A_CORE` the run is void."""
        return self.happened.cpu_seconds / max(1e-9, self.happened.wall_seconds)


class Running:
    """A generator at work. `begin` is the time of `time.monotonic()` from which its moments count."""

    def __init__(self, plan: LoadPlan, folder: Path) -> None:
        self._plan, self._folder = plan, folder
        command = [sys.executable, "-P", "-m", GENERATOR, str(folder)]
        # A process group of its own: the terminal's Ctrl-C is the parent's to answer.
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, process_group=0)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise CorellaError(f"the load generator ended with {self._process.wait()} before it began")
        self.begin = float(line)

    def wait(self, stop: Callable[[], bool] = never) -> Outcome:
        """Until the last reply.

        Raises:
            CorellaError: the generator itself failed. Stopped: somebody wants the end.
        """
        end = time.monotonic() + LATE + self._plan.patience + max(self._plan.moments, default=0.0)
        while (status := self._ended()) is None:
            if stop():
                raise Stopped
            if time.monotonic() > end:
                raise CorellaError("the load generator does not end")
        if status:
            raise CorellaError(f"the load generator ended with {status}")
        moments, which = np.asarray(self._plan.moments, np.float64), np.asarray(self._plan.which, np.int64)
        return Outcome(moments, which, read_happened(self._folder))

    def _ended(self) -> int | None:
        """Its status, if it has ended within `LOOK` seconds."""
        try:
            return self._process.wait(LOOK)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """Stop it if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@contextmanager
def running(plan: LoadPlan, requests: Sequence[bytes]) -> Iterator[Running]:
    """A generator that sends `plan`; it ends with the block."""
    with tempfile.TemporaryDirectory(prefix="corella-load-") as folder:
        write_plan(Path(folder), plan, requests)
        load = Running(plan, Path(folder))
        try:
            yield load
        finally:
            load.end()


def put(plan: LoadPlan, requests: Sequence[bytes], stop: Callable[[], bool] = never) -> Outcome:
    """Send a plan and wait for its end. Raises Stopped: somebody wants it earlier."""
    with running(plan, requests) as load:
        return load.wait(stop)
