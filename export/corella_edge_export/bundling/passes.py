"""What an export is doing, how long each part of it took, and a pass over rows beside the others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
WORTH_TELLING = 1.0  # seconds


class GivenUpError(RuntimeError):
    """Nobody wants the rest of a pass any more."""


class StageTimes:
    """Says what is being done, and how long it took.

    Attributes:
        seconds: part → what it took; parts may run beside each other.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock = say, clock
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        """A part of the work, said at its beginning and, if it took more than a moment, at its end."""
        self._say(f"{what} …")
        started = self._clock()
        yield
        took = self.seconds[what] = self._clock() - started
        if took >= WORTH_TELLING:
            self._say(f"{what}: {took:.0f} s")


class Lane(Generic[T]):
    """Work in a thread of its own, beside what its maker does meanwhile."""

    def __init__(self, work: Callable[[threading.Event], T]) -> None:
        """`work` gets the event that is set when nobody wants it any more."""
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, "corella-pass")
        self._found = self._pool.submit(work, self._stop)

    def result(self) -> T:
        """What it found, once it is done. Raises whatever it raised."""
        return self._found.result()

    def close(self) -> None:
        """It ends soon, if it has not yet; its result is lost then."""
        self._stop.set()
        self._pool.shutdown()


def until(stop: threading.Event | None, rows: Iterable[T]) -> Iterator[T]:
    """The rows, as long as they are wanted. Raises GivenUpError."""
    for row in rows:
        if stop is not None and stop.is_set():
            raise GivenUpError
        yield row
