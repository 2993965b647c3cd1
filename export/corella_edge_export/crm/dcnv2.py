"""DCNv2 (arXiv 2008.13535): cross network and deep network over embedded fields."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corella_edge.features.schema import Schema
from corella_edge_export.crm.attention import HistoryAttention
from corella_edge_export.crm.fields import FieldsModel
from corella_edge_export.crm.layers import in_parts, mlp
from corella_edge_export.crm.recipe import CrmRecipe


class CrossLayer(nn.Module):
    """x_{l+1} = x_0 * (W x_l + b) + x_l; W = U V^T when `rank` > 0 (DCN V2, sections 3.1 and 3.2)."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.weight: nn.Module = _low_rank(width, rank) if rank else nn.Linear(width, width)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        crossed: Tensor = x0 * self.weight(x) + x
        return crossed


def _low_rank(width: int, rank: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, rank, bias=False), nn.Linear(rank, width))


class DCNv2(FieldsModel):
    """`states` are what each cross layer gives."""

    def __init__(self, schema: Schema, recipe: CrmRecipe) -> None:
        own = recipe.dcnv2
        super().__init__(schema, own, recipe.features)
        self.structure = own.structure
        d, attends = own.embedding_dim, own.pooling == "attention" and self.has_history
        self.attention = HistoryAttention(self.item_width, d) if attends else None
        width = self.user_width + self.item_width + (d if attends else 0)
        self.width = width  # of x_0 and every cross layer
        self.cross = nn.ModuleList([CrossLayer(width, own.cross_rank) for _ in range(own.cross_layers)])
        self.deep = mlp(width, own.hidden, own.dropout)
        deep_width = own.hidden[-1] if own.hidden else width
        self.head = nn.Linear(deep_width + (width if own.structure == "parallel" else 0), 1)

    def states(self, feed: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 [n], and what each cross layer gives, float32 [n, width]."""
        x0 = self.embed(feed)
        layers = [x0]
        for layer in self.cross:
            layers.append(layer(x0, layers[-1]))
        x = layers[-1]
        joined = torch.cat([x, self.deep(x0)], dim=1) if self.structure == "parallel" else self.deep(x)
        logits: Tensor = self.head(joined)
        return logits.squeeze(1), layers[1:]

    def serving_forward(self, feed: dict[str, Tensor]) -> Tensor:
        """`logits` for the n candidates of one user, the user's part of every first layer computed once."""
        events, mask = self.events(feed)
        user, item = self.user_side(feed, events, mask), self.item_side(feed)
        if events is not None and self.attention is not None:
            item = torch.cat([item, self.attention.pool_one(item, events[0], mask[0])], dim=1)
        x = x0 = torch.cat([user.expand(item.shape[0], -1), item], dim=1)
        weights = [layer.get_submodule("weight") for layer in self.cross]
        for number, weight in enumerate(weights):
            x = x0 * (weight(x) if number else in_parts(weight, user, item)) + x
        if self.structure == "stacked":
            return self.head(self.deep(x)).squeeze(1)  # type: ignore[no-any-return]
        deep = in_parts(self.deep, user, item) if len(self.deep) else x0
        return self.head(torch.cat([x, deep], dim=1)).squeeze(1)  # type: ignore[no-any-return]

    def embed(self, feed: dict[str, Tensor]) -> Tensor:
        """x_0, float32 [n, width]: user side (broadcast) beside item side and what the item finds in the history."""
        events, mask = self.events(feed)
        user, item = self.user_side(feed, events, mask), self.item_side(feed)
        found = [] if events is None or self.attention is None else [self.attention.pool(item, events, mask)]
        return torch.cat([user.expand(item.shape[0], -1), item, *found], dim=1)
