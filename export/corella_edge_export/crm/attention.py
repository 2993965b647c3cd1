"""What a candidate finds in the history, by how well each event fits it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class HistoryAttention(nn.Linear):
    """From a candidate's item side to the direction in which it looks at the history.

    The events are summed, each weighted by how it fits the candidate; not normalised, as in DIN (arXiv 1706.06978,
    section 4.3), so that many fitting events count more than one.
    """

    def pool(self, item: Tensor, events: Tensor, mask: Tensor) -> Tensor:
        """[n, d] for items [n, width] and events [n or 1, length, d] under a mask."""
        fit = torch.matmul(events, self(item).unsqueeze(-1)).squeeze(-1)
        weight = torch.sigmoid(fit) * mask.to(events.dtype)
        pooled = torch.matmul(weight.unsqueeze(1), events).squeeze(1)
        return pooled / math.sqrt(events.shape[1])

    def pool_one(self, item: Tensor, events: Tensor, mask: Tensor) -> Tensor:
        """`pool` for the events [length, d] of one user: two matrix products instead of 2 n small ones."""
        weight = torch.sigmoid(self(item) @ events.T)
        return weight @ (events * (mask.to(events.dtype) / math.sqrt(len(events))).unsqueeze(1))
