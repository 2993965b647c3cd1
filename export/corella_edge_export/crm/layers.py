"""Small layers that several families are built of."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


def mlp(width: int, hidden: tuple[int, ...], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU and dropout after each."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers)


def in_parts(layers: nn.Module, user: Tensor, item: Tensor) -> Tensor:
    """A linear layer, or several modules that begin with one, of [user, item]; user [1, u], item [n, i].

    A layer on [user, item] is W_u user + W_i item + b: the user's part is computed once and broadcast.
    """
    first, *rest = layers if isinstance(layers, nn.Sequential) else [layers]
    assert isinstance(first, nn.Linear)
    u = int(user.shape[1])  # a constant of the graph, so that the exporter cuts the weights
    x = functional.linear(item, first.weight[:, u:]) + functional.linear(user, first.weight[:, :u], first.bias)
    for module in rest:
        x = module(x)
    return x


def masked_mean(vectors: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over dimension 1 of the vectors under the mask; zeros where it is empty.

    `weights`, float32 [length] above 0, are those of each place.
    """
    weight = mask.to(vectors.dtype).unsqueeze(-1)
    if weights is None:
        return (vectors * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1.0)
    weight = weight * weights.unsqueeze(-1)
    return (vectors * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1e-6)
