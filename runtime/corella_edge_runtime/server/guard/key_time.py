"""The time that keys expire by: never earlier than what is certain, whatever the clock shows.

A machine that boots in 1970 must not take an expired key again. So the time line of `timekeeping` is kept in a file of
the state folder. A clock that is ahead expires keys as long as it shows that; what the log says of it is how one knows.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from corella_edge.atomic import write_file
from corella_edge.errors import InputError
from corella_edge_runtime.box import state_folder
from corella_edge_runtime.machine.timekeeping import CEILING, FLOOR, Reading, Timeline, read_clocks, what_changed

_LOG = logging.getLogger("corella_edge_runtime.server.guard.keys")
KEPT_SECONDS = 600.0  # of uptime between two writes
_FLOOR, _LAST = datetime.fromtimestamp(FLOOR, UTC), datetime.fromtimestamp(CEILING, UTC)


class KeyTime:
    """The time now. Used in one thread."""

    def __init__(self, file: Path | None = None, clocks: Callable[[], Reading] = read_clocks) -> None:
        """`file`: where it is kept; None = nowhere. One that cannot be read, or is damaged, is replaced."""
        self._file, self._clocks = file, clocks
        self._timeline = _kept(file) or Timeline.begin(clocks())
        self._kept_at = self._timeline.stamp - KEPT_SECONDS
        self._writing: threading.Thread | None = None

    @classmethod
    def of(cls, keys: Path) -> KeyTime:
        """Kept in the state folder, for the keys file at `keys`; nowhere, if there is no such folder."""
        digest = hashlib.sha256(str(keys.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
        try:
            return cls(state_folder() / "keys" / f"{digest[:16]}.json")
        except InputError as error:
            _LOG.warning("the time is not kept from one start to the next: %s", error)
            return cls()

    def now(self) -> datetime:
        """The later of what the clock shows and what is certain; says what is odd about the clock."""
        before, reading = self._timeline, self._clocks()
        self._timeline = before.seen(reading)
        for text in what_changed(before, self._timeline):
            _LOG.warning("%s", text)
        if self._timeline.stamp - self._kept_at >= KEPT_SECONDS:
            self._keep()
        certain = self._timeline.stamp + (self._timeline.confirmed or 0.0)
        return max(_moment(reading.wall), _moment(certain))

    def _keep(self) -> None:
        """In a thread of its own: a disk may be slow."""
        if self._file is not None and (self._writing is None or not self._writing.is_alive()):
            self._kept_at = self._timeline.stamp
            self._writing = threading.Thread(target=_write, args=(self._file, self._timeline), daemon=True)
            self._writing.start()


def _moment(seconds: float) -> datetime:
    """A moment within the years that clocks are believed at all."""
    return min(max(_FLOOR, datetime.fromtimestamp(min(max(seconds, 0.0), float(CEILING)), UTC)), _LAST)


def _kept(file: Path | None) -> Timeline | None:
    if file is None:
        return None
    try:
        data = json.loads(file.read_bytes())
        return Timeline.from_json(data["now"], data["past"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        _LOG.warning("%s cannot be read: the time by which keys expire starts again", file)
        return None


def _write(file: Path, timeline: Timeline) -> None:
    data = {"now": timeline.to_json(), "past": timeline.past}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, json.dumps(data).encode(), mode=0o600)
    except OSError as error:
        _LOG.warning("%s: the time is not kept from one start to the next (%s)", file, error.strerror)
    except InputError as error:
        _LOG.warning("the time is not kept from one start to the next: %s", error)
