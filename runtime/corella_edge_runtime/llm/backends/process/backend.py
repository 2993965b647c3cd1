"""The LLM in a child process, watched: what happens to it can neither crash nor stop the runtime.

    submit ──▶ ASK ──▶ child.py: its main thread ──▶ its ThreadBackend
    future ◀── ANSWERS ◀──┘     here one thread starts the child, reads, asks for its counters, and starts it again

A future ends with the child's answers, with "deadline" shortly after its deadline, or with "llm_error" as soon as the
child is dead. A child that does not even send its counters is killed, whatever is asked of it; one that sends them
while its decode hangs is silent for the guard, which then calls `renew`. Nothing waits for a restart: the CRM decides
meanwhile.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from corella_edge import errors
from corella_edge.errors import BundleError, ComputeError, CorellaError, MissingExtraError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.backends.process import wire
from corella_edge_runtime.llm.backends.process.link import Link
from corella_edge_runtime.llm.contract import endings
from corella_edge_runtime.llm.contract.backend import ModelSpec
from corella_edge_runtime.llm.contract.deadline import nearer
from corella_edge_runtime.llm.contract.in_flight import InFlight
from corella_edge_runtime.llm.contract.messages import Answers, Prompt, Prompts
from corella_edge_runtime.llm.contract.settings import LlmSettings
from corella_edge_runtime.llm.llama import trust

_LOG = logging.getLogger("corella_edge.llm")
_LONG = 3600.0  # seconds; a wait has to end at some time
_LINE = 400  # characters of the child's own messages that are passed on, a line


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds.

    Attributes:
        start: for a model to be loaded; a child that takes longer is killed.
        ping: from one message of the child until its counters are asked for again.
        silence: for them to come; a child that does not send them, such as a stopped one, is killed.
        first_pause, longest_pause: before a restart; doubled after each life shorter than `longest_pause`.
        close: for the work in hand when the backend is closed.
    """

    start: float = 120.0
    ping: float = 0.5
    silence: float = 5.0
    first_pause: float = 0.1
    longest_pause: float = 10.0
    close: float = 5.0


def pause(failures: int, patience: Patience) -> float:
    """Seconds before the next start, after so many short lives in a row."""
    return min(patience.longest_pause, patience.first_pause * 2 ** min(failures - 1, 30)) if failures else 0.0


class NotStartedError(BundleError):
    """The first child cannot be started, or ended before it was ready, for a reason that is not the model's own."""


class _Life:
    """One child, from its start to its end."""

    def __init__(self, setup: ModelSpec) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self.process = _start(setup, theirs.fileno())
            except BaseException:
                ours.close()
                raise
        self.link = Link(ours)
        self.fatal: CorellaError | None = None
        self.ready = self.silent = False
        self._said = threading.Thread(target=_pass_on, args=(self.process.stderr,), name="corella-llm-log", daemon=True)
        self._said.start()

    def end(self, seconds: float) -> int:
        """Wait so long for its end, then bring it about; the exit status."""
        self.link.close()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._said.join(1.0)
        return self.process.returncode


