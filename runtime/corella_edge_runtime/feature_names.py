"""Which names the features of a request may have, for those who want to be told of a typing error."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from corella_edge.errors import InputError
from corella_edge.features.schema import ATTRIBUTES, Schema
from corella_edge.prompt import Template
from corella_edge.request import Features, Request
from corella_edge_runtime.attributes import Reading


class FeatureNames:
    """The features that a bundle's models read of a user and of an item."""

    def __init__(self, schema: Schema, template: Template | None) -> None:
        fields = schema.of(*ATTRIBUTES, side="user")
        profile = template.profile if template else {}
        self.of_user = {field.source for field in fields if field.source != "id"} | profile.keys()
        self.of_item = Reading(schema, template).names

    def check(self, request: Request) -> None:
        """Raises InputError, which names the first feature that no model reads."""
        for path, features, known in self._given(request):
            for name in features:
                if name not in known:
                    near = difflib.get_close_matches(name, known, 1)
                    hint = f"; did you mean {near[0]!r}?" if near else ""
                    raise InputError(f"{path}: no model reads {name[:80]!r}, and the request is strict{hint}")

    def _given(self, request: Request) -> Iterator[tuple[str, Features, set[str]]]:
        yield "user.features", request.user.features, self.of_user
        for i, candidate in enumerate(request.candidates or ()):
            if candidate.features:
                yield f"candidates[{i}].features", candidate.features, self.of_item
