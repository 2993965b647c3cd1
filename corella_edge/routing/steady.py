"""Hysteresis: a route stays as it was while the candidate is within the score's tolerance of the threshold.

The base model's score may differ from one computation to the next by the bundle's published tolerance (`tolerance.crm`
in verification.json). A route that such a difference could turn is the one of last time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from corella_edge.routing.measure import Floats

ITEMS = 1000  # that are remembered of one user
Bools = npt.NDArray[np.bool_]


def undecided(p: Floats, threshold: float, tolerance: float, measure: Callable[[Floats], Floats]) -> Bools:
    """bool [n]: where a probability within `tolerance` of p, float64 [n], would be routed otherwise."""
    if not np.isfinite(threshold):
        return np.zeros(len(p), np.bool_)
    around = [measure((p + step).clip(0.0, 1.0)) for step in (-tolerance, 0.0, tolerance)]
    found: Bools = (np.minimum.reduce(around) < threshold) & (np.maximum.reduce(around) >= threshold)
    return found


class LastRoutes:
    """Which of a user's items were asked about last time; at most `most` items of all users, the latest users'.

    Not for several threads at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._users: OrderedDict[str, dict[str, bool]] = OrderedDict()
        self._number = 0

    def __len__(self) -> int:
        return self._number

    def knows(self, user: str) -> bool:
        """Whether any route of a user is remembered."""
        return user in self._users

    def steady(self, user: str, items: Sequence[str], asked: Bools, unsure: Bools) -> Bools:
        """bool [n]: `asked`, with the route of last time where `unsure` and there was one."""
        known = self._users.get(user)
        if known is None or not unsure.any():
            return asked
        found = asked.copy()
        for place in unsure.nonzero()[0].tolist():
            found[place] = known.get(items[place], found[place])
        return found

    def remember(self, user: str, items: Sequence[str], asked: Bools) -> None:
        """The routes of a request; of a long one those that were asked alone."""
        known = self._users.pop(user, {})
        self._number -= len(known)
        if len(items) > ITEMS:
            places = asked.nonzero()[0][:ITEMS].tolist()
            items, asked = [items[place] for place in places], asked[places]
        if len(known) + len(items) > ITEMS:
            known = {}
        known.update(zip(items, asked.tolist(), strict=True))
        self._users[user] = known
        self._number += len(known)
        while self._number > self.most and self._users:
            self.forget(next(iter(self._users)))

    def forget(self, user: str) -> None:
        """Drop what is remembered of a user."""
        self._number -= len(self._users.pop(user, {}))

    def clear(self) -> None:
        """Drop everything."""
        self._users.clear()
        self._number = 0