class ProcessBackend:
    """A child process owns the scorer; `submit` answers "llm_error" at once while no child is ready."""

    def __init__(
        self, model_file: Path, tokens: Tokens, settings: LlmSettings, patience: Patience = Patience(),
        extra: bool | None = None, adapters: Mapping[str, Path] | None = None,
    ) -> None:  # fmt: skip
        """Start the first child; `wait_ready` waits for it. `extra`, `adapters`: see `ModelSpec`."""
        placed = {name: file.absolute() for name, file in (adapters or {}).items()}
        self._setup = ModelSpec(model_file.absolute(), tokens, settings, extra, placed)
        self._patience = patience
        self._in_flight = InFlight()
        self._stats: dict[str, float] = {}
        self._failures: set[str] = set()
        self._starts = 0
        self._exits = Counter[str]()
        self._lock = threading.Lock()
        self._closed = False
        self._stop = threading.Event()
        self._life: _Life | None = None
        self._link: Link | None = None  # of a child that has loaded its model
        self._looks_again = math.inf
        self._first: Future[None] = Future()
        self._watch = threading.Thread(target=self._live, name="corella-llm-watch", daemon=True)
        self._watch.start()

    @property
    def pid(self) -> int | None:
        """The present child's."""
        life = self._life
        return None if life is None else life.process.pid

    def wait_ready(self) -> None:
        """Until the first child has loaded its model and computed an answer, or has ended.

        Raises:
            NotStartedError: it has ended; another is tried until `close`.
            CorellaError: it cannot load the model; the message is the child's.
        """
        self._first.result()

    def submit(self, prompts: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the LLM backend is closed")
            link = self._link
        prompts = Prompts.of(prompts)
        id, future = self._in_flight.add(len(prompts), deadline)
        if deadline is not None and deadline <= time.monotonic():
            self._in_flight.fail(id, "deadline")
        elif prompts.tokens > self._setup.settings.queue_tokens:
            # The child would say so, too; but it may be more than a frame holds.
            self._in_flight.fail(id, "queue_full")
        elif link is None:
            self._in_flight.fail(id, "llm_error")
        else:
            self._send(link, id, prompts, deadline)
            future.add_done_callback(lambda ended: self._cancelled(link, id, ended) if ended.cancelled() else None)
        return future

    def forget(self) -> None:
        """A child that has not loaded its model yet has nothing to forget."""
        with self._lock:
            link = self._link
        if link is not None:
            link.send(wire.Forget())

    def renew(self) -> None:
        """Kill the child, unless it is loading its model, for which `Patience.start` holds; another is started."""
        with self._lock:
            life, ready = self._life, self._link is not None
        if life is not None and ready:
            life.silent = True
            life.link.wake()

    def stats(self) -> dict[str, float]:
        """The present child's counters, as of its last message (they start at 0 with every child), and `restarts`,
        `alive` (1 while one is ready), `waiting` (questions without answer), `exits:CAUSE` (children that ended so)."""
        own = {"restarts": max(0, self._starts - 1), "alive": self._link is not None, "waiting": len(self._in_flight)}
        own |= {f"{endings.EXITS}{cause}": number for cause, number in tuple(self._exits.items())}
        return {**self._stats, **{name: float(value) for name, value in own.items()}}

    def close(self) -> None:
        """The child finishes what it has, for `Patience.close` seconds; then it is ended."""
        with self._lock:
            self._closed = True
            life, link = self._life, self._link
        self._stop.set()
        if link is not None:
            link.send(wire.Bye())
        if life is not None:
            life.link.wake()
        self._watch.join()

    def _send(self, link: Link, id: int, prompts: Prompts, deadline: float | None) -> None:
        try:
            link.send(wire.Ask(id, nearer(deadline, time.monotonic()), prompts))
        except wire.WireError as error:
            _LOG.error("LLM process: %s", error)
            self._in_flight.fail(id, "llm_error")
        if self._link is not link:
            # The child ended between our look and our letter, maybe after its questions were swept up.
            self._in_flight.fail(id, "llm_error")
        elif deadline is not None and deadline < self._looks_again:
            link.wake()

    def _cancelled(self, link: Link, id: int, future: Future[Answers]) -> None:
        if self._in_flight.drop(id):
            link.send(wire.Cancel(id))
            future.set_running_or_notify_cancel()  # wakes those who wait for it

    def _live(self) -> None:
        """One child after the other, until closed."""
        failures = 0
        while not self._stop.is_set():
            started = time.monotonic()
            end = self._one_life()
            if self._stop.is_set():
                break
            short = time.monotonic() - started < self._patience.longest_pause
            failures = failures + 1 if short else 0
            wait = pause(failures, self._patience)
            _LOG.error("the LLM process has ended, the CRM decides; next start in %.1f s (%s)", wait, end)
            self._stop.wait(wait)
        if not self._first.done():
            self._first.set_exception(BundleError("the LLM backend was closed before its model was loaded"))

    def _one_life(self) -> str:
        """Start a child, talk until it ends, clear up; how it ended."""
        self._starts += 1
        try:
            life = _Life(self._setup)
        except (OSError, RuntimeError) as error:  # no such program, no memory, no thread
            return self._ended(NotStartedError(f"the LLM process cannot be started: {error}"))
        with self._lock:
            self._life = life
        try:
            why = self._talk(life)
        except Exception as error:  # noqa: BLE001 - without the watch no question would end; a new child is a way out
            why = f"{type(error).__name__}: {error}" if isinstance(error, wire.WireError) else type(error).__name__
        with self._lock:
            self._life = self._link = None
        self._in_flight.fail_all()
        status = life.end(2.0 if why == "gone" else 0.0)
        if not self._stop.is_set():
            self._exits["silent" if why == "silent" else endings.cause(status)] += 1
            self._step_down(status, life.ready)
        return self._ended(life.fatal or NotStartedError(f"LLM process: {why}, {endings.words(status)}"))

    def _step_down(self, status: int, ready: bool) -> None:
        """To the plain kernels, for all further children, if one that used others is likely to have died of them."""
        suspect = -status == signal.SIGILL or (endings.crashed(status) and not ready)
        if suspect and self._setup.extra is not False:
            self._setup = self._setup.plain()
            _LOG.error("the LLM process %s: from now on without AMX and repacked weights", endings.words(status))

    def _ended(self, error: CorellaError) -> str:
        """If the first child never was ready, `wait_ready` raises why."""
        if not self._first.done():
            self._first.set_exception(error)
        return str(error)

    def _talk(self, life: _Life) -> str:
        """Read, ping and expire until the child is gone, silent, or unwanted; which of them."""
        # Nothing is asked of a child that loads, and nothing twice before it is answered. Silence counts from the
        # question: a runtime that was stopped itself for a while has not asked.
        until, ping, lost = math.inf, math.inf, time.monotonic() + self._patience.start
        while True:
            now = time.monotonic()
            if self._stop.is_set():
                until = min(until, now + self._patience.close)
            if now >= until or (until < math.inf and self._link is None):
                return "closed"
            messages = life.link.receive(self._next_look(now, min(ping, lost, until, now + _LONG)) - now)
            if messages is None:
                return "gone"
            now = time.monotonic()
            for message in messages:
                self._heard(life, message)
                ping, lost = now + self._patience.ping, math.inf
            if life.silent or now >= lost:
                return "silent"
            if now >= ping:
                life.link.send(wire.Ping())
                ping, lost = math.inf, now + self._patience.silence

    def _next_look(self, now: float, planned: float) -> float:
        """`planned`, or when the next question is overdue; those that are so already are answered."""
        # Until the time is known, every question with a deadline rings the bell.
        self._looks_again = math.inf
        self._looks_again = min(planned, self._in_flight.expire(now))
        return self._looks_again

    def _heard(self, life: _Life, message: wire.Message) -> None:
        match message:
            case wire.Answered(id, answers, stats):
                self._stats = dict(stats)
                self._in_flight.answer(id, answers)
            case wire.Failed(id, kind):
                self._failed(kind)
                self._in_flight.fail(id, "llm_error")
            case wire.Ready(stats):
                self._stats = dict(stats)
                self._ready(life)
            case wire.Fatal(kind, text):
                life.fatal = _error(kind, text)

    def _failed(self, kind: str) -> None:
        """Logged once a kind: a lasting fault would fill the log with every request."""
        if kind not in self._failures:
            self._failures.add(kind)
            _LOG.error("the LLM fails, the CRM decides: %s in its process", kind)

    def _ready(self, life: _Life) -> None:
        """At every sign of life; the first one of a child that replaces another is news."""
        life.ready = True
        again = self._link is None and self._starts > 1
        with self._lock:
            self._link = life.link
        if again:
            _LOG.warning("the LLM answers again, in a new process")
        if not self._first.done():
            self._first.set_result(None)


def open_backend(kind: str, model: ModelSpec, required: bool, warn: Callable[[str], None] | None) -> ProcessBackend:
    """See `BackendModule`."""
    backend = ProcessBackend(model.file, model.tokens, model.settings, extra=model.extra, adapters=model.adapters)
    try:
        backend.wait_ready()
    except NotStartedError as error:
        if warn is None:
            backend.close()
            raise
        warn(f"the LLM does not start ({error}); the CRM decides alone, and it is tried again")
    except BaseException:
        backend.close()
        raise
    return backend


def _start(setup: ModelSpec, fd: int) -> subprocess.Popen[bytes]:
    # -P: no module of the working directory comes before the installed ones. A process group of its own: the
    # terminal's Ctrl-C is the parent's to answer. No backtrace: ggml would run a debugger on itself.
    command = [sys.executable, "-P", "-m", "corella_edge_runtime.llm.backends.process.child", str(fd), setup.to_json()]
    environment = {**os.environ, **trust.EXPENDABLE, "GGML_NO_BACKTRACE": "1"}
    with _on_cores(setup.settings.cores):
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=[fd],
            process_group=0,
            env=environment,
        )


@contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """This thread on the LLM's cores: a child begins where its parent's thread is, and starting up is work that the
    requests beside it would feel."""
    before = os.sched_getaffinity(0)
    with suppress(OSError):  # cores that may not be used: the child says so
        os.sched_setaffinity(0, cores or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _pass_on(said: IO[bytes]) -> None:
    """The child's messages → our log. The child knows token ids only: no user's text is among them."""
    with said:
        while line := said.readline(65536):
            _LOG.warning("LLM process: %s", line.decode("utf-8", "replace").rstrip()[:_LINE])


def _error(kind: str, text: str) -> CorellaError:
    """The error a child could not start with, as if it had been raised here."""
    found = getattr(errors, kind, None)
    passing = (MissingExtraError, ComputeError)  # the next child may do better
    if isinstance(found, type) and issubclass(found, CorellaError) and found not in passing:
        return found(text)
    return NotStartedError(f"the LLM process cannot use the model: {text}")
