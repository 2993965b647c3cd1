"""Several models that begin with other weights, as one CRM: the mean of their logits varies less than each of them."""

from __future__ import annotations

import importlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge.catalog import Catalog
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Schema
from corella_edge_export.crm.attribute_input import AttributeInput
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.recipe import FAMILIES, CrmRecipe, section_of
from corella_edge_export.crm.text_input import TextInput

AT_ONCE = 4096  # items whose vectors are made together


class Members(CrmModel):
    """The mean of several models of one family. Each is trained by a loss of its own (`members_of`)."""

    def __init__(self, models: list[CrmModel]) -> None:
        super().__init__()
        self.members = nn.ModuleList(models)
        self.width, self.remembers = models[0].width, models[0].remembers
        self.multiplies = models[0].multiplies
        layers, numbers = models[0].memory
        self.memory = layers * len(models), numbers

    def states(self, feed: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Means over the members: logits float32 [n], and of each layer float32 [n, width]."""
        logits, layers = zip(*[member.states(feed) for member in members_of(self)], strict=True)
        return _mean(logits), [_mean(same) for same in zip(*layers, strict=True)]

    def serving_forward(self, feed: dict[str, Tensor]) -> Tensor:
        """The members' mean for the n candidates of one user."""
        return _mean([member.serving_forward(feed) for member in members_of(self)])

    def read(self, feed: dict[str, Tensor], past: Tensor) -> Tensor:
        """The members' kept states, one member's layers after another's."""
        pairs = zip(members_of(self), self._parts(past), strict=True)
        return torch.cat([member.read(feed, own) for member, own in pairs])

    def along(self, feed: dict[str, Tensor], owners: Tensor, places: Tensor) -> Tensor:
        """The members' mean."""
        return _mean([member.along(feed, owners, places) for member in members_of(self)])

    def score(self, feed: dict[str, Tensor], states: Tensor) -> Tensor:
        """The mean of what each member makes of its own layers."""
        pairs = zip(members_of(self), self._parts(states), strict=True)
        return _mean([member.score(feed, own) for member, own in pairs])

    def user_row(self, feed: dict[str, Tensor], states: Tensor) -> Tensor:
        """The members' rows side by side, each by its share, and the mean of what they add."""
        pairs = zip(members_of(self), self._parts(states), strict=True)
        rows = [member.user_row(feed, own) for member, own in pairs]
        return torch.cat([*(row[:, :-1] / len(rows) for row in rows), _mean([row[:, -1:] for row in rows])], dim=1)

    def item_vectors(self, feed: dict[str, Tensor]) -> Tensor:
        """The members' vectors of each item, one member's numbers after another's."""
        return torch.cat([member.item_vectors(feed) for member in members_of(self)], dim=1)

    def _parts(self, states: Tensor) -> tuple[Tensor, ...]:
        return states.chunk(len(self.members))


def new_crm(
    schema: Schema, recipe: CrmRecipe, catalog: Catalog | None = None, trained: npt.NDArray[np.int64] | None = None
) -> CrmModel:
    """The recipe's CRM with random weights.

    `catalog` is what it reads of the items beside its inputs: their text vectors in training (`TextInput`), and the
    attributes of events (`AttributeInput`). `trained`: catalogue rows int64 [m] of the items with training rows, whose
    words are looked at where the recipe's `map_start` says so; None = all items.
    """
    module = importlib.import_module(f"corella_edge_export.crm.{section_of(recipe.kind)}")
    family = getattr(module, FAMILIES[recipe.kind])
    models: list[CrmModel] = [family(schema, recipe) for _ in range(recipe.members)]
    model = models[0] if recipe.members == 1 else Members(models)
    if catalog is not None:
        _start(model, recipe, catalog, np.arange(len(catalog)) if trained is None else trained)
    return model


def _start(model: CrmModel, recipe: CrmRecipe, catalog: Catalog, trained: npt.NDArray[np.int64]) -> None:
    """Give each member what it reads of the catalogue."""
    inputs = [part for part in model.modules() if isinstance(part, TextInput)]
    if inputs and catalog.vectors is not None:
        table = torch.from_numpy(catalog.vectors.astype(np.float32))
        for part in inputs:
            part.start(table, tuned=recipe.text.tuned)
        if recipe.text.map_start == "cosine":
            for member in members_of(model):
                member.start_alike(torch.from_numpy(trained.astype(np.int64)))
    for module in model.modules():
        if isinstance(module, AttributeInput):
            module.start(catalog)


def members_of(model: nn.Module) -> list[CrmModel]:
    """The models that a CRM consists of."""
    parts = model.members if isinstance(model, Members) else [model]
    return [part for part in parts if isinstance(part, CrmModel)]


def catalogue_vectors(model: CrmModel, encoder: FeatureEncoder) -> npt.NDArray[np.float64]:
    """float64 [items, numbers of all members]: what every catalogue row's item is by itself (`FieldsModel`)."""
    rows, items = np.arange(len(encoder.catalog)), encoder.item_tables
    words = {field.name for field in encoder.schema.of("vector")}
    found = []
    with torch.inference_mode():
        for start in range(0, len(rows), AT_ONCE):
            chosen = rows[start : start + AT_ONCE]
            feed = {name: table[chosen] for name, table in items.items()} | dict.fromkeys(words, chosen)
            given = {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in feed.items()}
            found.append(model.item_vectors(given).double().numpy())
    return np.concatenate(found)


def _mean(same: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    return torch.stack(list(same)).mean(dim=0)
