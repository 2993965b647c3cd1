"""What one decode has to compute: the prefix tree of its prompts, each token once. Plain arrays, no llama.cpp.

Prompts stand in an order in which neighbours begin alike. A token that several neighbours share is one row that
belongs to all of them, so a row's sequences are always a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TokenIds = tuple[int, ...]
IntArray = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Rows:
    """The tokens of one decode.

    Attributes:
        tokens, positions: int32 [n].
        first, count: int32 [n]; a token belongs to the sequences first … first + count - 1, whose common part it is.
        wanted: int8 [n], 1 where the logits after the token are read.
    """

    tokens: IntArray
    positions: IntArray
    first: IntArray
    count: IntArray
    wanted: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(frozen=True, slots=True)
class Leaf:
    """How one prompt of a decode comes by its cells.

    Attributes:
        held: tokens at its beginning that are in cells before the decode.
        follows: they are those of the prompt before it, not its own.
        start: the first token that no prompt before it has computed.
        last: the row after which its logits are read.
    """

    held: int
    follows: bool
    start: int
    last: int


def common_length(a: TokenIds, b: TokenIds) -> int:
    """Length of the common beginning."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low


def unfold(
    prompts: Sequence[TokenIds], own: Sequence[int], shared: Sequence[int], first: int = 0
) -> tuple[list[Leaf], Rows]:
    """Leaves and rows of a decode.

    Args:
        prompts: token ids of each, not empty, no two alike.
        own: how many tokens at its beginning each could take from kept cells; less than its length.
        shared: how many tokens each has in common with the one before it; 0 for the first.
        first: the sequence id of the first prompt; the others follow.
    """
    leaves: list[Leaf] = []
    tokens: list[int] = []
    positions: list[int] = []
    # Of the prompt at hand: from which depth on its tokens are in which rows.
    stretches: list[tuple[int, int]] = []
    for k, prompt in enumerate(prompts):
        follows = k > 0 and shared[k] >= own[k]
        held, start = _place(len(prompt), own[k], shared[k], leaves[-1].held if follows else None)
        stretches = [s for s in stretches if s[0] < start] if follows else []
        if start < len(prompt):
            stretches.append((start, len(tokens)))
            tokens += prompt[start:]
            positions += range(start, len(prompt))
        depth, row = stretches[-1]
        leaves.append(Leaf(held, follows, start, row + len(prompt) - 1 - depth))
    return leaves, _rows(leaves, tokens, positions, [len(prompt) for prompt in prompts], first)


def _place(length: int, own: int, shared: int, before: int | None) -> tuple[int, int]:
    """(held, start) of a prompt; `before`: what the prompt it follows holds, None if it follows none."""
    if before is None:
        return own, own
    # Its last token must be a row: without one there are no logits to read.
    if shared == length and before >= length:
        return length - 1, length - 1
    return min(before, shared), shared


def _rows(leaves: list[Leaf], tokens: list[int], positions: list[int], lengths: list[int], first: int) -> Rows:
    total = len(tokens)
    owner, count, wanted = np.empty(total, np.int32), np.ones(total, np.int32), np.zeros(total, np.int8)
    row = 0
    for k, leaf in enumerate(leaves):
        size = lengths[k] - leaf.start
        owner[row : row + size] = first + k
        reach = lengths[k]
        for follower in leaves[k + 1 :]:
            reach = min(reach, follower.start) if follower.follows else 0
            if reach <= leaf.start:
                break
            count[row : row + reach - leaf.start] += 1
        row += size
        wanted[leaf.last] = 1
    return Rows(np.asarray(tokens, np.int32), np.asarray(positions, np.int32), owner, count, wanted)
