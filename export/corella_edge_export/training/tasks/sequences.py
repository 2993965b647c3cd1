"""Stage 1 of a CRM that remembers: whole users are read, each event once for all the rows it comes before.

Rows are learnt pointwise, by their labels, or, where products score, as the item that a user likes next among the
items of the training rows (softmax, as eSASRec, arXiv 2508.06450, trains SASRec).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge.features.schema import Feed
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.chunks import Along, Chunks
from corella_edge_export.crm.ensemble import members_of
from corella_edge_export.crm.recipe import CrmRecipe
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.crm.sequence import Sequence as SequenceModel
from corella_edge_export.training.loop import Metrics, Part
from corella_edge_export.training.tasks.crm import CrmTask, device_of, tensors

Indices = npt.NDArray[np.int64]
RANKED = 2000  # validation users whose next liked item is looked for in the whole catalogue
K = 10


class SequencesTask(CrmTask):
    """A CRM that remembers, trained chunk by chunk on labels (`loop.Task`)."""

    def __init__(self, model: CrmModel, train: EncodedRows, valid: EncodedRows, recipe: CrmRecipe, seed: int) -> None:
        super().__init__(model, train, valid, recipe, seed)
        self.chunks = Chunks(train)

    def batches(self, epoch: int) -> Sequence[Indices]:
        return self.chunks.batches(self.recipe.sequence.batch_events, np.random.default_rng([self.seed, epoch]))

    def losses(self, batch: Indices, epoch: int, index: int, part: Part) -> dict[str, Tensor]:
        mine = batch[part.cut]
        if not len(mine):
            return {}
        along = self.chunks.along(mine)
        rng = np.random.default_rng([self.seed, epoch, index, part.index])
        feed = self.masking.hide(along.feed, rng)
        share = len(along.rows) / self.chunks.rows_of(batch)
        return {name: value * share for name, value in self.loss(along, feed, rng).items()}

    def loss(self, along: Along, feed: Feed, rng: np.random.Generator) -> dict[str, Tensor]:
        """Means over the rows."""
        place = device_of(self.model)
        inputs, owners, places = tensors(feed, place), *_where(along, place)
        logits = torch.stack([member.along(inputs, owners, places) for member in members_of(self.model)])
        wanted = torch.from_numpy(self.train.labels[along.rows]).to(place).expand_as(logits)
        return {"loss": functional.binary_cross_entropy_with_logits(logits, wanted)}
