"""Users read lately. An entry is served only while nothing was written about its user since it was read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace

from corella_edge.request import User

_STRIPES = 4096


class UserCache:
    """Id → user with the latest `most` events; the least recently used leave first."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[int, int, User]] = OrderedDict()
        # Versions of users, by a hash of their id: two that share one are read again for nothing, rarely.
        self._versions = [0] * _STRIPES

    def get(self, user_id: str, most: int) -> tuple[User | None, int]:
        """The user, or None, and the version to give to `put` after reading."""
        with self._lock:
            version = self._versions[hash(user_id) % _STRIPES]
            found = self._kept.get(user_id)
            if found is None or found[:2] != (version, most):
                return None, version
            self._kept.move_to_end(user_id)
            return found[2], version

    def put(self, user_id: str, user: User, most: int, version: int) -> User:
        """Keep what was read at `version`, unless it changed since. A history equal to the one before is that one."""
        with self._lock:
            before = self._kept.get(user_id)
            if before is not None and before[2].history == user.history:
                user = replace(user, history=before[2].history)
            if version == self._versions[hash(user_id) % _STRIPES]:
                self._kept[user_id] = (version, most, user)
                self._kept.move_to_end(user_id)
                if len(self._kept) > self.size:
                    self._kept.popitem(last=False)
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
                self._kept.pop(user_id, None)
