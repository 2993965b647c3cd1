"""What one decode has to compute: the prefix tree of its prompts, each token once. Plain columns, no llama.cpp.

Prompts stand in an order in which neighbours begin alike. A token that several neighbours share is one row that
belongs to all of them, so a row's sequences are always a range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.llm.contract import IntArray, TokenIds, lengths_of, unpack_ids


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
        groups: the prompts of each prefix, one or more.
        suffixes: of each prompt, as `pack_ids` gives them; empty only if prefix and cells leave something to compute.
    """

    prefixes: Sequence[TokenIds]
    own: Sequence[int]
    groups: Sequence[range]
    suffixes: Sequence[bytes]

    @classmethod
    def one(cls, tokens: TokenIds, own: int = 0) -> Branches:
        """A decode of one prompt, of which so many tokens are in cells."""
        return cls([tokens], [own], [range(1)], [b""])


@dataclass(frozen=True, slots=True)
class Leaves:
    """How each prompt of a decode comes by its cells.

    Attributes:
        held, follows: of each group: how many tokens at the beginning of its prompts are in cells before the decode,
            and whether these are those of the prompt before the group. A group's prompts hold the same.
        length, start, last: int32, of each prompt: its tokens, the first of them that no prompt before it has computed,
            and the row after which its logits are read.
    """

    held: list[int]
    follows: list[bool]
    length: IntArray
    start: IntArray
    last: IntArray


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
    sizes = np.array(lengths_of(branches.suffixes), np.int32)
    before = np.array([*map(len, branches.prefixes)], np.int32).repeat([*map(len, branches.groups)])
    tokens, owner, depth = _columns(branches.suffixes, sizes)
    length, start = before + sizes, before + _common_beginnings(tokens, owner, depth, sizes)
    held, follows, leaves_at = _heads(branches, length, start)
    tokens, owner, positions = _with_prefixes(branches, start, tokens, owner, depth + before[owner])
    count = _shared_by(leaves_at, owner, positions)
    last = (length - start).cumsum(dtype=np.int32) - 1
    for k in (length == start).nonzero()[0].tolist():
        # Another prompt has computed it all.
        (last[k],) = ((positions == length[k] - 1) & (owner <= k) & (k < owner + count)).nonzero()[0]
    wanted = np.zeros(len(tokens), np.int8)
    wanted[last] = 1
    return Leaves(held, follows, length, start, last), Rows(tokens, positions, owner + np.int32(first), count, wanted)


def _columns(suffixes: Sequence[bytes], sizes: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """All tokens of the suffixes, whose they are, and where they stand in them."""
    tokens = np.frombuffer(b"".join(suffixes), ">i4").astype(np.int32)
    owner = np.arange(len(sizes), dtype=np.int32).repeat(sizes)
    begin = sizes.cumsum(dtype=np.int32) - sizes
    return tokens, owner, np.arange(len(tokens), dtype=np.int32) - begin[owner]


def _common_beginnings(tokens: IntArray, owner: IntArray, depth: IntArray, sizes: IntArray) -> IntArray:
    """How many tokens each suffix has in common with the one before it; 0 for the first."""
    found = np.zeros_like(sizes)
    if len(sizes) > 1:
        # One column more than there are tokens: there, all are different.
        table = np.full((len(sizes), int(sizes.max()) + 1), -1, np.int32)
        table[owner, depth] = tokens
        different = table[1:] != table[:-1]
        different[:, -1] = True
        found[1:] = np.minimum(different.argmax(axis=1), np.minimum(sizes[1:], sizes[:-1]))
    return found


def _heads(branches: Branches, length: IntArray, start: IntArray) -> tuple[list[int], list[bool], IntArray]:
    """`held` and `follows` of each group, and the depth at which each prompt leaves the one before it.

    Corrects the `start` of a group's first prompt: it may begin like the last one of the group before.
    """
    held, follows, leaves_at = list[int](), list[bool](), start.copy()
    for place, (own, group) in enumerate(zip(branches.own, branches.groups, strict=True)):
        shared = _shared_with_the_one_before(branches, place) if place else 0
        before = held[-1] if place and shared >= own else None
        at, begin = _place(int(length[group.start]), own, shared, before)
        held.append(at)
        follows.append(before is not None)
        start[group.start], leaves_at[group.start] = begin, 0 if before is None else begin
    return held, follows, leaves_at


def _shared_with_the_one_before(branches: Branches, place: int) -> int:
    """Tokens that a group's first prompt has in common with the last one of the group before."""
    prompt = branches.groups[place].start
    one, other = (branches.prefixes[place - back] + unpack_ids(branches.suffixes[prompt - back]) for back in (1, 0))
    return common_length(one, other)


def _place(length: int, own: int, shared: int, before: int | None) -> tuple[int, int]:
    """(held, start) of a prompt; `before`: what the prompt it follows holds, None if it follows none."""
    if before is None:
        return own, own
    # Its last token must be a row: without one there are no logits to read.
    if shared == length and before >= length:
        return length - 1, length - 1
    return min(before, shared), shared


def _with_prefixes(
    branches: Branches, start: IntArray, tokens: IntArray, owner: IntArray, positions: IntArray
) -> tuple[IntArray, IntArray, IntArray]:
    """Tokens, owner and position of each row: of every prompt, all from its `start` on."""
    fresh = positions >= start[owner]
    columns = [(tokens[fresh], owner[fresh], positions[fresh])]
    for prefix, group in zip(branches.prefixes, branches.groups, strict=True):
        begin, head = int(start[group.start]), group.start
        if begin < len(prefix):
            ids = np.array(prefix[begin:], np.int32)
            columns.insert(-1, (ids, np.full_like(ids, head), np.arange(begin, len(prefix), dtype=np.int32)))
    tokens, owner, positions = map(np.concatenate, zip(*columns, strict=True))
    if len(branches.groups) > 1:
        order = owner.argsort(kind="stable")
        tokens, owner, positions = tokens[order], owner[order], positions[order]
    return tokens, owner, positions


def _shared_by(leaves_at: IntArray, owner: IntArray, positions: IntArray) -> IntArray:
    """How many prompts each row belongs to: those from its owner to the next that has left at this depth."""
    number = len(leaves_at)
    if number == 1:
        return np.ones_like(owner)
    # Only at depths at which some prompt leaves are there differences; the first prompt leaves nobody, at depth 0.
    depths = np.array(sorted(set(leaves_at.tolist())))
    left = np.where(leaves_at[:, None] <= depths, np.arange(number, dtype=np.int32)[:, None], number)
    following = np.vstack([np.minimum.accumulate(left[:0:-1])[::-1], np.full_like(depths, number)])
    found: IntArray = following[owner, depths.searchsorted(positions, "right") - 1].astype(np.int32) - owner
    return found
