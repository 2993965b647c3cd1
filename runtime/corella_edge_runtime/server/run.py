"""A server process: bind, answer health checks, load the bundle beside that, serve, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import uvicorn

from corella_edge.errors import InputError
from corella_edge.routing.objective import Objective
from corella_edge_runtime.decisions import DecisionLog
from corella_edge_runtime.server.app import build_app, log_bug
from corella_edge_runtime.server.following import Follower, VersionSource
from corella_edge_runtime.server.guard.access import Guard
from corella_edge_runtime.server.guard.connections import ConnectionLimits, protocol, within_files
from corella_edge_runtime.server.guard.limits import Limits
from corella_edge_runtime.server.service import Service
from corella_edge_runtime.server.shadow import Shadow
from corella_edge_runtime.store.stock import StockFile
from corella_edge_runtime.store.users import UserStore

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine

_LOG = logging.getLogger("corella_edge.serve")
_FOLLOW_AGAIN_SECONDS = 5.0  # after a fault
_CONNECTION_SECONDS = 5  # for answers that are written but not yet read by a slow client
_THREAD_SECONDS = 0.5  # for threads that have nothing left to do, to end
_LLM_SECONDS = 8.0  # for the LLM's process to finish or to be ended
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # an address of a name that this machine does not have
_FREE_PORTS = 10  # tried where one must be free on several addresses


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """How to serve, apart from what is served."""

    limits: Limits = field(default_factory=Limits)
    grace_seconds: float = 30.0
    access_log: bool = False
    # Above the minute for which load balancers usually keep a connection: whoever closes first must not be the server,
    # which would meet a request under way.
    keep_alive_seconds: int = 75
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    objective: Objective | None = None


@dataclass(frozen=True, slots=True)
class Memory:
    """What a box keeps beside its bundles: users, what is available, what was decided, and what is asked for that."""

    store: UserStore | None = None
    stock: StockFile | None = None
    decisions: DecisionLog | None = None
    shadow: Shadow | None = None


def listen(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address of `host`; `::` is every address of IPv4, too, where the system can.

    Port 0 takes a free one, the same for all. An address that this machine does not have is reported and skipped,
    if there is another.

    Raises:
        InputError: an address is taken or forbidden, or there is none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
        return _bound(host, addresses, _FREE_PORTS if port == 0 and len(addresses) > 1 else 1)
    except (OSError, UnicodeError) as error:
        raise InputError(f"cannot listen on {host} port {port}: {_reason(error)}") from None


def _bound(host: str, addresses: Sequence[tuple[int, tuple[Any, ...]]], tries: int) -> list[socket.socket]:
    with contextlib.ExitStack() as opened:
        bound: list[socket.socket] = []
        missing: list[OSError] = []
        for family, (name, port, *scope) in addresses:
            if bound:
                port = bound[0].getsockname()[1]
            both = family == socket.AF_INET6 and name == "::" and socket.has_dualstack_ipv6()
            try:
                bound.append(
                    socket.create_server((name, port, *scope), family=family, backlog=1024, dualstack_ipv6=both)
                )
            except OSError as error:
                if error.errno == errno.EADDRINUSE and tries > 1:
                    return _bound(host, addresses, tries - 1)
                if error.errno not in _NOT_HERE:
                    raise
                missing.append(error)
                _LOG.warning("%s is %s, too, which is not listened on: %s", host, name, _reason(error))
                continue
            opened.callback(bound[-1].close)
        if not bound:
            raise missing[0]
        opened.pop_all()
        return bound


def _reason(error: OSError | UnicodeError) -> str:
    """The system's own words; asyncio and socket append the address once more."""
    if isinstance(error, socket.gaierror) or not isinstance(error, OSError) or error.errno is None:
        return str(getattr(error, "strerror", None) or error)
    return os.strerror(error.errno)


def url(sock: socket.socket) -> str:
    """Where `sock` is reached from this machine, as a URL; if it is not there alone, with the rest in words."""
    host, port = sock.getsockname()[:2]
    if not ip_address(host.partition("%")[0]).is_unspecified:
        return f"http://{_literal(host)}:{port}"
    six = sock.family == socket.AF_INET6
    alone = six and sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    families = "IPv6 alone" if alone else "IPv4 and IPv6" if six else "IPv4 alone"
    here = "::1" if alone else "127.0.0.1"
    return f"http://{_literal(here)}:{port} (and every other address of this machine, {families})"


