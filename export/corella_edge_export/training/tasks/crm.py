"""Stage 1: the CRM alone, on all training rows, early stopping on validation AUC."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge import metrics
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.chunks import Chunks
from corella_edge_export.crm.ensemble import members_of
from corella_edge_export.crm.levels import UserLevels
from corella_edge_export.crm.recipe import CrmRecipe
from corella_edge_export.crm.rows import EncodedRows, Masking
from corella_edge_export.crm.text_input import TextInput
from corella_edge_export.training.loop import Metrics, Part, Schedule, whole

if TYPE_CHECKING:
    from corella_edge_export.training.stages import Stages

EVALUATION_BATCH = 8192


class CrmTask:
    """A CRM, its training rows and its validation rows (`loop.Task`)."""

    name = "crm"

    def __init__(self, model: CrmModel, train: EncodedRows, valid: EncodedRows, recipe: CrmRecipe, seed: int) -> None:
        self.model: nn.Module = with_levels(model, train)
        self.train, self.valid, self.recipe, self.seed = train, valid, recipe, seed
        self.masking = Masking(train.encoder.schema, recipe.features, recipe.oov_rate)

    def batches(self, epoch: int) -> Sequence[npt.NDArray[np.int64]]:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        return [order[i : i + self.recipe.batch_size] for i in range(0, len(order), self.recipe.batch_size)]

    def losses(self, batch: npt.NDArray[np.int64], epoch: int, index: int, part: Part) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, epoch, index])
        feed = self.masking.hide(self.train.batch(batch), rng)
        labels = self.train.labels[batch][part.cut]
        if not len(labels):
            return {}
        place = device_of(self.model)
        inputs = tensors({name: values[part.cut] for name, values in feed.items()}, place)
        logits = torch.stack([member(inputs) for member in members_of(self.model)])
        wanted = torch.from_numpy(labels).to(place).expand_as(logits)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        return {"loss": loss * (len(labels) / len(batch))}

    def evaluate(self) -> Metrics:
        return validation(predict(self.model, self.valid), self.valid.labels)

    def trainable(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        rate = self.recipe.text.map_rate
        texts = [] if rate == 1.0 else [part for part in self.model.modules() if isinstance(part, TextInput)]
        maps = [weight for part in texts for weight in part.map.parameters()]
        apart = {id(p) for p in maps}
        rest = [p for part, _ in whole(self.model) for p in part if id(p) not in apart]
        return [(rest, 1.0), (maps, rate)] if maps else [(rest, 1.0)]


def with_levels(model: CrmModel, train: EncodedRows) -> CrmModel:
    """The model, its users' levels filled in where it has any."""
    for part in model.modules():
        if isinstance(part, UserLevels):
            part.fill(train.user_levels())
    return model


def validation(probability: npt.NDArray[np.float64], labels: npt.NDArray[Any]) -> Metrics:
    """What every stage reports of a model on validation rows."""
    found = metrics.quality(probability, labels)
    curve = metrics.calibration_curve(probability, labels)
    return {
        "auc": found.auc,
        "logloss": found.logloss,
        "accuracy": found.accuracy,
        "ece": metrics.ece(probability, labels),
        "calibration": [list(point) for point in zip(*(column.tolist() for column in curve), strict=True)],
    }


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights are."""
    return next(model.parameters()).device


def stage(stages: Stages) -> tuple[CrmTask, Schedule]:
    """The stage `crm`: a new CRM, or that which a sentence encoder was tuned beside."""
    run = stages.run
    r = run.recipe.crm
    model = run.crm("encoder") if run.tunes_encoder else run.new_crm()
    task = new_task(model, stages.rows("train"), stages.rows("valid"), r, run.recipe.seed)
    share = r.text.start_share
    return task, Schedule(r.learning_rate, r.weight_decay, r.epochs, r.evaluations, r.patience, start_share=share)


def new_task(model: CrmModel, train: EncodedRows, valid: EncodedRows, recipe: CrmRecipe, seed: int) -> CrmTask:
    """The task that trains a model of the recipe: row by row, or user by user where it remembers."""
    from corella_edge_export.training.tasks import sequences  # which builds on this module

    kind = sequences.NextItemTask if recipe.family.ranks else sequences.SequencesTask
    return (kind if model.remembers else CrmTask)(model, train, valid, recipe, seed)


def tensors(feed: dict[str, Any], place: torch.device | str = "cpu") -> dict[str, Tensor]:
    """Numpy inputs as torch tensors."""
    return {name: torch.from_numpy(np.ascontiguousarray(value)).to(place) for name, value in feed.items()}


def predict(model: nn.Module, rows: EncodedRows) -> npt.NDArray[np.float64]:
    """P(label = 1), float64 [n], of all rows by a CRM."""
    assert isinstance(model, CrmModel)
    model.eval()
    with torch.inference_mode():
        logits = _logits_along(model, rows) if model.remembers else _logits(model, rows)
    return torch.sigmoid(logits.double()).numpy()


def _logits(model: CrmModel, rows: EncodedRows) -> Tensor:
    index, place = np.arange(len(rows), dtype=np.int64), device_of(model)
    chunks = [index[i : i + EVALUATION_BATCH] for i in range(0, len(index), EVALUATION_BATCH)]
    return torch.cat([model(tensors(rows.batch(chunk), place)).cpu() for chunk in chunks])


def _logits_along(model: CrmModel, rows: EncodedRows) -> Tensor:
    """The same, from events that are read once for all rows of a user."""
    found, chunks, place = torch.zeros(len(rows)), Chunks(rows), device_of(model)
    for batch in chunks.batches(EVALUATION_BATCH):
        along = chunks.along(batch)
        where = tensors({"owners": along.owners, "places": along.places}, place)
        found[along.rows] = model.along(tensors(along.feed, place), **where).cpu()
    return found
