"""What training, alignment and export know of a CRM, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class CrmModel(nn.Module, ABC):
    """Inputs by field name (`Schema`), output logits float32 [n].

    Inputs of the user's side may have leading dimension 1, for all of the n candidates.

    Attributes:
        width: numbers of each layer of `states`.
    """

    width: int

    @abstractmethod
    def states(self, feed: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 [n], and what each layer gives, float32 [n, width]; as many as the recipe's `layers`."""

    def logits(self, feed: dict[str, Tensor]) -> Tensor:
        """Logits float32 [n], of rows of many users or of one user's candidates."""
        return self.states(feed)[0]

    def forward(self, feed: dict[str, Tensor]) -> Tensor:
        return self.logits(feed)

    def serving_forward(self, feed: dict[str, Tensor]) -> Tensor:
        """`logits` for the n candidates of one user: what the graph of a bundle computes, in as few operations."""
        return self.logits(feed)