def _literal(host: str) -> str:
    """An address as a URL has it (RFC 3986, 3.2.2; RFC 6874)."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def run(
    source: VersionSource,
    sockets: Sequence[socket.socket],
    settings: ServeSettings | None = None,
    guard: Guard | None = None,
    memory: Memory | None = None,
    on_listening: Callable[[str], None] = lambda address: None,
    on_ready: Callable[[Engine], None] = lambda ranker: None,
) -> None:
    """Serve what `source` has until SIGTERM, SIGINT or SIGQUIT; a second signal does not wait for anything.

    SIGINT and SIGQUIT stay without effect where they are, as in a script's background job. At SIGHUP a site's file is
    read; nothing else happens.

    The first version is loaded in a thread of its own, so that health checks are answered while a large bundle is
    hashed. Returns after a clean stop. Whatever loading raises stops the server and is raised here. A request or a
    load that is still running when the time is up cannot be ended: then the process itself ends.

    Args:
        guard: lets requests in; None = one without keys.
        sockets: listening; closed at the end.
        memory: what the box keeps, open; it is the caller's to close.
        on_listening: told where, once for each socket.
    """
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        process = _Process(source, sockets, settings or ServeSettings(), guard, memory or Memory(), on_ready)
        with process.hangups(runner.get_loop()):
            runner.run(process.main(on_listening))
    process.finish()


@dataclass
class _Process:
    """The course of one `run`."""

    source: VersionSource
    sockets: Sequence[socket.socket]
    settings: ServeSettings
    guard: Guard | None
    memory: Memory
    on_ready: Callable[[Engine], None]
    failure: BaseException | None = None
    loaded: Future[tuple[Engine, str]] = field(default_factory=Future)

    follower: Follower | None = None

    @contextlib.contextmanager
    def hangups(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Have the site followed at SIGHUP, at any moment of the process: none of them ends it."""

        def hung_up(*_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is left to follow
                loop.call_soon_threadsafe(self._follow_now)

        before = signal.signal(signal.SIGHUP, hung_up)
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def _follow_now(self) -> None:
        """What is still loading has its file read when it is there; who stops follows nothing."""
        if self.follower is not None:
            self.follower.ask()

    async def main(self, on_listening: Callable[[str], None]) -> None:
        # The service is made here: its event belongs to this loop.
        kept = self.memory
        self.service = Service(
            self.settings.limits, kept.store, kept.stock, kept.decisions, kept.shadow, self.settings.objective
        )
        self.stop, self.force = asyncio.Event(), asyncio.Event()
        for number in stopping():
            asyncio.get_running_loop().add_signal_handler(number, self._signalled)
        self.server = _Server(_config(self.service, self.settings, self.guard), self.sockets, on_listening)
        serving = asyncio.create_task(self.server.serve(sockets=list(self.sockets)))
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
        self.service.follower = self.follower = self.source.follower(self.service.fleet)
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


def stopping() -> list[signal.Signals]:
    """The signals that end the server: those that it has not inherited as ignored, and SIGTERM always."""
    ignored = [number for number in (signal.SIGINT, signal.SIGQUIT) if signal.getsignal(number) is signal.SIG_IGN]
    return [number for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT) if number not in ignored]


class _Server(uvicorn.Server):
    """uvicorn, told when to stop: its own handlers close the port before the drain and end by the signal."""

    def __init__(
        self, config: uvicorn.Config, sockets: Sequence[socket.socket], on_listening: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self._addresses, self._on_listening = [url(sock) for sock in sockets], on_listening

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for address in self._addresses:
            self._on_listening(address)


def _config(service: Service, settings: ServeSettings, guard: Guard | None) -> uvicorn.Config:
    bounds = within_files(settings.connections)
    return uvicorn.Config(
        build_app(service, guard), http=protocol(bounds, service.metrics.connections),
        lifespan="off", ws="none", log_config=None, access_log=settings.access_log,
        log_level="info" if settings.access_log else "warning", proxy_headers=False, server_header=False,
        timeout_keep_alive=settings.keep_alive_seconds, timeout_graceful_shutdown=_CONNECTION_SECONDS,
    )  # fmt: skip


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # no wheel for this machine: slower, not broken
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _leave(code: int) -> None:
    """End without joining threads: native code cannot be interrupted, and it writes no files."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
