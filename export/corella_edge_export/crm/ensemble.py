"""Several DCNv2 that begin with other weights, as one CRM: the mean of their logits varies less than each of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from corella_edge.features.schema import Schema
from corella_edge_export.crm.dcnv2 import DCNv2
from corella_edge_export.recipe import CrmRecipe


class Members(nn.Module):
    """A DCNv2's interface over several of them. Each is trained by a loss of its own (`members_of`)."""

    def __init__(self, schema: Schema, recipe: CrmRecipe) -> None:
        super().__init__()
        self.members = nn.ModuleList([DCNv2(schema, recipe) for _ in range(recipe.members)])
        self.width = members_of(self)[0].width

    def forward(self, feed: dict[str, Tensor]) -> Tensor:
        return self.states(feed)[0]

    def states(self, feed: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Means over the members: logits float32 [n], and of each cross layer float32 [n, width]."""
        logits, layers = zip(*[member.states(feed) for member in members_of(self)], strict=True)
        return _mean(logits), [_mean(same) for same in zip(*layers, strict=True)]

    def one_user(self, feed: dict[str, Tensor]) -> Tensor:
        """`forward` for the n candidates of one user, as `DCNv2.one_user`."""
        return _mean([member.one_user(feed) for member in members_of(self)])


CrmModel = DCNv2 | Members


def new_crm(schema: Schema, recipe: CrmRecipe) -> CrmModel:
    """The recipe's CRM with random weights."""
    return DCNv2(schema, recipe) if recipe.members == 1 else Members(schema, recipe)


def members_of(model: nn.Module) -> list[DCNv2]:
    """The DCNv2 that a CRM consists of."""
    parts = model.members if isinstance(model, Members) else [model]
    return [part for part in parts if isinstance(part, DCNv2)]


def _mean(same: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.stack(list(same)).mean(dim=0)
