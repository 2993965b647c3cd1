"""What one decode has to compute: the prefix tree of its prompts, each token once. Plain columns, no llama.cpp.

Prompts stand in an order in which neighbours begin alike. A token that several neighbours share is one row that
belongs to all of them, so a row's sequences are always a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.llm.contract import ID_BYTES, TokenIds, pack_ids, unpack_ids

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
class Branches:
    """The prompts of one decode, different ones in the order of their sequences: sorted by prefix, then by suffix.

    Attributes:
        prefixes: sorted.
        own: how many tokens at the beginning of each prefix could be taken from kept cells.
        prefix: the place of each prompt's prefix.
        suffixes: of each prompt, as `pack_ids` gives them; empty only if prefix and cells leave something to compute.
    """

    prefixes: Sequence[TokenIds]
    own: Sequence[int]
    prefix: Sequence[int]
    suffixes: Sequence[bytes]

    @classmethod
    def one(cls, tokens: TokenIds, own: int = 0) -> Branches:
        """A decode of one prompt, of which so many tokens are in cells."""
        return cls([tokens], [own], [0], [b""])

    @property
    def lengths(self) -> list[int]:
        """Tokens of each prompt."""
        sizes = list(map(len, self.prefixes))
        return [
            sizes[place] + len(suffix) // ID_BYTES for place, suffix in zip(self.prefix, self.suffixes, strict=True)
        ]

    def tokens(self, prompt: int) -> TokenIds:
        return self.prefixes[self.prefix[prompt]] + unpack_ids(self.suffixes[prompt])


@dataclass(frozen=True, slots=True)
class Leaves:
    """How each prompt of a decode comes by its cells.

    Attributes:
        held: tokens at its beginning that are in cells before the decode.
        follows: they are those of the prompt before it, not its own.
        start: the first token that no prompt before it has computed.
        last: the row after which its logits are read.
    """

    held: list[int]
    follows: list[bool]
    start: list[int]
    last: list[int]


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


def unfold(branches: Branches, first: int = 0) -> tuple[Leaves, Rows]:
    """Leaves and rows of a decode. `first`: the sequence id of the first prompt; the others follow."""
    lengths = branches.lengths
    held, follows, start = _places(branches, lengths)
    sizes = [length - begin for length, begin in zip(lengths, start, strict=True)]
    ends = list(accumulate(sizes))
    rows = _rows(branches, start, sizes, ends, first)
    last = _share_out(rows, lengths, follows, start, ends)
    rows.wanted[last] = 1
    return Leaves(held, follows, start, last), rows


def _places(branches: Branches, lengths: Sequence[int]) -> tuple[list[int], list[bool], list[int]]:
    """`held`, `follows` and `start` of each prompt."""
    held, follows, start = list[int](), list[bool](), list[int]()
    for place, group in groupby(range(len(branches.prefix)), branches.prefix.__getitem__):
        members = list(group)
        own, head, prefix = branches.own[place], members[0], len(branches.prefixes[place])
        shared = common_length(branches.tokens(head - 1), branches.tokens(head)) if head else 0
        before = held[-1] if head and shared >= own else None
        at, begin = _place(lengths[head], own, shared, before)
        # Those after the head begin with the whole prefix, so with all that is held.
        held += [at] * len(members)
        follows += [before is not None, *[True] * (len(members) - 1)]
        common = common_beginnings(branches.suffixes[head : head + len(members)])
        start += [begin, *(prefix + tokens for tokens in common)]
    return held, follows, start


def _place(length: int, own: int, shared: int, before: int | None) -> tuple[int, int]:
    """(held, start) of a prompt; `before`: what the prompt it follows holds, None if it follows none."""
    if before is None:
        return own, own
    # Its last token must be a row: without one there are no logits to read.
    if shared == length and before >= length:
        return length - 1, length - 1
    return min(before, shared), shared


def common_beginnings(suffixes: Sequence[bytes]) -> list[int]:
    """How many tokens each suffix but the first has in common with the one before it."""
    if len(suffixes) < 2:
        return []
    sizes = np.fromiter(map(len, suffixes), np.intp, len(suffixes)) // ID_BYTES
    width = int(sizes.max())
    # One column more than there are tokens: there, all are different.
    table = np.full((len(suffixes), width + 1), -1, np.int32)
    table[np.arange(width + 1) < sizes[:, None]] = np.frombuffer(b"".join(suffixes), ">i4")
    different = table[1:] != table[:-1]
    different[:, width] = True
    common = np.minimum(different.argmax(axis=1), np.minimum(sizes[1:], sizes[:-1]))
    found: list[int] = common.tolist()
    return found


def _rows(branches: Branches, start: Sequence[int], sizes: Sequence[int], ends: Sequence[int], first: int) -> Rows:
    """All tokens from each prompt's `start` on, so far as if each belonged to that prompt alone."""
    total, number = ends[-1], len(sizes)
    parts = []
    for begin, place, suffix in zip(start, branches.prefix, branches.suffixes, strict=True):
        own = begin - len(branches.prefixes[place])
        if own < 0:
            parts.append(pack_ids(branches.prefixes[place][begin:]))
        parts.append(suffix[ID_BYTES * own :] if own > 0 else suffix)
    tokens = np.frombuffer(b"".join(parts), ">i4").astype(np.int32)
    each = np.array(sizes)
    owner = np.arange(first, first + number, dtype=np.int32).repeat(each)
    depth = np.array([begin + size - end for begin, size, end in zip(start, sizes, ends, strict=True)], np.int32)
    positions = np.arange(total, dtype=np.int32) + depth.repeat(each)
    return Rows(tokens, positions, owner, np.ones(total, np.int32), np.zeros(total, np.int8))


def _share_out(
    rows: Rows, lengths: Sequence[int], follows: Sequence[bool], start: Sequence[int], ends: Sequence[int]
) -> list[int]:
    """Give each row the prompts that share it; the last row of each prompt."""
    last: list[int] = []
    # Of the prompt at hand: from which depth to which its tokens are in rows that begin with depth 0 at which place,
    # and the prompt they were computed for. Only a later one that does not share them ends their reach.
    stretches: list[tuple[int, int, int, int]] = []
    for number, (length, follower, begin, end) in enumerate(zip(lengths, follows, start, ends, strict=True)):
        _close(stretches, begin if follower else 0, number, rows.count)
        if begin < length:
            stretches.append((begin, length, end - length, number))
        last.append(stretches[-1][2] + length - 1)
    _close(stretches, 0, len(lengths), rows.count)
    return last


def _close(stretches: list[tuple[int, int, int, int]], depth: int, number: int, count: IntArray) -> None:
    """Rows at `depth` and beyond belong to no prompt from `number` on."""
    while stretches and stretches[-1][1] > depth:
        low, high, zero, owner = stretches.pop()
        if number - owner > 1:
            count[zero + max(low, depth) : zero + high] = number - owner
        if low < depth:
            stretches.append((low, depth, zero, owner))
