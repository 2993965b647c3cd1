"""Stage 1 of a CRM that remembers: users are read whole, each event once for all the rows that it comes before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge import ranking
from corella_edge.features.schema import OOV, Feed, Vocabulary
from corella_edge.features.tables import RatingCodes
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.chunks import Along, Chunks
from corella_edge_export.crm.ensemble import members_of
from corella_edge_export.crm.recipe import CrmRecipe, SequenceRecipe
from corella_edge_export.crm.rows import EncodedRows, Masking
from corella_edge_export.crm.sequence import LEAST_SCALE, SequenceModel
from corella_edge_export.training.loop import Metrics, Part
from corella_edge_export.training.tasks.crm import CrmTask, device_of, tensors

Indices = npt.NDArray[np.int64]
NONE = np.zeros(0, np.int64)  # items that are drawn where none is told from others
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
        self.others = NextItems(train, own, np.ones(len(train), np.bool_) if own.next_weight else train.labels > 0)
        known = train.encoder.schema.vocabularies.get("rating", Vocabulary("rating", []))
        self.codes = RatingCodes(known).of(train.split.ratings)

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
        own, share = self.own, len(mine.rows) / len(whole.rows)
        if not (own.rating_weight or own.next_weight):
            logits = torch.stack([member.along(feed, **where) for member in members_of(self.model)])
            return {"loss": self.pointwise(logits, mine) * share}
        table = self.others.table(self.masking, rng, device_of(self.model)) if own.next_weight else ({}, NONE)
        each = [self._lessons(member, feed, where, mine, *table) for member in members_of(self.model)]
        found = {name: torch.stack([one[name] for one in each]).mean() * share for name in each[0]}
        weights = {"label_loss": 1.0, "rating_loss": own.rating_weight, "next_loss": own.next_weight}
        return {"loss": torch.stack([weights[name] * value for name, value in found.items()]).sum(), **found}

    def _lessons(
        self, member: nn.Module, feed: dict[str, Tensor], where: dict[str, Tensor], mine: Along,
        items: dict[str, Tensor], drawn: Indices,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The mean loss of the label, of the exact rating and of the next item, those that the recipe has."""
        assert isinstance(member, SequenceModel)
        lessons = member.lessons(feed, **where)
        found = {"label_loss": self.pointwise(lessons.logits, mine)}
        if member.rates is not None:
            codes = torch.from_numpy(self.codes[mine.rows]).to(lessons.logits.device)
            total = functional.cross_entropy(member.rates(lessons.last), codes, ignore_index=OOV, reduction="sum")
            found["rating_loss"] = total / max(1, len(mine.rows))
        if member.follows is not None:
            later = np.flatnonzero(mine.places > 0)
            users, own = member.follows(lessons.before[later]), member.item_vectors(feed)[later]
            wanted = self.others.places(self.train.split.items[mine.rows[later]])
            total = self.others.loss(users, own, member.item_vectors(items), wanted, drawn)
            found["next_loss"] = total / max(1, len(mine.rows))
        return found

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
        self.ranked = _users_to_rank(valid, seed)

    def loss(self, mine: Along, whole: Along, rng: np.random.Generator) -> dict[str, Tensor]:
        feed, where = self.inputs(mine)
        items, drawn = self.others.table(self.masking, rng, device_of(self.model))
        less = self.less(mine.beside), self.less({name: value.numpy(force=True) for name, value in items.items()})
        found = [self._member(member, feed, where, items, mine, drawn, less) for member in members_of(self.model)]
        next_loss, logits = torch.stack([own for own, _ in found]).mean(), torch.stack([own for _, own in found])
        liked = [self.train.labels[along.rows].sum() for along in (mine, whole)]
        next_loss = next_loss * float(liked[0] / max(1.0, liked[1]))
        fitted = self.pointwise(logits, mine) * (len(mine.rows) / len(whole.rows))
        return {"loss": next_loss + fitted, "next_loss": next_loss, "label_loss": fitted}

    def less(self, feed: Feed) -> Tensor:
        """float32 [n]: what the softmax takes off the scores of a feed's items, `new_bonus` of those without an id."""
        hidden = self.masking.hidden(feed) if self.own.new_bonus else np.zeros(1, np.bool_)
        return torch.from_numpy(hidden * np.float32(self.own.new_bonus)).to(device_of(self.model))

    def _member(
        self, member: nn.Module, feed: dict[str, Tensor], where: dict[str, Tensor], items: dict[str, Tensor],
        mine: Along, drawn: Indices, less: tuple[Tensor, Tensor],
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The next item's loss, and the rows' logits [t], through which only the scale and the bias learn."""
        assert isinstance(member, SequenceModel)
        with torch.no_grad():
            member.scale.clamp_(min=LEAST_SCALE)  # below it there is no gradient that would bring it back
        users = member.user_vectors(feed, member.users_along(feed, **where))
        own = member.item_vectors(feed)
        scores = (users * own).sum(dim=1)
        liked = np.flatnonzero(self.train.labels[mine.rows] > 0)
        wanted = self.others.places(self.train.split.items[mine.rows[liked]])
        less = (less[0].expand(len(own))[liked], less[1])
        loss = self.others.loss(users[liked], own[liked], member.item_vectors(items), wanted, drawn, less)
        return loss / max(1, len(liked)), member.fitted(scores.detach())

    def evaluate(self) -> Metrics:
        found = super().evaluate()
        return {"ndcg": rank_metrics(members_of(self.model), self.valid, self.ranked)["ndcg@10"], **found}

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        fitted = [p for name, p in self.model.named_parameters() if name.rpartition(".")[2] in ("scale", "offset")]
        apart = {id(p) for p in fitted}
        rest = [([p for p in part if id(p) not in apart], factor) for part, factor in super().groups()]
        return [*rest, (fitted, FASTER)]


class NextItems:
    """Which item comes next, told from others that are drawn for each batch, or from all of the training rows."""

    def __init__(self, train: EncodedRows, own: SequenceRecipe, counted: npt.NDArray[np.bool_]) -> None:
        """`counted`: bool [rows], the training rows whose items there are."""
        items, counts = np.unique(train.split.items[counted], return_counts=True)
        self.train, self.items, self.count = train, items.astype(np.int64), own.negatives
        evenly = own.drawn == "evenly"
        self.share = np.full(len(counts), 1.0 / max(1, len(counts))) if evenly else counts / counts.sum()

    def table(
        self, masking: Masking, rng: np.random.Generator, place: torch.device
    ) -> tuple[dict[str, Tensor], Indices]:
        """The inputs of a batch's drawn items, some ids hidden, and their places in `items`."""
        drawn = self._drawn(rng)
        return tensors(masking.hide(item_feed(self.train, self.items[drawn]), rng), place), drawn

    def places(self, items: npt.NDArray[np.integer[Any]]) -> Indices:
        """int64 [l]: where local item indices stand in `items`."""
        return np.searchsorted(self.items, items)

    def loss(
        self, users: Tensor, own: Tensor, table: Tensor, wanted: Indices, drawn: Indices,
        less: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:  # fmt: skip
        """Summed loss of users [l, d] whose next items [l, d] stand at `wanted`, beside the drawn items [drawn, d].

        `less`: what is taken off the scores of the next items, [l], and of the drawn ones, [drawn] or [1].
        """
        scores, right = users @ table.T, (users * own).sum(dim=1)
        if less is not None:
            scores, right = scores - less[1], right - less[0]
        if len(drawn) == len(self.items):
            return functional.cross_entropy(scores, torch.from_numpy(wanted).to(scores.device), reduction="sum")
        return self._sampled(right, scores, wanted, drawn)

    def _drawn(self, rng: np.random.Generator) -> Indices:
        if not self.count or self.count >= len(self.items):
            return np.arange(len(self.items))
        return rng.choice(len(self.items), self.count, p=self.share)

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
    return dict(ranking.means(places_of(models, rows, chosen)))


def next_item(model: CrmModel, valid: EncodedRows, seed: int) -> Metrics:
    """What stage 1 is judged by where it learns to rank: `rank_metrics` of a sample of users, and how many they are."""
    chosen = _users_to_rank(valid, seed)
    return {**rank_metrics(members_of(model), valid, chosen), "users": len(chosen), "items": len(valid.data.item_ids)}


def places_of(models: list[CrmModel], rows: EncodedRows, chosen: Indices) -> Indices:
    """Ranks int64 [chosen] of rows' items without the histories (`ranking.ranks`), by the mean of members' logits."""
    catalogue = tensors(item_feed(rows, np.arange(len(rows.data.item_ids))), device_of(models[0]))
    parts = (chosen[i : i + AT_ONCE] for i in range(0, len(chosen), AT_ONCE))
    return np.concatenate([np.zeros(0, np.int64), *(_places(models, rows, part, catalogue) for part in parts)])


def _places(models: list[CrmModel], rows: EncodedRows, chosen: Indices, catalogue: dict[str, Tensor]) -> Indices:
    """`places_of` the rows of one part."""
    log, split = rows.data.log, rows.split
    feed = tensors(rows.batch(chosen), device_of(models[0]))
    with torch.inference_mode():
        each = [model.catalogue_scores(feed, catalogue) for model in models if isinstance(model, SequenceModel)]
        scores = torch.stack(each).mean(dim=0).cpu().numpy()
    first = log.offsets[split.users[chosen]]
    seen = [log.items[a : a + n] for a, n in zip(first.tolist(), split.positions[chosen].tolist(), strict=True)]
    found: Indices = ranking.ranks(scores, split.items[chosen].astype(np.int64), seen)
    return found
