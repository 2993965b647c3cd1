"""DIN (arXiv 1706.06978): each candidate weighs the user's events by a small network of event and candidate."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge.features.schema import Schema
from corella_edge_export.crm.fields import FieldsModel
from corella_edge_export.crm.layers import in_parts, mlp
from corella_edge_export.crm.recipe import CrmRecipe


class ActivationUnit(nn.Module):
    """How far an event counts for a candidate: sigmoid(w . relu(A event + B candidate + C (event * candidate) + p)).

    p is of the event's place in a history of `places`, the latest last; without places there is none.
    """

    def __init__(self, d: int, hidden: int, places: int = 0) -> None:
        super().__init__()
        self.hidden, self.of_event = hidden, nn.Linear(d, hidden)
        self.of_candidate, self.of_both = (nn.Linear(d, hidden, bias=False) for _ in range(2))
        self.weight = nn.Linear(hidden, 1)
        self.of_place = nn.Parameter(torch.zeros(places, hidden)) if places else None

    def forward(self, candidate: Tensor, events: Tensor) -> Tensor:
        """float32 [n, length] for candidates [n, d] and events [n or 1, length, d]."""
        wanted = candidate.unsqueeze(1)
        both = self.of_event(events) + self.of_candidate(wanted) + self.of_both(events * wanted)
        if self.of_place is not None:
            both = both + self.of_place
        weight: Tensor = torch.sigmoid(self.weight(torch.relu(both))).squeeze(-1)
        return weight

    def of_one(self, candidate: Tensor, events: Tensor) -> Tensor:
        """float32 [length, n] for candidates [n, d] and one user's events [length, d], in one large product.

        A event + C (event * candidate) = (A + C diag(candidate)) event: a matrix a candidate, all side by side.
        """
        matrices = self.of_event.weight + self.of_both.weight * candidate.unsqueeze(1)
        offsets = self.of_event.bias + self.of_candidate(candidate)
        both = functional.linear(events, matrices.flatten(0, 1), offsets.flatten())
        if self.of_place is not None:
            both = (both.reshape(len(self.of_place), -1, self.hidden) + self.of_place.unsqueeze(1)).flatten(1)
        weight = self.weight(torch.relu(both).reshape(-1, self.hidden))
        return torch.sigmoid(weight.reshape(events.shape[0], -1))


class DIN(FieldsModel):
    """The events that fit the candidate, summed and not normalised, beside the fields; its one state is the last layer.

    A candidate looks at the history with its whole item side, so that an unknown item still has a direction.
    """

    def __init__(self, schema: Schema, recipe: CrmRecipe) -> None:
        own = recipe.din
        super().__init__(schema, own, recipe.features, tells=own.in_order)
        d = own.embedding_dim
        places = recipe.features.history if own.in_order else 0
        self.candidate = nn.Linear(self.item_width, d) if self.has_history else None
        self.unit = ActivationUnit(d, own.attention, places) if self.has_history else None
        joined = self.user_width + self.item_width + (d if self.has_history else 0)
        self.deep = mlp(joined, own.hidden, own.dropout)
        self.width = own.hidden[-1] if own.hidden else joined
        self.head = nn.Linear(self.width, 1)

    def states(self, feed: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 [n], and the last layer before them, float32 [n, width]."""
        user, item = self._sides(feed)
        last = self.deep(torch.cat([user.expand(item.shape[0], -1), item], dim=1))
        return self.head(last).squeeze(1), [last]

    def serving_forward(self, feed: dict[str, Tensor]) -> Tensor:
        """`logits` for the n candidates of one user, the user's part of the first layer computed once."""
        user, item = self._sides(feed, one=True)
        if len(self.deep):
            return self.head(in_parts(self.deep, user, item)).squeeze(1)  # type: ignore[no-any-return]
        return in_parts(self.head, user, item).squeeze(1)

    def _sides(self, feed: dict[str, Tensor], one: bool = False) -> tuple[Tensor, Tensor]:
        """The user's side, and the item's beside what the candidate finds in the history; `one`: of one user."""
        events, mask = self.events(feed)
        user, item = self.user_side(feed, events, mask), self.item_side(feed)
        if events is None or self.unit is None or self.candidate is None:
            return user, item
        if one:
            there = events[0] * (mask[0].to(events.dtype) / math.sqrt(events.shape[1])).unsqueeze(1)
            return user, torch.cat([item, self.unit.of_one(self.candidate(item), events[0]).T @ there], dim=1)
        weight = self.unit(self.candidate(item), events) * mask.to(events.dtype)
        found = (weight.unsqueeze(-1) * events).sum(dim=1) / math.sqrt(events.shape[1])
        return user, torch.cat([item, found], dim=1)
