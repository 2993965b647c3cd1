"""Which of the waiting prompts the next decode works on. A pure decision over token counts; no llama.cpp."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

from corella_edge.adapters import ALONE, Weights
from corella_edge_runtime.llm.contract.cost import Cost
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import REASONS, TokenIds

# How far the queue is looked at, in decodes: enough to even out the sizes of the last ones.
HORIZON = 2
# Prompts of different users look past each other's cells, and llama.cpp's attention takes cells 256 at a time: beyond
# that, two decodes are faster than one (5 to 10 % from 0.1 to 106 M parameters, docs/llm.md).
STRANGERS = 256
# What is expected of a decode, against what it may take: one that ends too late answers nobody.
SAFETY = 1.2
_ERROR = REASONS.index("llm_error")


@dataclass(slots=True, eq=False)
class Waiting:
    """Prompts that wait, in the order of the queue, as columns.

    Attributes:
        jobs: whose they are.
        job, place: of each prompt, where in `jobs`, and where among the job's.
        prefixes: different ones.
        prefix, size, suffix: of each prompt: the place of its prefix, and its suffix, in tokens and as `pack_ids` gives
            it.
    """

    jobs: list[Job]
    job: list[int]
    place: list[int]
    prefixes: list[TokenIds]
    prefix: list[int]
    size: list[int]
    suffix: list[bytes]

    def __len__(self) -> int:
        return len(self.suffix)

    @property
    def adapters(self) -> Weights:
        """Of the LLM, by which all of them are answered."""
        return self.jobs[0].prompts.adapters if self.jobs else ALONE

    def at(self, chosen: Sequence[int]) -> Waiting:
        """Some of them."""
        columns: tuple[Any, ...] = self.job, self.place, self.prefix, self.size, self.suffix
        if isinstance(chosen, range):
            job, place, prefix, size, suffix = (column[chosen.start : chosen.stop] for column in columns)
        else:
            job, place, prefix, size, suffix = ([column[i] for i in chosen] for column in columns)
        return Waiting(self.jobs, job, place, self.prefixes, prefix, size, suffix)

    def by_job(self) -> list[tuple[Job, Sequence[int], Sequence[int]]]:
        """Each job that has some of them, where among its own they are, and which of these."""
        if len(self.jobs) == 1:
            return [(self.jobs[0], self.place, range(len(self)))] if len(self) else []
        found: dict[int, list[int]] = {}
        for i, job in enumerate(self.job):
            found.setdefault(job, []).append(i)
        return [(self.jobs[job], [self.place[i] for i in members], members) for job, members in found.items()]

    def first_open(self) -> tuple[Job, int] | None:
        """The first that has no answer yet: whose it is, and where among the job's."""
        left = ((self.jobs[job], place) for job, place in zip(self.job, self.place, strict=True))
        return next(((job, place) for job, place in left if place in job.open), None)

    def begin(self, now: float) -> list[Job]:
        """A decode works for them; whose they are."""
        found = self.by_job()
        for job, places, _ in found:
            job.begin(places, now)
        return [job for job, *_ in found]

    def refuse(self, reason: str) -> None:
        """They have no answer, all for the same reason."""
        for job, places, _ in self.by_job():
            job.refuse(places, reason)

    def tell(
        self, asked: Sequence[int], probability: Sequence[float], mass: Mapping[int, float], lengths: Sequence[int],
        evaluated: Sequence[int],
    ) -> tuple[int, int]:  # fmt: skip
        """They have their answers; how many have a probability, and the tokens that were reused for all.

        Args:
            asked: which of a decode's prompts each asked; all else is by prompt.
            probability: NaN where it is missing.
            mass: as in `LlmAnswer`, of the prompts for which it is known.
            lengths, evaluated: tokens, and those of them that were computed: for the first who asked.
        """
        left, answered, spared = dict(enumerate(evaluated)), 0, 0
        for job, places, mine in self.by_job():
            what = [asked[i] for i in mine]
            own = [left.pop(prompt, 0) for prompt in what]
            reused = [max(0, lengths[prompt] - tokens) for prompt, tokens in zip(what, own, strict=True)]
            found, masses = [probability[prompt] for prompt in what], [mass.get(prompt, math.nan) for prompt in what]
            reasons = [_ERROR if math.isnan(p) else 0 for p in found]
            waited = [job.waited[place] for place in places]
            job.tell(places, zip(found, masses, waited, own, reused, reasons, strict=True))
            answered, spared = answered + reasons.count(0), spared + sum(reused)
        return answered, spared

    def up_to_suspects(self) -> Waiting:
        """Those before the first that the next decode must hold alone; that one alone, if it is the first of all."""
        if not any(job.alone for job in self.jobs):
            return self
        alone = (place in self.jobs[job].alone for job, place in zip(self.job, self.place, strict=True))
        first = next((i for i, suspect in enumerate(alone) if suspect), len(self))
        return self.at(range(max(1, first)))

    def repeated(self) -> dict[int, int]:
        """Those that ask the same as one before them → the first that does."""
        if len(self.prefixes) == 1 and len(set(self.suffix)) == len(self):
            return {}
        first: dict[tuple[int, bytes], int] = {}
        same = [first.setdefault(key, i) for i, key in enumerate(zip(self.prefix, self.suffix, strict=True))]
        return {i: known for i, known in enumerate(same) if known != i}

    def sizes(self, base: Callable[[TokenIds], Base]) -> tuple[list[int], list[int]]:
        """Tokens and cells that each adds to a decode; the first of a prefix adds what is new of that, too."""
        sizes, cells = self.size.copy(), self.size.copy()
        for name in set(self.prefix):
            own, at = base(self.prefixes[name]), self.prefix.index(name)
            sizes[at] += len(self.prefixes[name]) - own.length
            cells[at] = sizes[at] + len(own.kept)
        return sizes, cells


