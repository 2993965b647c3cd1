"""Prefixes of recent users: what llama.cpp computed for them, as bytes, within a budget of tokens.

They lie outside the context: attention looks over all cells of a context, so a context full of other users' cells
would slow every decode; copying a prefix back is a thousandth of computing it (docs/llm.md).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.llm.tree import TokenIds, common_length

State = npt.NDArray[np.uint8]


class KeptPrefixes:
    """Token ids → state; the least recently used leave first."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.tokens = self.bytes = 0
        self.evictions = 0
        self._sorted: list[TokenIds] = []
        self._states: OrderedDict[TokenIds, State] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def find(self, tokens: TokenIds) -> tuple[TokenIds, int]:
        """The kept prefix that has most in common with `tokens`, and how much; ((), 0) if none has anything."""
        place = bisect_left(self._sorted, tokens)
        # In sorted order the longest common beginning is with a neighbour.
        near = self._sorted[max(0, place - 1) : place + 1]
        found = [(common_length(kept, tokens), kept) for kept in near]
        length, kept = max(found, default=(0, ()))
        return (kept, length) if length else ((), 0)

    def take(self, tokens: TokenIds) -> State:
        """The state of a kept prefix, which counts as used now."""
        self._states.move_to_end(tokens)
        return self._states[tokens]

    def touch(self, tokens: TokenIds) -> bool:
        """Whether a prefix is kept, or is the beginning of one that is; it counts as used now."""
        kept, length = self.find(tokens)
        if kept:
            self._states.move_to_end(kept)
        return bool(kept) and length == len(tokens)

    def put(self, tokens: TokenIds, state: State) -> None:
        """Keep a prefix; one that it extends leaves, others as the budget asks."""
        if not tokens or len(tokens) > self.budget:
            return
        if tokens in self._states:
            self._states.move_to_end(tokens)
            return
        older, length = self.find(tokens)
        if older and length == len(older):
            self._drop(older)
        self._states[tokens] = state
        insort(self._sorted, tokens)
        self.tokens += len(tokens)
        self.bytes += state.nbytes
        while self.tokens > self.budget:
            self.evictions += 1
            self._drop(next(iter(self._states)))

    def clear(self) -> None:
        self._sorted.clear()
        self._states.clear()
        self.tokens = self.bytes = 0

    def _drop(self, tokens: TokenIds) -> None:
        self.bytes -= self._states.pop(tokens).nbytes
        del self._sorted[bisect_left(self._sorted, tokens)]
        self.tokens -= len(tokens)
