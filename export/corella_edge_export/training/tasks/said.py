"""Training the vectors that make a frozen LLM write the items' texts (`text.said`)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from corella_edge.errors import InputError
from corella_edge_export.crm.text_recipe import SaidRecipe
from corella_edge_export.llm.sequences import bucketed
from corella_edge_export.text.said import ItemWriter
from corella_edge_export.training.loop import Metrics, Part

Indices = npt.NDArray[np.int64]
JUDGED = 4000  # items whose texts an evaluation reads, drawn once


class SaidTask:
    """Item vectors and their projector (`loop.Task`); the least perplexity of the items' own texts decides.

    No item is held out: a vector is no more than what its item's words are, and there is none without training.
    """

    name = "said"

    def __init__(self, writer: ItemWriter, recipe: SaidRecipe, seed: int) -> None:
        self.model: nn.Module = writer
        self.writer, self.recipe, self.seed = writer, recipe, seed
        self.lengths = np.asarray([len(text) for text in writer.texts], dtype=np.int64)
        self.named = np.flatnonzero(self.lengths)
        if not len(self.named):
            raise InputError("recipe, crm.text.attributes: no item of the catalogue has any of them")
        self.judged = np.sort(np.random.default_rng([seed, 53]).permutation(self.named)[:JUDGED])

    def batches(self, epoch: int) -> Sequence[Indices]:
        return self._bucketed(self.named, np.random.default_rng([self.seed, 51, epoch]))

    def losses(self, batch: Indices, epoch: int, index: int, part: Part) -> dict[str, Tensor]:
        mine = batch[part.cut]
        if not len(mine):
            return {}
        return {"loss": self.writer.log_loss(mine) * float(self.lengths[mine].sum() / self.lengths[batch].sum())}

    def evaluate(self) -> Metrics:
        parts = self._bucketed(self.judged, np.random.default_rng(0))
        total = sum(float(self.writer.log_loss(part)) * int(self.lengths[part].sum()) for part in parts)
        return {"perplexity": math.exp(total / int(self.lengths[self.judged].sum()))}

    def trainable(self) -> dict[str, Tensor]:
        return {name: p.data for name, p in self.writer.named_parameters() if p.requires_grad}

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        slower = self.recipe.projector_learning_rate / self.recipe.learning_rate
        return [([self.writer.vectors], 1.0), (list(self.writer.projector.parameters()), slower)]

    def _bucketed(self, items: Indices, rng: np.random.Generator) -> list[Indices]:
        return [items[batch] for batch in bucketed(self.lengths[items], self.recipe.batch_tokens, rng)]
