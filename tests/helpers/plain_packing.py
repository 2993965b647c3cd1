"""What a decode holds and computes, prompt by prompt and as plain as can be: what the columns are compared with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from corella_edge_runtime.llm.contract.cost import Cost
from corella_edge_runtime.llm.contract.messages import Prompt, TokenIds
from corella_edge_runtime.llm.llama.packing import HORIZON, SAFETY, STRANGERS, Base, Room, decodes_of
from corella_edge_runtime.llm.llama.tree import TokenRows, common_length


@dataclass(eq=False, slots=True)
class Ask:
    """A prompt that waits for its answer."""

    prompt: Prompt
    deadline: float | None = None
    alone: bool = False


@dataclass(eq=False, slots=True)
class Target:
    """A prompt of the next decode and everyone who asked it; nobody, if it is the beginning of a long prefix."""

    prefix: TokenIds
    suffix: TokenIds
    asks: list[Ask] = field(default_factory=list)

    @property
    def tokens(self) -> TokenIds:
        return self.prefix + self.suffix

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)


def hopeless(asks: Iterable[Ask], base: Callable[[TokenIds], Base], room: Room, cost: Cost, now: float) -> list[Ask]:
    """Those whose deadline comes before their answer can, in the order of the queue; as far as one looks."""
    late: list[Ask] = []
    # Prefix → suffix → seconds until its answer: a prompt that several ask is computed once.
    groups: dict[TokenIds, dict[TokenIds, float]] = {}
    prefix, group = None, dict[TokenIds, float]()
    packed = Packed(room.tokens)
    tokens = prompts = new = 0
    for ask in asks:
        # A user's prompts hold one tuple, and to look a long one up takes longer than all the rest.
        if ask.prompt.prefix is not prefix:
            prefix = ask.prompt.prefix
            group = groups.setdefault(prefix, {})
            new = 0 if group else len(prefix) - base(prefix).length
        suffix, size = ask.prompt.suffix, new + len(ask.prompt.suffix)
        seconds = group.get(suffix)
        if fresh := seconds is None:
            decodes = max(1.0, packed.decodes(prefix, size), (prompts + 1) / room.prompts)
            seconds = cost.seconds(decodes, tokens + size)
        if ask.deadline is not None and now + SAFETY * seconds > ask.deadline:
            late.append(ask)
        elif fresh:
            group[suffix] = seconds
            packed.add(prefix, size)
            tokens, prompts, new = tokens + size, prompts + 1, 0
        if _far(tokens, prompts, room):
            break
    return late


class Packed:
    """Prompts one after the other, and the decodes of at most `most` tokens that they take up, in parts of decodes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._before, self._own = 0.0, 0
        self._prefix: TokenIds | None = None

    def decodes(self, prefix: TokenIds, size: int) -> float:
        """With one more prompt, that adds `size` tokens."""
        before, own = self._with(prefix, size)
        return before + decodes_of(own, self._most)

    def add(self, prefix: TokenIds, size: int) -> None:
        self._before, self._own = self._with(prefix, size)
        self._prefix = prefix

    def _with(self, prefix: TokenIds, size: int) -> tuple[float, int]:
        """Decodes of other users before this one, and the user's own tokens."""
        if prefix is self._prefix or prefix == self._prefix:
            return self._before, self._own + size
        return self._before + decodes_of(self._own, self._most), size


def pack(asks: Iterable[Ask], base: Callable[[TokenIds], Base], room: Room, most: float = math.inf) -> list[Target]:
    """Prompts in the order of the queue, until the decode is full; never none if anyone asks.

    What is left for a few decodes is dealt out evenly: a last decode of a few tokens would cost almost as much as a
    full one. After the first prompt, no more are taken than make `most` tokens, and of other users none beyond
    `STRANGERS`.
    """
    targets, sizes, cells, all_seen = _scan(asks, base, room)
    if not sizes:
        return []
    done = base(targets[0].prefix).length
    if sizes[0] > room.tokens and done < len(targets[0].prefix):
        return [Target(targets[0].prefix[: done + room.tokens], ())]
    fair = sum(sizes) / math.ceil(sum(sizes) / room.tokens) if all_seen else math.inf
    taken = used = filled = 0
    for target, size, cell in zip(targets, sizes, cells, strict=True):
        if target.prefix != targets[0].prefix:
            most = min(most, STRANGERS)
        full = taken == room.prompts or used + size > min(most, room.tokens) or filled + cell > room.cells
        if taken and (full or used >= fair):
            break
        taken, used, filled = taken + 1, used + size, filled + cell
    return targets[:taken]


def _scan(
    asks: Iterable[Ask], base: Callable[[TokenIds], Base], room: Room
) -> tuple[list[Target], list[int], list[int], bool]:
    """Distinct prompts in order, the tokens each adds to a decode, and the cells; whether these are all."""
    groups: dict[TokenIds, dict[TokenIds, Target]] = {}
    prefix, group = None, dict[TokenIds, Target]()
    targets: list[Target] = []
    sizes: list[int] = []
    cells: list[int] = []
    total = 0
    for ask in asks:
        if ask.prompt.prefix is not prefix:
            prefix = ask.prompt.prefix
            group = groups.setdefault(prefix, {})
        suffix = ask.prompt.suffix
        known = group.get(suffix)
        if known is not None and not ask.alone:
            known.asks.append(ask)
            continue
        if targets and (ask.alone or _far(total, len(targets), room)):
            return targets, sizes, cells, ask.alone
        own = Base(len(prefix)) if group else base(prefix)
        group[suffix] = Target(prefix, suffix, [ask])
        targets.append(group[suffix])
        sizes.append(len(prefix) - own.length + len(suffix))
        cells.append(len(own.kept) + sizes[-1])
        total += sizes[-1]
        if ask.alone:
            break
    return targets, sizes, cells, True


def _far(tokens: int, prompts: int, room: Room) -> bool:
    return tokens > HORIZON * room.tokens or prompts > HORIZON * room.prompts


def shared_with_the_one_before(targets: Sequence[Target]) -> list[int]:
    """How many tokens each prompt has in common with the one before it."""
    return [0, *(common_length(a.tokens, b.tokens) for a, b in pairwise(targets))]


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


def unfold(
    prompts: Sequence[TokenIds], own: Sequence[int], shared: Sequence[int], first: int = 0
) -> tuple[list[Leaf], TokenRows]:
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


def _rows(leaves: list[Leaf], tokens: list[int], positions: list[int], lengths: list[int], first: int) -> TokenRows:
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
    return TokenRows(np.asarray(tokens, np.int32), np.asarray(positions, np.int32), owner, count, wanted)
