"""Prefixes of recent users: what llama.cpp computed for them, as bytes, within a budget of tokens.

They lie outside the context: attention looks over all cells of a context, so a context full of other users' cells
would slow every decode; copying a prefix back is a thousandth of computing it (docs/llm.md).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from corella_edge.adapters import ALONE, Weights
from corella_edge_runtime.llm.contract.messages import TokenIds
from corella_edge_runtime.llm.llama.tree import common_length

State = npt.NDArray[np.uint8]
_Key = tuple[Weights, TokenIds]


class KeptPrefixes:
    """Token ids → state; the least recently used leave first.

    Attributes:
        adapters: by which the prefixes are computed that are kept, looked for and found now. With other ones, the same
            tokens have another state; all of them share the budget.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.adapters: Weights = ALONE
        self.tokens = self.bytes = 0
        self.evictions = 0
        self._sorted: list[_Key] = []
        self._states: OrderedDict[_Key, State] = OrderedDict()
        self._spare = Spare()

    def __len__(self) -> int:
        return len(self._states)

    def find(self, tokens: TokenIds) -> tuple[TokenIds, int]:
        """The kept prefix that has most in common with `tokens`, and how much; ((), 0) if none has anything."""
        place = bisect_left(self._sorted, (self.adapters, tokens))
        # In sorted order the longest common beginning is with a neighbour.
        near = self._sorted[max(0, place - 1) : place + 1]
        found = [(common_length(kept, tokens), kept) for adapters, kept in near if adapters == self.adapters]
        length, kept = max(found, default=(0, ()))
        return (kept, length) if length else ((), 0)

    def take(self, tokens: TokenIds) -> State:
        """The state of a kept prefix, which counts as used now."""
        key = self.adapters, tokens
        self._states.move_to_end(key)
        return self._states[key]

    def touch(self, tokens: TokenIds) -> bool:
        """Whether a prefix is kept, or is the beginning of one that is; it counts as used now."""
        kept, length = self.find(tokens)
        if kept:
            self._states.move_to_end((self.adapters, kept))
        return bool(kept) and length == len(tokens)

    def room(self, size: int) -> State:
        """Memory for a state of `size` bytes: of one that left, if that fits; its content is whatever was there."""
        return self._spare.take(size)

    def put(self, tokens: TokenIds, state: State) -> None:
        """Keep a prefix; one that it extends leaves, others as the budget asks."""
        key = self.adapters, tokens
        if not tokens or len(tokens) > self.budget:
            return
        if key in self._states:
            self._states.move_to_end(key)
            return
        older, length = self.find(tokens)
        if older and length == len(older):
            self._drop((self.adapters, older))
        self._states[key] = state
        insort(self._sorted, key)
        self.tokens += len(tokens)
        self.bytes += state.nbytes
        self._spare.used(self.bytes)
        while self.tokens > self.budget:
            self.evictions += 1
            self._drop(next(iter(self._states)))
        self._spare.used(self.bytes)

    def clear(self) -> None:
        for state in self._states.values():
            self._spare.give(state)
        self._sorted.clear()
        self._states.clear()
        self.tokens = self.bytes = 0
        self._spare.used(0)

    def erase(self) -> None:
        """`clear`, and leave nothing of any state in memory: it is overwritten, then let go."""
        for state in self._states.values():
            whole_of(state).fill(0)
        self.clear()
        self._spare.erase()

    def _drop(self, key: _Key) -> None:
        state = self._states.pop(key)
        self.bytes -= state.nbytes
        self._spare.give(state)
        del self._sorted[bisect_left(self._sorted, key)]
        self.tokens -= len(key[1])


class Spare:
    """Memory of states that left, for those that come: fresh pages cost more than what is copied into them.

    With what is in use it is never more than once was in use, but for the rounding of sizes.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[State]] = {}
        self._bytes = self._most = 0

    def take(self, size: int) -> State:
        """`size` bytes, uint8."""
        capacity = size_class(size)
        found = self._free.get(capacity)
        if not found:
            return np.empty(capacity, np.uint8)[:size]
        self._bytes -= capacity
        return found.pop()[:size]

    def give(self, state: State) -> None:
        """Take back what `take` gave; an empty state, as of who only counts prefixes, is no memory."""
        whole = whole_of(state)
        if 0 < whole.nbytes == size_class(state.nbytes):
            self._free.setdefault(whole.nbytes, []).append(whole)
            self._bytes += whole.nbytes

    def used(self, used: int) -> None:
        """So many bytes are in use: let go of what is too much beside them, the largest first."""
        self._most = max(self._most, used + used // 8)
        for capacity in sorted(self._free, reverse=True):
            free = self._free[capacity]
            while free and used + self._bytes > self._most:
                free.pop().fill(0)  # what the allocator gets back is not cleared by it
                self._bytes -= capacity

    def erase(self) -> None:
        """Overwrite what is free, and let go of it."""
        for whole in (whole for free in self._free.values() for whole in free):
            whole.fill(0)
        self._free.clear()
        self._bytes = self._most = 0


def whole_of(state: State) -> State:
    """The memory that a state is the beginning of; its end may hold what lay there before."""
    return state if state.base is None else state.base


def size_class(size: int) -> int:
    """`size` bytes rounded up by less than an eighth, so that prefixes of almost one length fit each other's memory."""
    step = 1 << max(0, size.bit_length() - 4)
    return -(-size // step) * step
