"""Fine-tuning the LLM to answer Yes/No: cross-entropy over the two answers at every question of a sequence."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge import metrics
from corella_edge_export.data.prepared import Split
from corella_edge_export.llm import answer_logits
from corella_edge_export.loop import Schedule
from corella_edge_export.recipe import LlmRecipe
from corella_edge_export.sequences import Sequence, SequenceBuilder, bucketed

PADDING = 32
Indices = npt.NDArray[np.int64]


class LlmTask:
    """A causal LM, its training users and its validation sequences (`loop.Task`)."""

    name = "llm"

    def __init__(
        self, model: Any, builder: SequenceBuilder, train: Split, valid: Split, recipe: LlmRecipe, seed: int
    ) -> None:
        self.model: nn.Module = model
        self.builder, self.train, self.recipe, self.seed = builder, train, recipe, seed
        self.precision = recipe.precision
        tokens = builder.encoder.tokens
        self.answers = torch.tensor([tokens.no, tokens.yes])
        self.users = draw_users(train, recipe.rows, seed)
        self.valid_sequences = builder.exact(valid, draw_users(valid, recipe.valid_rows, seed))
        self._epoch: tuple[int, list[Sequence]] = (-1, [])
        self._batches: list[Indices] = []

    def batches(self, epoch: int) -> list[Indices]:
        self._prepare(epoch)
        return self._batches

    def _prepare(self, epoch: int) -> None:
        """The epoch's sequences: other cuts every epoch, so a row meets histories of every length."""
        if self._epoch[0] == epoch:
            return
        rng = np.random.default_rng([self.seed, 7, epoch])
        template = self.builder.encoder.template
        offset = int(rng.integers(template.history_lines + template.block)) if epoch else 0
        sequences = self.builder.training(self.train, self.users.tolist(), offset)
        self._epoch = (epoch, sequences)
        lengths = np.asarray([len(s.tokens) for s in sequences], dtype=np.int64)
        self._batches = bucketed(lengths, self.recipe.batch_tokens, rng)

    def loss(self, batch: Indices, epoch: int, index: int) -> Tensor:
        self._prepare(epoch)
        chosen = [self._epoch[1][i] for i in batch]
        labels = torch.from_numpy(np.concatenate([s.labels for s in chosen]).astype(np.int64))
        return nn.functional.cross_entropy(self.logits(chosen), labels)

    def logits(self, sequences: list[Sequence]) -> Tensor:
        """float32 [targets, 2]: logits of (no, yes), targets in sequence order."""
        # Few distinct lengths: every new shape costs the CPU kernels a compilation, and memory.
        longest = -(-max(len(s.tokens) for s in sequences) // PADDING) * PADDING
        tokens = torch.zeros((len(sequences), longest), dtype=torch.int64)
        for i, sequence in enumerate(sequences):
            tokens[i, : len(sequence.tokens)] = torch.from_numpy(sequence.tokens.astype(np.int64))
        rows = np.repeat(np.arange(len(sequences)), [len(s.positions) for s in sequences])
        places = np.concatenate([s.positions for s in sequences]).astype(np.int64)
        where = (torch.from_numpy(rows), torch.from_numpy(places))
        with self._precision():
            return answer_logits(self.model, tokens, where, self.answers)

    def _precision(self) -> contextlib.AbstractContextManager[object]:
        if self.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=torch.bfloat16)

    def evaluate(self) -> dict[str, float]:
        rows, probability = predict(self, self.valid_sequences)
        labels = np.concatenate([s.labels for s in self.valid_sequences])
        found = metrics.quality(probability, labels)
        return {"auc": found.auc, "logloss": found.logloss, "accuracy": found.accuracy, "rows": len(rows)}

    def trainable(self) -> dict[str, Tensor]:
        return {name: p.data for name, p in self.model.named_parameters() if p.requires_grad}


def schedule(recipe: LlmRecipe) -> Schedule:
    """The recipe's schedule for `loop.fit`."""
    return Schedule(
        recipe.learning_rate, recipe.weight_decay, recipe.epochs, recipe.evaluations, recipe.patience, recipe.warmup
    )


def draw_users(split: Split, rows: int, seed: int) -> npt.NDArray[np.int64]:
    """A seeded sample of whole users with about `rows` rows (0 = all users), ascending."""
    users, counts = np.unique(split.users, return_counts=True)
    if rows <= 0 or rows >= len(split.users):
        return users.astype(np.int64)
    order = np.random.default_rng([seed, 11]).permutation(len(users))
    needed = int(np.searchsorted(np.cumsum(counts[order]), rows)) + 1
    return np.sort(users[order[:needed]]).astype(np.int64)


def predict(task: LlmTask, sequences: list[Sequence]) -> tuple[Indices, npt.NDArray[np.float64]]:
    """(rows int64 [n], P(Yes) float64 [n]) of all targets, in sequence order."""
    lengths = np.asarray([len(s.tokens) for s in sequences], dtype=np.int64)
    order = np.argsort(lengths, kind="stable")
    found: dict[int, npt.NDArray[np.float64]] = {}
    task.model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), 32):
            chosen = order[start : start + 32]
            batch = [sequences[i] for i in chosen]
            p = torch.softmax(task.logits(batch).double(), dim=1)[:, 1].numpy()
            parts = np.split(p, np.cumsum([len(s.positions) for s in batch])[:-1])
            found.update(zip(chosen.tolist(), parts, strict=True))
    rows = np.concatenate([s.rows for s in sequences])
    return rows, np.concatenate([found[i] for i in range(len(sequences))])
