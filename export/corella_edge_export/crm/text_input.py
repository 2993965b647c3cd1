"""Items' text vectors as an input of every family: one linear map for candidates and for the history's events."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

ALIKE = 1.5  # beside user vectors of length sqrt(d), products then tell items apart as cosines over about 0.1 do


class TextInput(nn.Module):
    """Vectors → d numbers. Without a bias, so that an item without words adds nothing.

    Training names items by their catalogue rows, and the vectors are looked up here; what is exported gets the vectors
    themselves, which the runtime looks up in a mapped file.

    Attributes:
        table: float32 [items, width], a trainable parameter where the vectors are tuned, else a buffer that no stage
            keeps; None before `start`.
    """

    table: Tensor | None

    def __init__(self, width: int, d: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, d, bias=False)
        self.register_buffer("table", None, persistent=False)

    def start(self, vectors: Tensor, tuned: bool) -> None:
        """Take the catalogue's vectors, float [items, width]; `tuned`: as the start of trained ones."""
        table = vectors.to(torch.float32)
        if tuned:
            del self.table
            self.table = nn.Parameter(table)
        else:
            self.table = table

    def start_alike(self, trained: Tensor) -> None:
        """Let the map keep cosines: it begins at principal components of the vectors of the `trained` items, int64 [m].

        What is common to all vectors is left out, as all cosines would have it in common; the mapped vectors are of
        length `ALIKE` in the mean.
        """
        assert self.table is not None
        with torch.no_grad():
            vectors = self.table[trained].double()
            mean = functional.normalize(vectors.mean(dim=0), dim=0)
            apart = vectors - (vectors @ mean).unsqueeze(1) * mean
            main = torch.linalg.eigh(apart.T @ apart)[1].flip(1)[:, : self.map.out_features].T
            main = main - (main @ mean).unsqueeze(1) * mean  # of as many components as numbers one is the mean itself
            length = (apart @ main.T).norm(dim=1).mean().clamp(min=1e-6)
            self.map.weight.zero_()
            self.map.weight[: len(main)] = (main * (ALIKE / length)).to(self.map.weight)

    def forward(self, value: Tensor) -> Tensor:
        """float32 [..., d] of vectors float32 [..., width], or of catalogue rows int64 [...]; of unknown ones zeros."""
        if value.is_floating_point():
            mapped: Tensor = self.map(value)
            return mapped
        assert self.table is not None
        items = len(self.table)
        # Each item of a batch is mapped once: its events are many more.
        rows, places = torch.unique(value, return_inverse=True)
        vectors = functional.embedding(rows.clamp(max=items - 1), self.table)
        return functional.embedding(places, self.map(vectors) * (rows < items).unsqueeze(1))
