"""Users read lately. An entry is served only while nothing was written about its user since it was read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace

from corella_edge.request import User

Wanted = tuple[int, int, tuple[str, ...] | None]  # how much of the history: `UserStore.user`
_STRIPES = 4096
_OWN = 10  # a user without events takes about as much memory as so many events


@dataclass(frozen=True, slots=True)
class _Entry:
    version: int
    wanted: Wanted
    user: User

    @property
    def weight(self) -> int:
        return _OWN + len(self.user.history)


class UserCache:
    """Id → user with the events that were wanted, within a budget of events; the least recently used leave first."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.events = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Entry] = OrderedDict()
        # Versions of users, by a hash of their id: two that share one are read again for nothing, rarely.
        self._versions = [0] * _STRIPES

    def __len__(self) -> int:
        return len(self._kept)

    def version(self, user_id: str) -> int:
        """What `put` wants of the time before the user was read."""
        return self._versions[hash(user_id) % _STRIPES]

    def get(self, user_id: str, wanted: Wanted) -> User | None:
        """The user as last written, or None if it is not here."""
        with self._lock:
            found = self._kept.get(user_id)
            if found is None or found.version != self.version(user_id) or found.wanted != wanted:
                return None
            self._kept.move_to_end(user_id)
            return found.user

    def put(self, user_id: str, user: User, wanted: Wanted, version: int) -> User:
        """Keep what was read at `version`, unless it changed since. A history equal to the one before is that one."""
        with self._lock:
            before = self._kept.get(user_id)
            if before is not None and before.user.history == user.history:
                user = replace(user, history=before.user.history)
            if version == self.version(user_id):
                self._remove(user_id)
                self._keep(user_id, _Entry(version, wanted, user))
            return user

    def changed(self, user_id: str) -> None:
        """Something was written about a user: what was read before is not served again."""
        with self._lock:
            self._versions[hash(user_id) % _STRIPES] += 1

    def drop(self, *user_ids: str) -> None:
        """As `changed`; no copy stays here."""
        with self._lock:
            for user_id in user_ids:
                self._versions[hash(user_id) % _STRIPES] += 1
                self._remove(user_id)

    def _keep(self, user_id: str, entry: _Entry) -> None:
        if entry.weight > self.budget:
            return
        self._kept[user_id] = entry
        self.events += entry.weight
        while self.events > self.budget:
            self._remove(next(iter(self._kept)))

    def _remove(self, user_id: str) -> None:
        entry = self._kept.pop(user_id, None)
        self.events -= entry.weight if entry else 0
