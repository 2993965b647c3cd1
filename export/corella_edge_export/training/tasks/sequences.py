"""Stage 1 of a CRM that remembers: users are read whole, each event once for all the rows that it comes before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge import ranking
from corella_edge.features.schema import Feed
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.chunks import Along, Chunks
from corella_edge_export.crm.ensemble import members_of
from corella_edge_export.crm.recipe import CrmRecipe, SequenceRecipe
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.crm.sequence import Sequence as SequenceModel
from corella_edge_export.training.loop import Metrics, Part
from corella_edge_export.training.tasks.crm import CrmTask, device_of, tensors

Indices = npt.NDArray[np.int64]
RANKED = 2000  # validation users whose next liked item is looked for in the whole catalogue
AT_ONCE = 500  # of them scored together
FASTER = 10.0  # learning rate of the scale and the bias that make a probability, two numbers that begin anywhere


class SequencesTask(CrmTask):
    """A CRM that remembers, by the label of every row (`loop.Task`)."""

    def __init__(self, model: CrmModel, train: EncodedRows, valid: EncodedRows, recipe: CrmRecipe, seed: int) -> None:
        super().__init__(model, train, valid, recipe, seed)
        own = recipe.family
        assert isinstance(own, SequenceRecipe)
        self.own, self.chunks = own, Chunks(train)

    def batches(self, epoch: int) -> Sequence[Indices]:
        rng = np.random.default_rng([self.seed, epoch])
        return self.chunks.batches(self.own.batch_events, rng)

    def losses(self, batch: Indices, epoch: int, index: int, part: Part) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.seed, epoch, index])
        whole = self.chunks.along(batch)
        whole.beside.update(self.masking.hide(whole.beside, rng))
        mine = whole.of(part.cut)
        return self.loss(mine, whole, rng) if len(mine.rows) else {}

    def loss(self, mine: Along, whole: Along, rng: np.random.Generator) -> dict[str, Tensor]:
        """The losses of `mine`, each weighted with its share of the batch's rows."""
        feed, where = self.inputs(mine)
        logits = torch.stack([member.along(feed, **where) for member in members_of(self.model)])
        return {"loss": self.pointwise(logits, mine) * (len(mine.rows) / len(whole.rows))}

    def inputs(self, along: Along) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The feed, and where its rows stand, as tensors."""
        place = device_of(self.model)
        return tensors(along.feed, place), tensors({"owners": along.owners, "places": along.places}, place)

    def pointwise(self, logits: Tensor, along: Along) -> Tensor:
        """Mean over the rows, and over members, of logits [members, t]."""
        wanted = torch.from_numpy(self.train.labels[along.rows]).to(logits.device).expand_as(logits)
        return functional.binary_cross_entropy_with_logits(logits, wanted)


class NextItemTask(SequencesTask):
    """A CRM whose products rank, by which item a user likes next, among those of the training rows (`loop.Task`).

    The scale and the bias that make a probability of a product learn the rows' labels and move nothing else. What
    decides is NDCG@10 of the next liked item of validation users, among all items that are not in their history.
    """

    def __init__(self, model: CrmModel, train: EncodedRows, valid: EncodedRows, recipe: CrmRecipe, seed: int) -> None:
        super().__init__(model, train, valid, recipe, seed)
        items, counts = np.unique(train.split.items[train.labels > 0], return_counts=True)
        self.items = items.astype(np.int64)
        evenly = self.own.drawn == "evenly"
        self.share = np.full(len(counts), 1.0 / max(1, len(counts))) if evenly else counts / counts.sum()
        self.ranked = _users_to_rank(valid, seed)

    def loss(self, mine: Along, whole: Along, rng: np.random.Generator) -> dict[str, Tensor]:
        drawn = self._drawn(rng)
        table = self.masking.hide(item_feed(self.train, self.items[drawn]), rng)
        feed, where = self.inputs(mine)
        items = tensors(table, device_of(self.model))
        found = [self._member(member, feed, where, items, mine, drawn) for member in members_of(self.model)]
        next_loss, logits = torch.stack([own for own, _ in found]).mean(), torch.stack([own for _, own in found])
        liked = [self.train.labels[along.rows].sum() for along in (mine, whole)]
        next_loss = next_loss * float(liked[0] / max(1.0, liked[1]))
        fitted = self.pointwise(logits, mine) * (len(mine.rows) / len(whole.rows))
        return {"loss": next_loss + fitted, "next_loss": next_loss, "label_loss": fitted}

    def _drawn(self, rng: np.random.Generator) -> Indices:
        """Places in `items` that a batch's liked ones are told from; all of them where the recipe draws none."""
        count = self.own.negatives
        if not count or count >= len(self.items):
            return np.arange(len(self.items))
        return rng.choice(len(self.items), count, p=self.share)

    def _member(
        self, member: nn.Module, feed: dict[str, Tensor], where: dict[str, Tensor], items: dict[str, Tensor],
        mine: Along, drawn: Indices,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The next item's loss, and the rows' logits [t], through which only the scale and the bias learn."""
        assert isinstance(member, SequenceModel)
        users = member.user_vectors(feed, member.users_along(feed, **where))
        own = member.item_vectors(feed)
        scores = (users * own).sum(dim=1)
        liked = np.flatnonzero(self.train.labels[mine.rows] > 0)
        wanted = np.searchsorted(self.items, self.train.split.items[mine.rows[liked]])
        table = users[liked] @ member.item_vectors(items).T
        if len(drawn) == len(self.items):
            loss = functional.cross_entropy(table, torch.from_numpy(wanted).to(table.device), reduction="sum")
        else:
            loss = self._sampled(scores[liked], table, wanted, drawn)
        return loss / max(1, len(liked)), scores.detach() * member.scale + member.offset

    def _sampled(self, own: Tensor, table: Tensor, wanted: Indices, drawn: Indices) -> Tensor:
        """Summed loss of the wanted items' scores [l] beside those of the drawn, [l, drawn].

        Each score less the logarithm of how often its item is expected to be drawn, so that many draws tend to the full
        softmax (arXiv 1412.2007, section 3); an item is not told from itself.
        """
        expected = torch.from_numpy(np.log(self.share * len(drawn))).to(table)
        same = torch.from_numpy(wanted[:, None] == drawn[None, :]).to(table.device)
        others = (table - expected[drawn]).masked_fill(same, -torch.inf)
        right = own - expected[wanted]
        return (torch.logsumexp(torch.cat([right.unsqueeze(1), others], dim=1), dim=1) - right).sum()

    def evaluate(self) -> Metrics:
        found = super().evaluate()
        return {"ndcg": rank_metrics(members_of(self.model), self.valid, self.ranked)["ndcg@10"], **found}

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        fitted = [p for name, p in self.model.named_parameters() if name.rpartition(".")[2] in ("scale", "offset")]
        others = [p for p in self.model.parameters() if all(p is not own for own in fitted)]
        return [(others, 1.0), (fitted, FASTER)]


def item_feed(rows: EncodedRows, items: Indices) -> Feed:
    """The inputs of items alone, by their local indices."""
    named = {f.name: items.astype(np.int64) for f in rows.encoder.schema.of("vector")}
    return {name: table[items] for name, table in rows.encoder.item_tables.items()} | named


def _users_to_rank(valid: EncodedRows, seed: int) -> Indices:
    """The first liked row of each of a seeded sample of users, int64 [at most RANKED]."""
    liked = np.flatnonzero(valid.labels > 0)
    liked = liked[np.lexsort((valid.split.positions[liked], valid.split.users[liked]))]
    first = liked[np.diff(valid.split.users[liked], prepend=-1) != 0]
    return np.sort(np.random.default_rng([seed, 17]).permutation(first)[:RANKED])


def rank_metrics(models: list[CrmModel], rows: EncodedRows, chosen: Indices) -> Metrics:
    """HR@10, NDCG@10 and MRR of the items of chosen rows among the catalogue without the users' histories."""
    places = [_ranks(models, rows, chosen[i : i + AT_ONCE]) for i in range(0, len(chosen), AT_ONCE)]
    return dict(ranking.means(np.concatenate(places) if places else np.zeros(0, np.int64)))


def _ranks(models: list[CrmModel], rows: EncodedRows, chosen: Indices) -> Indices:
    """By the sum of the models' products."""
    log, split, place = rows.data.log, rows.split, device_of(models[0])
    catalogue = tensors(item_feed(rows, np.arange(len(rows.data.item_ids))), place)
    feed = tensors(rows.batch(chosen), place)
    with torch.inference_mode():
        each = [model.catalogue_scores(feed, catalogue) for model in models if isinstance(model, SequenceModel)]
        scores = torch.stack(each).sum(dim=0).cpu().numpy()
    first = log.offsets[split.users[chosen]]
    seen = [log.items[a : a + n] for a, n in zip(first.tolist(), split.positions[chosen].tolist(), strict=True)]
    found: Indices = ranking.ranks(scores, split.items[chosen].astype(np.int64), seen)
    return found
