"""A model of five numbers for tests of the training loop. As a script: train it again and again under fire.

python tiny_task.py FOLDER SECONDS   starts training, kills it after random times, until it ends by itself
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from corella_edge.metrics import auc
from corella_edge_export.training import loop

SCHEDULE = loop.Schedule(0.05, 0.01, epochs=3, evaluations=2, patience=9)
SHORT = loop.Schedule(0.05, 0.01, epochs=2, evaluations=2, patience=9)


class TinyTask:
    """Logistic regression with dropout; `script` replaces the AUCs of evaluations, `at_step` is called before each."""

    name = "tiny"

    def __init__(self, script: list[float] | None = None, at_step: Any = None) -> None:
        torch.manual_seed(7)
        self.model: nn.Module = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.3), nn.Linear(4, 1))
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(48, 4, generator=generator)
        self.y = (self.x[:, 0] + 0.5 * torch.randn(48, generator=generator) > 0).float()
        self.script, self.at_step, self.evaluated = script, at_step, []

    def batches(self, epoch: int) -> list[Tensor]:
        order = torch.randperm(48, generator=torch.Generator().manual_seed(epoch))
        return list(order.split(8))

    def losses(self, batch: Tensor, epoch: int, index: int, part: loop.Part) -> dict[str, Tensor]:
        if self.at_step is not None:
            self.at_step(epoch, index)
        mine = batch[part.cut]
        logits = self.model(self.x[mine]).squeeze(1)
        loss = nn.functional.binary_cross_entropy_with_logits(logits, self.y[mine])
        return {"loss": loss * (len(mine) / len(batch))}

    def evaluate(self) -> dict[str, float]:
        value = auc(self.model(self.x).squeeze(1).detach().numpy(), self.y.numpy())
        self.evaluated.append(self.weights())
        return {"auc": self.script[len(self.evaluated) - 1] if self.script else value, "logloss": 0.5}

    def trainable(self) -> dict[str, Tensor]:
        return dict(self.model.state_dict())

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        return loop.whole(self.model)

    def weights(self) -> list[Any]:
        return [tensor.tolist() for tensor in self.model.state_dict().values()]


def train(folder: Path) -> None:
    loop.fit(TinyTask(), SCHEDULE, folder, seed=5, quiet=True)


def under_fire(folder: Path, seconds: float) -> int:
    """How often the training had to be started."""
    starts, rng = 0, random.Random(3)
    while True:
        starts += 1
        child = os.fork()
        if child == 0:
            train(folder)
            os._exit(0)
        # Ever later on average, so that a slow machine gets through as well.
        time.sleep(rng.uniform(0, seconds * 1.25**starts))
        os.kill(child, signal.SIGKILL)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            return starts


if __name__ == "__main__":
    torch.set_num_threads(1)
    loop.CHECKPOINT_SECONDS = 0.0
    # What torch imports at its first step is imported here, not in every child.
    with tempfile.TemporaryDirectory() as once:
        train(Path(once))
    print(under_fire(Path(sys.argv[1]), float(sys.argv[2])))
