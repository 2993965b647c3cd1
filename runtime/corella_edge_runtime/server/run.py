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
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field

import uvicorn

from corella_edge.errors import InputError
from corella_edge_runtime.server.app import build_app
from corella_edge_runtime.server.limits import Limits
from corella_edge_runtime.server.ranker import Ranker
from corella_edge_runtime.server.service import Service

_LOG = logging.getLogger("corella_edge.serve")
_CONNECTION_SECONDS = 5  # for answers that are written but not yet read by a slow client


@dataclass(frozen=True, slots=True)
class Settings:
    """How to serve, apart from what is served."""

    limits: Limits = field(default_factory=Limits)
    grace_seconds: float = 30.0
    access_log: bool = False


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
    load: Callable[[], Ranker],
    sock: socket.socket,
    settings: Settings | None = None,
    on_listening: Callable[[str], None] = lambda address: None,
    on_ready: Callable[[Ranker], None] = lambda ranker: None,
) -> None:
    """Serve what `load` returns until SIGTERM or SIGINT; a second signal does not wait for anything.

    `load` runs in a thread of its own, so that health checks are answered while a large bundle is hashed.
    Returns after a clean stop. Whatever `load` raises stops the server and is raised here. A request or a
    load that is still running when the time is up can not be ended: then the process itself ends.
    """
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        process = _Process(load, sock, settings or Settings(), on_ready)
        runner.run(process.main(lambda: on_listening(url(sock))))
    process.finish()


class _Process:
    """The course of one `run`."""

    def __init__(
        self, load: Callable[[], Ranker], sock: socket.socket, settings: Settings, on_ready: Callable[[Ranker], None]
    ) -> None:
        self.load, self.sock, self.settings, self.on_ready = load, sock, settings, on_ready
        self.failure: BaseException | None = None
        self.loaded: Future[Ranker] = Future()

    async def main(self, on_listening: Callable[[], None]) -> None:
        # The service is made here: its event belongs to this loop.
        self.service, self.stop, self.force = Service(self.settings.limits), asyncio.Event(), asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        self.server = _Server(_config(self.service, self.settings), on_listening)
        serving = asyncio.create_task(self.server.serve(sockets=[self.sock]))
        serving.add_done_callback(lambda _: self.stop.set())
        loading = asyncio.create_task(self._load())
        await self.stop.wait()
        loading.cancel()
        await self._drain()
        self.server.should_exit = True
        await serving

    def _signalled(self) -> None:
        if self.stop.is_set():
            self.force.set()
            self.server.force_exit = True
        self.stop.set()

    async def _load(self) -> None:
        # A daemon thread, not the pool: it must not hold up the exit of the process.
        threading.Thread(target=self._load_in_thread, name="load", daemon=True).start()
        try:
            ranker = await asyncio.shield(asyncio.wrap_future(self.loaded))
        except Exception as error:  # noqa: BLE001 - raised again by `finish`
            self.failure = error
            self.stop.set()
        else:
            # What is there now stays: the collector need not look at it again and again.
            gc.collect()
            gc.freeze()
            self.service.serve(ranker)
            self.on_ready(ranker)

    def _load_in_thread(self) -> None:
        try:
            ranker = self.load()
            ranker.warm_up()
            self.loaded.set_result(ranker)
        except BaseException as error:  # noqa: BLE001 - handed to the event loop
            self.loaded.set_exception(error)

    async def _drain(self) -> None:
        waits = [asyncio.create_task(self.service.drained()), asyncio.create_task(self.force.wait())]
        await asyncio.wait(waits, timeout=self.settings.grace_seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        if self.service.in_flight:
            _LOG.error("stopped with %d requests unanswered", self.service.in_flight)
            _leave(1)

    def finish(self) -> None:
        """Release the engine, or leave at once if it is still being loaded."""
        if not self.loaded.done():
            _leave(0)
        self.service.close()
        if self.failure is not None:
            raise self.failure
        self.loaded.result().close()


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


def _config(service: Service, settings: Settings) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(service), lifespan="off", ws="none", log_config=None, access_log=settings.access_log,
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
