"""A CRM with large random weights as torch has it, exported, and requests to compare both on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from corella_edge.features.encoder import FeatureEncoder
from corella_edge.request import Candidate, Event, Request, User
from corella_edge_export.crm import to_onnx
from corella_edge_export.crm.ensemble import new_crm
from corella_edge_export.crm.fitted.schema import catalog_of, fit_schema
from corella_edge_export.crm.recipe import CrmRecipe
from corella_edge_export.data.prepared import PreparedData
from corella_edge_runtime.crm import Crm


class ExportedCrm:
    """A CRM of these data, its files in a folder, and requests of eight users, who have 0, 2, 4, … events."""

    def __init__(self, data: PreparedData, recipe: CrmRecipe, folder: Path, deviation: float) -> None:
        """`deviation`: of the weights."""
        schema, self.catalog = fit_schema(data, recipe.features), catalog_of(data)
        self.encoder, self.path, self.users = FeatureEncoder(schema, self.catalog), folder / "crm.onnx", data.user_ids
        torch.manual_seed(3)
        self.model = new_crm(schema, recipe).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.normal_(std=deviation)
        to_onnx.export_onnx(self.model, schema, self.path)
        self.requests = [Request(self.user(u, range(u, 3 * u)), (Candidate(self.catalog.ids[u]),)) for u in range(8)]
        self._opened: dict[int, Crm] = {}

    def user(self, number: int, items: Iterable[int]) -> User:
        """A user with an event of each of these items, by their numbers; ratings go from 1 to 5."""
        ids = self.catalog.ids
        return User(self.users[number], {}, [Event(ids[item % len(ids)], float(1 + item % 5)) for item in items])

    def crm(self, **options: Any) -> Crm:
        """The runtime's, new."""
        return Crm(self.path, self.encoder.schema, **options)

    def opened(self, memory: int) -> Crm:
        """The runtime's with so many bytes for what it reads of events, the same one at every call."""
        return self._opened.setdefault(memory, self.crm(memory=memory))

    def feed(self, user: User, items: Iterable[int]) -> Any:
        """The inputs of a request for these items."""
        return self.encoder.encode(user, [Candidate(self.catalog.ids[item]) for item in items])[0]
