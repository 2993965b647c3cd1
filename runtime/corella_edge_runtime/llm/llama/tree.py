"""What one decode has to compute: the prefix tree of its prompts, each token once. Plain columns, no llama.cpp.

Prompts stand in an order in which neighbours begin alike. A token that several neighbours share is one row that
belongs to all of them, so a row's sequences are always a range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.llm.contract.messages import ID_BYTES, IntArray, TokenIds, lengths_of, unpack_ids


@dataclass(slots=True, eq=False)
class TokenRows:
    """The tokens of one decode.

    Attributes:
        tokens, positions: [n].
        first, count: [n]; a token belongs to the sequences first … first + count - 1, whose common part it is.
        wanted: int8 [n], 1 where the logits after the token are read.
    """

    tokens: IntArray
    positions: IntArray
    first: IntArray
    count: IntArray
    wanted: npt.NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass(slots=True, eq=False)
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
    def of(
        cls, known: Sequence[TokenIds], own: Mapping[int, int], prefix: Sequence[int], suffixes: Sequence[bytes]
    ) -> tuple[Branches, list[int]]:
        """A decode of different prompts, and where each stands in it.

        Args:
            own: place of a prefix in `known` → as above, for all that prompts have.
            prefix: of each prompt, that place.
        """
        names = sorted(own, key=known.__getitem__)
        keys: Sequence[Any] = suffixes
        if len(names) > 1:
            rank = {name: place for place, name in enumerate(names)}
            keys = list(zip(map(rank.__getitem__, prefix), suffixes, strict=True))
        order = sorted(range(len(keys)), key=keys.__getitem__)
        sequence = [0] * len(order)
        for place, k in enumerate(order):
            sequence[k] = place
        groups = [range(*ends) for ends in pairwise([0, *accumulate(map(prefix.count, names))])]
        prefixes, held = [known[name] for name in names], [own[name] for name in names]
        return cls(prefixes, held, groups, [suffixes[k] for k in order]), sequence

    @classmethod
    def one(cls, tokens: TokenIds, own: int = 0) -> Branches:
        """A decode of one prompt, of which so many tokens are in cells."""
        return cls([tokens], [own], [range(1)], [b""])


@dataclass(slots=True, eq=False)
class Leaves:
    """How each prompt of a decode comes by its cells.

    Attributes:
        held, follows: of each group: how many tokens at the beginning of its prompts are in cells before the decode,
            and whether these are those of the prompt before the group. A group's prompts hold the same.
        length, start, last: of each prompt: its tokens, the first of them that no prompt before it has computed,
            and the row after which its logits are read.
    """

    held: list[int]
    follows: list[bool]
    length: list[int]
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


def unfold(branches: Branches, first: int = 0) -> tuple[Leaves, TokenRows]:
    """Leaves and rows of a decode. `first`: the sequence id of the first prompt; the others follow."""
    if len(branches.suffixes) == 1:
        return _alone(branches, first)
    sizes = np.array(lengths_of(branches.suffixes), np.int32)
    before: IntArray = np.array([*map(len, branches.prefixes)], np.int32)
    if len(branches.groups) > 1:
        before = before.repeat([*map(len, branches.groups)])
    table = _table(branches.suffixes, sizes)
    length, start = before + sizes, before + _common_beginnings(table)
    held, follows, leaves_at = _heads(branches, length, start)
    depth = np.arange(table.shape[1])
    fresh = ((start - before)[:, None] <= depth) & (depth < sizes[:, None])
    of, depths = fresh.nonzero()
    depths += before[of] if len(before) > 1 else before
    tokens, owner, positions = _with_prefixes(branches, start, table[fresh], of, depths)
    count = _shared_by(leaves_at, owner, positions)
    last = (length - start).cumsum() - 1
    if len(branches.groups) > 1:
        for k in (length == start).nonzero()[0].tolist():
            # Another prompt has computed it all.
            (last[k],) = ((positions == length[k] - 1) & (owner <= k) & (k < owner + count)).nonzero()[0]
    wanted = np.zeros(len(tokens), np.int8)
    wanted[last] = 1
    leaves = Leaves(held, follows, length.tolist(), start.tolist(), last.tolist())
    return leaves, TokenRows(tokens, positions, owner + first, count, wanted)


def _alone(branches: Branches, first: int) -> tuple[Leaves, TokenRows]:
    """`unfold` of one prompt, which shares nothing: many requests are no more than that."""
    own = branches.own[0]
    tokens = np.array([*branches.prefixes[0][own:], *unpack_ids(branches.suffixes[0])], np.int32)
    number, each = len(tokens), np.ones(len(tokens), np.int32)
    wanted = np.zeros(number, np.int8)
    wanted[-1] = 1
    rows = TokenRows(tokens, np.arange(own, own + number), first * each, each, wanted)
    return Leaves([own], [False], [own + number], [own], [number - 1]), rows


def _table(suffixes: Sequence[bytes], sizes: IntArray) -> IntArray:
    """Token ids of each suffix, one a row; behind its end there are numbers that no token has."""
    width = int(sizes.max())
    rows = b"".join([suffix.ljust(ID_BYTES * width, b"\xff") for suffix in suffixes])
    return np.frombuffer(rows, ">i4").astype(np.int32).reshape(len(suffixes), width)


def _common_beginnings(table: IntArray) -> IntArray:
    """How many tokens each row has in common with the one before it; 0 for the first."""
    found = np.zeros(len(table), np.intp)
    (table[1:] != table[:-1]).argmax(axis=1, out=found[1:])
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
    columns = [(tokens, owner, positions)]
    for prefix, group in zip(branches.prefixes, branches.groups, strict=True):
        begin, head = int(start[group.start]), group.start
        if begin < len(prefix):
            columns.insert(
                -1,
                (np.array(prefix[begin:], np.int32), np.full(len(prefix) - begin, head), np.arange(begin, len(prefix))),
            )
    if len(columns) > 1:
        tokens, owner, positions = map(np.concatenate, zip(*columns, strict=True))
    if len(branches.groups) > 1:
        order = owner.argsort(kind="stable")
        tokens, owner, positions = tokens[order], owner[order], positions[order]
    return tokens, owner, positions


def _shared_by(leaves_at: IntArray, owner: IntArray, positions: IntArray) -> IntArray:
    """How many prompts each row belongs to: those from its owner to the next that has left at this depth."""
    number = len(leaves_at)
    # Only at depths at which some prompt leaves are there differences; the first prompt leaves nobody, at depth 0.
    depths = np.array(sorted(set(leaves_at.tolist())))
    following = np.where(leaves_at[:, None] <= depths, np.arange(number)[:, None], number)
    following[:-1] = np.minimum.accumulate(following[:0:-1])[::-1]
    following[-1] = number
    return following[owner, depths.searchsorted(positions, "right") - 1] - owner
