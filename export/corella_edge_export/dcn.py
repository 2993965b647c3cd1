"""DCNv2 (arXiv 2008.13535): cross network and deep network over embedded fields. Nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corella_edge.schema import DERIVED, PAD, Field, Schema
from corella_edge_export.recipe import CrmRecipe


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


class DCNv2(nn.Module):
    """Inputs by field name (`Schema`), output logits float32 [n].

    User-side inputs may have leading dimension 1: they are embedded once and broadcast over the n candidates.
    """

    def __init__(self, schema: Schema, recipe: CrmRecipe) -> None:
        super().__init__()
        self.fields = list(schema.fields)
        self.structure = recipe.structure
        d = recipe.embedding_dim
        self.embeddings = nn.ModuleDict(
            {name: nn.Embedding(len(v), d, padding_idx=PAD) for name, v in schema.vocabularies.items()}
        )
        for table in self.embeddings.values():
            nn.init.normal_(table.weight, std=0.05)  # type: ignore[arg-type]
        width = sum(_width(item, d) for item in self.fields) - d * max(0, len(schema.of("sequence")) - 1)
        self.cross = nn.ModuleList([CrossLayer(width, recipe.cross_rank) for _ in range(recipe.cross_layers)])
        self.deep = _mlp(width, recipe.hidden, recipe.dropout)
        deep_width = recipe.hidden[-1] if recipe.hidden else width
        self.head = nn.Linear(deep_width + (width if recipe.structure == "parallel" else 0), 1)

    def forward(self, feed: dict[str, Tensor]) -> Tensor:
        x0 = self.embed(feed)
        x = x0
        for layer in self.cross:
            x = layer(x0, x)
        joined = torch.cat([x, self.deep(x0)], dim=1) if self.structure == "parallel" else self.deep(x)
        logits: Tensor = self.head(joined)
        return logits.squeeze(1)

    def embed(self, feed: dict[str, Tensor]) -> Tensor:
        """x_0, float32 [n, width]: user side (broadcast) beside item side."""
        user = torch.cat([*self._side(feed, "user"), *self._history(feed)], dim=1)
        item = torch.cat(self._side(feed, "item"), dim=1)
        return torch.cat([user.expand(item.shape[0], -1), item], dim=1)

    def _side(self, feed: dict[str, Tensor], side: str) -> list[Tensor]:
        return [self._field(f, feed[f.name]) for f in self.fields if f.side == side and f.kind != "sequence"]

    def _field(self, item: Field, value: Tensor) -> Tensor:
        if item.kind == "categorical":
            return self._table(item)(value)  # type: ignore[no-any-return]
        if item.kind == "multi":
            return _mean(self._table(item)(value), value != PAD)
        return value

    def _history(self, feed: dict[str, Tensor]) -> list[Tensor]:
        """Mean over the history of item embedding * (1 + rating embedding): what was seen, signed by liking."""
        sequences = [f for f in self.fields if f.kind == "sequence"]
        if not sequences:
            return []
        first, *others = sequences
        pooled: Tensor = self._table(first)(feed[first.name])
        for item in others:
            pooled = pooled * (1.0 + self._table(item)(feed[item.name]))
        return [_mean(pooled, feed[first.name] != PAD)]

    def _table(self, item: Field) -> nn.Module:
        return self.embeddings[item.vocab]


def _mean(vectors: Tensor, mask: Tensor) -> Tensor:
    """Mean over dimension 1 of the vectors under the mask; zeros where it is empty."""
    weight = mask.to(vectors.dtype).unsqueeze(-1)
    return (vectors * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)


def _width(item: Field, d: int) -> int:
    if item.kind == "derived":
        return DERIVED[item.source][1]
    return 1 if item.kind == "numeric" else d


def _mlp(width: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers)
