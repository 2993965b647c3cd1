"""A method's recent results, kept in a way that does not keep its object; and what is worth keeping."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakMethod

from corella_edge.request import Candidate, Event

if TYPE_CHECKING:
    from functools import _lru_cache_wrapper

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def remembered(method: Callable[[K], V], count: int) -> _lru_cache_wrapper[V]:
    """The bound method with its last `count` results, for the object itself to hold.

    `lru_cache` of a bound method held by its object is a cycle: a whole catalogue would wait for the garbage
    collector, which a server keeps from looking at what it has loaded.
    """
    found = WeakMethod(method)

    def call(key: K) -> V:
        bound = found()
        assert bound is not None  # whoever calls has it from the object
        return bound(key)

    return lru_cache(count)(call)


class Again:
    """Tells which sequences come again, without keeping any alive: a hint, since another may take a freed one's id.

    To remember what comes once costs more than it seems: whatever has to leave for it is freed, object by object, long
    after it has left the processor's cache.
    """

    def __init__(self, count: int) -> None:
        self._marks = [0] * count

    def sees(self, things: Sequence[Event | Candidate]) -> bool:
        """Whether this very object was lately seen; now it is."""
        mark = hash((id(things), len(things), things[-1].item if things else ""))
        place = mark % len(self._marks)
        again = self._marks[place] == mark
        self._marks[place] = mark
        return again
