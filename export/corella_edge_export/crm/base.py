"""What training, alignment and export know of a CRM, whatever its family."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class CrmModel(nn.Module, ABC):
    """Inputs by field name (`Schema`), output logits float32 [n].

    Inputs of the user's side may have leading dimension 1, for all of the n candidates.

    Attributes:
        width: numbers of each layer of `states`.
        remembers: what the model makes of a user's events can be kept and added to (`read`), and candidates be
            scored from that alone (`score`). A bundle then has a graph for each.
        memory: layers and numbers of a model that remembers: its kept states are float32 [layers, 2, events, numbers].
        multiplies: of a model that remembers: a logit is the product of the user's row with a vector of the item's
            alone (`products`). A bundle then has two more graphs, by which a whole catalogue is ranked.
    """

    width: int
    remembers: bool = False
    memory: tuple[int, int] = (0, 0)
    multiplies: bool = False

    @abstractmethod
    def states(self, feed: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits float32 [n], and what each layer gives, float32 [n, width]; as many as the recipe's `layers`."""

    def start_alike(self, trained: Tensor) -> None:
        """Begin as a cosine of words (`map_start`); `trained` are catalogue rows int64 [m], whose words may be read."""
        raise NotImplementedError(type(self).__name__)

    def logits(self, feed: dict[str, Tensor]) -> Tensor:
        """Logits float32 [n], of rows of many users or of one user's candidates."""
        return self.states(feed)[0]

    def forward(self, feed: dict[str, Tensor]) -> Tensor:
        return self.logits(feed)

    def serving_forward(self, feed: dict[str, Tensor]) -> Tensor:
        """`logits` for the n candidates of one user: what the graph of a bundle computes, in as few operations."""
        return self.score(feed, self.read(feed, self.nothing())) if self.remembers else self.logits(feed)

    def nothing(self) -> Tensor:
        """The kept states of a user without events, float32 [layers, 2, 0, numbers]."""
        layers, numbers = self.memory
        return next(self.parameters()).new_zeros(layers, 2, 0, numbers)

    def read(self, feed: dict[str, Tensor], past: Tensor) -> Tensor:
        """Kept states float32 [layers, 2, p + m, numbers] of one user, whose m new events follow p read before.

        Args:
            feed: the inputs of the events, such as `history_items` int64 [1, m]; PAD counts for an event.
            past: float32 [layers, 2, p, numbers], what this gave for the events before; p may be 0.
        """
        raise NotImplementedError(type(self).__name__)

    def along(self, feed: dict[str, Tensor], owners: Tensor, places: Tensor) -> Tensor:
        """Logits float32 [t] of rows that stand along b users' events, which are read once for all of a user's rows.

        Args:
            feed: inputs of the rows, [t, …] also on the user's side; those of the events [b, e], PAD on the right.
            owners: int64 [t], whose each row is, ascending. places: int64 [t], how many of those events came before.
        """
        raise NotImplementedError(type(self).__name__)

    def score(self, feed: dict[str, Tensor], states: Tensor) -> Tensor:
        """Logits float32 [n] of one user's candidates, from the other inputs and the user's kept states."""
        raise NotImplementedError(type(self).__name__)

    def products(self, feed: dict[str, Tensor], states: Tensor, vectors: Tensor) -> Tensor:
        """`score` of the items of such vectors, float32 [k, n], from the user's side of the other inputs."""
        row = self.user_row(feed, states)
        return (row[:, :-1] @ vectors + row[:, -1:]).squeeze(0)

    def user_row(self, feed: dict[str, Tensor], states: Tensor) -> Tensor:
        """float32 [1, k + 1]: by what a user's vectors of items are multiplied, and what is added."""
        raise NotImplementedError(type(self).__name__)

    def item_vectors(self, feed: dict[str, Tensor]) -> Tensor:
        """float32 [n, k]: what an item is by itself, from the inputs of the items' side alone."""
        raise NotImplementedError(type(self).__name__)