def line_up(jobs: Iterable[Job], most: int) -> Waiting:
    """The first `most` prompts without an answer of those jobs that ask the same adapters of the LLM as the first one:
    a decode computes with one choice of them. The turn of the others comes when one of theirs is the first."""
    line, known = Waiting([], [], [], [], [], [], []), dict[TokenIds, int]()
    for job in jobs:
        if len(line) == most:
            break
        if line.jobs and job.prompts.adapters != line.adapters:
            continue
        open, prompts = job.open[: most - len(line)], job.prompts
        of_job = [prompts.prefix[i] for i in open]
        names = {name: known.setdefault(prompts.prefixes[name], len(known)) for name in dict.fromkeys(of_job)}
        line.job.extend([len(line.jobs)] * len(open))
        line.place.extend(open)
        line.prefix.extend(map(names.__getitem__, of_job))
        line.size.extend(map(prompts.lengths.__getitem__, open))
        line.suffix.extend(map(prompts.suffixes.__getitem__, open))
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

    targets: Sequence[int]
    who: Sequence[int]
    what: Sequence[int]
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
    deadlines = [math.inf if job.deadline is None else job.deadline for job in waiting.jobs]
    if min(deadlines, default=math.inf) == math.inf or _all_in_time(waiting, deadlines, base, room, cost, now):
        return []
    late: list[int] = []
    # Of each prefix: suffix → seconds until its answer. A prompt that several ask is computed once.
    groups: list[dict[bytes, float]] = [{} for _ in waiting.prefixes]
    packed = Packed(room.tokens)
    tokens = prompts = 0
    columns = zip(waiting.job, waiting.prefix, waiting.size, waiting.suffix, strict=True)
    for i, (job, prefix, size, suffix) in enumerate(columns):
        group = groups[prefix]
        seconds = group.get(suffix)
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


def _all_in_time(
    waiting: Waiting, deadlines: Sequence[float], base: Callable[[TokenIds], Base], room: Room, cost: Cost, now: float
) -> bool:
    """Whether all are done before the first deadline: mostly so, and told at once."""
    sizes, _ = waiting.sizes(base)
    decodes = max(1.0, decodes_in(waiting.prefix, sizes, room.tokens), len(sizes) / room.prompts)
    return now + SAFETY * cost.seconds(decodes, sum(sizes)) <= min(deadlines)


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


def decodes_in(prefix: Sequence[int], sizes: Sequence[int], most: int) -> float:
    """What `Packed` tells of prompts of these prefixes that add so many tokens, one after the other."""
    if len(set(prefix)) == 1:
        return decodes_of(sum(sizes), most)
    runs = [len(list(run)) for _, run in groupby(prefix)]
    ends = list(accumulate(runs))
    return sum(decodes_of(sum(sizes[end - run : end]), most) for run, end in zip(runs, ends, strict=True))


def pack(waiting: Waiting, base: Callable[[TokenIds], Base], room: Room, most: float = math.inf) -> Packing:
    """Prompts in the order of the queue, until the decode is full; never none if anyone asks.

    What is left for a few decodes is dealt out evenly: a last decode of a few tokens would cost almost as much as a
    full one. After the first prompt, no more are taken than make `most` tokens, and of other users none beyond
    `STRANGERS`.
    """
    if not len(waiting):
        return Packing([], [], [])
    waiting = waiting.up_to_suspects()
    repeated = waiting.repeated()
    firsts = [i for i in range(len(waiting)) if i not in repeated] if repeated else range(len(waiting))
    different = waiting.at(firsts) if repeated else waiting
    sizes, cells = different.sizes(base)
    prefix = waiting.prefixes[waiting.prefix[0]]
    done = base(prefix).length
    if sizes[0] > room.tokens and done < len(prefix):
        return Packing([], [], [], prefix[: done + room.tokens])
    seen, taken = _taken(different.prefix, sizes, cells, room, most)
    if not repeated:
        return Packing(firsts[:taken], firsts[:taken], firsts[:taken])
    end = firsts[seen] if seen < len(firsts) else len(waiting)
    target = {i: what for what, i in enumerate(firsts[:taken])}
    who = [i for i in range(end) if repeated.get(i, i) in target]
    return Packing(firsts[:taken], who, [target[repeated.get(i, i)] for i in who])


def _taken(
    prefix: Sequence[int], sizes: Sequence[int], cells: Sequence[int], room: Room, most: float
) -> tuple[int, int]:
    """How many of different prompts are looked at, and how many of these are taken."""
    used, filled = list(accumulate(sizes)), list(accumulate(cells))
    seen = min(len(sizes), bisect_right(used, HORIZON * room.tokens) + 1, HORIZON * room.prompts + 1)
    total = used[seen - 1]
    fair = total / math.ceil(total / room.tokens) if seen == len(sizes) else math.inf
    friends = len(prefix)
    if len(set(prefix)) > 1:
        friends = next(i for i, name in enumerate(prefix) if name != prefix[0])
    taken = min(
        seen, room.prompts, bisect_right(used, min(most, room.tokens)), bisect_right(filled, room.cells),
        bisect_left(used, fair) + 1, max(friends, bisect_right(used, min(most, STRANGERS))),
    )  # fmt: skip
    return seen, max(1, taken)
