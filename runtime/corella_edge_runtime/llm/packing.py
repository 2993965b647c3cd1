"""Which of the waiting prompts the next decode works on. A pure decision over token counts; no llama.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from corella_edge_runtime.llm.answer import ID_BYTES, TokenIds
from corella_edge_runtime.llm.cost import Cost
from corella_edge_runtime.llm.job import Job

# How far the queue is looked at, in decodes: enough to even out the sizes of the last ones.
HORIZON = 2
# Prompts of different users look past each other's cells, and llama.cpp's attention takes cells 256 at a time: beyond
# that, two decodes are faster than one (5 to 10 % from 0.1 to 106 M parameters, docs/llm.md).
STRANGERS = 256
# What is expected of a decode, against what it may take: one that ends too late answers nobody.
SAFETY = 1.2


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    """Prompts that wait, in the order of the queue, as columns.

    Attributes:
        jobs: whose they are.
        job, place: of each prompt, where in `jobs`, and where among the job's.
        prefixes: different ones.
        prefix, suffix: of each prompt: the place of its prefix, and its suffix as `pack_ids` gives it.
    """

    jobs: list[Job]
    job: list[int]
    place: list[int]
    prefixes: list[TokenIds]
    prefix: list[int]
    suffix: list[bytes]

    def __len__(self) -> int:
        return len(self.suffix)

    def at(self, chosen: Sequence[int]) -> Waiting:
        """Some of them."""
        job, place, prefix = ([column[i] for i in chosen] for column in (self.job, self.place, self.prefix))
        return Waiting(self.jobs, job, place, self.prefixes, prefix, [self.suffix[i] for i in chosen])

    def by_job(self) -> list[tuple[Job, list[int]]]:
        """Each job that has some of them, and which."""
        found: dict[int, list[int]] = {}
        for i, job in enumerate(self.job):
            found.setdefault(job, []).append(i)
        return [(self.jobs[job], members) for job, members in found.items()]

    def alone(self) -> set[int]:
        """Those that the next decode must hold alone."""
        suspects = {number for number, job in enumerate(self.jobs) if job.alone}
        if not suspects:
            return set()
        return {
            i for i, (job, place) in enumerate(zip(self.job, self.place, strict=True))
            if job in suspects and place in self.jobs[job].alone
        }  # fmt: skip


def line_up(jobs: Iterable[Job], most: int) -> Waiting:
    """The first `most` prompts of the jobs that have no answer yet."""
    line, known = Waiting([], [], [], [], [], []), dict[TokenIds, int]()
    for job in jobs:
        if len(line) == most:
            break
        open, prompts = job.open[: most - len(line)], job.prompts
        of_job = [prompts.prefix[i] for i in open]
        names = {name: known.setdefault(prompts.prefixes[name], len(known)) for name in dict.fromkeys(of_job)}
        line.job.extend([len(line.jobs)] * len(open))
        line.place.extend(open)
        line.prefix.extend([names[name] for name in of_job])
        line.suffix.extend([prompts.suffixes[i] for i in open])
        line.jobs.append(job)
    line.prefixes.extend(known)
    return line


@dataclass(frozen=True, slots=True)
class Packing:
    """What the next decode holds: different prompts, and all who asked them.

    Attributes:
        targets: of each different prompt, the first in the queue that asked it.
        who, what: everyone in the queue who asked one of them, and which it was.
        piece: the beginning of a prefix that does not fit one decode: it is all that is computed then, for nobody.
    """

    targets: list[int]
    who: list[int]
    what: list[int]
    piece: TokenIds = ()


@dataclass(frozen=True, slots=True)
class Room:
    """What a decode may hold: so many tokens, prompts, and cells beside those that are taken already."""

    tokens: int
    prompts: int
    cells: int

    def far(self, tokens: int, prompts: int) -> bool:
        """Whether this is as much as one looks at."""
        return tokens > HORIZON * self.tokens or prompts > HORIZON * self.prompts


@dataclass(frozen=True, slots=True)
class Base:
    """What of a prefix need not be computed: its first `length` tokens.

    Attributes:
        kept: the kept prefix they are copied from, whole; empty if they are in the context already.
    """

    length: int
    kept: TokenIds = ()


def in_time(cost: Cost, jobs: Iterable[Job], now: float) -> float:
    """Most tokens of a decode that ends before the nearest deadline; inf = no bound."""
    nearest = min((job.deadline for job in jobs if job.deadline is not None), default=math.inf)
    return cost.tokens((nearest - now) / SAFETY) if cost.known else math.inf


def hopeless(waiting: Waiting, base: Callable[[TokenIds], Base], room: Room, cost: Cost, now: float) -> list[int]:
    """Those whose deadline comes before their answer can, in the order of the queue; as far as one looks."""
    late: list[int] = []
    # Of each prefix: suffix → seconds until its answer. A prompt that several ask is computed once.
    groups: list[dict[bytes, float]] = [{} for _ in waiting.prefixes]
    deadlines = [math.inf if job.deadline is None else job.deadline for job in waiting.jobs]
    packed = Packed(room.tokens)
    tokens = prompts = 0
    for i, (job, prefix, suffix) in enumerate(zip(waiting.job, waiting.prefix, waiting.suffix, strict=True)):
        group = groups[prefix]
        seconds = group.get(suffix)
        size = len(suffix) // ID_BYTES
        if fresh := seconds is None:
            if not group:
                size += len(waiting.prefixes[prefix]) - base(waiting.prefixes[prefix]).length
            decodes = max(1.0, packed.decodes(prefix, size), (prompts + 1) / room.prompts)
            seconds = cost.seconds(decodes, tokens + size)
        if now + SAFETY * seconds > deadlines[job]:
            late.append(i)
        elif fresh:
            group[suffix] = seconds
            packed.add(prefix, size)
            tokens, prompts = tokens + size, prompts + 1
        if room.far(tokens, prompts):
            break
    return late


class Packed:
    """Prompts one after the other, and the decodes of at most `most` tokens that they take up, in parts of decodes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._before, self._own = 0.0, 0
        self._prefix: int | None = None

    def decodes(self, prefix: int, size: int) -> float:
        """With one more prompt of the prefix of this number, that adds `size` tokens."""
        if prefix == self._prefix:
            return self._before + decodes_of(self._own + size, self._most)
        return self._before + decodes_of(self._own, self._most) + decodes_of(size, self._most)

    def add(self, prefix: int, size: int) -> None:
        if prefix != self._prefix:
            self._before += decodes_of(self._own, self._most)
            self._prefix, self._own = prefix, 0
        self._own += size


