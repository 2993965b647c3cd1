"""A method's recent results, kept in a way that does not keep its object."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import lru_cache
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakMethod

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
