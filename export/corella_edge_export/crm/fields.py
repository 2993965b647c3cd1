"""A CRM over embedded fields: the user's side, the item's side and the history, for families to combine."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corella_edge.features.schema import EVENTS, PAD, Field, Schema
from corella_edge_export.crm.attribute_input import AttributeInput
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.fitted import users as user_fit
from corella_edge_export.crm.layers import masked_mean
from corella_edge_export.crm.levels import UserLevels
from corella_edge_export.crm.recipe import FamilyRecipe, FeaturesRecipe
from corella_edge_export.crm.text_input import TextInput


class FieldsModel(CrmModel):
    """Embeddings of a schema's fields and, where the recipe has them, the users' levels.

    Attributes:
        user_width, item_width: numbers of `user_side` and `item_side`.
        has_history: the schema has events.
        text: what maps the items' text vectors, the candidate's and the events', to the width of an embedding; None
            where the schema has none.
        attributes: what the events' items are beside their ids; None where the recipe leaves it out.
    """

    def __init__(
        self, schema: Schema, family: FamilyRecipe, features: FeaturesRecipe, pools: bool = True, tells: bool = False
    ) -> None:
        """`pools`: `user_side` ends in the mean of the events. `tells`: an event also says its rating by itself."""
        super().__init__()
        self.fields = [f for f in schema.fields if features.user_ids or (f.side, f.source) != ("user", "id")]
        self.has_history = bool(schema.of("sequence"))
        d = family.embedding_dim
        read = {name: len(v) for name, v in schema.vocabularies.items() if features.user_ids or name != "user_id"}
        self.embeddings = _tables(read, family)
        self.text = TextInput(schema.text_width, d) if schema.text_width else None
        self.attributes = AttributeInput(schema) if features.event_attributes and self.has_history else None
        ordered = [f for f in self.fields if f.kind == "ordered"]
        self.places = nn.ParameterDict({f.name: nn.Parameter(torch.zeros(f.length)) for f in ordered})
        self.levels = _levels(schema, features)
        self.user_width, self.item_width = (
            sum(_width(f, d) for f in self.fields if f.side == side and f.kind not in EVENTS)
            for side in ("user", "item")
        )
        self.user_width += d if self.has_history and pools else 0
        if self.levels is not None:
            self.user_width += user_fit.WIDTH
            self.item_width += self.levels.leanings
        ratings = [f for f in schema.of("sequence") if f.source == "rating"] if tells else []
        self.told = _tables({f.name: len(schema.vocabularies[f.vocab]) for f in ratings}, family)

    def user_side(self, feed: dict[str, Tensor], events: Tensor | None, mask: Tensor) -> Tensor:
        """float32 [b, user_width]: the user's fields, and the mean of the events."""
        return torch.cat(self._side(feed, "user") + ([] if events is None else [masked_mean(events, mask)]), dim=1)

    def item_side(self, feed: dict[str, Tensor]) -> Tensor:
        """float32 [n, item_width]."""
        return torch.cat(self._side(feed, "item"), dim=1)

    def item_vectors(self, feed: dict[str, Tensor]) -> Tensor:
        """float32 [n, d]: what an item is by itself: its id, its attributes and its words added up, without numbers."""
        fields = [f for f in self.fields if f.side == "item" and f.kind not in ("numeric", "derived")]
        return torch.stack([self._field(f, feed[f.name]) for f in fields]).sum(dim=0)

    def events(self, feed: dict[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """Events [b, length, d] as (item + its attributes + its text) * (1 + rating), and the mask of those there.

        Each stands for its embedding. What was seen is signed by liking.
        """
        sequences = [f for f in self.fields if f.kind == "sequence"]
        if not sequences:
            return None, torch.empty(0)
        first, *others = sequences
        events: Tensor = self._table(first)(feed[first.name])
        if self.attributes is not None:
            events = events + self.attributes(feed[first.name], self.embeddings)
        for item in self.fields:
            if item.kind == "vectors" and self.text is not None:
                events = events + self.text(feed[item.name])
        for item in others:
            events = events * (1.0 + self._table(item)(feed[item.name]))
        for name, table in self.told.items():
            events = events + table(feed[name])
        return events, feed[first.name] != PAD

    def _side(self, feed: dict[str, Tensor], side: str) -> list[Tensor]:
        found = [self._field(f, feed[f.name]) for f in self.fields if f.side == side and f.kind not in EVENTS]
        return found if self.levels is None else [*found, *self.levels.inputs(feed, side)]

    def _field(self, item: Field, value: Tensor) -> Tensor:
        if item.kind == "categorical":
            return self._table(item)(value)  # type: ignore[no-any-return]
        if item.kind == "ordered":
            return masked_mean(self._table(item)(value), value != PAD, torch.exp(self.places[item.name]))
        if item.kind in ("multi", "text"):
            return masked_mean(self._table(item)(value), value != PAD)
        if item.kind == "vector" and self.text is not None:
            return self.text(value)  # type: ignore[no-any-return]
        return value

    def _table(self, item: Field) -> nn.Module:
        return self.embeddings[item.vocab]


def _tables(rows: dict[str, int], family: FamilyRecipe) -> nn.ModuleDict:
    """Embeddings of so many rows each, by name."""
    tables = {name: nn.Embedding(count, family.embedding_dim, padding_idx=PAD) for name, count in rows.items()}
    for table in tables.values():
        nn.init.normal_(table.weight, std=family.embedding_std)
    return nn.ModuleDict(tables)


def _levels(schema: Schema, features: FeaturesRecipe) -> UserLevels | None:
    if not features.user_level:
        return None
    inputs = {f.name: torch.zeros(1, 1) for f in schema.fields}
    columns = len(user_fit.leaning(inputs)) if features.user_leaning else 0
    return UserLevels(len(schema.vocabularies["user_id"]), columns)


def _width(item: Field, d: int) -> int:
    return item.width if item.kind in ("numeric", "derived") else d
