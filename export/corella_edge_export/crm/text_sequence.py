"""A sequence model that knows items by their words alone, so that a catalogue can be swapped whole.

The idea is Recformer's (arXiv 2305.13731): no ids, an item is its text. There one Longformer reads the words of all of
a user's items; here a sentence encoder reads each item's once, and the events are those vectors.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from corella_edge.features.schema import Schema
from corella_edge_export.crm.recipe import CrmRecipe, TextSequenceRecipe
from corella_edge_export.crm.sequence import SequenceModel


class TextSequence(SequenceModel):
    """Products are cosines over a temperature (its section 2.2), so a frequent item has no advantage by its length."""

    def __init__(self, schema: Schema, recipe: CrmRecipe) -> None:
        super().__init__(schema, recipe)
        own = recipe.family
        assert isinstance(own, TextSequenceRecipe)
        # Half on either side: neither grows large where products are accumulated.
        self.stretch = math.sqrt(1.0 / own.temperature)
        nn.init.constant_(self.scale, own.temperature)  # a probability begins with the cosine, not with its multiple

    def start_alike(self, trained: Tensor) -> None:
        """As of `Sequence`; that there was an event says nothing at first."""
        super().start_alike(trained)
        for table in self.embeddings.values():
            assert isinstance(table, nn.Embedding)
            nn.init.zeros_(table.weight)

    def user_vectors(self, feed: dict[str, Tensor], end: Tensor) -> Tensor:
        """As of `SequenceModel`, each of the same length."""
        return functional.normalize(super().user_vectors(feed, end), dim=1) * self.stretch

    def item_vectors(self, feed: dict[str, Tensor]) -> Tensor:
        """As of `SequenceModel`, each of the same length; zeros of an item without words."""
        return functional.normalize(super().item_vectors(feed), dim=1) * self.stretch
