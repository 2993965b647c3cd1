"""SAID (doi 10.1145/3589335.3648307, stage 1): a vector per item that makes a frozen LLM write the item's text.

`training.said` makes the vectors of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge_export.llm import model as llm

Indices = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class ItemWriter(nn.Module):
    """A frozen causal LM that reads an item's vector, through a projector, where a text's begin token would stand.

    The loss is -sum_t log P(text_t | vector, text_<t) over all tokens of a batch, divided by their number. The paper
    leaves the projector open: here it is one linear map, which begins as one that changes no direction.

    Attributes:
        vectors: float32 [items, hidden], which training changes.
        projector: vectors → the LM's input embeddings.
    """

    def __init__(
        self, model: Any, texts: Sequence[Sequence[int]], start: Literal["random", "words"], begin: int
    ) -> None:
        """`texts` are the items' token ids, empty for an item without words; `begin` is the begin token's id."""
        super().__init__()
        self.llm = llm.merged(model).requires_grad_(False)
        self.texts = [np.asarray(text, dtype=np.int64) for text in texts]
        table = self._table
        width = table.shape[1]
        self.vectors = nn.Parameter(
            _mean_words(table, self.texts) if start == "words" else torch.randn(len(texts), width)
        )
        self.projector = nn.Linear(width, width)
        with torch.no_grad():
            self.projector.weight.copy_(torch.eye(width) * table.std())
            self.projector.bias.copy_(table[begin])

    def log_loss(self, items: Indices) -> Tensor:
        """Mean of -log P over the tokens of the given items' texts; each has at least one."""
        tokens, there = self._padded(items)
        words = self._table[tokens[:, :-1]]
        chosen = torch.from_numpy(items).to(self.vectors.device)
        first = self.projector(self.vectors[chosen]).unsqueeze(1)
        hidden = self.llm.model(inputs_embeds=torch.cat([first, words], dim=1), use_cache=False).last_hidden_state
        logits = self.llm.lm_head(hidden[there])  # texts are padded on the right, where causal attention never looks
        return functional.cross_entropy(logits, tokens[there])

    def item_vectors(self) -> Vectors:
        """float32 [items, hidden], each of length 1; zeros for an item without words."""
        named = torch.tensor([len(text) > 0 for text in self.texts], device=self.vectors.device)
        found = functional.normalize(self.vectors.detach(), dim=1) * named.unsqueeze(1)
        return found.cpu().numpy()

    @property
    def _table(self) -> Tensor:
        found: Tensor = self.llm.get_input_embeddings().weight
        return found

    def _padded(self, items: Indices) -> tuple[Tensor, Tensor]:
        """Tokens int64 [b, longest], zeros on the right, and where there is one."""
        texts = [self.texts[item] for item in items]
        tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.from_numpy(text)
        counts = torch.tensor([len(text) for text in texts])
        there = torch.arange(tokens.shape[1]) < counts.unsqueeze(1)
        return tokens.to(self.vectors.device), there.to(self.vectors.device)


def _mean_words(table: Tensor, texts: Sequence[Indices]) -> Tensor:
    """float32 [items, width]: the mean of the words' embeddings, scaled to a mean square of 1 over all items."""
    means = table.new_zeros(len(texts), table.shape[1])
    for row, text in zip(means, texts, strict=True):
        if len(text):
            row.copy_(table[torch.from_numpy(text)].mean(dim=0))
    return means / means.square().mean().sqrt().clamp(min=1e-12)


def ridge(inputs: Vectors, targets: Vectors, strength: float) -> tuple[Vectors, Vectors]:
    """(components [a, b], offset [b]) with targets [n, b] = inputs [n, a] components + offset in least squares.

    `strength` times the mean variance of an input goes onto the diagonal of the normal equations.
    """
    x, y = inputs.astype(np.float64), targets.astype(np.float64)
    middle, aim = x.mean(axis=0), y.mean(axis=0)
    square = (x - middle).T @ (x - middle)
    square[np.diag_indices_from(square)] += strength * np.trace(square) / len(square)
    components = np.linalg.solve(square, (x - middle).T @ (y - aim))
    return components.astype(np.float32), (aim - middle @ components).astype(np.float32)


def mean_cosine(found: npt.NDArray[np.floating[Any]], wanted: Vectors) -> float:
    """Of float32 or float64 [n, d] and the wanted [n, d], row by row; 0 of no rows."""
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(axis=1) / np.maximum(lengths, 1e-12)).mean()) if len(found) else 0.0
