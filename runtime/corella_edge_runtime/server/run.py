"""A server process: bind, answer health checks, load the bundle beside that, serve, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import uvicorn

from corella_edge.errors import InputError
from corella_edge_runtime.server.access import Guard
from corella_edge_runtime.server.app import build_app, log_bug
from corella_edge_runtime.server.connections import ConnectionLimits, protocol, within_files
from corella_edge_runtime.server.following import Source
from corella_edge_runtime.server.limits import Limits
from corella_edge_runtime.server.ranker import Ranker
from corella_edge_runtime.server.service import Service
from corella_edge_runtime.store.users import UserStore

_LOG = logging.getLogger("corella_edge.serve")
_FOLLOW_AGAIN_SECONDS = 5.0  # after a fault
_CONNECTION_SECONDS = 5  # for answers that are written but not yet read by a slow client
_THREAD_SECONDS = 0.5  # for threads that have nothing left to do, to end
_LLM_SECONDS = 8.0  # for the LLM's process to finish or to be ended


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve, apart from what is served."""

    limits: Limits = field(default_factory=Limits)
    grace_seconds: float = 30.0
    access_log: bool = False
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one.

    Raises:
        InputError: the address is taken, forbidden, or not an address.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot listen on {host} port {port}: {_reason(error)}") from None


def _reason(error: OSError | UnicodeError) -> str:
    """The system's own words; asyncio and socket append the address once more."""
    if isinstance(error, socket.gaierror) or not isinstance(error, OSError) or error.errno is None:
        return str(getattr(error, "strerror", None) or error)
    return os.strerror(error.errno)


def url(sock: socket.socket) -> str:
    """Where `sock` listens, as a URL."""
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run(
    source: Source,
    sock: socket.socket,
    settings: Settings | None = None,
    guard: Guard | None = None,
    store: UserStore | None = None,
    on_listening: Callable[[str], None] = lambda address: None,
    on_ready: Callable[[Ranker], None] = lambda ranker: None,
) -> None:
    """Serve what `source` has until SIGTERM or SIGINT; a second signal does not wait for anything.

    The first version is loaded in a thread of its own, so that health checks are answered while a large bundle is
    hashed. Returns after a clean stop. Whatever loading raises stops the server and is raised here. A request or a
    load that is still running when the time is up can not be ended: then the process itself ends.

    Args:
        guard: lets requests in; None = one without keys.
        store: of users, open; it is the caller's to close.
    """
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        process = _Process(source, sock, settings or Settings(), guard, store, on_ready)
        runner.run(process.main(lambda: on_listening(url(sock))))
    process.finish()


@dataclass
class _Process:
    """The course of one `run`."""

    source: Source
    sock: socket.socket
    settings: Settings
    guard: Guard | None
    store: UserStore | None
    on_ready: Callable[[Ranker], None]
    failure: BaseException | None = None
    loaded: Future[tuple[Ranker, str]] = field(default_factory=Future)

    async def main(self, on_listening: Callable[[], None]) -> None:
        # The service is made here: its event belongs to this loop.
        self.service = Service(self.settings.limits, self.store)
        self.stop, self.force = asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        self.server = _Server(_config(self.service, self.settings, self.guard), on_listening)
        serving = asyncio.create_task(self.server.serve(sockets=[self.sock]))
        serving.add_done_callback(lambda _: self.stop.set())
        following = asyncio.create_task(self._follow())
        await self.stop.wait()
        following.cancel()
        await self._drain()
        self.server.should_exit = True
        await serving
        await self._release()
        if self.loaded.done():
            await self._close()

    def _signalled(self) -> None:
        if self.stop.is_set():
            self.force.set()
            self.server.force_exit = True
        self.stop.set()

    async def _follow(self) -> None:
        """Load the first version, answer with it, and then with whatever the source says."""
        # A daemon thread, not the pool: it must not hold up the exit of the process.
        threading.Thread(target=self._load, name="load", daemon=True).start()
        try:
            ranker, version = await asyncio.shield(asyncio.wrap_future(self.loaded))
        except Exception as error:  # noqa: BLE001 - raised again by `finish`
            self.failure = error
            self.stop.set()
            return
        # What is there now stays: the collector need not look at it again and again.
        gc.collect()
        gc.freeze()
        self.service.serve(ranker, version)
        self.service.follower = self.source.follower(self.service.fleet)
        with contextlib.suppress(OSError, ValueError):  # nobody reads what is said
            self.on_ready(ranker)
        while self.service.follower is not None:
            try:
                await self.service.follower.run()
            except Exception as error:  # noqa: BLE001 - whatever it met, versions must be followed
                log_bug(error)
                await asyncio.sleep(_FOLLOW_AGAIN_SECONDS)

    def _load(self) -> None:
        try:
            self.loaded.set_result(self.source.first())
        except BaseException as error:  # noqa: BLE001 - handed to the event loop
            self.loaded.set_exception(error)

    async def _drain(self) -> None:
        self.end = time.monotonic() + self.settings.grace_seconds
        waits = [asyncio.create_task(self.service.drained()), asyncio.create_task(self.force.wait())]
        await asyncio.wait(waits, timeout=self.settings.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self.service.in_flight:
            _LOG.error("stopped with %d requests unanswered", self.service.in_flight)
            _leave(1)

    async def _release(self) -> None:
        """End the threads; one may still be at work for a client that has left."""
        closing = asyncio.get_running_loop().run_in_executor(None, self.service.close)
        await self._ended(closing, _THREAD_SECONDS, "a thread")

    async def _close(self) -> None:
        """Close the versions; the LLM may still be at work for a client that has left."""
        closing = asyncio.create_task(self.service.fleet.close())
        await self._ended(closing, _LLM_SECONDS, "the LLM")

    async def _ended(self, closing: asyncio.Future[None], least: float, what: str) -> None:
        """Wait for what is left of the grace, at least so long; a second signal ends the wait."""
        force = asyncio.create_task(self.force.wait())
        left = max(0.0, self.end - time.monotonic())
        await asyncio.wait((closing, force), timeout=max(left, least), return_when=asyncio.FIRST_COMPLETED)
        force.cancel()
        await asyncio.wait((closing,), timeout=_THREAD_SECONDS)
        if not closing.done():
            _LOG.error("stopped with %s still at work", what)
            _leave(1)
        closing.result()

    def finish(self) -> None:
        """Raise what loading has raised, or leave at once if a version is still being loaded."""
        follower = self.service.follower
        if not self.loaded.done() or (follower is not None and follower.loading):
            _leave(0)
        if self.failure is not None:
            raise self.failure


class _Server(uvicorn.Server):
    """uvicorn, told when to stop: its own handlers close the port before the drain and end by the signal."""

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_listening()


def _config(service: Service, settings: Settings, guard: Guard | None) -> uvicorn.Config:
    bounds = within_files(settings.connections)
    return uvicorn.Config(
        build_app(service, guard), http=protocol(bounds, service.metrics.connections),
        lifespan="off", ws="none", log_config=None, access_log=settings.access_log,
        log_level="info" if settings.access_log else "warning", proxy_headers=False, server_header=False,
        timeout_keep_alive=30, timeout_graceful_shutdown=_CONNECTION_SECONDS,
    )  # fmt: skip


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: slower, not broken
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _leave(code: int) -> None:
    """End without joining threads: native code can not be interrupted, and it writes no files."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
