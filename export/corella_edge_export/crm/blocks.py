"""Blocks of the sequence family: a candidate, or an event, asks the events before it.

Attention knows events by how far back they lie and not by their number, so what was made of the events so far holds
when others follow: it is kept, and a new event adds one row to it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge_export.crm.recipe import SequenceRecipe

SMALL = 0.02  # deviation of the vectors that stand for no event, at their start
FADES = 0.8  # of the forms tried with raw vectors on validation rows of Amazon Games the one with the best mean
LEAST = 1e-6  # what keeps HSTU's norm from dividing by 0, as its authors' code has it


class Block(nn.Module):
    """Attention and a feed-forward layer, each of a normalised input and added to it (pre-norm)."""

    def __init__(self, own: SequenceRecipe, reach: int) -> None:
        """`reach`: the farthest distance with a weight of its own."""
        super().__init__()
        d = self.d = own.embedding_dim
        self.heads, self.size = own.heads, d // own.heads
        self.before, self.after = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.kept, self.found = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.deep = nn.Sequential(nn.Linear(d, own.inner), nn.GELU(), nn.Dropout(own.dropout), nn.Linear(own.inner, d))
        self.dropout = nn.Dropout(own.dropout)
        self.back = nn.Parameter(torch.zeros(own.heads, reach + 1))
        self.none = nn.Parameter(torch.randn(2, 1, d) * SMALL)  # key and value that are there without any event

    def start_alike(self, latest: bool) -> None:
        """Begin as the identity; with `latest`, plus the mean of the events, each worth FADES of the next."""
        with torch.no_grad():
            for layer in (self.found, self.deep[-1]):
                assert isinstance(layer, nn.Linear)
                layer.weight.zero_()
                layer.bias.zero_()
            if latest:
                nn.init.eye_(self.kept.weight[self.d :])
                nn.init.eye_(self.found.weight)
                self.kept.bias.zero_()
                self.query.weight.mul_(0.1)  # distance decides at first, yet likeness can be learnt
                self.back.copy_(math.log(FADES) * torch.arange(self.back.shape[1]).expand_as(self.back))

    def keep(self, x: Tensor) -> Tensor:
        """Keys and values float32 [b, 2, e, d] of events [b, e, d]."""
        return self._kept(x).view(*x.shape[:2], 2, self.d).transpose(1, 2)

    def keep_one(self, x: Tensor) -> Tensor:
        """`keep` of one user's events [m, d]: [2, m, d]."""
        return self._kept(x).reshape(-1, 2, self.d).transpose(0, 1)

    def bias(self, places: Tensor, e: int, nearest: int) -> Tensor:
        """float32 [heads, places, e]: what each distance from a place back to an event adds; -inf for hidden events.

        The `nearest` that is seen lies at distance 0 for an event, which sees itself, and at 1 for a candidate, whose
        place is how many events came before.
        """
        far = places.unsqueeze(1) - torch.arange(e, device=places.device)
        bias = self.back[:, far.clamp(0, self.back.shape[1] - 1)]
        return bias.masked_fill(far < nearest, -math.inf)

    def distances(self) -> Tensor:
        """float32 [heads, reach + 1, 1 + reach]: `bias` of every place, behind 0 for `none`; constant in a graph."""
        reach = self.back.shape[1] - 1
        return functional.pad(self.bias(torch.arange(reach + 1), reach, 0), (1, 0))

    def serve(self, x: Tensor, kept: Tensor, bias: Tensor) -> Tensor:
        """`forward` of one user's queries [t, d] in fewer operations: kept [2, e, d], bias [heads, t or 1, 1 + e]."""
        keys, values = torch.cat([self.none, kept], dim=1).reshape(2, -1, self.heads, self.size).unbind(0)
        query = self._query(x).reshape(-1, self.heads, self.size).transpose(0, 1)
        weights = self._weights(query @ keys.permute(1, 2, 0), bias)
        return self._added(x, (weights @ values.transpose(0, 1)).transpose(0, 1).reshape(-1, self.d))

    def forward(self, x: Tensor, kept: Tensor, bias: Tensor) -> Tensor:
        """float32 [b, t, d] of queries x, from keys and values [b, 2, e, d] under a bias [b or 1, heads, t or 1, e]."""
        none = self.none.expand(kept.shape[0], 2, 1, self.d)
        both = torch.cat([none, kept], dim=2).reshape(kept.shape[0], 2, -1, self.heads, self.size)
        keys, values = both.transpose(2, 3).unbind(1)
        query = self._query(x).view(*x.shape[:2], self.heads, self.size).transpose(1, 2)
        weights = self._weights(query @ keys.transpose(2, 3), functional.pad(bias, (1, 0)))
        return self._added(x, (weights @ values).transpose(1, 2).flatten(2))

    def _kept(self, x: Tensor) -> Tensor:
        """Keys and values [..., 2 d] of events [..., d]."""
        kept: Tensor = self.kept(self.before(x))
        return kept

    def _query(self, x: Tensor) -> Tensor:
        """What is asked, [..., d]; the scale of the products is in the weights, which a graph holds as constants."""
        scale = self.size**-0.5
        return functional.linear(self.before(x), self.query.weight * scale, self.query.bias * scale)

    def _weights(self, fit: Tensor, bias: Tensor) -> Tensor:
        """How much of each event's value is taken, of products and bias [..., t, 1 + e]; nothing of hidden ones."""
        return torch.softmax(fit + bias, dim=-1)

    def _added(self, x: Tensor, found: Tensor) -> Tensor:
        """The queries [..., d] and what was found for them, [..., d] → what the block gives."""
        x = x + self.dropout(self.found(found))
        return x + self.dropout(self.deep(self.after(x)))  # type: ignore[no-any-return]


class HstuBlock(Block):
    """HSTU (arXiv 2402.17152, section 3, equations 1 to 3): events add up, and a gate replaces the feed-forward layer.

        Y = f2(Norm(A V) * U),  A = SiLU(Q K^T + bias) / n,  [U, V, Q, K] = SiLU(f1(Norm(x))),

    n the longest history, as in the authors' code, which leaves the products unscaled, too. n is the same for all, so
    that what is made of an event holds when others follow. `none` is one more event, that everybody has.
    """

    def __init__(self, own: SequenceRecipe, reach: int) -> None:
        super().__init__(own, reach)
        del self.deep
        self.gate = nn.Linear(self.d, self.d)
        # Norm(x / n) with LEAST is Norm(x) with n² times as much: no graph divides by n.
        self.after = nn.LayerNorm(self.d, eps=LEAST * reach**2, elementwise_affine=False)

    def start_alike(self, latest: bool) -> None:
        """Begin as the identity, so that the latest event alone is what a candidate is held against."""
        nn.init.zeros_(self.found.weight)
        nn.init.zeros_(self.found.bias)

    def _kept(self, x: Tensor) -> Tensor:
        return functional.silu(super()._kept(x))

    def _query(self, x: Tensor) -> Tensor:
        return functional.silu(self.query(self.before(x)))

    def _weights(self, fit: Tensor, bias: Tensor) -> Tensor:
        # SiLU has its 0 at 0 and no value at -inf.
        return functional.silu((fit + bias).masked_fill(bias == -math.inf, 0.0))

    def _added(self, x: Tensor, found: Tensor) -> Tensor:
        gate = functional.silu(self.gate(self.before(x)))
        return x + self.found(self.dropout(gate * self.after(found)))  # type: ignore[no-any-return]


BLOCKS = {"transformer": Block, "hstu": HstuBlock}
