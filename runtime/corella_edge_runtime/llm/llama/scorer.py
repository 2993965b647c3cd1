"""Prompts → P(Yes): every token that waiting prompts share is decoded once, and recent prefixes are kept.

P(Yes) = softmax over the logits of the two answers at the prompt's last token (CoReLLa, arXiv 2403.16378;
ReLLa, arXiv 2308.11131, eq. of the point-wise score).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from corella_edge.adapters import ALONE, Weights
from corella_edge.errors import InputError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.contract.cost import Cost
from corella_edge_runtime.llm.contract.job import Job
from corella_edge_runtime.llm.contract.messages import Answers, BrokenError, Prompt, TokenIds
from corella_edge_runtime.llm.contract.settings import MAX_CONTEXT, LlmSettings
from corella_edge_runtime.llm.llama.binding import AbortedError, Context, DecodeError, Model
from corella_edge_runtime.llm.llama.counters import Counters
from corella_edge_runtime.llm.llama.kept import KeptPrefixes
from corella_edge_runtime.llm.llama.packing import (
    HORIZON,
    Base,
    Packing,
    Room,
    Waiting,
    hopeless,
    in_time,
    line_up,
    pack,
)
from corella_edge_runtime.llm.llama.tree import Branches, Leaves, common_length, unfold

Watch = Callable[[Sequence[Job]], AbstractContextManager[Any]]
TRUNK = 0  # the sequence that holds the latest prefix; prompts of a decode are 1, 2, …
# So many failures in a row, and the context is looked at: is it at fault, or were the prompts?
FAILURES = 3


class YesNoScorer:
    """Owns one context; not for several threads at once.

    The context is a workbench: one prefix stays in it from decode to decode (the trunk), those of other users lie
    outside, as bytes, and are copied back when they return.
    """

    def __init__(
        self, model: Model, tokens: Tokens, settings: LlmSettings | None = None, cells: int = 0, exact: bool = False
    ) -> None:
        self.settings = settings or LlmSettings()
        self.limit = min(model.trained_context, MAX_CONTEXT)
        batch = min(self.settings.batch, cells or self.settings.batch)
        sequences = 2 if self.settings.deterministic else self.settings.sequences + 1
        wanted = cells or self.limit + batch
        self._make: Callable[[], Context] = lambda: Context(
            model, wanted, sequences, batch, self.settings.threads, exact
        )
        self._context = self._make()
        self._answers = (tokens.yes, tokens.no)
        self._kept = KeptPrefixes(0 if self.settings.deterministic else self.settings.kept_tokens)
        self._trunk: TokenIds = ()
        self._adapters: Weights = ALONE  # by which whatever is in the context was computed
        self._bases: dict[TokenIds, Base] = {}
        # Pieces of prefixes that did not fit one decode → tokens computed of them, until their prompts are answered.
        self._ahead: dict[TokenIds, int] = {}
        self._unfinished: tuple[Job, int] | None = None
        self._holders = 0  # sequences after the trunk's that hold its cells as well, and nothing else
        self._failures = 0  # in a row
        self.counters = Counters()

    def score(self, prompts: Sequence[Prompt], expired: Callable[[], bool] = lambda: False) -> Answers:
        """One answer a prompt, in order. `expired` is asked before every decode; what is left then has none."""
        job, missing = Job(prompts), "deadline"
        self.refuse(job)
        while job.open and not expired():
            try:
                self.step([job])
            except BrokenError:
                missing = "llm_error"
                break
        return job.answers(missing)

    def refuse(self, job: Job) -> None:
        """Tell those prompts of a job that cannot be answered here. Any thread may call it."""
        longest, batch = min(self.limit, self._context.cells), self._context.batch_size
        if any(name not in self._context.model.adapters for name, _ in job.prompts.adapters):
            job.refuse(list(job.open), "llm_error")  # whoever asks for them looks before
        most, prompts = [min(batch, longest - len(prefix)) for prefix in job.prompts.prefixes], job.prompts
        if prompts and not 0 < min(prompts.lengths) <= max(prompts.lengths) <= min(most):
            columns = zip(map(most.__getitem__, prompts.prefix), prompts.lengths, strict=True)
            job.refuse([i for i, (most, length) in enumerate(columns) if not 0 < length <= most], "too_long")

    def step(self, jobs: Iterable[Job], cost: Cost | None = None, watch: Watch = nullcontext) -> None:
        """Work on the first of the jobs' open prompts with at most one decode; some then have their answer.

        A decode that fails answers nobody: those it held are tried again one by one, and told the second time.

        Args:
            jobs: without prompts that this scorer refuses.
            cost: known, those whose deadline is too near are told at once, and the decode is made to end before the
                nearest deadline of the others.
            watch: gets the jobs that the decode works for, and surrounds it.

        Raises:
            BrokenError: the context fails, and a new one does too.
        """
        started, cost = time.monotonic(), cost or Cost()
        # As many as one looks at: more would be gone through at every decode.
        waiting = line_up(jobs, HORIZON * self.settings.sequences + 1)
        members = waiting.at(())
        try:
            if len(waiting):
                self._adapt(waiting.adapters)
            waiting = self._hopeful(waiting, cost)
            packing = self._packing(waiting, cost)
            # A piece of a long prefix is nobody's answer yet, but somebody waits for it.
            members = waiting.at((0,)) if packing.piece else waiting.at(packing.who)
            if len(members):
                with watch(members.begin(started)):
                    self._decode(waiting, packing, members)
            self._unfinished = members.first_open() if self.settings.deterministic else None
        except AbortedError:
            self.counters.aborted += 1
            self._release()
        except DecodeError:
            self._failed(members)
        except BaseException:
            self._failed(members)
            raise
        finally:
            self.counters.seconds += time.monotonic() - started
        if self._failures >= FAILURES:
            self._mend()

    def give_up(self) -> None:
        """From any thread: the decode at work ends as soon as it can. Holds until `go_on`."""
        self._context.give_up()

    def go_on(self) -> None:
        self._context.go_on()

    def forget(self) -> None:
        """Drop all kept prefixes; their memory is used again."""
        self._clear()
        self._kept.clear()

    def erase(self) -> None:
        """Forget, and leave nothing of what was kept in memory: somebody asked for it."""
        self._clear()
        self._kept.erase()
        self._bases.clear()
        self._ahead.clear()
        self._unfinished = None

    def stats(self) -> dict[str, float]:
        """Counters, and what is kept now."""
        counted = {name: float(getattr(self.counters, name)) for name in Counters.__slots__}
        kept = {name: float(getattr(self._kept, name)) for name in ("tokens", "bytes")}
        kept_now = {f"kept_{name}": value for name, value in kept.items()} | {"kept_prefixes": float(len(self._kept))}
        return counted | kept_now | {"evictions": float(self._kept.evictions)}

    def close(self) -> None:
        self._context.close()

    def _adapt(self, adapters: Weights) -> None:
        """From now on with these adapters. What the trunk holds is put by: to others it says nothing."""
        if adapters == self._adapters:
            return
        self._leave_trunk(())
        self._ahead.clear()  # pieces of whoever waits beside: what is kept of them then counts as reused
        self._context.adapt(adapters)
        self._adapters = self._kept.adapters = adapters
        self.counters.switches += 1

    def _clear(self) -> None:
        self._context.clear()
        self._trunk, self._holders = (), 0

    def _release(self) -> None:
        """The trunk's cells are its own again, and there are no others."""
        self._context.keep(TRUNK)
        self._holders = 0

    def _hopeful(self, waiting: Waiting, cost: Cost) -> Waiting:
        """Those that can be answered by their deadlines; the others are told."""
        if not cost.known or self.settings.deterministic:
            return waiting
        self._bases.clear()
        room, now = Room(self._context.batch_size, self._context.sequences - 1, self._context.cells), time.monotonic()
        late = hopeless(waiting, self._base, room, cost, now)
        if len(late) == len(waiting) and cost.stale(now):
            del late[:1]
        if not late:
            return waiting
        waiting.at(late).refuse("deadline")
        return waiting.at(sorted({*range(len(waiting))}.difference(late)))

    def _packing(self, waiting: Waiting, cost: Cost) -> Packing:
        """What the next decode holds. The trunk leaves first if that does not begin with it."""
        if not len(waiting):
            return Packing((), (), ())
        most = in_time(cost, [waiting.jobs[job] for job in set(waiting.job)], time.monotonic())
        if self.settings.deterministic:
            waiting = waiting.at((0,))
            if self._unfinished != (waiting.jobs[waiting.job[0]], waiting.place[0]):
                self.forget()
        tokens, prefix = self._context.batch_size, waiting.prefixes[waiting.prefix[0]]
        if not self._beside_trunk(prefix, waiting.size[0], tokens):
            self._leave_trunk(prefix)
        self._bases.clear()
        room = Room(tokens, self._context.sequences - 1, self._context.cells - len(self._trunk))
        return pack(waiting, self._base, room, most)

    def _leave_trunk(self, prefix: TokenIds) -> None:
        """Put the trunk by; what is kept of the prefix that comes must not leave for it."""
        self._kept.touch(prefix)
        self._put_by(self._trunk, TRUNK)
        self._context.cut_all(0)
        self._trunk, self._holders = (), 0

    def _base(self, prefix: TokenIds) -> Base:
        """Where the beginning of a prefix is cheapest to get; looked up once a decode."""
        found = self._bases.get(prefix)
        if found is None:
            trunk = common_length(self._trunk, prefix)
            kept, length = self._kept.find(prefix)
            found = self._bases[prefix] = Base(length, kept) if length > trunk else Base(trunk)
        return found

    def _beside_trunk(self, prefix: TokenIds, suffix: int, tokens: int) -> bool:
        """Whether a prompt begins with some of the trunk and the cells are enough for both."""
        common = common_length(self._trunk, prefix)
        if not common or self._kept.find(prefix)[1] > common:
            return not self._trunk
        rows = min(tokens, len(prefix) + suffix - common)
        return len(self._trunk) + rows <= self._context.cells

    def _decode(self, waiting: Waiting, packing: Packing, members: Waiting) -> None:
        """Fill the cells that are there, compute the rest, read the answers, keep the prefixes."""
        branches, sequence = self._branches(waiting, packing)
        leaves, rows = unfold(branches, TRUNK + 1)
        self._fill(branches, leaves)
        self._context.decode(rows)
        self.counters.decodes += 1
        self.counters.evaluated_tokens += len(rows)
        ahead = self._count_prefixes(branches.prefixes, bool(packing.piece))
        if packing.piece:
            self._ahead[packing.piece] = len(rows) + sum(ahead)
            self._keep(branches)
            self._ahead = {piece: count for piece, count in self._ahead.items() if self._holds(piece)}
            return
        # All are read before any is told.
        asked = [sequence[what] for what in packing.what]
        yes, masses = self._probabilities(leaves.last), self._masses(leaves.last, asked, members)
        evaluated = [length - start for length, start in zip(leaves.length, leaves.start, strict=True)]
        for group, tokens in zip(branches.groups, ahead, strict=True):
            evaluated[group.start] += tokens  # what earlier decodes computed
        answered, reused = members.tell(asked, yes, masses, leaves.length, evaluated)
        self.counters.prompts += answered
        self.counters.reused_tokens += reused
        broken = any(map(math.isnan, yes))
        self._failures = self._failures + 1 if broken else 0
        self.counters.errors += broken
        # Cells of a decode that ended in nan may hold more of them.
        if broken or self.settings.deterministic:
            self.forget()
        else:
            self._keep(branches)

    def _branches(self, waiting: Waiting, packing: Packing) -> tuple[Branches, list[int]]:
        """The decode's prompts, and where each of the packing's targets stands among them."""
        if packing.piece:
            return Branches.one(packing.piece, self._base(packing.piece).length), []
        targets = waiting.at(packing.targets)
        own = {name: self._base(waiting.prefixes[name]).length for name in set(targets.prefix)}
        return Branches.of(waiting.prefixes, own, targets.prefix, targets.suffix)

    def _fill(self, branches: Branches, leaves: Leaves) -> None:
        """Give each prompt the cells of its beginning: its neighbour's, the trunk's, or a copy of kept ones."""
        # What sequences hold already is not given to them again: that costs as much as the prefix is long.
        if self._holders and branches.prefixes != [self._trunk]:
            self._release()
        columns = zip(branches.prefixes, branches.groups, leaves.held, leaves.follows, strict=True)
        for prefix, group, held, follows in columns:
            sequences = range(TRUNK + 1 + max(group.start, self._holders), TRUNK + 1 + group.stop)
            if not held or not sequences:
                continue
            source = sequences[0] - 1 if follows else TRUNK
            if not follows and (kept := self._base(prefix).kept):
                source, sequences = sequences[0], sequences[1:]
                self._context.load(source, self._kept.take(kept))
                self._context.cut(source, held)
            self._context.share(source, sequences, held)

    def _keep(self, branches: Branches) -> None:
        """The last prefix becomes the trunk, the others are put by, everything else goes."""
        *others, (prefix, group) = zip(branches.prefixes, branches.groups, strict=True)
        if self._kept.budget:
            for other, members in others:
                self._put_by(other, TRUNK + members.stop)
        if prefix != self._trunk:
            if self._trunk != prefix[: len(self._trunk)]:
                self._put_by(self._trunk, TRUNK)
            self._context.cut(TRUNK, 0)
            self._context.share(TRUNK + group.stop, [TRUNK], len(prefix))
            self._trunk = prefix
        if others:
            self._release()
        else:
            # What comes next is mostly of the same user: its sequences hold the prefix already.
            self._context.cut_all(len(prefix))
            self._holders = max(self._holders, group.stop)

    def _put_by(self, prefix: TokenIds, sequence: int) -> None:
        if 0 < len(prefix) <= self._kept.budget and not self._kept.touch(prefix):
            self._context.cut(sequence, len(prefix))
            self._kept.put(prefix, self._context.save(sequence, self._kept.room))

    def _probabilities(self, rows: Sequence[int]) -> list[float]:
        """P(Yes) after each row of the decode, nan where the logits are NaN or infinite."""
        lead = [no - yes for yes, no in self._context.logits(rows, self._answers)]
        return [1.0 / (1.0 + math.exp(min(700.0, x))) if math.isfinite(x) else math.nan for x in lead]

    def _masses(self, rows: Sequence[int], asked: Sequence[int], members: Waiting) -> dict[int, float]:
        """Prompt → log of the answers' share of the whole vocabulary, if anyone who asks it wants that."""
        wanted = {
            what
            for what, job, place in zip(asked, members.job, members.place, strict=True)
            if members.jobs[job].prompts.whole[place]
        }
        return {what: self._context.log_mass(rows[what], self._answers) for what in wanted}

    def _count_prefixes(self, prefixes: Sequence[TokenIds], piece: bool) -> list[int]:
        """Tokens computed of each prefix in earlier pieces."""
        ahead = [self._taken_ahead(prefix) for prefix in prefixes]
        if not piece:
            found = [(prefix, taken) for prefix, taken in zip(prefixes, ahead, strict=True) if prefix]
            hits = sum(self._base(prefix).length == len(prefix) and not taken for prefix, taken in found)
            self.counters.prefix_hits += hits
            self.counters.prefix_misses += len(found) - hits
        return ahead

    def _taken_ahead(self, prefix: TokenIds) -> int:
        """Tokens computed of a prefix in earlier pieces, which are not reuse; they are counted once."""
        pieces = [piece for piece in self._ahead if piece == prefix[: len(piece)]]
        return sum(self._ahead.pop(piece) for piece in pieces)

    def _holds(self, piece: TokenIds) -> bool:
        """Whether it is still there: of a prompt that was given up, nobody comes for it."""
        return max(common_length(self._trunk, piece), self._kept.find(piece)[1]) == len(piece)

    def _failed(self, members: Waiting) -> None:
        self.forget()
        self._ahead.clear()
        self._failures += 1
        self.counters.errors += 1
        for job, places, _ in members.by_job():
            job.refuse(places if len(members) == 1 else job.alone.intersection(places), "llm_error")
            job.alone.update(places)

    def _mend(self) -> None:
        """A new context, if the present one cannot answer the simplest of prompts, without adapters: a damaged one of
        these is no fault of the context's."""
        self._failures = 0
        self._adapt(ALONE)
        if self._sound():
            return
        self._renew()
        if not self._sound():
            raise BrokenError("a new context fails as well")

    def _sound(self) -> bool:
        self._context.go_on()
        try:
            self._context.decode(unfold(Branches.one(self._answers[:1]), TRUNK + 1)[1])
            return all(map(math.isfinite, self._context.logits([0], self._answers)[0]))
        except DecodeError:
            return False
        finally:
            self.forget()

    def _renew(self) -> None:
        try:
            made = self._make()
        except InputError as error:
            raise BrokenError(str(error)) from None
        self._context.close()
        self._context, self._holders = made, 0  # and without adapters, as it was asked last
        self.counters.renewals += 1
