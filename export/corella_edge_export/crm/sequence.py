"""A causal transformer over a user's events, which a candidate asks (SASRec's form, arXiv 1808.09781, with ratings)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge.features.schema import FIRST, Schema
from corella_edge_export.crm.blocks import BLOCKS, SMALL, Block
from corella_edge_export.crm.fields import FieldsModel
from corella_edge_export.crm.layers import in_parts, mlp
from corella_edge_export.crm.recipe import CrmRecipe, SequenceRecipe

NO_EVENTS = torch.empty(0)
# Least scale of a model that learns the next item: its logits order as its products do, but for ties of products that
# are nearer than about 1e-4.
LEAST_SCALE = 1e-3


@dataclass(frozen=True, slots=True)
class Lessons:
    """What rows along whole users are taught by.

    Attributes:
        logits: float32 [t]. last: the layer before them, [t, h]. before: what the blocks but the last give of the event
            before each row, zeros for a row without one, [t, d].
    """

    logits: Tensor
    last: Tensor
    before: Tensor


class SequenceModel(FieldsModel):
    """The user's events in their order, and a candidate that asks the last block or is multiplied with the last state.

    What is kept of an event (`read`) are the keys and values of every block; with `head = "dot"` also, as one more
    layer, the last block's outcome, written twice: where the keys stand, and where the values stand.
    """

    remembers = True

    def __init__(self, schema: Schema, recipe: CrmRecipe) -> None:
        own = recipe.family
        assert isinstance(own, SequenceRecipe)
        super().__init__(schema, own, recipe.features, pools=False, tells=True)
        d = self.width = own.embedding_dim
        self.dot, self.ranks = own.head == "dot", own.ranks
        self.multiplies = self.dot
        self._numeric = [f for f in self.fields if f.side == "item" and f.kind == "numeric"]
        self.numbers: nn.Linear | None = None
        self.enter = nn.Sequential(nn.LayerNorm(d), nn.Dropout(own.dropout))
        self.blocks = nn.ModuleList([BLOCKS[own.block](own, recipe.features.history) for _ in range(own.blocks)])
        self.memory = (own.blocks + self.dot, d)
        if self.dot:
            self.start, self.last = nn.Parameter(torch.randn(d) * SMALL), nn.LayerNorm(d)
            self.person = nn.Linear(self.user_width, d) if self.user_width else None
            self.scale, self.offset = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
            self.numbers = self._number_map(own)
            return
        both = self.user_width + self.item_width
        self.candidate = nn.Linear(both, d)
        self.deep = mlp(both + d, own.hidden, own.dropout)
        last = own.hidden[-1] if own.hidden else both + d
        self.head = nn.Linear(last, 1)
        # What training alone uses.
        ratings = len(schema.vocabularies.get("rating", ()))
        self.rates = nn.Linear(last, ratings) if own.rating_weight and ratings > FIRST else None
        self.follows = nn.Linear(d, d) if own.next_weight else None

    def start_alike(self, trained: Tensor) -> None:
        """Begin near the cosine of the candidate's words with those of the latest events; for the head "dot"."""
        assert self.text is not None
        self.text.start_alike(trained)
        for number, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            block.start_alike(latest=number == 0)

    def states(self, feed: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 [n], and what the candidate, or the user where products decide, has become: [n, d]."""
        x, mask = self._events(feed)
        kept, end = self._keep(x, mask)
        e = x.shape[1]
        if self.dot:
            there = mask[:, -1:] if e else mask.new_zeros(mask.shape[0], 1)
            return self._product(feed, torch.where(there, end[:, -1], self.start))
        user, item = self.user_side(feed, None, NO_EVENTS), self.item_side(feed)
        user = user.expand(item.shape[0], -1)
        asked = self.candidate(torch.cat([user, item], dim=1))
        # One user's candidates are queries side by side, rows of many users one query each.
        asked = asked.unsqueeze(0) if x.shape[0] == 1 else asked.unsqueeze(1)
        end, hiding = torch.tensor([e], device=x.device), _hiding(mask)
        found = []
        for block, own in self._pairs(kept):
            asked = block(asked, own, block.bias(end, e, 1).unsqueeze(0) + hiding)
            found.append(asked.flatten(0, 1))
        return self._decide(user, item, found[-1])[0], found

    def along(self, feed: dict[str, Tensor], owners: Tensor, places: Tensor) -> Tensor:
        """As in `CrmModel`."""
        if self.dot:
            return self._product(feed, self.users_along(feed, owners, places))[0]
        return self.lessons(feed, owners, places).logits

    def lessons(self, feed: dict[str, Tensor], owners: Tensor, places: Tensor) -> Lessons:
        """Logits and what else is taught of rows; for the head "attention", arguments as of `along`."""
        x, _ = self._events(feed)
        kept, end = self._keep(x)
        user, item = self.user_side(feed, None, NO_EVENTS), self.item_side(feed)
        slots = _slots(owners, x.shape[0])
        table = x.new_zeros(x.shape[0], int(slots.max()) + 1, self.width)
        asked = table.index_put((owners, slots), self.candidate(torch.cat([user, item], dim=1)))
        at = places.new_zeros(table.shape[:2]).index_put((owners, slots), places)
        every = torch.arange(x.shape[1] + 1, device=x.device)
        for block, own in self._pairs(kept):
            asked = block(asked, own, block.bias(every, x.shape[1], 1)[:, at].transpose(0, 1))
        logits, last = self._decide(user, item, asked[owners, slots])
        return Lessons(logits, last, functional.pad(end, (0, 0, 1, 0))[owners, places])

    def users_along(self, feed: dict[str, Tensor], owners: Tensor, places: Tensor) -> Tensor:
        """What the last block gives at the event before each row, float32 [t, d]; arguments as of `along`."""
        x, _ = self._events(feed)
        _, end = self._keep(x)
        return torch.cat([self.start.expand(x.shape[0], 1, -1), end], dim=1)[owners, places]

    def user_vectors(self, feed: dict[str, Tensor], end: Tensor) -> Tensor:
        """float32 [b, d], which products with `item_vectors` score; `end` is what the last block gives, [b, d]."""
        vectors: Tensor = self.last(end)
        return vectors if self.person is None else vectors + self.person(self.user_side(feed, None, NO_EVENTS))

    def catalogue_scores(self, feed: dict[str, Tensor], items: dict[str, Tensor]) -> Tensor:
        """Logits float32 [b, n], the higher the sooner a user of `feed` likes an item of `items`."""
        _, [users] = self.states(feed)
        return self.fitted(users @ self.item_vectors(items).T)

    def fitted(self, products: Tensor) -> Tensor:
        """Logits of products; where these learn the next item, in the same order, whatever the labels want."""
        return products * self._factor() + self.offset

    def user_row(self, feed: dict[str, Tensor], states: Tensor) -> Tensor:
        """As in `CrmModel`; for the head "dot"."""
        users = self.user_vectors(feed, self._last_of(states)) * self._factor()
        return torch.cat([users, self.offset.unsqueeze(0)], dim=1)

    def item_vectors(self, feed: dict[str, Tensor]) -> Tensor:
        """float32 [n, d]: what an item is by itself, its id and attributes; its numbers where products decide."""
        vectors = super().item_vectors(feed)
        if self.numbers is None:
            return vectors
        return vectors + self.numbers(torch.cat([feed[f.name] for f in self._numeric], dim=1))  # type: ignore[no-any-return]

    def _number_map(self, own: SequenceRecipe) -> nn.Linear | None:
        """From the items' numbers to their vectors; without a bias, so that a mean number adds nothing."""
        width = sum(f.width for f in self._numeric)
        if not width:
            return None
        found = nn.Linear(width, self.width, bias=False)
        nn.init.normal_(found.weight, std=own.embedding_std)
        return found

    def read(self, feed: dict[str, Tensor], past: Tensor) -> Tensor:
        """Kept states float32 [layers, 2, p + m, d]: those of the p events before, and of the m new ones."""
        x = self._events(feed)[0].flatten(0, 1)
        p, e = past.shape[2], past.shape[2] + x.shape[0]
        found = []
        for block, own in self._pairs(past):
            found.append(torch.cat([own, block.keep_one(x)], dim=1))
            if self.dot or len(found) < len(self.blocks):
                x = block.serve(x, found[-1], block.distances()[:, p:e, : e + 1])
        if self.dot:
            found.append(torch.cat([past[-1], x.expand(2, -1, -1)], dim=1))
        return torch.stack(found)

    def score(self, feed: dict[str, Tensor], states: Tensor) -> Tensor:
        """Logits float32 [n] of one user's candidates, the user's part of every first layer computed once."""
        if self.dot:
            return self._product(feed, self._last_of(states))[0]
        user, item, e = self.user_side(feed, None, NO_EVENTS), self.item_side(feed), states.shape[2]
        asked = in_parts(self.candidate, user, item)
        for block, own in self._pairs(states):
            asked = block.serve(asked, own, block.distances()[:, e : e + 1, : e + 1])
        item = torch.cat([item, asked], dim=1)
        return in_parts(nn.Sequential(*self.deep, self.head), user, item).squeeze(1)

    def _factor(self) -> Tensor:
        """What products are multiplied by, float32 [1]."""
        return self.scale.clamp(min=LEAST_SCALE) if self.ranks else self.scale

    def _last_of(self, states: Tensor) -> Tensor:
        """What the last block gave of one user's latest event, float32 [1, d]; for the head "dot"."""
        return torch.cat([self.start.unsqueeze(0), states[-1, 0]])[-1:]

    def _pairs(self, kept: Iterable[Tensor]) -> Iterator[tuple[Block, Tensor]]:
        """Each block with what it has kept."""
        for block, own in zip(self.blocks, kept, strict=False):
            assert isinstance(block, Block)
            yield block, own

    def _events(self, feed: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        events, mask = self.events(feed)
        assert events is not None  # every schema has the items of the history
        return self.enter(events), mask

    def _keep(self, x: Tensor, mask: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """Keys and values [b, 2, e, d] of every block, and, where products decide, the last one's outcome [b, e, d]."""
        found, e = [], x.shape[1]
        hiding = 0.0 if mask is None else _hiding(mask)
        for number, block in enumerate(self.blocks):
            found.append(block.keep(x))  # type: ignore[operator]
            if self.dot or number < len(self.blocks) - 1:
                bias = block.bias(torch.arange(e, device=x.device), e, 0).unsqueeze(0) + hiding  # type: ignore[operator]
                x = block(x, found[-1], bias)
        return found, x

    def _product(self, feed: dict[str, Tensor], end: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits of items beside what the last block gives of their users, [n or 1, d]; and the users' vectors."""
        items, users = self.item_vectors(feed), self.user_vectors(feed, end)
        products = (items @ users.T).squeeze(1) if users.shape[0] == 1 else (items * users).sum(dim=1)
        return self.fitted(products), [users.expand(items.shape[0], -1)]

    def _decide(self, user: Tensor, item: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [t], and the layer before them [t, h]."""
        last = self.deep(torch.cat([user, item, found], dim=1))
        return self.head(last).squeeze(1), last


def _hiding(mask: Tensor) -> Tensor:
    """float32 [b, 1, 1, e]: 0 for an event, -inf where there is none."""
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -math.inf)[:, None, None]


def _slots(owners: Tensor, b: int) -> Tensor:
    """int64 [t]: the number of each row among its owner's; `owners` ascend."""
    counts = torch.bincount(owners, minlength=b)
    return torch.arange(len(owners), device=owners.device) - (counts.cumsum(0) - counts)[owners]
