"""What training, alignment and export know of a CRM, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class CrmModel(nn.Module, ABC):
    """Inputs by field name (`Schema`), output logits float32 [n].

    Inputs of the user's side may have leading dimension 1, for all of the n candidates.

    Attributes:
        width: numbers of each layer of `states`.
        remembers: it is a `RememberingCrm`, or consists of such models.
    """

    width: int
    remembers: bool = False

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


class RememberingCrm(CrmModel):
    """A CRM that reads a user's events by themselves, oldest first, and never looks back from one to a later one.

    What it has read of the first events so stays true when more come: serving keeps it (`crm.events.onnx`).

    Attributes:
        event_fields: names of the inputs that `read` takes, and `score` does not: [1, m] or [1, m, w] of m events.
    """

    remembers = True
    event_fields: list[str]

    @abstractmethod
    def nothing_read(self) -> Tensor:
        """float32 [layers, 2, 0, d]: the states of no events, on the model's device."""

    @abstractmethod
    def read(self, feed: dict[str, Tensor], past: Tensor) -> Tensor:
        """Read one user's next events.

        Args:
            feed: the event fields of m events, none of them padding; other fields are passed over.
            past: float32 [layers, 2, p, d], the states of the p events before them.

        Returns:
            float32 [layers, 2, p + m, d]: keys and values of each layer, the last one's included.
        """

    @abstractmethod
    def score(self, feed: dict[str, Tensor], states: Tensor) -> Tensor:
        """Logits float32 [n] of one user's candidates; of the feed every field but the events, e of which were read.

        Args:
            states: float32 [layers, 2, e, d]; e may be 0.
        """

    def serving_forward(self, feed: dict[str, Tensor]) -> Tensor:
        """`logits` for the n candidates of one user, whose events are not padded."""
        return self.score(feed, self.read(feed, self.nothing_read()))
