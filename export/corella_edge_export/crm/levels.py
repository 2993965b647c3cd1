"""The users' fitted levels inside a model, and so inside the graph of a bundle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge_export.crm.fitted import users as user_fit
from corella_edge_export.crm.fitted.users import USER_LEVEL


class UserLevels(nn.Module):
    """Each known user's level and leanings (`user_fit`), in the graph beside the embeddings, but not trained."""

    table: Tensor

    def __init__(self, users: int, columns: int) -> None:
        super().__init__()
        self.columns = columns  # of a candidate that users lean to
        self.register_buffer("table", torch.zeros(users, user_fit.WIDTH + columns))

    @property
    def leanings(self) -> int:
        """Numbers of the item side that rest on the user's leanings."""
        return int(self.columns > 0)

    def fill(self, levels: npt.NDArray[np.float32]) -> None:
        """Levels float32 [users, 3 + columns] by index of the vocabulary."""
        self.table.copy_(torch.from_numpy(levels))

    def inputs(self, feed: dict[str, Tensor], side: str) -> list[Tensor]:
        """User side: float32 [b, 3]; item side: how far the user leans to each candidate, [n, 1], or nothing."""
        levels = feed[USER_LEVEL] if USER_LEVEL in feed else self.table[feed["user_id"]]
        if side == "user":
            return [levels[:, : user_fit.WIDTH]]
        if not self.columns:
            return []
        columns = torch.stack(user_fit.leaning(feed), dim=1)
        return [(columns * levels[:, user_fit.WIDTH :]).sum(dim=1, keepdim=True)]
