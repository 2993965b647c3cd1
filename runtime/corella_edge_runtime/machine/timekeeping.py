"""How old something is, on a machine whose clock may be wrong, may be set, or may not run while it is off.

A *stamp* is a count of seconds that goes on while the machine is up, whatever its clock shows. A `Timeline` knows how
far the clock was ahead of the stamps during each boot, so that the age of a stamp is the uptime since then and the time
that the machine was off. That time is known from the clock alone. So it counts only once the clock has stood by it at
every look for `PROBATION` seconds of uptime, and what the clock contradicts itself about counts as uptime alone.

What follows (the tests hold it against a machine with a true time of its own): as long as a clock that is wrong, and
not visibly unset, is set right within `PROBATION` seconds of uptime and before the machine goes off, nothing is taken
for older than it is, by more than two seconds a boot. And where the clock is right, the time of each pause counts after
at most twice `PROBATION` of uptime.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

FLOOR = 1_767_225_600  # 2026-01-01: a clock that shows less is not set, for this program is younger
CEILING = 4_102_444_800  # 2100-01-01
PROBATION = 86_400.0
JUMP = 86_400.0  # a pause that counts all at once
TENTHS, TENTH_SECONDS = 10, 3600.0  # a longer one counts for a tenth of the users after the other
YEAR = 366 * 86_400.0
BOOTS = 1024  # remembered; more are joined with their neighbours
LATE = 60.0  # seconds that a reading may come after a later one
SLACK = 2  # seconds that stamps may be ahead of the last one that was saved
_EVER = 2**62


class Reading(NamedTuple):
    """What a machine's clocks show at one moment: an id of the boot, seconds since it, and Unix time."""

    boot: str
    uptime: float
    wall: float


@cache
def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def read_clocks() -> Reading:
    """The clocks of this machine; the uptime includes time asleep."""
    return Reading(_boot_id(), time.clock_gettime(time.CLOCK_BOOTTIME), time.time())


class Boot(NamedTuple):
    """A boot that is over: its first stamp, and how far the clock was ahead of the stamps; None = it was never set."""

    start: int
    ahead: float | None


