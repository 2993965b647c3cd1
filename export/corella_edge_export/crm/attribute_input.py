"""The attributes of the events' items as an input of every family, through the embeddings that candidates have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge.catalog import Catalog
from corella_edge.features.schema import FIRST, PAD, Schema, encode_value
from corella_edge_export.crm.layers import masked_mean


class AttributeInput(nn.Module):
    """Rows of the items' table → the mean of what their categorical and multi-valued attributes are embedded as.

    An event names its item by the row of a known one, so what belongs to each row is fixed once the catalogue is there,
    and no request has to bring it. An unknown item has none.

    Attributes:
        rows: int64 [items, k], the rows of each item's values in their tables, one attribute's slots after another's;
            PAD where there is no value. It is made of the catalogue again, so no stage keeps it; None before `start`.
    """

    rows: Tensor | None

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        coded = schema.of("categorical", "multi", side="item")
        self.fields = [f for f in coded if f.source != "id"]
        self.vocabularies = schema.vocabularies
        self.items = next(f.vocab for f in schema.of("sequence") if f.source == "item")
        self.register_buffer("rows", None, persistent=False)

    def start(self, catalog: Catalog) -> None:
        """Take the attributes of the known items; PAD, OOV and hash buckets have none."""
        vocabulary = self.vocabularies[self.items]
        rows = torch.full((len(vocabulary), sum(f.length for f in self.fields)), PAD)
        for row, item in enumerate(vocabulary.values, FIRST):
            rows[row] = torch.tensor(self._rows_of(catalog.of(item)))
        self.rows = rows

    def _rows_of(self, attributes: Mapping[str, object]) -> list[int]:
        coded = [encode_value(f, self.vocabularies[f.vocab], attributes.get(f.source)) for f in self.fields]
        return [row for value in coded for row in (value if isinstance(value, list) else [value])]

    def forward(self, items: Tensor, tables: nn.ModuleDict) -> Tensor:
        """float32 [..., d] of rows of items int64 [...]; `tables` are the embeddings by vocabulary."""
        assert self.rows is not None
        if torch.onnx.is_in_onnx_export():
            # Of constants alone, so that the runtime makes the table once and looks an event up in it.
            return functional.embedding(items, self._vectors(self.rows, tables))
        # Each item of a batch counts once: its events are many more.
        found, places = torch.unique(items, return_inverse=True)
        return functional.embedding(places, self._vectors(self.rows[found], tables))

    def _vectors(self, rows: Tensor, tables: nn.ModuleDict) -> Tensor:
        """float32 [n, d] of values int64 [n, k]."""
        parts = zip(self.fields, rows.split_with_sizes([f.length for f in self.fields], dim=1), strict=True)
        means = [masked_mean(tables[f.vocab](values), values != PAD) for f, values in parts]
        return torch.stack(means).mean(dim=0)
