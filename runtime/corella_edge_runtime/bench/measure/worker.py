"""A process of its own that ranks what it is sent, for a run on all cores: `python -m …bench.measure.worker`.

Messages on standard input and output are MessagePack, each after its length in four bytes. The first says what to
open; then each is a list of request bodies, answered by when they began and ended and what became of them.
"""

from __future__ import annotations

import select
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

from corella_edge.errors import CorellaError
from corella_edge.stopping import LOOK, Stopped, never
from corella_edge_runtime.bench.measure import machine
from corella_edge_runtime.bench.results.seen import Seen

IN_FLIGHT = 16  # requests that wait for the LLM at once: enough to fill its decodes, below every queue's bound
_LENGTH = struct.Struct("<I")
T = TypeVar("T")


class Open(msgspec.Struct):
    """The first message."""

    bundle: str
    llm: bool


class Done(msgspec.Struct):
    """The answer to a list of requests; times of `time.monotonic()`, which all processes of a machine share."""

    began: float
    ended: float
    llm_seconds: float
    seen: list[Seen]


class Worker:
    """One process, seen from its parent."""

    def __init__(self, bundle: Path, llm: bool) -> None:
        """Starts to open the bundle; `ready` waits for it."""
        # A process group of its own: the terminal's Ctrl-C is the parent's to answer.
        self._process = subprocess.Popen([sys.executable, "-P", "-m", "corella_edge_runtime.bench.measure.worker"],
                                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0)  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self.pid = self._process.pid
        _send(self._in, Open(str(bundle), llm))

    def ready(self) -> None:
        """Raises CorellaError: it has ended."""
        self._receive(bool)

    def start(self, bodies: Sequence[bytes]) -> None:
        """Let it rank; `done` waits for it."""
        _send(self._in, list(bodies))

    def done(self, stop: Callable[[], bool] = never) -> Done:
        """Raises CorellaError: it has ended. Stopped: somebody wants the end."""
        while not select.select([self._out], [], [], LOOK)[0]:
            if stop():
                raise Stopped
        return self._receive(Done)

    def _receive(self, kind: type[T]) -> T:
        found = _read(self._out)
        if found is None:
            raise CorellaError(f"a process of the Offline run ended with {self._process.wait()}")
        return msgspec.msgpack.decode(found, type=kind)

    def kill(self) -> None:
        """End it in the middle of what it does; `close` is still to be called."""
        self._process.kill()

    def close(self) -> None:
        """End it."""
        with suppress(BrokenPipeError):  # it was killed
            self._in.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()


class Workers:
    """Processes that share one list of requests, each with one thread for each model."""

    def __init__(self, bundle: Path, llm: bool, count: int) -> None:
        """All of them open the bundle at once. Raises CorellaError."""
        self.count = count
        self._workers = [Worker(bundle, llm) for _ in range(count)]
        try:
            for worker in self._workers:
                worker.ready()
        except BaseException:
            self.close()
            raise

    def run(self, bodies: Sequence[bytes], stop: Callable[[], bool] = never) -> tuple[list[Seen], float, float]:
        """Each ranks its part: what was seen, seconds, the LLMs' seconds.

        The seconds are what the requests take at the rate of all of them at work: each process's own rate counts while
        it has work, and who is done does not wait for the slowest.

        Raises:
            Stopped: somebody wants the end.
        """
        for number, worker in enumerate(self._workers):
            worker.start(bodies[number :: self.count])
        try:
            parts = [worker.done(stop) for worker in self._workers]
        except Stopped:
            for worker in self._workers:
                worker.kill()
            raise
        seen = [one for part in parts for one in part.seen]
        rate = sum(len(part.seen) / (part.ended - part.began) for part in parts if part.seen)
        return seen, len(seen) / max(rate, 1e-9), sum(part.llm_seconds for part in parts)

    def memory(self) -> int:
        """Greatest resident bytes of all of them together so far."""
        return sum(machine.peak_of(worker.pid) or 0 for worker in self._workers)

    def close(self) -> None:
        """End all of them."""
        for worker in self._workers:
            worker.close()


def _send(stream: IO[bytes], message: Any) -> None:
    data = msgspec.msgpack.encode(message)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def _read(stream: IO[bytes]) -> bytes | None:
    """A message; None at the end."""
    head = stream.read(_LENGTH.size)
    return stream.read(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None


def main() -> None:
    """Open a bundle, with one thread for each model, and rank until the input ends."""
    import time

    from corella_edge_runtime.bench.measure.target import InProcess
    from corella_edge_runtime.engine import Engine

    given = msgspec.msgpack.decode(_read(sys.stdin.buffer) or b"", type=Open)
    llm = "thread" if given.llm else None
    with Engine.open(Path(given.bundle), llm=llm, crm_threads=1, llm_threads=1, cpus=1) as engine:
        engine.warm_up()
        target = InProcess(engine)
        _send(sys.stdout.buffer, True)
        while (message := _read(sys.stdin.buffer)) is not None:
            bodies = msgspec.msgpack.decode(message, type=list[bytes])
            target.forget()
            before, began = target.llm_seconds() or 0.0, time.monotonic()
            seen = target.stream(bodies, [0.0] * len(bodies), IN_FLIGHT)
            ended = time.monotonic()
            _send(sys.stdout.buffer, Done(began, ended, (target.llm_seconds() or 0.0) - before, seen))


if __name__ == "__main__":
    main()
