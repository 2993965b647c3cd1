"""DCNv2 (arXiv 2008.13535): cross network and deep network over embedded fields. Nothing else."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge.features.derived import DERIVED
from corella_edge.features.schema import PAD, Field, Schema
from corella_edge_export.crm.fitted import users as user_fit
from corella_edge_export.crm.fitted.users import USER_LEVEL
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


class UserLevels(nn.Module):
    """Each known user's level and leanings (`user_fit`), in the graph beside the embeddings, but not trained."""

    table: Tensor

    def __init__(self, users: int, columns: int) -> None:
        super().__init__()
        self.columns = columns  # of a candidate that users lean to
        self.register_buffer("table", torch.zeros(users, user_fit.WIDTH + columns))

    def fill(self, levels: npt.NDArray[np.float32]) -> None:
        """Levels float32 [users, 3 + columns] by index of the vocabulary."""
        self.table.copy_(torch.from_numpy(levels))

    def inputs(self, feed: dict[str, Tensor], side: str) -> list[Tensor]:
        """User side: float32 [b, 3]; item side: how far the user leans to each candidate, [n, 1], or nothing."""
        levels = feed[USER_LEVEL] if USER_LEVEL in feed else self.table[feed["user_id"]]
        if side == "user":
            return [levels[:, : user_fit.WIDTH]]
        if not self.columns:
            return []
        columns = torch.stack(user_fit.leaning(feed), dim=1)
        return [(columns * levels[:, user_fit.WIDTH :]).sum(dim=1, keepdim=True)]


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
            nn.init.normal_(table.weight, std=recipe.embedding_std)  # type: ignore[arg-type]
        width = sum(_width(item, d) for item in self.fields) - d * max(0, len(schema.of("sequence")) - 1)
        self.levels = self._levels(schema, recipe)
        width += user_fit.WIDTH + self._leaning if self.levels is not None else 0
        self.attention = self._attention(recipe)
        width += d if self.attention is not None else 0
        self.width = width  # of x_0 and every cross layer
        self.cross = nn.ModuleList([CrossLayer(width, recipe.cross_rank) for _ in range(recipe.cross_layers)])
        self.deep = _mlp(width, recipe.hidden, recipe.dropout)
        deep_width = recipe.hidden[-1] if recipe.hidden else width
        self.head = nn.Linear(deep_width + (width if recipe.structure == "parallel" else 0), 1)

    def _levels(self, schema: Schema, recipe: CrmRecipe) -> UserLevels | None:
        if not recipe.user_level:
            return None
        inputs = {f.name: torch.zeros(1, 1) for f in self.fields}
        columns = len(user_fit.leaning(inputs)) if recipe.user_leaning else 0
        return UserLevels(len(schema.vocabularies["user_id"]), columns)

    @property
    def _leaning(self) -> int:
        """Numbers of the item side that rest on the user's leanings."""
        return int(self.levels is not None and self.levels.columns > 0)

    def _attention(self, recipe: CrmRecipe) -> nn.Linear | None:
        """From a candidate's item side to the direction in which it looks at the history."""
        d = recipe.embedding_dim
        if recipe.pooling == "mean" or not any(f.kind == "sequence" for f in self.fields):
            return None
        width = sum(_width(f, d) for f in self.fields if f.side == "item" and f.kind != "sequence")
        return nn.Linear(width + self._leaning, d)

    def forward(self, feed: dict[str, Tensor]) -> Tensor:
        return self.states(feed)[0]

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

    def one_user(self, feed: dict[str, Tensor]) -> Tensor:
        """`forward` for the n candidates of one user, in fewer operations: what the graph of a bundle computes.

        A layer on [user, item] is W_u user + W_i item + b: the user's part is computed once and broadcast.
        """
        events, mask = self._events(feed)
        user = torch.cat(self._side(feed, "user") + ([] if events is None else [_mean(events, mask)]), dim=1)
        item = torch.cat(self._side(feed, "item"), dim=1)
        if events is not None and self.attention is not None:
            item = torch.cat([item, self._attend_one(item, events[0], mask[0])], dim=1)
        x = x0 = torch.cat([user.expand(item.shape[0], -1), item], dim=1)
        weights = [layer.get_submodule("weight") for layer in self.cross]
        for number, weight in enumerate(weights):
            x = x0 * (weight(x) if number else _in_parts(weight, user, item)) + x
        if self.structure == "stacked":
            return self.head(self.deep(x)).squeeze(1)  # type: ignore[no-any-return]
        deep = _in_parts(self.deep, user, item) if len(self.deep) else x0
        return self.head(torch.cat([x, deep], dim=1)).squeeze(1)  # type: ignore[no-any-return]

    def embed(self, feed: dict[str, Tensor]) -> Tensor:
        """x_0, float32 [n, width]: user side (broadcast) beside item side and what the item finds in the history."""
        events, mask = self._events(feed)
        user = self._side(feed, "user") + ([] if events is None else [_mean(events, mask)])
        item = torch.cat(self._side(feed, "item"), dim=1)
        found = [] if events is None or self.attention is None else [self._attend(item, events, mask)]
        return torch.cat([torch.cat(user, dim=1).expand(item.shape[0], -1), item, *found], dim=1)

    def _side(self, feed: dict[str, Tensor], side: str) -> list[Tensor]:
        found = [self._field(f, feed[f.name]) for f in self.fields if f.side == side and f.kind != "sequence"]
        return found if self.levels is None else [*found, *self.levels.inputs(feed, side)]

    def _field(self, item: Field, value: Tensor) -> Tensor:
        if item.kind == "categorical":
            return self._table(item)(value)  # type: ignore[no-any-return]
        if item.kind == "multi":
            return _mean(self._table(item)(value), value != PAD)
        return value

    def _events(self, feed: dict[str, Tensor]) -> tuple[Tensor | None, Tensor]:
        """Events [b, length, d] as item embedding * (1 + rating embedding), what was seen signed by liking; mask."""
        sequences = [f for f in self.fields if f.kind == "sequence"]
        if not sequences:
            return None, torch.empty(0)
        first, *others = sequences
        events: Tensor = self._table(first)(feed[first.name])
        for item in others:
            events = events * (1.0 + self._table(item)(feed[item.name]))
        return events, feed[first.name] != PAD

    def _attend(self, item: Tensor, events: Tensor, mask: Tensor) -> Tensor:
        """[n, d]: sum of the events, each weighted by how it fits the candidate; not normalised, as in DIN
        (arXiv 1706.06978, section 4.3), so that many fitting events count more than one."""
        assert self.attention is not None
        fit = torch.matmul(events, self.attention(item).unsqueeze(-1)).squeeze(-1)
        weight = torch.sigmoid(fit) * mask.to(events.dtype)
        pooled = torch.matmul(weight.unsqueeze(1), events).squeeze(1)
        return pooled / math.sqrt(events.shape[1])

    def _attend_one(self, item: Tensor, events: Tensor, mask: Tensor) -> Tensor:
        """`_attend` for the events [length, d] of one user: two matrix products instead of 2 n small ones."""
        assert self.attention is not None
        weight = torch.sigmoid(self.attention(item) @ events.T)
        return weight @ (events * (mask.to(events.dtype) / math.sqrt(len(events))).unsqueeze(1))

    def _table(self, item: Field) -> nn.Module:
        return self.embeddings[item.vocab]


def _in_parts(layers: nn.Module, user: Tensor, item: Tensor) -> Tensor:
    """A linear layer, or several modules that begin with one, of [user, item]; user [1, u], item [n, i]."""
    first, *rest = layers if isinstance(layers, nn.Sequential) else [layers]
    assert isinstance(first, nn.Linear)
    u = int(user.shape[1])  # a constant of the graph, so that the exporter cuts the weights
    x = functional.linear(item, first.weight[:, u:]) + functional.linear(user, first.weight[:, :u], first.bias)
    for module in rest:
        x = module(x)
    return x


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
