"""The one thread that writes. What waits when a transaction begins shares its commit, and so its fsync."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from corella_edge.errors import StoreError, StoreFullError, StoreGoneError
from corella_edge_runtime.store.arrivals import Arrivals
from corella_edge_runtime.store.failure import explained, is_busy, is_full
from corella_edge_runtime.store.opening import empty_log
from corella_edge_runtime.store.presence import Presence

Done = TypeVar("Done")
TOGETHER = 256  # steps in one transaction


@dataclass(frozen=True, slots=True)
class WriteStep(Generic[Done]):
    """One thing to do: all of it is on the disk when `future` has its result, or none of it.

    `run` may be called twice. `done` is called after the commit, before anyone gets the result; where a step `erases`,
    nothing of what was removed before stays in the log.
    """

    run: Callable[[sqlite3.Connection], Done]
    done: Callable[[Done], None] = lambda _: None
    erases: bool = False
    future: Future[Done] = field(default_factory=Future)


class StoreWriter:
    """Runs steps in the order they come."""

    def __init__(self, path: Path, db: sqlite3.Connection, arrivals: Arrivals, presence: Presence) -> None:
        self._path, self._db, self._arrivals, self._presence = path, db, arrivals, presence
        self._queue: queue.SimpleQueue[WriteStep[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="corella-store", daemon=True)
        self._thread.start()

    def submit(self, step: WriteStep[Done]) -> Future[Done]:
        """The future of a step.

        Raises:
            StoreError: the store is closed.
        """
        with self._lock:
            if self._closed:
                raise StoreError(f"{self._path}: the store is closed")
            self._queue.put(step)
        return step.future

    def close(self) -> None:
        """Finish what was submitted, then let go of the file."""
        with self._lock:
            if not self._closed:
                self._queue.put(None)
            self._closed = True
        self._thread.join()

    def _run(self) -> None:
        while steps := self._next():
            self._do([step for step in steps if step.future.set_running_or_notify_cancel()])
        with contextlib.suppress(sqlite3.Error):  # a full disk: the next to open it finds the log
            empty_log(self._db)
        # SQLite removes the log by its name when the last connection ends: not if that is another one by now.
        if self._presence.has_log():
            self._presence.release()
        self._db.close()
        self._presence.close()

    def _next(self) -> list[WriteStep[Any]]:
        """At least one step, or none at the end."""
        steps = []
        step = self._queue.get()
        while step is not None:
            steps.append(step)
            if len(steps) == TOGETHER:
                return steps
            try:
                step = self._queue.get_nowait()
            except queue.Empty:
                return steps
        if steps:
            self._queue.put(None)  # nothing comes after the end
        return steps

    def _do(self, steps: list[WriteStep[Any]]) -> None:
        """All in one transaction; if one of them fails, each in its own."""
        try:
            self._presence.check()
            results = self._commit(steps)
        except Exception as error:  # noqa: BLE001 - handed to the caller that waits
            with contextlib.suppress(sqlite3.Error):
                self._db.rollback()
            if len(steps) > 1 and not _for_all(error):
                for step in steps:
                    self._do([step])
            else:
                for step in steps:
                    step.future.set_exception(self._plain(error))
        else:
            self._answer(steps, results)

    def _commit(self, steps: list[WriteStep[Any]]) -> list[Any]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            results = [step.run(self._db) for step in steps]
            self._arrivals.keep(self._db)
            self._db.execute("COMMIT")
        finally:
            self._presence.wrote()  # also where it failed: a part of the log may have been moved into the file
        self._arrivals.kept()
        return results

    def _answer(self, steps: list[WriteStep[Any]], results: list[Any]) -> None:
        for step, result in zip(steps, results, strict=True):
            step.done(result)
        try:
            self._presence.check()  # the commit may have gone into a file that is no longer there
        except StoreGoneError as error:
            for step in steps:
                step.future.set_exception(error)
            return
        for step, result in zip(steps, results, strict=True):
            if not step.erases:
                step.future.set_result(result)
        erasures = [(step, result) for step, result in zip(steps, results, strict=True) if step.erases]
        failure = self._left() if erasures else None
        for step, result in erasures:
            if failure:
                step.future.set_exception(failure)
            else:
                step.future.set_result(result)

    def _left(self) -> StoreError | None:
        """Why the log still holds what was removed; None if it is empty."""
        try:
            if empty_log(self._db):
                return None
            kind, why = StoreError, "another program reads it"
        except sqlite3.Error as error:
            kind, why = StoreFullError if is_full(error) else StoreError, str(error)
        finally:
            self._presence.wrote()
        return kind(f"{self._path}: removed, but its log keeps a copy ({why}); send the same again")

    def _plain(self, error: Exception) -> Exception:
        return explained(self._path, error) if isinstance(error, sqlite3.Error) else error


def _for_all(error: Exception) -> bool:
    """Whether another program holds the file, for which each step would wait once more, or there is no file."""
    return isinstance(error, StoreGoneError) or (isinstance(error, sqlite3.Error) and is_busy(error))
