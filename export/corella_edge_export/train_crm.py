"""Stage 1: the CRM alone, on all training rows, early stopping on validation AUC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge import metrics
from corella_edge_export.dcn import DCNv2
from corella_edge_export.loop import Schedule
from corella_edge_export.recipe import CrmRecipe
from corella_edge_export.rows import EncodedRows, mask_ids

EVALUATION_BATCH = 8192


class CrmTask:
    """A DCNv2, its training rows and its validation rows (`loop.Task`)."""

    name = "crm"

    def __init__(self, model: DCNv2, train: EncodedRows, valid: EncodedRows, recipe: CrmRecipe, seed: int) -> None:
        self.model: nn.Module = model
        self.train, self.valid, self.recipe, self.seed = train, valid, recipe, seed

    def batches(self, epoch: int) -> Sequence[npt.NDArray[np.int64]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        return [order[i : i + self.recipe.batch_size] for i in range(0, len(order), self.recipe.batch_size)]

    def loss(self, batch: npt.NDArray[np.int64], epoch: int, index: int) -> Tensor:
        rng = np.random.default_rng([self.seed, epoch, index])
        feed = mask_ids(self.train.batch(batch), self.recipe.oov_rate, rng)
        logits = self.model(tensors(feed))
        return nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(self.train.labels[batch]))

    def evaluate(self) -> dict[str, float]:
        found = metrics.quality(predict(self.model, self.valid), self.valid.labels)
        return {"auc": found.auc, "logloss": found.logloss, "accuracy": found.accuracy}

    def trainable(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())


def schedule(recipe: CrmRecipe) -> Schedule:
    """The recipe's schedule for `loop.fit`."""
    return Schedule(recipe.learning_rate, recipe.weight_decay, recipe.epochs, recipe.evaluations, recipe.patience)


def tensors(feed: dict[str, Any]) -> dict[str, Tensor]:
    """Numpy inputs as torch tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in feed.items()}


def predict(model: nn.Module, rows: EncodedRows) -> npt.NDArray[np.float64]:
    """P(label = 1), float64 [n], of all rows."""
    index = np.arange(len(rows), dtype=np.int64)
    chunks = [index[i : i + EVALUATION_BATCH] for i in range(0, len(index), EVALUATION_BATCH)]
    model.eval()
    with torch.inference_mode():
        logits = [model(tensors(rows.batch(chunk))) for chunk in chunks]
    return torch.sigmoid(torch.cat(logits).double()).numpy()
