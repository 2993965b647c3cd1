"""Users' logs → token sequences with several answered questions each, the training form of the prompt.

One sequence is one prompt prefix: its tokens are exactly what `PromptEncoder` gives at serving time, and every
question in it may be a target, so one forward pass yields as many scores as there are questions. Where rows are no
events of the log (`PreparedData.rows_in_log`), or its lines are worded otherwise, a target is no line of it: its
question is a branch, which sees the lines before its position.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from corella_edge.catalog import CODE
from corella_edge.prompt import PromptEncoder
from corella_edge.request import Event, User
from corella_edge_export.data.prepared import PreparedData, Split


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids, and per target: the position whose next token is the answer, the label, the split's row.

    `branches` are (where a branch begins, how many of the first tokens it sees), at the end of the tokens.
    """

    tokens: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    labels: npt.NDArray[np.int8]
    rows: npt.NDArray[np.int64]
    branches: tuple[tuple[int, int], ...] = ()

    @property
    def trunk(self) -> int:
        """How many tokens come before the branches."""
        return self.branches[0][0] if self.branches else len(self.tokens)


Targets = list[tuple[int, int]]  # (position in the user's log, the split's row), by position
MAX_BRANCHES = 128


@dataclass(frozen=True, slots=True)
class Spelling:
    """A share of the questions is worded as a new item's: spelled out in the tokenizer's words where the item has a
    token of its own, and without the base model's code."""

    rate: float
    spell: Callable[[str], list[int]]
    rng: np.random.Generator


class Questions:
    """Items → their questions' tokens, in an encoder's words."""

    def __init__(self, encoder: PromptEncoder) -> None:
        self.encoder = encoder
        self._spelled: dict[int, list[int]] = {}

    def of(self, item: int, spelling: Spelling | None) -> list[int] | None:
        """An item's question, or None when it has no title."""
        question = self.encoder.item(item)
        if spelling is None or question is None or spelling.rng.random() >= spelling.rate:
            return question
        if item not in self._spelled:
            text = self.encoder.template.item_text({**self.encoder.catalog.attributes[item], CODE: None})
            self._spelled[item] = spelling.spell(text or "")
        return self._spelled[item]


