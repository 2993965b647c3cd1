"""Prompts → P(Yes): every token that waiting prompts share is decoded once, and recent prefixes are kept.

P(Yes) = softmax over the logits of the two answers at the prompt's last token (CoReLLa, arXiv 2403.16378;
ReLLa, arXiv 2308.11131, eq. of the point-wise score).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import pairwise

from corella_edge.errors import InputError
from corella_edge.prompt import Tokens
from corella_edge_runtime.llm.answer import Answer, BrokenError, Prompt
from corella_edge_runtime.llm.binding import AbortedError, Context, DecodeError, Model
from corella_edge_runtime.llm.cost import Cost
from corella_edge_runtime.llm.kept import KeptPrefixes
from corella_edge_runtime.llm.packing import Ask, Base, Room, Target, hopeless, in_time, pack
from corella_edge_runtime.llm.settings import MAX_CONTEXT, LlmSettings
from corella_edge_runtime.llm.tree import Leaf, TokenIds, common_length, unfold

Watch = Callable[[Sequence[Ask]], AbstractContextManager[None]]
TRUNK = 0  # the sequence that holds the latest prefix; prompts of a decode are 1, 2, …
# So many failures in a row, and the context is looked at: is it at fault, or were the prompts?
FAILURES = 3


def unwatched(asks: Sequence[Ask]) -> AbstractContextManager[None]:
    """Nobody wants to know what a decode holds."""
    return nullcontext()


@dataclass(slots=True)
class Counters:
    """What was done since the start.

    Attributes:
        prompts: those that got a probability.
        evaluated_tokens: computed.
        reused_tokens: not computed, because an earlier decode had left the prefix or other prompts shared it.
        prefix_hits, prefix_misses: prefixes that were kept in whole, or not.
        aborted: decodes given up because nobody waited any more.
        errors: decodes that failed, or ended in numbers that are none.
        renewals: contexts made anew because the one before was broken.
    """

    prompts: int = 0
    evaluated_tokens: int = 0
    reused_tokens: int = 0
    decodes: int = 0
    prefix_hits: int = 0
    prefix_misses: int = 0
    aborted: int = 0
    errors: int = 0
    renewals: int = 0
    seconds: float = 0.0


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
        self._bases: dict[TokenIds, Base] = {}
        # Pieces of prefixes that did not fit one decode → tokens computed of them, until their prompts are answered.
        self._ahead: dict[TokenIds, int] = {}
        self._unfinished: Ask | None = None
        self._failures = 0  # in a row
        self.counters = Counters()

    def score(self, prompts: Sequence[Prompt], expired: Callable[[], bool] = lambda: False) -> list[Answer]:
        """One answer a prompt, in order. `expired` is asked before every decode; what is left then has none."""
        asks = [Ask(prompt) for prompt in prompts]
        waiting, missing = [ask for ask in asks if not self.refuses(ask)], "deadline"
        while waiting and not expired():
            try:
                self.step(waiting)
            except BrokenError:
                missing = "llm_error"
                break
            waiting = [ask for ask in waiting if ask.answer is None]
        return [ask.answer or Answer(math.nan, missing) for ask in asks]

    def refuses(self, ask: Ask) -> bool:
        """Whether a prompt can not be answered here; its answer then says so."""
        length = len(ask.prompt.prefix) + len(ask.prompt.suffix)
        fits = length <= min(self.limit, self._context.cells) and 0 < len(ask.prompt.suffix) <= self._context.batch_size
        if not fits:
            ask.answer = Answer(math.nan, "too_long")
        return not fits

    def step(self, asks: Iterable[Ask], cost: Cost | None = None, watch: Watch = unwatched) -> None:
        """Work on the first of `asks` with at most one decode; some then have their answer.

        A decode that fails answers nobody: those it held are tried again one by one, and told the second time.

        Args:
            cost: known, those whose deadline is too near are told at once, and the decode is made to end before the
                nearest deadline of the others.
            watch: gets those whom the decode works for, and surrounds it.

        Raises:
            BrokenError: the context fails, and a new one does too.
        """
        started, cost = time.perf_counter(), cost or Cost()
        members: list[Ask] = []
        try:
            waiting = self._hopeful(list(asks), cost)
            targets = self._targets(waiting, cost)
            # A piece of a long prefix is nobody's answer yet, but somebody waits for it.
            members = [ask for target in targets for ask in target.asks] or waiting[:1]
            _note_begin(members)
            if targets:
                with watch(members):
                    self._decode(targets)
            self._unfinished = next((ask for ask in members if ask.answer is None), None)
        except AbortedError:
            self.counters.aborted += 1
            self._context.keep(TRUNK)
        except DecodeError:
            self._failed(members)
        except BaseException:
            self._failed(members)
            raise
        finally:
            self.counters.seconds += time.perf_counter() - started
        if self._failures >= FAILURES:
            self._mend()

    def give_up(self) -> None:
        """From any thread: the decode at work ends as soon as it can. Holds until `go_on`."""
        self._context.give_up()

    def go_on(self) -> None:
        self._context.go_on()

    def forget(self) -> None:
        """Drop all kept prefixes; their memory is used again."""
        self._context.clear()
        self._kept.clear()
        self._trunk = ()

    def erase(self) -> None:
        """Forget, and leave nothing of what was kept in memory: somebody asked for it."""
        self._context.clear()
        self._kept.erase()
        self._trunk = ()
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

    def _hopeful(self, asks: list[Ask], cost: Cost) -> list[Ask]:
        """Those that can be answered by their deadlines; the others are told."""
        if not cost.known or self.settings.deterministic:
            return asks
        self._bases.clear()
        room, now = Room(self._context.batch_size, self._context.sequences - 1, self._context.cells), time.monotonic()
        late = hopeless(asks, self._base, room, cost, now)
        if len(late) == len(asks) and cost.stale(now):
            del late[0]
        for ask in late:
            ask.answer = Answer(math.nan, "deadline")
        return [ask for ask in asks if ask.answer is None]

    def _targets(self, asks: list[Ask], cost: Cost) -> list[Target]:
        """The next decode's prompts, neighbours alike. The trunk leaves first if they do not begin with it."""
        if not asks:
            return []
        most = in_time(cost, asks, time.monotonic())
        if self.settings.deterministic:
            asks = asks[:1]
            if asks[0] is not self._unfinished:
                self.forget()
        tokens = self._context.batch_size
        if not self._beside_trunk(asks[0].prompt, tokens):
            self._leave_trunk(asks[0].prompt.prefix)
        self._bases.clear()
        room = Room(tokens, self._context.sequences - 1, self._context.cells - len(self._trunk))
        targets = pack(asks, self._base, room, most)
        return sorted(targets, key=lambda target: (target.prefix, target.suffix))

    def _leave_trunk(self, prefix: TokenIds) -> None:
        """Put the trunk by; what is kept of the prefix that comes must not leave for it."""
        self._kept.touch(prefix)
        self._put_by(self._trunk, TRUNK)
        self._context.cut(TRUNK, 0)
        self._trunk = ()

    def _base(self, prefix: TokenIds) -> Base:
        """Where the beginning of a prefix is cheapest to get; looked up once a decode."""
        if prefix not in self._bases:
            trunk = common_length(self._trunk, prefix)
            kept, length = self._kept.find(prefix)
            self._bases[prefix] = Base(length, kept) if length > trunk else Base(trunk)
        return self._bases[prefix]

    def _beside_trunk(self, prompt: Prompt, tokens: int) -> bool:
        """Whether a prompt begins with some of the trunk and the cells are enough for both."""
        common = common_length(self._trunk, prompt.prefix)
        if not common or self._kept.find(prompt.prefix)[1] > common:
            return not self._trunk
        rows = min(tokens, len(prompt.prefix) + len(prompt.suffix) - common)
        return len(self._trunk) + rows <= self._context.cells

    def _decode(self, targets: list[Target]) -> None:
        """Fill the cells that are there, compute the rest, read the answers, keep the prefixes."""
        own = [self._base(target.prefix).length for target in targets]
        leaves, rows = unfold([target.tokens for target in targets], own, _shared(targets), TRUNK + 1)
        for sequence, (target, leaf) in enumerate(zip(targets, leaves, strict=True), TRUNK + 1):
            self._fill(sequence, target.prefix, leaf)
        self._context.decode(rows)
        self.counters.decodes += 1
        self.counters.evaluated_tokens += len(rows)
        ahead = self._count_prefixes(targets)
        if not targets[0].asks:
            self._ahead[targets[0].prefix] = len(rows) + sum(ahead.values())
            self._keep(targets)
            self._ahead = {piece: count for piece, count in self._ahead.items() if self._holds(piece)}
            return
        # All are read before any is told.
        answers = [self._answer(leaf.last, target) for target, leaf in zip(targets, leaves, strict=True)]
        for target, leaf, answer in zip(targets, leaves, answers, strict=True):
            self._tell(target, answer, len(target) - leaf.start + ahead.pop(target.prefix, 0))
        broken = any(answer.reason for answer in answers)
        self._failures = self._failures + 1 if broken else 0
        self.counters.errors += broken
        # Cells of a decode that ended in nan may hold more of them.
        if broken or self.settings.deterministic:
            self.forget()
        else:
            self._keep(targets)

    def _fill(self, sequence: int, prefix: TokenIds, leaf: Leaf) -> None:
        """Give a prompt the cells of its beginning: its neighbour's, the trunk's, or a copy of kept ones."""
        kept = self._base(prefix).kept
        if not leaf.held:
            return
        if leaf.follows:
            self._context.share(sequence - 1, sequence, leaf.held)
        elif kept:
            self._context.load(sequence, self._kept.take(kept))
            self._context.cut(sequence, leaf.held)
        else:
            self._context.share(TRUNK, sequence, leaf.held)

    def _keep(self, targets: list[Target]) -> None:
        """The last prefix becomes the trunk, the others are put by, everything else goes."""
        last = {target.prefix: sequence for sequence, target in enumerate(targets, TRUNK + 1)}
        *others, (prefix, sequence) = last.items()
        if self._kept.budget:
            for other, leaf in others:
                self._put_by(other, leaf)
        if prefix != self._trunk:
            if self._trunk != prefix[: len(self._trunk)]:
                self._put_by(self._trunk, TRUNK)
            self._context.cut(TRUNK, 0)
            self._context.share(sequence, TRUNK, len(prefix))
            self._trunk = prefix
        self._context.keep(TRUNK)

    def _put_by(self, prefix: TokenIds, sequence: int) -> None:
        if 0 < len(prefix) <= self._kept.budget and not self._kept.touch(prefix):
            self._context.cut(sequence, len(prefix))
            self._kept.put(prefix, self._context.save(sequence, self._kept.room))

    def _answer(self, row: int, target: Target) -> Answer:
        yes, no = self._context.logits(row, self._answers)
        if not math.isfinite(no - yes):
            return Answer(math.nan, "llm_error")
        whole = any(ask.prompt.whole for ask in target.asks)
        mass = self._context.log_mass(row, self._answers) if whole else math.nan
        return Answer(1.0 / (1.0 + math.exp(min(700.0, no - yes))), mass=mass)

    def _tell(self, target: Target, answer: Answer, evaluated: int) -> None:
        """Everyone who asked a prompt gets its answer; it was computed for the first of them."""
        for ask in target.asks:
            reused = max(0, len(target) - evaluated)
            waited = max(0.0, (ask.begun or ask.arrived) - ask.arrived)
            ask.answer = Answer(answer.probability, answer.reason, evaluated, reused, waited, answer.mass)
            self.counters.reused_tokens += reused
            self.counters.prompts += not answer.reason
            evaluated = 0

    def _count_prefixes(self, targets: list[Target]) -> dict[TokenIds, int]:
        """Tokens computed of each prefix in earlier pieces."""
        prefixes = {target.prefix for target in targets if target.prefix}
        ahead = {prefix: self._taken_ahead(prefix) for prefix in prefixes}
        if targets[0].asks:
            hits = sum(self._base(prefix).length == len(prefix) and not ahead[prefix] for prefix in prefixes)
            self.counters.prefix_hits += hits
            self.counters.prefix_misses += len(prefixes) - hits
        return ahead

    def _taken_ahead(self, prefix: TokenIds) -> int:
        """Tokens computed of a prefix in earlier pieces, which are not reuse; they are counted once."""
        pieces = [piece for piece in self._ahead if piece == prefix[: len(piece)]]
        return sum(self._ahead.pop(piece) for piece in pieces)

    def _holds(self, piece: TokenIds) -> bool:
        """Whether it is still there: of a prompt that was given up, nobody comes for it."""
        return max(common_length(self._trunk, piece), self._kept.find(piece)[1]) == len(piece)

    def _failed(self, members: list[Ask]) -> None:
        self.forget()
        self._ahead.clear()
        self._failures += 1
        self.counters.errors += 1
        for ask in members:
            if len(members) > 1 and not ask.alone:
                ask.alone = True
            else:
                ask.alone, ask.answer = True, Answer(math.nan, "llm_error")

    def _mend(self) -> None:
        """A new context, if the present one can not answer the simplest of prompts."""
        self._failures = 0
        if self._sound():
            return
        self._renew()
        if not self._sound():
            raise BrokenError("a new context fails as well")

    def _sound(self) -> bool:
        self._context.go_on()
        try:
            self._context.decode(unfold([self._answers[:1]], [0], [0], TRUNK + 1)[1])
            return all(map(math.isfinite, self._context.logits(0, self._answers)))
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
        self._context = made
        self.counters.renewals += 1


def _note_begin(members: Sequence[Ask]) -> None:
    now = time.monotonic()
    for ask in members:
        ask.begun = ask.begun or now


def _shared(targets: Sequence[Target]) -> list[int]:
    """How many tokens each prompt has in common with the one before it."""
    shared = [0]
    for before, target in pairwise(targets):
        if before.prefix == target.prefix:
            shared.append(len(target.prefix) + common_length(before.suffix, target.suffix))
        else:
            shared.append(common_length(before.tokens, target.tokens))
    return shared
