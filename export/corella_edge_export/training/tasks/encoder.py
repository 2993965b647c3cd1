"""The stage `encoder`: a sentence encoder learns what a user's next item is, beside the sequence model that reads it.

As in Recformer (arXiv 2305.13731, sections 2.3 and 2.4): the next item is told from the other items of the batch, whose
texts are encoded in the step, and from some of the item matrix, which is encoded again at every evaluation; words are
hidden from the encoder beside. Stage `crm` then goes on with the matrix as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from corella_edge.errors import InputError
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.chunks import Along
from corella_edge_export.crm.ensemble import Members, members_of
from corella_edge_export.crm.recipe import CrmRecipe, TextSequenceRecipe
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.crm.text_input import TextInput
from corella_edge_export.text.encoder import SentenceEncoder
from corella_edge_export.text.tuned import TunedEncoder
from corella_edge_export.text.vectors import texts_of
from corella_edge_export.training.loop import Metrics, Schedule
from corella_edge_export.training.tasks.crm import device_of
from corella_edge_export.training.tasks.sequences import NextItems, NextItemTask

if TYPE_CHECKING:
    from corella_edge_export.training.run import Run
    from corella_edge_export.training.stages import Stages

Indices = npt.NDArray[np.int64]
HIDDEN = 0.15  # of the words; arXiv 1810.04805, section 3.1
ASKED = 64  # texts of a batch that words are hidden in: they pass all layers, and their words are told from all others


class _Beside(Members):
    """The CRM's members, and the encoder that learns beside them."""

    def __init__(self, crm: CrmModel, encoder: TunedEncoder) -> None:
        super().__init__(members_of(crm))
        self.encoder = encoder


class EncoderTask(NextItemTask):
    """A sequence model and the encoder of its items' texts (`loop.Task`); the best item matrix is kept with them."""

    name = "encoder"

    def __init__(
        self, crm: CrmModel, encoder: TunedEncoder, vectors: npt.NDArray[np.float32],
        train: EncodedRows, valid: EncodedRows, recipe: CrmRecipe, seed: int,
    ) -> None:  # fmt: skip
        """`vectors`: of all items, as the encoder gives them before it learns."""
        super().__init__(_Beside(crm, encoder), train, valid, recipe, seed)
        self.crm, self.encoder = crm, encoder
        self.matrix = torch.from_numpy(vectors.copy())
        self._inputs = [part for part in crm.modules() if isinstance(part, TextInput)]
        self.others = self._batch = ItemsOfBatch(train, self.own, train.labels > 0)

    @property
    def tuning(self) -> TextSequenceRecipe:
        """The family's section."""
        assert isinstance(self.own, TextSequenceRecipe)
        return self.own

    def batches(self, epoch: int) -> Sequence[Indices]:
        return self.chunks.batches(self.tuning.encoder_events, np.random.default_rng([self.seed, epoch]))

    def loss(self, mine: Along, whole: Along, rng: np.random.Generator) -> dict[str, Tensor]:
        rows = self._rows(whole)
        self._batch.present = np.flatnonzero(np.isin(self._batch.items, rows))
        fresh = self.encoder.vectors(rows)
        place = torch.from_numpy(rows).to(fresh.device)
        self._use(self.matrix.to(fresh.device).index_copy(0, place, fresh))
        found = super().loss(mine, whole, rng)
        if self.tuning.mlm:
            asked = rng.permutation(rows)[:ASKED]
            hidden = self.encoder.hidden_words(asked, HIDDEN, rng) * (len(mine.rows) / len(whole.rows))
            found |= {"loss": found["loss"] + self.tuning.mlm * hidden, "word_loss": hidden}
        return found

    def evaluate(self) -> Metrics:
        self.matrix.copy_(torch.from_numpy(self.encoder.all_vectors()))
        self._use(self.matrix.to(device_of(self.model)))
        return super().evaluate()

    def trainable(self) -> dict[str, Tensor]:
        crm = {f"crm.{name}": tensor for name, tensor in self.crm.state_dict().items()}
        return crm | {f"encoder.{name}": weight for name, weight in self.encoder.learnt().items()} | {
            "words.bias": self.encoder.bias, "vectors": self.matrix,
            **{f"words.{name}": tensor for name, tensor in self.encoder.words.state_dict().items()},
        }  # fmt: skip

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        encoders = set(self.encoder.parameters())
        own = [([p for p in part if p not in encoders], factor) for part, factor in super().groups()]
        learning = [p for p in self.encoder.parameters() if p.requires_grad]
        return [*own, (learning, self.tuning.encoder_rate / self.recipe.learning_rate)]

    def _rows(self, along: Along) -> Indices:
        """The catalogue rows that a batch has words of, each once."""
        vectors = self.train.encoder.schema.of("vector", "vectors")
        found = np.unique(np.concatenate([along.feed[item.name].ravel() for item in vectors]))
        return found[found < len(self.matrix)]

    def _use(self, table: Tensor) -> None:
        for part in self._inputs:
            part.table = table


class ItemsOfBatch(NextItems):
    """The items whose words a batch has, beside those drawn.

    Attributes:
        present: int64, the places in `items` of those of the batch at hand.
    """

    present: Indices = np.zeros(0, np.int64)

    def _drawn(self, rng: np.random.Generator) -> Indices:
        drawn = super()._drawn(rng) if self.count else self.present
        return np.union1d(drawn, self.present)

    def _sampled(self, own: Tensor, table: Tensor, wanted: Indices, drawn: Indices) -> Tensor:
        """The items of the batch are as many as there are: nothing is corrected for how likely one is drawn."""
        right = torch.from_numpy(np.searchsorted(drawn, wanted)).to(table.device)
        return functional.cross_entropy(table, right, reduction="sum")


def tuned_encoder(run: Run) -> TunedEncoder:
    """The encoder of [crm.text] as it was downloaded, ready to be tuned, over the texts of the catalogue."""
    made, recipe = run.text_model(), run.recipe.crm
    assert made is not None  # what the recipe's check sees to
    encoder, tokenizer = made
    assert isinstance(encoder, SentenceEncoder)
    torch.manual_seed(run.recipe.seed)
    texts = texts_of(run.data, recipe.text)
    return TunedEncoder(encoder, tokenizer, texts, recipe.text_sequence.train_layers)


def stage(stages: Stages) -> tuple[EncoderTask, Schedule]:
    """The stage `encoder`: a new CRM, and the encoder of [crm.text] as it was downloaded."""
    run = stages.run
    r, own = run.recipe.crm, run.recipe.crm.text_sequence
    encoder = tuned_encoder(run)
    if own.mlm and encoder.mask_token is None:
        raise InputError(f"{r.text.path}: its tokenizer has no token for a hidden word; set mlm = 0")
    hidden = True if stages.quiet else None
    with tqdm(total=len(encoder.texts), desc="texts, once", unit="text", disable=hidden) as bar:
        encoder.prepare(bar.update)
    vectors = run.text_vectors().astype(np.float32)
    parts = (run.new_crm(), encoder, vectors, stages.rows("train"), stages.rows("valid"))
    task = EncoderTask(*parts, r, run.recipe.seed)
    return task, Schedule(r.learning_rate, r.weight_decay, own.encoder_epochs, 1, r.patience)
