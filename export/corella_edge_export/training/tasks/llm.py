"""Training the LLM to answer Yes/No: cross-entropy over the two answers at every question of a sequence."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from tqdm import tqdm

from corella_edge.prompt import Tokenize
from corella_edge_export.data.prepared import Split
from corella_edge_export.data.sampling import draw_users
from corella_edge_export.llm import model as llm
from corella_edge_export.llm import tokenizer
from corella_edge_export.llm.precision import computed_here
from corella_edge_export.llm.recipe import Precision, StageRecipe
from corella_edge_export.llm.sequences import SequenceBuilder, Spelling, TokenSequence, bucketed
from corella_edge_export.training.loop import Metrics, Part, Schedule, whole
from corella_edge_export.training.tasks.crm import device_of, validation

if TYPE_CHECKING:
    from corella_edge_export.training.stages import Stages

PADDING = 32
# The next-token loss looks at one position in so many, other ones every step: it costs as much as the model.
TEXT_STRIDE = 4
Indices = npt.NDArray[np.int64]


def schedule(recipe: StageRecipe) -> Schedule:
    """A stage's schedule for `loop.fit`."""
    return Schedule(
        recipe.learning_rate, recipe.weight_decay, recipe.epochs, recipe.evaluations, recipe.patience, recipe.warmup,
        accumulate=recipe.accumulate,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Corpus:
    """Where training sequences come from.

    Attributes:
        spell, spell_rate: questions spelled out (`sequences.Spelling`); None = none.
        skip: None draws whole users; a number draws random stretches after so many rows' worth of others.
    """

    builder: SequenceBuilder
    split: Split
    settings: StageRecipe
    seed: int
    spell: Tokenize | None = None
    spell_rate: float = 0.0
    skip: int | None = None

    def sequences(self, epoch: int) -> list[TokenSequence]:
        """The epoch's sequences; whole users are cut elsewhere every epoch, so a row meets histories of every
        length, while random stretches stay the same rows."""
        rng = np.random.default_rng([self.seed, 7, epoch])
        spelling = None if self.spell is None else Spelling(self.spell_rate, self.spell, rng)
        if self.skip is not None:
            rows = self.settings.rows or len(self.split.users)
            return self.builder.drawn(self.split, rows, self.skip, self.seed, spelling)
        template = self.builder.encoder.template
        offset = int(rng.integers(template.history_lines + template.block)) if epoch else 0
        users = draw_users(self.split, self.settings.rows, self.seed)
        return self.builder.training(self.split, users.tolist(), offset, spelling)


class Batches:
    """A corpus epoch by epoch, in batches of similar length; the epoch at hand is kept."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self._epoch = -1
        self._sequences: list[TokenSequence] = []
        self._batches: list[Indices] = []

    def of(self, epoch: int) -> list[Indices]:
        """The epoch's batches, each int64 [b] places among its sequences."""
        if self._epoch != epoch:
            self._sequences = self.corpus.sequences(epoch)
            lengths = np.asarray([len(s.tokens) for s in self._sequences], dtype=np.int64)
            rng = np.random.default_rng([self.corpus.seed, 8, epoch])
            self._batches = bucketed(lengths, self.corpus.settings.batch_tokens, rng)
            self._epoch = epoch
        return self._batches

    def chosen(self, epoch: int, batch: Indices) -> list[TokenSequence]:
        """The sequences of one batch."""
        self.of(epoch)
        return [self._sequences[i] for i in batch]


class LlmReader:
    """A causal LM beside the answers' ids: sequences → logits, in the recipe's precision if this machine has it."""

    def __init__(self, model: Any, answers: tuple[int, int], precision: Precision) -> None:
        self.model, self.precision = model, precision
        self.answers = torch.tensor(answers)

    def read(self, sequences: list[TokenSequence], blocks: bool = False) -> ForwardPass:
        """One forward pass."""
        place = device_of(self.model)
        tokens = padded(sequences).to(place)
        rows = np.repeat(np.arange(len(sequences)), [len(s.positions) for s in sequences])
        places = np.concatenate([s.positions for s in sequences]).astype(np.int64)
        where = (torch.from_numpy(rows).to(place), torch.from_numpy(places).to(place))
        seen = branched(sequences, tokens.shape[1], place) if any(s.branches for s in sequences) else None
        with self.cast():
            hidden, states = llm.hidden_states(self.model, tokens, blocks, seen)
        logits = llm.answer_logits(self.model, hidden[where], self.answers.to(place))
        return ForwardPass(tokens, hidden, where, logits, states)

    def cast(self) -> contextlib.AbstractContextManager[object]:
        device = device_of(self.model).type
        if computed_here(self.precision, device) == "float32":
            return contextlib.nullcontext()
        return torch.autocast(device, dtype=torch.bfloat16)


@dataclass(frozen=True, slots=True)
class ForwardPass:
    """A forward pass: tokens int64 [b, length], hidden [b, length, h], the targets' rows and positions, their
    logits of (no, yes) float32 [targets, 2] in sequence order, and each block's output [b, length, h]."""

    tokens: Tensor
    hidden: Tensor
    where: tuple[Tensor, Tensor]
    logits: Tensor
    blocks: tuple[Tensor, ...]


def padded(sequences: list[TokenSequence]) -> Tensor:
    """int64 [b, length], zeros on the right. Few distinct lengths: every new shape costs a compilation, and memory."""
    longest = -(-max(len(s.tokens) for s in sequences) // PADDING) * PADDING
    tokens = torch.zeros((len(sequences), longest), dtype=torch.int64)
    for i, sequence in enumerate(sequences):
        tokens[i, : len(sequence.tokens)] = torch.from_numpy(sequence.tokens.astype(np.int64))
    return tokens


def branched(sequences: list[TokenSequence], length: int, place: torch.device) -> tuple[Tensor, Tensor]:
    """What each token sees, bool [b, 1, length, length], and its place in its own text, int64 [b, length].

    A branch sees the first tokens up to its own prefix's end, and itself; it stands where it would after them.
    """
    index = torch.arange(length)
    begin = torch.zeros((len(sequences), length), dtype=torch.int64)
    prefix = torch.zeros_like(begin)
    for i, sequence in enumerate(sequences):
        for start, visible in sequence.branches:
            begin[i, start:], prefix[i, start:] = start, visible
        begin[i, len(sequence.tokens) :] = prefix[i, len(sequence.tokens) :] = 0
    own = (index >= begin[:, :, None]) & (index <= index[:, None])
    seen = own | (index < prefix[:, :, None])
    return seen[:, None].to(place), (prefix + index - begin).to(place)


class LlmTask:
    """A causal LM, its corpus and its validation sequences (`loop.Task`)."""

    def __init__(
        self, reader: LlmReader, corpus: Corpus, valid: list[TokenSequence], text_weight: float = 0.0,
        ranking_weight: float = 0.0, name: str = "llm",
    ) -> None:  # fmt: skip
        self.name = name
        self.reader, self.valid = reader, valid
        self.text_weight, self.ranking_weight = text_weight, ranking_weight
        self.model: nn.Module = reader.model
        self._batches = Batches(corpus)

    def batches(self, epoch: int) -> list[Indices]:
        return self._batches.of(epoch)

    def losses(self, batch: Indices, epoch: int, index: int, part: Part) -> dict[str, Tensor]:
        sequences = self._batches.chosen(epoch, batch)
        mine = sequences[part.cut]
        if not mine:
            return {}
        reading = self.reader.read(mine)
        answers = answer_loss(reading.logits, mine) * share(mine, sequences)
        found = {"loss": answers, "tokens": counted(mine)}
        if self.ranking_weight:
            ranking = ranking_loss(reading.logits, mine) / max(1, ranked(sequences))
            found |= {"loss": found["loss"] + self.ranking_weight * ranking, "ranking_loss": ranking}
        if self.text_weight:
            text = self._text_loss(reading, mine, index) / text_positions(sequences, index)
            found |= {"loss": found["loss"] + self.text_weight * text, "text_loss": text}
        return {**found, "answer_loss": answers} if len(found) > 2 else found

    def _text_loss(self, reading: ForwardPass, sequences: list[TokenSequence], index: int) -> Tensor:
        """Next-token cross-entropy of the lines before any branch, summed over the step's positions."""
        lengths = torch.tensor([s.trunk for s in sequences], device=reading.tokens.device)
        places = torch.arange(reading.tokens.shape[1] - 1, device=reading.tokens.device)
        asked = ((places + index) % TEXT_STRIDE == 0) & (places < lengths[:, None] - 1)
        with self.reader.cast():
            logits = llm.plain(self.model).lm_head(reading.hidden[:, :-1][asked])
        return nn.functional.cross_entropy(logits.float(), reading.tokens[:, 1:][asked], reduction="sum")

    def evaluate(self) -> Metrics:
        rows, probability = predict(self.reader, self.valid)
        return {**validation(probability, np.concatenate([s.labels for s in self.valid])), "rows": len(rows)}

    def trainable(self) -> dict[str, Tensor]:
        return llm.trained_tensors(self.model)

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        return whole(self.model)


def answer_loss(logits: Tensor, sequences: list[TokenSequence]) -> Tensor:
    """Mean cross-entropy of the answers."""
    labels = torch.from_numpy(np.concatenate([s.labels for s in sequences]).astype(np.int64))
    return nn.functional.cross_entropy(logits, labels.to(logits.device))


def ranking_loss(logits: Tensor, sequences: list[TokenSequence]) -> Tensor:
    """Sum over the sequences of the mean over their pairs (i answered Yes, j answered No) of -ln sigmoid(s_i - s_j).

    s is logit(Yes) - logit(No), float32 [targets] from `logits` [targets, 2]; a sequence is one user's history, so each
    pair is one user's. It is BPR-Opt (Rendle et al., arXiv 1205.2618, section 4.1) without its regulariser, and with
    its sum over triples replaced by a mean over each sequence's: users count alike, as they do in UAUC. A sequence with
    one kind of answer has no pair and adds 0.
    """
    scores, total, first = logits[:, 1] - logits[:, 0], logits.new_zeros(()), 0
    for sequence in sequences:
        own = scores[first : first + len(sequence.labels)]
        first += len(own)
        liked = torch.from_numpy(sequence.labels == 1).to(own.device)
        if 0 < int(liked.sum()) < len(own):
            total = total + nn.functional.softplus(own[~liked] - own[liked][:, None]).mean()
    return total


def ranked(sequences: list[TokenSequence]) -> int:
    """How many of the sequences have both kinds of answers."""
    return sum(0 < int(s.labels.sum()) < len(s.labels) for s in sequences)


def counted(sequences: list[TokenSequence]) -> Tensor:
    """How many tokens the sequences have, padding not among them; int64."""
    return torch.tensor(sum(len(s.tokens) for s in sequences))


def share(part: list[TokenSequence], batch: list[TokenSequence]) -> float:
    """The part of a batch's targets that is in some of its sequences."""
    return sum(len(s.rows) for s in part) / sum(len(s.rows) for s in batch)


def text_positions(sequences: list[TokenSequence], index: int) -> int:
    """How many positions of the sequences the step's next-token loss looks at (at least 1, to divide by)."""
    first = -index % TEXT_STRIDE
    counts = (max(0, -(-(s.trunk - 1 - first) // TEXT_STRIDE)) for s in sequences)
    return max(1, sum(counts))


def stage(stages: Stages) -> tuple[LlmTask, Schedule]:
    """The stage `llm`: the LLM's own training, with its own seed."""
    recipe = stages.run.recipe.llm
    return _task(stages, "llm", recipe, recipe.seed, skip=None)


def continuation(stages: Stages) -> tuple[LlmTask, Schedule]:
    """The LLM goes on with other rows than the joint stage's, also in a run that leaves that stage out."""
    recipe = stages.run.recipe
    return _task(stages, "continuation", recipe.continuation, recipe.seed, skip=recipe.joint.rows)


def _task(stages: Stages, name: str, settings: StageRecipe, seed: int, skip: int | None) -> tuple[LlmTask, Schedule]:
    reader = stages.run.reader(stages.llm_before(name), stages.builder)
    asked, own = corpus(stages, settings, seed, skip), stages.run.recipe.llm
    task = LlmTask(reader, asked, valid_sequences(stages), own.text_weight, own.ranking_weight, name)
    return task, schedule(settings)


def corpus(stages: Stages, settings: StageRecipe, seed: int, skip: int | None) -> Corpus:
    """A stage's training sequences."""
    recipe, split = stages.run.recipe.llm, stages.run.data.split("train")
    if recipe.codes.bits:
        return Corpus(stages.builder, split, settings, seed, stages.builder.encoder.tokenize, recipe.codes.hide, skip)
    spell = tokenizer.speller(stages.run.tokenizer()) if recipe.whole_items else None
    return Corpus(stages.builder, split, settings, seed, spell, recipe.spell_rate, skip)


def valid_sequences(stages: Stages) -> list[TokenSequence]:
    """The validation rows of every LLM stage, with the histories that serving gives them."""
    split, recipe = stages.run.data.split("valid"), stages.run.recipe.llm
    return stages.builder.exact(split, draw_users(split, recipe.valid_rows, recipe.seed).tolist())


def predict(
    reader: LlmReader, sequences: list[TokenSequence], shown: bool = False
) -> tuple[Indices, npt.NDArray[np.float64]]:
    """(rows int64 [n], P(Yes) float64 [n]) of all targets, in sequence order; `shown`: on a terminal, with progress."""
    lengths = np.asarray([len(s.tokens) for s in sequences], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    found: dict[int, npt.NDArray[np.float64]] = {}
    reader.model.eval()
    with torch.inference_mode():
        for start in tqdm(range(0, len(order), 32), unit="batch", leave=False, disable=None if shown else True):
            chosen = order[start : start + 32]
            batch = [sequences[i] for i in chosen]
            p = torch.softmax(reader.read(batch).logits.double(), dim=1)[:, 1].cpu().numpy()
            parts = np.split(p, np.cumsum([len(s.positions) for s in batch])[:-1])
            found.update(zip(chosen.tolist(), parts, strict=True))
    rows = np.concatenate([s.rows for s in sequences])
    return rows, np.concatenate([found[i] for i in range(len(sequences))])
