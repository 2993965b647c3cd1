"""Which of the waiting prompts the next decode works on. A pure decision over token counts; no llama.cpp."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field

from corella_edge_runtime.llm.answer import Answer, Prompt
from corella_edge_runtime.llm.cost import Cost
from corella_edge_runtime.llm.tree import TokenIds

# How far the queue is looked at, in decodes: enough to even out the sizes of the last ones.
HORIZON = 2
# Prompts of different users look past each other's cells, and llama.cpp's attention takes cells 256 at a time: beyond
# that, two decodes are faster than one (5 to 10 % from 0.1 to 106 M parameters, docs/llm.md).
STRANGERS = 256
# What is expected of a decode, against what it may take: one that ends too late answers nobody.
SAFETY = 1.2


@dataclass(eq=False, slots=True)
class Ask:
    """A prompt that waits for its answer.

    Attributes:
        deadline: a time of `time.monotonic()`, as are the others.
        caller: who waits; cancelled, nobody does.
        alone: a decode that held it failed, so the next one that does holds nothing else.
        begun: when the first decode for it did.
    """

    prompt: Prompt
    deadline: float | None = None
    caller: Future[list[Answer]] | None = None
    answer: Answer | None = None
    alone: bool = False
    arrived: float = field(default_factory=time.monotonic)
    begun: float | None = None

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


def in_time(cost: Cost, asks: Iterable[Ask], now: float) -> float:
    """Most tokens of a decode that ends before the nearest deadline; inf = no bound."""
    nearest = min((ask.deadline for ask in asks if ask.deadline is not None), default=math.inf)
    return cost.tokens((nearest - now) / SAFETY) if cost.known else math.inf


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


def decodes_of(tokens: int, most: int) -> float:
    """Decodes of at most `most` tokens that a user's tokens take up: beyond `STRANGERS`, nobody else is in the last."""
    whole, rest = divmod(tokens, most)
    return whole + min(1.0, rest / min(STRANGERS, most))


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
