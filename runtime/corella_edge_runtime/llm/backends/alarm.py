"""Something that happens at given times. One thread for all of them, which begins with the first."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable


class Alarm:
    """Calls `ring` at the nearest of the times it was given; `ring` says when to come again (None = never)."""

    def __init__(self, ring: Callable[[], float | None]) -> None:
        self._ring = ring
        self._changed = threading.Condition()
        self._time = math.inf
        self._closed = False
        self._thread: threading.Thread | None = None

    def by(self, when: float) -> None:
        """Ring at `when`, a time of `time.monotonic()`, or before."""
        with self._changed:
            if when >= self._time or self._closed:
                return
            self._time = when
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="corella-llm-alarm", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while self._wait():
            again = self._ring()
            if again is not None:
                self.by(again)

    def _wait(self) -> bool:
        """Until it is time (True) or closed."""
        with self._changed:
            while not self._closed and (left := self._time - time.monotonic()) > 0.0:
                self._changed.wait(min(left, threading.TIMEOUT_MAX))
            self._time = math.inf
            return not self._closed
