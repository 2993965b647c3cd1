"""Layer-wise alignment of the two models (CoReLLa, arXiv 2403.16378, stage 2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Alignment(nn.Module):
    """sum over pairs of ||g_llm(h_llm) - g_crm(h_crm)||_2 ^ exponent / width, a mean over samples.

    Each pair has one linear projection a side to a common `width` (the paper: fully connected; width, pairs and
    exponent are not published). With exponent 2 this is the mean squared difference of the projections.
    """

    def __init__(
        self, pairs: Sequence[tuple[int, int]], llm_width: int, crm_width: int, width: int, exponent: float
    ) -> None:
        super().__init__()
        self.pairs, self.width, self.exponent = list(pairs), width, exponent
        self.g_llm = nn.ModuleList([nn.Linear(llm_width, width) for _ in pairs])
        self.g_crm = nn.ModuleList([nn.Linear(crm_width, width) for _ in pairs])

    def forward(self, llm: Sequence[Tensor], crm: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """(loss 0-d, mean distance of each pair [pairs]).

        Args:
            llm: what each LLM block gives at the answer position, [n, llm_width], the last one after the final norm.
            crm: what each cross layer gives, [n, crm_width]; pairs count both from 1.
        """
        distances = [
            torch.linalg.vector_norm(to_llm(llm[block - 1].float()) - to_crm(crm[layer - 1]), dim=1)
            for (block, layer), to_llm, to_crm in zip(self.pairs, self.g_llm, self.g_crm, strict=True)
        ]
        together = torch.stack(distances)
        loss = together.pow(self.exponent).mean(dim=1).sum() / self.width
        return loss, together.mean(dim=1).detach()


def pairs_for(chosen: Sequence[Sequence[int]], blocks: int, layers: int) -> list[tuple[int, int]]:
    """The recipe's pairs, or every cross layer with one of the last blocks, in order."""
    if chosen:
        return [(pair[0], pair[1]) for pair in chosen]
    return [(max(1, blocks - layers + layer), layer) for layer in range(1, layers + 1)]