def decodes_of(tokens: int, most: int) -> float:
    """Decodes of at most `most` tokens that a user's tokens take up: beyond `STRANGERS`, nobody else is in the last."""
    whole, rest = divmod(tokens, most)
    return whole + min(1.0, rest / min(STRANGERS, most))


def pack(waiting: Waiting, base: Callable[[TokenIds], Base], room: Room, most: float = math.inf) -> Packing:
    """Prompts in the order of the queue, until the decode is full; never none if anyone asks.

    What is left for a few decodes is dealt out evenly: a last decode of a few tokens would cost almost as much as a
    full one. After the first prompt, no more are taken than make `most` tokens, and of other users none beyond
    `STRANGERS`.
    """
    if not len(waiting):
        return Packing([], [], [])
    found, sizes, cells, all_seen = _scan(waiting, base, room)
    prefix = waiting.prefixes[waiting.prefix[0]]
    done = base(prefix).length
    if sizes[0] > room.tokens and done < len(prefix):
        return Packing([], [], [], prefix[: done + room.tokens])
    fair = sum(sizes) / math.ceil(sum(sizes) / room.tokens) if all_seen else math.inf
    taken = used = filled = 0
    for target, size, cell in zip(found.targets, sizes, cells, strict=True):
        if waiting.prefix[target] != waiting.prefix[0]:
            most = min(most, STRANGERS)
        full = taken == room.prompts or used + size > min(most, room.tokens) or filled + cell > room.cells
        if taken and (full or used >= fair):
            break
        taken, used, filled = taken + 1, used + size, filled + cell
    return _first(found, taken)


def _first(found: Packing, taken: int) -> Packing:
    """The first so many targets, and who asked them."""
    if taken == len(found.targets):
        return found
    members = [(who, what) for who, what in zip(found.who, found.what, strict=True) if what < taken]
    return Packing(found.targets[:taken], [who for who, _ in members], [what for _, what in members])


def _scan(waiting: Waiting, base: Callable[[TokenIds], Base], room: Room) -> tuple[Packing, list[int], list[int], bool]:
    """Distinct prompts in order, the tokens each adds to a decode, and the cells; whether these are all."""
    found, sizes, cells = Packing([], [], []), list[int](), list[int]()
    groups: list[dict[bytes, int]] = [{} for _ in waiting.prefixes]
    alone, total = waiting.alone(), 0
    for i, (prefix, suffix) in enumerate(zip(waiting.prefix, waiting.suffix, strict=True)):
        group, suspect = groups[prefix], i in alone
        known = group.get(suffix)
        if known is None or suspect:
            if sizes and (suspect or room.far(total, len(sizes))):
                return found, sizes, cells, suspect
            size = cell = len(suffix) // ID_BYTES
            if not group:
                size, cell = _with_prefix(waiting.prefixes[prefix], base, size)
            known = group[suffix] = len(sizes)
            found.targets.append(i)
            sizes.append(size)
            cells.append(cell)
            total += size
        found.who.append(i)
        found.what.append(known)
        if suspect:
            break
    return found, sizes, cells, True


def _with_prefix(prefix: TokenIds, base: Callable[[TokenIds], Base], suffix: int) -> tuple[int, int]:
    """Tokens and cells that the first prompt of a prefix adds."""
    own = base(prefix)
    size = len(prefix) - own.length + suffix
    return size, len(own.kept) + size
