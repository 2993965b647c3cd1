"""Something that happens at a given time, unless it is called off before. One thread for all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Alarm:
    """Calls `ring` when the time given to `at` comes while its block is still at work."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._changed = threading.Condition()
        self._time: float | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    @contextmanager
    def at(self, when: float | None) -> Iterator[None]:
        """`when` is a time of `time.monotonic()`; None = never."""
        if when is None:
            yield
            return
        self._set(when)
        try:
            yield
        finally:
            self._set(None)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _set(self, when: float | None) -> None:
        with self._changed:
            self._time = when
            if when is None:
                return  # the thread finds out when it wakes: nobody need wait for that
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="corella-llm-alarm", daemon=True)
                self._thread.start()
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._closed:
                left = None if self._time is None else self._time - time.monotonic()
                if left is not None and left <= 0:
                    self._time = None
                    self._ring()
                else:
                    self._changed.wait(None if left is None else min(left, threading.TIMEOUT_MAX))
