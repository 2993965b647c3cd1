"""What a server serves: one bundle, or whatever a site's deployment.json says from moment to moment.

A new version is loaded in a thread while the old one answers, and takes its place when it is warm. One that cannot
be loaded is refused: the old one answers on, and serving.json and the log say why.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from corella_edge.errors import BundleError, CorellaError, InputError
from corella_edge_runtime.server.fleet import Fleet, Member
from corella_edge_runtime.site import layout as sites
from corella_edge_runtime.site.deployment import Deployment
from corella_edge_runtime.site.layout import RunningVersion, Serving, VersionRefusal

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine

_LOG = logging.getLogger("corella_edge.serve")
POLL_SECONDS = 0.5

Load = Callable[[Path], "Engine"]
Stamp = tuple[int, int, int] | None


class VersionSource(Protocol):
    """Where a server's versions come from."""

    def first(self) -> tuple[Engine, str]:
        """A warm ranker to begin with, and its version; blocks. Raises whatever loading raises."""
        ...

    def follower(self, fleet: Fleet) -> Follower | None:
        """What keeps a fleet, already with the first ranker, as the source says; None if it never changes."""
        ...

    def close(self) -> None:
        """Let another server have it."""
        ...


def open_source(path: Path, load: Load, load_first: Load | None = None) -> VersionSource:
    """The site or the bundle at `path`; `load_first`: how to load what a start begins with, if otherwise.

    Raises:
        InputError: a site whose deployment.json is damaged, or that another server serves.
    """
    first = load_first or load
    return SiteSource(path, load, first) if sites.is_site(path) else BundleSource(path, first)


class BundleSource:
    """One bundle, for good."""

    def __init__(self, path: Path, load: Load) -> None:
        self._path, self._load = path, load

    def first(self) -> tuple[Engine, str]:
        ranker = _warm(self._load, self._path)
        return ranker, ranker.name

    def follower(self, fleet: Fleet) -> None:
        return None

    def close(self) -> None:
        return None


class SiteSource:
    """The versions of a site, from which other servers are kept out until it is closed or the process ends."""

    def __init__(self, site: Path, load: Load, load_first: Load) -> None:
        self._site, self._load, self._load_first = site, load, load_first
        sites.read(site)
        self._lock: int | None = sites.server_lock(site)

    def first(self) -> tuple[Engine, str]:
        """The live version; if it cannot be loaded, the previous one, so that a restart is never the end of it."""
        before, wanted = sites.read_serving(self._site), sites.read(self._site)
        _publish(self._site, Serving(os.getpid(), refused=before.refused if before else None))
        try:
            return open_version(self._site, wanted.live, self._load_first), wanted.live
        except Exception as error:
            if wanted.previous is None:
                raise
            _LOG.error("%s cannot be served, %s is: %s", wanted.live, wanted.previous, reason(error))
            return open_version(self._site, wanted.previous, self._load_first), wanted.previous

    def follower(self, fleet: Fleet) -> Follower:
        return Follower(self._site, fleet, self._load)

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def open_version(site: Path, version: str, load: Load) -> Engine:
    """A version of a site, loaded and warm.

    Raises:
        InputError: it is not there. BundleError: it is another one. Whatever loading raises.
    """
    path = sites.folder(site, version)
    if (found := sites.version_id(path)) != version:
        raise BundleError(f"{path}: holds {found}")
    return _warm(load, path)


def _warm(load: Load, path: Path) -> Engine:
    ranker = load(path)
    try:
        ranker.warm_up()
        ranker.know_cost()  # before there is traffic, which a measurement would see, and whose `ms:` needs it
    except BaseException:
        ranker.close()
        raise
    return ranker


def reason(error: BaseException) -> str:
    """Why something was refused, in one line."""
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, CorellaError) else f"{type(error).__name__}: {text}"


