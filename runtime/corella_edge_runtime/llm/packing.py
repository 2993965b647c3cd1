"""Which of the waiting prompts the next decode works on. A pure decision over token counts; no llama.cpp."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from corella_edge_runtime.llm.answer import Answer, Prompt
from corella_edge_runtime.llm.tree import TokenIds

# How far the queue is looked at, in decodes: enough to even out their sizes.
HORIZON = 4
# A decode that has to end before a deadline still holds this many tokens.
LEAST = 32


@dataclass(eq=False, slots=True)
class Ask:
    """A prompt that waits for its answer.

    Attributes:
        deadline: a time of `time.monotonic()`.
        caller: who waits; cancelled, nobody does.
        alone: a decode that held it failed, so the next one that does holds nothing else.
    """

    prompt: Prompt
    deadline: float | None = None
    caller: Future[list[Answer]] | None = None
    answer: Answer | None = None
    alone: bool = False

    def expired(self) -> bool:
        gone = self.caller is not None and self.caller.cancelled()
        return gone or (self.deadline is not None and time.monotonic() >= self.deadline)


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


@dataclass(frozen=True, slots=True)
class Room:
    """What a decode may hold: so many tokens, prompts, and cells beside those that are taken already."""

    tokens: int
    prompts: int
    cells: int


@dataclass(frozen=True, slots=True)
class Base:
    """What of a prefix need not be computed: its first `length` tokens.

    Attributes:
        kept: the kept prefix they are copied from, whole; empty if they are in the context already.
    """

    length: int
    kept: TokenIds = ()


def in_time(rate: float, asks: Sequence[Ask], now: float) -> int | None:
    """Most tokens of a decode that ends before the nearest deadline, at `rate` tokens a second; None = no bound."""
    deadlines = [ask.deadline for ask in asks if ask.deadline is not None]
    if not deadlines or not rate:
        return None
    return max(LEAST, int(rate * (min(deadlines) - now)))


def pack(asks: Iterable[Ask], base: Callable[[TokenIds], Base], room: Room) -> list[Target]:
    """Prompts in the order of the queue, until the decode is full; never none if anyone asks.

    Several decodes' worth of prompts is dealt out evenly: a last decode of a few tokens would cost almost as much
    as a full one.
    """
    targets, sizes, cells = _scan(asks, base, room)
    if not sizes:
        return []
    done = base(targets[0].prefix).length
    if sizes[0] > room.tokens and done < len(targets[0].prefix):
        return [Target(targets[0].prefix[: done + room.tokens], ())]
    fair = sum(sizes) / math.ceil(sum(sizes) / room.tokens)
    taken = used = filled = 0
    for size, cell in zip(sizes, cells, strict=True):
        full = taken == room.prompts or used + size > room.tokens or filled + cell > room.cells
        if taken and (full or used >= fair):
            break
        taken, used, filled = taken + 1, used + size, filled + cell
    return targets[:taken]


def _scan(
    asks: Iterable[Ask], base: Callable[[TokenIds], Base], room: Room
) -> tuple[list[Target], list[int], list[int]]:
    """Distinct prompts in order, with the tokens each adds to a decode, and the cells."""
    targets: dict[tuple[TokenIds, TokenIds], Target] = {}
    prefixes: set[TokenIds] = set()
    sizes: list[int] = []
    cells: list[int] = []
    total = 0
    for ask in asks:
        prefix, suffix = ask.prompt.prefix, ask.prompt.suffix
        known = targets.get((prefix, suffix))
        if known is not None and not ask.alone:
            known.asks.append(ask)
            continue
        if targets and (ask.alone or total > HORIZON * room.tokens):
            break
        own = Base(len(prefix)) if prefix in prefixes else base(prefix)
        prefixes.add(prefix)
        targets[prefix, suffix] = Target(prefix, suffix, [ask])
        sizes.append(len(prefix) - own.length + len(suffix))
        cells.append(len(own.kept) + sizes[-1])
        total += sizes[-1]
        if ask.alone:
            break
    return list(targets.values()), sizes, cells
