"""The loaded versions of a bundle: one for everybody, and at times one for a share of the users.

    install ──▶ arrange: who gets what from now on
    hold ──▶ a request keeps the version it began with; one no longer wanted is closed when its last request ends

Everything but closing happens in the event loop's thread, so that no swap can come between two steps of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corella_edge_runtime.engine import Engine

_LOG = logging.getLogger("corella_edge.serve")


@dataclass(eq=False, slots=True)
class Member:
    """A loaded version; `since` says when it got its role."""

    ranker: Engine
    version: str
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    in_flight: int = 0
    wanted: bool = True

    @property
    def label(self) -> str:
        """`name@version`, as answers show it."""
        return self.ranker.name


@dataclass(frozen=True, slots=True)
class Held:
    """What one request is answered with, from its beginning to its end."""

    ranker: Engine
    label: str
    version: str
    canary: bool
    _fleet: Fleet
    _member: Member

    def until(self, work: Future[Any] | asyncio.Future[Any]) -> None:
        """Keep the version loaded until `work` is done, too: a thread works on when its request is given up."""
        self._fleet.keep_until(self._member, work)


class Fleet:
    """The versions that a server has loaded."""

    def __init__(self) -> None:
        self.live: Member | None = None
        self.canary: Member | None = None
        self.share = 0.0
        self._members: list[Member] = []
        self._anonymous = itertools.count()
        self._closings: set[Future[None]] = set()

    @property
    def members(self) -> tuple[Member, ...]:
        """All that are loaded: live, canary, and those that finish their last requests."""
        return tuple(self._members)

    @contextlib.contextmanager
    def hold(self, user: str | None) -> Iterator[Held]:
        """The version for a user (None = unknown), kept loaded meanwhile.

        Raises:
            LookupError: nothing is loaded yet.
        """
        member = self._chosen(user)
        with self.kept(member):
            yield Held(member.ranker, member.label, member.version, member is self.canary, self, member)

    def _chosen(self, user: str | None) -> Member:
        if self.live is None:
            raise LookupError("no version is loaded")
        if self.canary is None:
            return self.live
        key = f"user {user}" if user is not None else f"request {next(self._anonymous)}"
        return self.canary if gets_canary(self.canary.version, key, self.share) else self.live

    @contextlib.contextmanager
    def kept(self, member: Member) -> Iterator[None]:
        """Keep a member loaded meanwhile."""
        member.in_flight += 1
        try:
            yield
        finally:
            self._leave(member)

    def keep_until(self, member: Member, work: Future[Any] | asyncio.Future[Any]) -> None:
        """Count `work` among the requests of a member that is held now."""
        loop = asyncio.get_running_loop()
        member.in_flight += 1

        def done(_: object) -> None:
            # A loop that is closed has no requests left to wait for.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._leave, member)

        work.add_done_callback(done)

    def _leave(self, member: Member) -> None:
        member.in_flight -= 1
        self._sweep()

    def find(self, version: str) -> Member | None:
        """The member of a version, be it one that was to be closed and has not been."""
        return next((member for member in self._members if member.version == version), None)

    def install(self, ranker: Engine, version: str) -> None:
        """Answer with `ranker`, already warm, from now on; requests begun before end on what they began with."""
        self.arrange(self.member(ranker, version), self.canary, self.share)

    def member(self, ranker: Engine, version: str) -> Member:
        """The member that holds `ranker`, or a new one that takes part once it is arranged."""
        return next((member for member in self._members if member.ranker is ranker), None) or Member(ranker, version)

    def arrange(self, live: Member, canary: Member | None = None, share: float = 0.0) -> None:
        """Who gets what from now on, in one step; a member that is left out is closed when its requests have ended."""
        if canary is live:
            canary = None
        share = share if canary else 0.0
        for member, before in ((live, self.live), (canary, self.canary)):
            if member is not None and member is not before:
                member.since = datetime.now(UTC)
        self._tell(live, canary, share)
        self.live, self.canary, self.share = live, canary, share
        self._members += [m for m in (live, canary) if m is not None and m not in self._members]
        for member in self._members:
            member.wanted = member in (live, canary)
            part = {id(live): 1.0 - share, id(canary): share}.get(id(member), 0.0)
            if member.ranker.control is not None:
                member.ranker.control.share_of_users(part)
        self._sweep()

    def _tell(self, live: Member, canary: Member | None, share: float) -> None:
        """Log what is about to change; who begins is told by the command."""
        if self.live is not None and self.live is not live:
            _LOG.info("%s serves now (was %s)", live.version, self.live.version)
        if canary is not None and (canary, share) != (self.canary, self.share):
            _LOG.info("%s answers %g of the users", canary.version, share)

    def discard(self, ranker: Engine, version: str) -> None:
        """Close a ranker that was loaded and is not to serve after all."""
        told = self.live is not None  # when the server ends, all are closed without a word
        closing: Future[None] = Future()
        self._closings.add(closing)
        closing.add_done_callback(self._closings.discard)
        threading.Thread(target=_close, args=(ranker, version, told, closing), name="close", daemon=True).start()

    def _sweep(self) -> None:
        """Close who is not wanted and has nothing to do; each leaves the list first, so that none is closed twice."""
        idle = [member for member in self._members if not member.wanted and not member.in_flight]
        for member in idle:
            self._members.remove(member)
            self.discard(member.ranker, member.version)

    async def close(self) -> None:
        """Close every version when its requests have ended, and return when all are closed."""
        self.live = self.canary = None
        for member in self._members:
            member.wanted = False
        self._sweep()
        while self._members or self._closings:
            # A copy in one step: those that end leave the set, in their own threads.
            waits = [asyncio.wrap_future(closing) for closing in tuple(self._closings)]
            await (asyncio.wait(waits) if waits else asyncio.sleep(0.01))


def gets_canary(salt: str, key: str, share: float) -> bool:
    """Whether a user is among the share: always the same answer for one salt and key, and a larger share keeps all."""
    digest = hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2.0**64


def _close(ranker: Engine, version: str, told: bool, closing: Future[None]) -> None:
    try:
        ranker.close()
        if told:
            _LOG.info("%s is closed", version)
    except Exception as error:  # noqa: BLE001 - what cannot be closed must not stop the server
        _LOG.error("closing %s failed: %s", version, type(error).__name__)
    finally:
        closing.set_result(None)