class SequenceBuilder:
    """Turns stretches of a user's log into sequences."""

    def __init__(self, data: PreparedData, encoder: PromptEncoder, lines: PromptEncoder | None = None) -> None:
        """`lines` words the history where that is not the question's own text; no target is a line of it then."""
        self.data, self.encoder = data, encoder
        self._asked = Questions(encoder)
        self._told = self._asked if lines is None else Questions(lines)
        self._targets_in_lines = data.rows_in_log and lines is None

    def build(
        self, user: int, start: int, targets: Targets, split: Split, spelling: Spelling | None = None
    ) -> TokenSequence:
        """Events `start` … the last target of a user."""
        if not self._targets_in_lines:
            return self._branching(user, start, targets, split, spelling)
        return self._straight(user, start, dict(targets), split, spelling)

    def _branching(
        self, user: int, start: int, targets: Targets, split: Split, spelling: Spelling | None
    ) -> TokenSequence:
        """The events before the last target, then a branch for every target."""
        ids = self.encoder.header(self.profile(user))
        ends = [len(ids)]
        for position in range(start, targets[-1][0]):
            ids += self._line(user, position, spelling)
            ends.append(len(ids))
        branches, places, rows = [], [], []
        for position, row in targets:
            question = self._asked.of(int(split.items[row]), spelling)
            if question is not None:
                branches.append((len(ids), ends[position - start]))
                ids += question
                places.append(len(ids) - 1)
                rows.append(row)
        chosen = np.asarray(rows, dtype=np.int64)
        arrays = np.asarray(ids, np.int32), np.asarray(places, np.int32), split.labels[chosen], chosen
        return TokenSequence(*arrays, tuple(branches))

    def _line(self, user: int, position: int, spelling: Spelling | None) -> list[int]:
        """An event of the user's log as an answered question."""
        row = int(self.data.log.offsets[user]) + position
        item, rating = int(self.data.log.items[row]), float(self.data.log.ratings[row])
        event = Event(self.data.item_ids[item], None if np.isnan(rating) else rating)
        return self._told.encoder.line(self._told.of(item, spelling), event)

    def _straight(
        self, user: int, start: int, targets: dict[int, int], split: Split, spelling: Spelling | None
    ) -> TokenSequence:
        """Every event an answered question; targets are among them."""
        log, encoder = self.data.log, self.encoder
        ids = encoder.header(self.profile(user))
        first = int(log.offsets[user])
        last = max(targets)
        places: list[int] = []
        rows: list[int] = []
        for position in range(start, last + 1):
            item = int(log.items[first + position])
            question = self._asked.of(item, spelling)
            if question is not None and position in targets:
                places.append(len(ids) + len(question) - 1)
                rows.append(targets[position])
            if position < last:
                rating = float(log.ratings[first + position])
                event = Event(self.data.item_ids[item], None if np.isnan(rating) else rating)
                ids += encoder.line(question, event)
            elif question is not None:
                ids += question
        chosen = np.asarray(rows, dtype=np.int64)
        return TokenSequence(np.asarray(ids, np.int32), np.asarray(places, np.int32), split.labels[chosen], chosen)

    def profile(self, user: int) -> User:
        features = {name: self.data.users[name][user] for name in self.data.user_attributes}
        return User(self.data.user_ids[user], features)

    def training(
        self, split: Split, users: Iterable[int], offset: int, spelling: Spelling | None = None
    ) -> list[TokenSequence]:
        """Stretches of `history_lines + block` events, each row a target once; `offset` shifts the cuts."""
        return self._all(self.build(*stretch, split, spelling) for stretch in self._stretches(split, users, offset))

    def drawn(
        self, split: Split, rows: int, skip: int, seed: int, spelling: Spelling | None = None
    ) -> list[TokenSequence]:
        """About `rows` targets in random stretches of all users, after `skip` targets in others (`draw_stretches`)."""
        stretches = list(self._stretches(split, np.unique(split.users).tolist(), 0))
        asked = np.asarray([self.encoder.item(item) is not None for item in range(len(self.encoder.catalog))])
        counts = [int(asked[split.items[[row for _, row in targets]]].sum()) for _, _, targets in stretches]
        chosen = draw_stretches(counts, rows, skip, seed)
        return [self.build(*stretches[i], split, spelling) for i in chosen]

    def _stretches(self, split: Split, users: Iterable[int], offset: int) -> Iterator[tuple[int, int, Targets]]:
        """(user, first event, targets) of every stretch."""
        stretch = self.encoder.template.history_lines + self.encoder.template.block
        for user, targets in _by_user(split, users):
            for start, chosen in _cut(targets, lambda p: max(0, (p - offset) // stretch * stretch + offset)):
                yield user, start, chosen

    def exact(self, split: Split, users: Iterable[int], rows: Container[int] | None = None) -> list[TokenSequence]:
        """Rows (all, or those in `rows`) with exactly the history a prompt has at serving time.

        Rows whose prompts begin at the same event share a sequence.
        """
        first = self.encoder.template.first_event
        return self._all(
            self.build(user, start, chosen, split)
            for user, targets in _by_user(split, users)
            for start, chosen in _cut([(p, r) for p, r in targets if rows is None or r in rows], first)
        )

    @staticmethod
    def _all(made: Iterable[TokenSequence]) -> list[TokenSequence]:
        """Those with a target: items without text are none."""
        return [sequence for sequence in made if len(sequence.rows)]


def _by_user(split: Split, users: Iterable[int]) -> Iterable[tuple[int, Targets]]:
    """(user, targets) for the given users that have rows."""
    order = np.argsort(split.users, kind="stable")
    owners = split.users[order]
    for user in users:
        low, high = np.searchsorted(owners, [user, user + 1])
        rows = order[low:high]
        if len(rows):
            yield user, sorted((int(split.positions[row]), int(row)) for row in rows)


def _cut(targets: Targets, start_of: Callable[[int], int]) -> Iterator[tuple[int, Targets]]:
    """Targets grouped by the event their sequence starts with, so many a sequence at most."""
    groups: dict[int, Targets] = {}
    for position, row in targets:
        groups.setdefault(start_of(position), []).append((position, row))
    for start, group in groups.items():
        for first in range(0, len(group), MAX_BRANCHES):
            yield start, group[first : first + MAX_BRANCHES]


Indices = npt.NDArray[np.int64]


def draw_stretches(counts: list[int], rows: int, skip: int, seed: int) -> list[int]:
    """Of stretches with so many targets, in a seeded random order: those with about `rows` after the first `skip`.

    Draws with the same seed are disjoint where their ranges of targets are. None is without a target.
    """
    known = np.flatnonzero(counts)
    order = known[np.random.default_rng([seed, 17]).permutation(len(known))]
    ends = np.cumsum(np.asarray(counts, dtype=np.int64)[order])
    first, last = (int(np.searchsorted(ends, count)) + 1 if count else 0 for count in (skip, skip + rows))
    found: list[int] = order[first:last].tolist()
    return found


def bucketed(lengths: Indices, batch_tokens: int, rng: np.random.Generator) -> list[Indices]:
    """Indices in batches of similar length, each at most `batch_tokens` padded tokens, in random order."""
    jitter = rng.permutation(len(lengths))
    order = jitter[np.argsort(lengths[jitter], kind="stable")]
    batches: list[Indices] = []
    start = 0
    for end in range(1, len(order) + 1):
        if end == len(order) or (end + 1 - start) * lengths[order[end]] > batch_tokens:
            batches.append(order[start:end])
            start = end
    return [batches[i] for i in rng.permutation(len(batches))]
