"""popular.jsonl: what the training rows say of items without any model: how often they were chosen, and beside what.

One object a line: `{"item": id, "count": n, "similar": [[id, similarity], …]}`, the similarities from 1 down.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from msgspec import DecodeError, Meta, Struct
from msgspec import json as messages

from corella_edge.bundle.artefact import POPULAR
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError

MOST_SIMILAR = 100  # neighbours of one item


class PopularLine(Struct):
    """An item of the training rows."""

    item: str
    count: Annotated[int, Meta(ge=0)]
    similar: Annotated[list[tuple[str, Annotated[float, Meta(ge=0, le=1)]]], Meta(max_length=MOST_SIMILAR)] = []


@dataclass(frozen=True, slots=True)
class Popular:
    """Of the n items of a catalogue.

    Attributes:
        counts: int64 [n], training rows in which the item was chosen.
        starts: int64 [n + 1]; row i's neighbours are `rows` and `similarity` from starts[i] to starts[i + 1].
        rows, similarity: int32 and float32, catalogue rows and how similar they are, 0 to 1, the most similar first.
    """

    counts: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int32]
    similarity: npt.NDArray[np.float32]

    @classmethod
    def read(cls, path: Path, catalog: Catalog) -> Popular:
        """A bundle's file; items that the catalogue does not have (any more) are passed over.

        Raises:
            BundleError: a line is not as above; names it.
        """
        counts = np.zeros(len(catalog), np.int64)
        found: list[list[tuple[int, float]]] = [[] for _ in range(len(catalog))]
        decode = messages.Decoder(PopularLine).decode
        with path.open("rb") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = decode(text)
                except (DecodeError, UnicodeDecodeError) as error:
                    raise BundleError(f"{POPULAR} line {number}: {error}") from None
                row = catalog.row_of.get(line.item)
                if row is not None:
                    counts[row] = line.count
                    found[row] = [(r, s) for i, s in line.similar if (r := catalog.row_of.get(i)) is not None]
        pairs = [pair for neighbours in found for pair in neighbours]
        starts = np.concatenate([[0], np.cumsum([len(neighbours) for neighbours in found], dtype=np.int64)])
        return cls(
            counts, starts, np.array([r for r, _ in pairs], np.int32), np.array([s for _, s in pairs], np.float32)
        )

    def similar(self, rows: Sequence[int]) -> npt.NDArray[np.float64]:
        """float64 [n]: how similar each item is to those at `rows`, summed over them; 0 = to none."""
        total = np.zeros(len(self.counts))
        for row in rows:
            span = slice(self.starts[row], self.starts[row + 1])
            total[self.rows[span]] += self.similarity[span]
        return total

    def neighbours(self, row: int) -> tuple[list[int], list[float]]:
        """Catalogue rows and similarities of one item's neighbours, the most similar first."""
        span = slice(self.starts[row], self.starts[row + 1])
        return self.rows[span].tolist(), self.similarity[span].tolist()
