"""Kept answers: the LLM's score of the same user state and item, given again. Bounded, aged, erased with the user.

The LLM's prompt is a function of the user's features and history and of the item. As long as these are the same, the
same question would be asked again: its answer is taken from here instead.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from corella_edge.adapters import Weights
from corella_edge.request import User
from corella_edge.routing.measure import Floats

Key = str | bytes  # a user's id, or the state of somebody without one
Asked = str | tuple[str, Weights]  # an item, with the adapters by which the LLM was asked about it where there are some
_ENCODER = msgspec.json.Encoder(order="sorted")


def state_of(user: User) -> bytes:
    """16 bytes, the hash of all that a model reads of a user beside the id: features and history."""
    history = user.history
    read = (user.features, history.items, history.ratings, history.times)
    return hashlib.blake2b(_ENCODER.encode(read), digest_size=16).digest()


def asked_by(items: Sequence[str], adapters: Weights) -> Sequence[Asked]:
    """Under which a user's answers about items are kept: other adapters give other ones."""
    return [(item, adapters) for item in items] if adapters else items


def key_of(user: User, state: bytes) -> Key:
    """Under which a user's answers are kept."""
    return state if user.id is None else user.id


@dataclass(slots=True)
class _Of:
    """One user's answers: item → score, the time at which it was given, and the state that it is of."""

    used: float
    scores: dict[Asked, tuple[float, float, bytes]] = field(default_factory=dict)


class KeptAnswers:
    """At most `most` answers, none older than `seconds`; who was not seen longest leaves first.

    Times are given by the caller, in seconds of one monotonic clock. Not for several threads at once.

    Attributes:
        hits, misses: answers that were asked for and were here, or not.
    """

    def __init__(self, most: int, seconds: float) -> None:
        self.most, self.seconds = most, seconds
        self.hits = self.misses = 0
        self._users: OrderedDict[Key, _Of] = OrderedDict()
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def get(self, key: Key, state: bytes, items: Sequence[Asked], now: float) -> Floats:
        """float64 [n]: the scores of the items in this state of the user, NaN where there is none."""
        found = self._found(key, state, items, now)
        here = int(np.count_nonzero(~np.isnan(found)))
        self.hits, self.misses = self.hits + here, self.misses + len(items) - here
        return found

    def latest(self, key: Key, items: Sequence[Asked], now: float) -> Floats:
        """float64 [n]: the latest scores of the items in whatever state of the user, NaN where there is none."""
        return self._found(key, None, items, now)

    def _found(self, key: Key, state: bytes | None, items: Sequence[Asked], now: float) -> Floats:
        self.sweep(now)
        found = np.full(len(items), np.nan)
        known = self._users.get(key)
        if known is None:
            return found
        self._users.move_to_end(key)
        known.used = now
        since, nothing = now - self.seconds, (np.nan, now, state)
        for place, item in enumerate(items):
            score, at, of = known.scores.get(item, nothing)
            if at >= since and (state is None or of == state):
                found[place] = score
        return found

    def put(self, key: Key, state: bytes, items: Sequence[Asked], scores: Floats, now: float) -> None:
        """Keep scores float64 [n], none of them NaN, in place of those of the same items in another state."""
        self.sweep(now)
        known = self._users.setdefault(key, _Of(now))
        self._users.move_to_end(key)
        known.used = now
        before = len(known.scores)
        for item, score in zip(items, scores.tolist(), strict=True):
            known.scores.pop(item, None)  # the newest last
            known.scores[item] = (score, now, state)
        self._number += len(known.scores) - before
        self._bound(known)

    def _bound(self, newest: _Of) -> None:
        while self._number > self.most and len(self._users) > 1:
            self.forget(next(iter(self._users)))
        while self._number > self.most:
            del newest.scores[next(iter(newest.scores))]
            self._number -= 1

    def sweep(self, now: float) -> None:
        """Drop who was not seen for so long that all of the answers are too old."""
        while self._users and next(iter(self._users.values())).used < now - self.seconds:
            self.forget(next(iter(self._users)))

    def forget(self, key: Key) -> None:
        """Drop a user's answers."""
        known = self._users.pop(key, None)
        self._number -= len(known.scores) if known else 0

    def forget_unnamed(self) -> None:
        """Drop the answers to requests without a user's id: whose they are, nobody knows."""
        for key in [key for key in self._users if isinstance(key, bytes)]:
            self.forget(key)

    def clear(self) -> None:
        """Drop everything."""
        self._users.clear()
        self._number = 0