@dataclass(frozen=True, slots=True)
class Timeline:
    """What is known of the time; `seen` gives the next one.

    Attributes:
        stamp: now, in seconds.
        boot, uptime: of the last reading.
        start: the current boot's first stamp.
        past: the boots before.
        ahead: of the current boot, as last read; None = the clock is not set.
        confirmed: how far the clock is ahead of the stamps for certain; None = it has never been set.
        before, raised: what `confirmed` was before its last jump forward, and the stamp of that.
        since, lowest, highest: since which stamp the clock is being watched, and the extremes of `ahead` since then.
    """

    stamp: float
    boot: str
    uptime: float
    start: int
    past: tuple[Boot, ...] = ()
    ahead: float | None = None
    confirmed: float | None = None
    before: float | None = None
    raised: float = 0.0
    since: float = 0.0
    lowest: float | None = None
    highest: float | None = None

    @classmethod
    def begin(cls, now: Reading, last: int | None = None) -> Timeline:
        """A new one. `last`: the latest of the stamps there are already; those were read from the clock."""
        if last is None:
            start = int(now.wall) if _is_set(now.wall) else FLOOR
            return cls(start, now.boot, now.uptime, start)._looked(now.wall)
        return cls(
            last + SLACK, now.boot, now.uptime, last + SLACK, (Boot(-_EVER, 0.0),), confirmed=0.0, before=0.0
        )._looked(now.wall)

    def seen(self, now: Reading) -> Timeline:
        """After another reading."""
        if now.boot == self.boot:
            elapsed = now.uptime - self.uptime
            # Readings of several threads may come late; far back is a machine that was put back to an earlier state.
            uptime = self.uptime if -LATE <= elapsed < 0.0 else now.uptime
            moved = replace(self, stamp=self.stamp + max(0.0, elapsed), uptime=uptime)
        else:
            moved = self._rebooted(now)
        if not _is_set(now.wall):
            # The watch is interrupted. What a clock showed before it lost its time may have been wrong already.
            return replace(moved, ahead=None, since=moved.since + moved.stamp - self.stamp)
        return moved._looked(now.wall)

    def older_than(self, seconds: float, tenth: int = 0) -> int:
        """The stamp before which everything is older than so many seconds.

        `tenth`: of the users that are asked about, 0 to 9; a long pause counts for one after the other.
        """
        confirmed = self._counted(tenth)
        if confirmed is None:
            return math.floor(self.stamp - seconds)
        limit = self.stamp + confirmed - seconds
        end = float(_EVER)
        for start, ahead in reversed(list(self._spans(confirmed, confirmed))):
            if limit - ahead > start:
                return math.floor(min(limit - ahead, end))
            end = start
        return -_EVER

    @property
    def now(self) -> int:
        """Unix time as best known: of the clock, unless it contradicts what is certain."""
        return int(self.stamp + self._best())

    def wall(self, stamp: int) -> int:
        """Unix time of a stamp, as best known."""
        best = self._best()
        return int(stamp + next(ahead for start, ahead in reversed(list(self._spans(best, best))) if stamp >= start))

    def to_json(self) -> dict[str, Any]:
        """All but `past`, which changes with a boot only."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "past"}

    @classmethod
    def from_json(cls, data: dict[str, Any], past: list[Any]) -> Timeline:
        """Raises TypeError or ValueError for what `to_json` has not written."""
        boots = tuple(Boot(int(start), None if ahead is None else float(ahead)) for start, ahead in past)
        return cls(**data, past=boots)

    def _counted(self, tenth: int) -> float | None:
        return self.before if self.stamp < self.raised + tenth * TENTH_SECONDS else self.confirmed

    def _best(self) -> float:
        if self.confirmed is None:
            return 0.0
        is_credible = self.ahead is not None and 0.0 <= self.ahead - self.confirmed <= YEAR
        return self.ahead if is_credible and self.ahead is not None else self.confirmed

    def _spans(self, most: float, current: float) -> Iterator[tuple[int, float]]:
        """First stamp of each boot, and how far the clock was ahead: nowhere less than before, nor more than `most`.

        Where it was not set, or ahead of what it should be, the boot is taken to have ended when the next one began.
        """
        later = current
        known: list[float] = []
        for boot in reversed(self.past):
            later = boot.ahead if boot.ahead is not None and boot.ahead <= most else later
            known.append(later)
        least = -math.inf
        for boot, ahead in zip(self.past, reversed(known), strict=True):
            least = max(least, ahead)
            yield boot.start, least
        yield (self.start if self.past else -_EVER), max(least, current)

    def _rebooted(self, now: Reading) -> Timeline:
        """Certain are the seconds since the boot, where the clock does not say that it has been less."""
        told = now.wall - self.stamp - self.ahead if self.ahead is not None and _is_set(now.wall) else 0.0
        ended = None if self.ahead is None else max(self.ahead, -math.inf if self.confirmed is None else self.confirmed)
        start = int(self.stamp) + SLACK
        return replace(
            self, stamp=start + min(max(0.0, told - SLACK), now.uptime), boot=now.boot, uptime=now.uptime, start=start,
            past=_joined((*self.past, Boot(self.start if self.past else -_EVER, ended))), ahead=None,
        )  # fmt: skip

    def _looked(self, wall: float) -> Timeline:
        """After a look at the clock."""
        if not _is_set(wall):
            return self
        ahead = wall - self.stamp
        if self.confirmed is None:
            return replace(self, ahead=ahead, confirmed=ahead, before=ahead)._watched(ahead)
        if self.lowest is None or self.highest is None:
            return self._watched(ahead)
        watched = replace(self, ahead=ahead, lowest=min(self.lowest, ahead), highest=max(self.highest, ahead))
        return watched._settled()._watched(ahead) if self.stamp - self.since >= PROBATION else watched

    def _watched(self, ahead: float) -> Timeline:
        """Watched from now on."""
        return replace(self, ahead=ahead, since=self.stamp, lowest=ahead, highest=ahead)

    def _settled(self) -> Timeline:
        """With what the clock has stood by all the time."""
        assert self.confirmed is not None
        assert self.lowest is not None
        assert self.highest is not None
        if self.lowest > self.confirmed:
            slow = self.lowest - self.confirmed > JUMP
            before, raised = (self.confirmed, self.stamp) if slow else (self.lowest, self.raised)
            return replace(self, confirmed=self.lowest, before=before, raised=raised)
        if self.highest < self.confirmed:
            return replace(self, confirmed=self.highest, before=self.highest)
        return self


def _is_set(wall: float) -> bool:
    return FLOOR <= wall < CEILING


def _joined(boots: tuple[Boot, ...]) -> tuple[Boot, ...]:
    """At most `BOOTS` of them: the two that differ least become one, as of the later."""
    if len(boots) <= BOOTS:
        return boots
    gaps = [math.inf if a is None or b is None else abs(b - a) for (_, a), (_, b) in pairwise(boots)]
    least = gaps.index(min(gaps))
    return (*boots[:least], Boot(boots[least].start, boots[least + 1].ahead), *boots[least + 2 :])


def what_changed(old: Timeline, new: Timeline) -> list[str]:
    """What a person should know of the clock after another reading, a sentence each."""
    said = []
    ahead, shown = old.ahead if old.ahead is not None else old.confirmed, new.ahead
    if shown is None:
        if new.boot != old.boot:
            said.append("the clock is not set: until it is, ages are counted in the machine's uptime")
    elif ahead is None:
        said.append(f"the clock has been set, to {date(new.stamp + shown)}: ages count from the uptime before")
    elif abs(shown - ahead) > JUMP:
        said.append(_jumped(shown - ahead, date(new.stamp + shown)))
    if old.confirmed is not None and new.confirmed is not None and abs(new.confirmed - old.confirmed) > JUMP:
        said.append(_believed(new.confirmed - old.confirmed))
    return said


def _jumped(seconds: float, shown: str) -> str:
    days = abs(seconds) / 86_400
    if seconds < 0:
        return f"the clock was set back by {days:.1f} days, to {shown}: ages are counted in uptime meanwhile"
    hours = PROBATION / 3600
    return f"the clock went {days:.1f} days ahead of the uptime, to {shown}: they count after {hours:.0f} h of uptime"


def _believed(seconds: float) -> str:
    days = abs(seconds) / 86_400
    if seconds < 0:
        return f"the clock has stood {days:.1f} days lower for long enough: it is taken as right from now on"
    return (
        f"the clock has stood {days:.1f} days ahead of the uptime for long enough: they count from now on, for a tenth "
        "of the users an hour"
    )


def date(wall: float) -> str:
    """Unix time as a UTC date and time; as a number where no calendar has it."""
    try:
        return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):
        return f"{wall:.0f}"