class Follower:
    """Keeps a fleet as deployment.json says. All methods run in the event loop's thread."""

    def __init__(self, site: Path, fleet: Fleet, load: Load, seconds: float = POLL_SECONDS) -> None:
        self.state = Serving(os.getpid())
        self._thread: threading.Thread | None = None
        self._site, self._fleet, self._load, self._seconds = site, fleet, load, seconds
        self._asked = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._ended = False
        self._seen: Stamp = None
        self._spare: dict[str, Engine] = {}  # loaded, and not in the fleet yet

    @property
    def loading(self) -> bool:
        """Whether a version is being loaded, in a thread that cannot be stopped."""
        return self._thread is not None and self._thread.is_alive()

    async def run(self) -> None:
        """Follow until cancelled."""
        self._ended = False  # it may have been ended by a fault
        try:
            while True:
                await self._turn()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), self._seconds)
        finally:
            self._ended = True
            self._drop_spare()
            _tell(self._waiting)

    def ask(self) -> None:
        """Have the file read, and what was refused tried, at once."""
        self._asked.set()

    async def reload(self) -> None:
        """Read the file again, try again what was refused, and return when that is done, or the server stops."""
        if self._ended:
            return
        done = asyncio.get_running_loop().create_future()
        self._waiting.append(done)
        self.ask()
        await done

    async def _turn(self) -> None:
        """Follow if there is something new or somebody asks."""
        waiting, self._waiting = self._waiting, []
        asked = self._asked.is_set()
        self._asked.clear()
        try:
            if asked or self._stamp() != self._seen:
                await self._follow()
        finally:
            _tell(waiting)

    def _stamp(self) -> Stamp:
        """Changes whenever deployment.json is replaced."""
        try:
            found = (self._site / sites.DEPLOYMENT).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    async def _follow(self) -> None:
        """Arrange the fleet as the file says; if it says something else by then, as it says then."""
        while True:
            self._seen = self._stamp()
            try:
                wanted = sites.read(self._site)
            except InputError as error:
                self._refuse(sites.DEPLOYMENT, 0, error)
                break
            if await self._arrange(wanted):
                break
        await asyncio.to_thread(_publish, self._site, self.state)

    async def _arrange(self, wanted: Deployment) -> bool:
        """Load what is missing and put it in its place; False if the file has changed meanwhile."""
        share = wanted.canary.share if wanted.canary else 0.0
        serving = [wanted.live, *([wanted.canary.version] if wanted.canary else [])]
        failed: dict[str, Exception] = {}
        # One that was to be closed may be gone by the time another one is loaded.
        while missing := [version for version in serving if version not in failed and not self._has(version)]:
            try:
                self._spare[missing[0]] = await self._loaded(missing[0])
            except Exception as error:  # noqa: BLE001 - whatever a bundle does, the old one answers on
                failed[missing[0]] = error
            if self._stamp() != self._seen:
                return False
        live, canary, *_ = [*(self._member(version) for version in serving), None]
        if standing := live or self._fleet.live:
            self._fleet.arrange(standing, canary, share)
        self._drop_spare()
        self._settle(wanted.serial, failed)
        return True

    def _has(self, version: str) -> bool:
        return version in self._spare or self._fleet.find(version) is not None

    def _member(self, version: str) -> Member | None:
        """A version that is in the fleet, or loaded for it; None if it was refused."""
        found, spare = self._fleet.find(version), self._spare.pop(version, None)
        if found is None and spare is not None:
            return self._fleet.member(spare, version)
        return found

    def _drop_spare(self) -> None:
        for version, ranker in self._spare.items():
            self._fleet.discard(ranker, version)
        self._spare.clear()

    def _settle(self, serial: int, failed: dict[str, Exception]) -> None:
        """Note what serves now, and what of that which is asked for does not."""
        fleet = self._fleet
        live, canary = _running(fleet.live, 1.0 - fleet.share), _running(fleet.canary, fleet.share)
        self.state = Serving(os.getpid(), serial, live, canary)
        for version, error in reversed(failed.items()):
            self._refuse(version, serial, error)

    def _refuse(self, version: str, serial: int, error: Exception) -> None:
        _LOG.error("%s is refused, what served serves on: %s", version, reason(error))
        refused = VersionRefusal(version, serial, _iso(datetime.now(UTC)), reason(error))
        self.state = replace(self.state, refused=refused)

    async def _loaded(self, version: str) -> Engine:
        """Load a version in a thread of its own: a daemon, so that it cannot hold up the end of the process."""
        future: Future[Engine] = Future()
        self._thread = threading.Thread(target=self._load_in_thread, args=(version, future), name="load", daemon=True)
        self._thread.start()
        return await asyncio.wrap_future(future)

    def _load_in_thread(self, version: str, future: Future[Engine]) -> None:
        try:
            ranker = open_version(self._site, version, self._load)
            _LOG.info("%s is loaded: %s", version, "; ".join(ranker.told()))
        except BaseException as error:  # noqa: BLE001 - handed to the event loop
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            return
        try:
            future.set_result(ranker)
        except InvalidStateError:  # the server stops, and nobody waits any more
            ranker.close()
            return
        gc.freeze()  # the collector need not look at it again and again; who is closed leaves without it


def _tell(waiting: list[asyncio.Future[None]]) -> None:
    for done in waiting:
        if not done.done():
            done.set_result(None)


def _publish(site: Path, state: Serving) -> None:
    """Write serving.json; a site that cannot be written is served all the same."""
    try:
        sites.write_serving(site, state)
    except InputError as error:
        _LOG.error("`corella-edge deploy` cannot see what is served: %s", error)


def _running(member: Member | None, share: float) -> RunningVersion | None:
    return RunningVersion(member.version, member.label, _iso(member.since), share) if member else None


def _iso(time: datetime) -> str:
    return time.isoformat(timespec="milliseconds")
