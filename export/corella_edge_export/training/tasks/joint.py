"""Stage 2: CRM, LLM and projections jointly on the same random rows, pulled together by the alignment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.rows import EncodedRows, Masking
from corella_edge_export.llm.model import trained_tensors
from corella_edge_export.llm.sequences import TokenSequence
from corella_edge_export.recipe import JointRecipe
from corella_edge_export.training.align import Alignment
from corella_edge_export.training.loop import Metrics, Part, Schedule
from corella_edge_export.training.tasks.crm import device_of, tensors, validation, with_levels
from corella_edge_export.training.tasks.crm import predict as predict_crm
from corella_edge_export.training.tasks.llm import (
    Batches,
    Corpus,
    LlmReader,
    answer_loss,
    corpus,
    counted,
    predict,
    ranked,
    ranking_loss,
    schedule,
    share,
    valid_sequences,
)

if TYPE_CHECKING:
    from corella_edge_export.training.stages import Stages

Indices = npt.NDArray[np.int64]


class CrmSide:
    """The CRM with the rows it is trained and judged on."""

    def __init__(self, model: CrmModel, train: EncodedRows, valid: EncodedRows, masking: Masking, seed: int) -> None:
        self.model = with_levels(model, train)
        self.train, self.valid, self.masking, self.seed = train, valid, masking, seed

    def states(self, rows: Indices, mine: Indices, epoch: int, index: int) -> tuple[Tensor, list[Tensor], Tensor]:
        """Logits, cross layers and labels of the places `mine` among a batch's training rows.

        Which ids are hidden is decided for the whole batch: it does not depend on how the batch is cut.
        """
        rng = np.random.default_rng([self.seed, 31, epoch, index])
        place = device_of(self.model)
        feed = self.masking.hide(self.train.batch(rows), rng)
        logits, layers = self.model.states(tensors({name: values[mine] for name, values in feed.items()}, place))
        return logits, layers, torch.from_numpy(self.train.labels[rows[mine]]).to(place)


class JointTask:
    """Both models and the projections (`loop.Task`); the mean of both validation AUCs decides."""

    name = "joint"

    def __init__(
        self,
        crm: CrmSide,
        reader: LlmReader,
        align: Alignment,
        corpus: Corpus,
        valid: list[TokenSequence],
        recipe: JointRecipe,
        ranking_weight: float = 0.0,
    ) -> None:
        self.crm, self.reader, self.align, self.recipe, self.valid = crm, reader, align, recipe, valid
        self.ranking_weight = ranking_weight
        self.model: nn.Module = nn.ModuleDict({"crm": crm.model, "llm": reader.model, "align": align})
        self._batches = Batches(corpus)

    def batches(self, epoch: int) -> list[Indices]:
        return self._batches.of(epoch)

    def losses(self, batch: Indices, epoch: int, index: int, part: Part) -> dict[str, Tensor]:
        sequences = self._batches.chosen(epoch, batch)
        mine = sequences[part.cut]
        if not mine:
            return {}
        reading = self.reader.read(mine, blocks=True)
        rows = np.concatenate([s.rows for s in sequences])
        owners = np.repeat(np.arange(len(sequences)), [len(s.rows) for s in sequences])
        places = np.flatnonzero(np.isin(owners, np.arange(len(sequences))[part.cut]))
        logits, layers, labels = self.crm.states(rows, places, epoch, index)
        r, weight = self.recipe, share(mine, sequences)
        llm_loss = answer_loss(reading.logits, mine)
        if self.ranking_weight:  # of the batch's sequences with pairs; the rest is of its targets, weighted below
            ranking = ranking_loss(reading.logits, mine) / max(1, ranked(sequences))
            llm_loss = llm_loss + self.ranking_weight * ranking / weight
        crm_loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
        align_loss, distance = self.align([block[reading.where] for block in reading.blocks], layers)
        loss = r.llm_weight * llm_loss + r.crm_weight * crm_loss + r.align_weight * align_loss
        found = {"loss": loss, "llm_loss": llm_loss, "crm_loss": crm_loss, "align_loss": align_loss}
        weighted = {name: value * weight for name, value in {**found, "distance": distance}.items()}
        return {**weighted, "tokens": counted(mine)}

    def evaluate(self) -> Metrics:
        crm = validation(predict_crm(self.crm.model, self.crm.valid), self.crm.valid.labels)
        labels = np.concatenate([s.labels for s in self.valid])
        llm = validation(predict(self.reader, self.valid)[1], labels)
        both = {
            f"{side}_{name}": value for side, found in (("crm", crm), ("llm", llm)) for name, value in found.items()
        }
        return {"auc": (crm["auc"] + llm["auc"]) / 2, **both}

    def trainable(self) -> dict[str, Tensor]:
        crm = {f"crm.{name}": tensor for name, tensor in self.crm.model.state_dict().items()}
        llm = {f"llm.{name}": tensor for name, tensor in trained_tensors(self.reader.model).items()}
        return {**crm, **llm, **{f"align.{name}": tensor for name, tensor in self.align.state_dict().items()}}

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        llm = [p for p in self.reader.model.parameters() if p.requires_grad]
        crm, align = (
            rate / self.recipe.learning_rate
            for rate in (self.recipe.crm_learning_rate, self.recipe.align_learning_rate)
        )
        return [(llm, 1.0), ([*self.crm.model.parameters()], crm), ([*self.align.parameters()], align)]


def stage(stages: Stages) -> tuple[JointTask, Schedule]:
    """The stage `joint`: the CRM of stage 1, or a new one, and the LLM as it has read so far."""
    run, recipe = stages.run, stages.run.recipe
    model = stages.llm_before("joint")
    crm = run.crm("crm") if "crm" in stages.keys else run.new_crm()
    train = stages.rows("train")
    masking = Masking(train.encoder.schema, recipe.crm.features, recipe.crm.oov_rate)
    side = CrmSide(crm, train, stages.rows("valid"), masking, recipe.seed)
    reader, align = run.reader(model, stages.builder), run.new_alignment(crm, model)
    asked = corpus(stages, recipe.joint, recipe.seed, skip=0)
    task = JointTask(side, reader, align, asked, valid_sequences(stages), recipe.joint, recipe.llm.ranking_weight)
    return task, schedule(recipe.joint)
