"""The training loop of both models: schedule, early stopping on validation, checkpoints that resume exactly.

What a step sees is a function of (seed, epoch, index) alone and the random state is part of the checkpoint,
so an interrupted run ends in the same weights as an uninterrupted one on the same CPU.
"""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

from corella_edge import atomic
from corella_edge.errors import InterruptedRunError

CHECKPOINT_SECONDS = 30.0


class Task(Protocol):
    """One model to train."""

    name: str
    model: nn.Module

    def batches(self, epoch: int) -> Sequence[Any]:
        """The epoch's batches in order, a function of the seed and the epoch."""

    def loss(self, batch: Any, epoch: int, index: int) -> Tensor:
        """Mean loss of one batch."""

    def evaluate(self) -> dict[str, float]:
        """Validation metrics; "auc" decides which weights are kept."""

    def trainable(self) -> dict[str, Tensor]:
        """The tensors to save and restore: all of a small model, adapters of a large one."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up over a share of all steps, then cosine to a tenth of the rate."""

    learning_rate: float
    weight_decay: float
    epochs: int
    evaluations: int
    patience: int
    warmup: float = 0.02
    clip: float = 1.0

    def rate(self, step: int, total: int) -> float:
        """Learning rate of step `step` of `total`."""
        warm = max(1, int(self.warmup * total))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = min(1.0, (step - warm) / max(1, total - warm))  # epochs differ by a few steps
        return self.learning_rate * (0.1 + 0.45 * (1.0 + math.cos(math.pi * done)))

    def judged(self, steps: int) -> set[int]:
        """After how many of an epoch's steps to evaluate; its end is always among them."""
        return {round(steps * k / self.evaluations) for k in range(1, self.evaluations + 1)}


@dataclass
class State:
    """Where a run stands; saved with the weights."""

    epoch: int = 0
    index: int = 0
    step: int = 0
    best: float = -math.inf
    stale: int = 0
    done: bool = False
    seconds: float = 0.0


def fit(task: Task, schedule: Schedule, folder: Path, seed: int, quiet: bool = False) -> dict[str, float]:
    """Train, or go on training, until done; the best weights by validation AUC end up in the model.

    Returns:
        The metrics of the last line of `folder/metrics.jsonl` that was best, with "seconds".
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    parameters = [p for p in task.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
    state = _resume(task, optimizer, folder)
    if not state.done:
        _train(task, schedule, folder, optimizer, state, quiet)
    _restore(task, load_file(folder / "best.safetensors"))
    task.model.eval()
    return best_line(folder)


def best_line(folder: Path) -> dict[str, float]:
    """The metrics of the weights that were kept."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    best: dict[str, float] = max((line for line in lines if "auc" in line), key=_merit)
    return best


def _merit(metrics: dict[str, float]) -> float:
    """What decides which weights are kept; rows of one class have no AUC."""
    return -1.0 if math.isnan(metrics["auc"]) else metrics["auc"]


def _train(
    task: Task, schedule: Schedule, folder: Path, optimizer: torch.optim.Optimizer, state: State, quiet: bool
) -> None:
    total = len(task.batches(0)) * schedule.epochs
    bar = tqdm(total=total, initial=state.step, desc=task.name, disable=quiet, mininterval=1.0, unit="step")
    saved, started, before = time.monotonic(), time.monotonic(), state.seconds
    with bar, _stop_on_sigint() as stop:
        while state.epoch < schedule.epochs and not state.done:
            batches = task.batches(state.epoch)
            judged = schedule.judged(len(batches))
            while state.index < len(batches) and not state.done:
                loss = _step(task, schedule, optimizer, batches[state.index], state, total)
                bar.update(1)
                state.seconds = before + time.monotonic() - started
                if state.index in judged:
                    _judge(task, schedule, folder, state, loss, bar)
                    saved = -math.inf
                if stop.is_set() or time.monotonic() - saved > CHECKPOINT_SECONDS:
                    _save(task, optimizer, state, folder)
                    saved = time.monotonic()
                if stop.is_set():
                    where = f"step {state.step} of {total}"
                    raise InterruptedRunError(f"{task.name}: stopped at {where}; the same command goes on")
            state.epoch, state.index = state.epoch + 1, 0
    state.done = True
    _save(task, optimizer, state, folder)


def _step(
    task: Task, schedule: Schedule, optimizer: torch.optim.Optimizer, batch: Any, state: State, total: int
) -> float:
    task.model.train()
    for group in optimizer.param_groups:
        group["lr"] = schedule.rate(state.step, total)
    optimizer.zero_grad(set_to_none=True)
    loss = task.loss(batch, state.epoch, state.index)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], schedule.clip)
    optimizer.step()
    state.index += 1
    state.step += 1
    return float(loss.detach())


def _judge(task: Task, schedule: Schedule, folder: Path, state: State, loss: float, bar: Any) -> None:
    """Evaluate, log, keep the weights if they are the best so far, stop when patience is spent."""
    task.model.eval()
    with torch.inference_mode():
        metrics = task.evaluate()
    line = {"step": state.step, "loss": loss, **metrics, "seconds": round(state.seconds, 1)}
    _log(folder / "metrics.jsonl", line)
    bar.set_postfix({"loss": f"{loss:.4f}", "auc": f"{metrics['auc']:.4f}"})
    if _merit(metrics) > state.best:
        state.best, state.stale = _merit(metrics), 0
        _save_tensors(task.trainable(), folder / "best.safetensors")
    else:
        state.stale += 1
        state.done = state.stale >= schedule.patience


def _log(path: Path, line: dict[str, Any]) -> None:
    """Append a line; lines of a later step than the checkpoint (a killed run's) are dropped first."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    kept = [old for old in lines if _step_of(old) < line["step"]]
    atomic.write_file(path, "".join(f"{old}\n" for old in [*kept, json.dumps(line)]).encode())


def _step_of(line: str) -> int:
    return int(json.loads(line)["step"])


def _resume(task: Task, optimizer: torch.optim.Optimizer, folder: Path) -> State:
    path = folder / "checkpoint.pt"
    if not path.exists():
        return State()
    saved = torch.load(path, map_location="cpu", weights_only=True)
    _restore(task, saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    torch.set_rng_state(saved["rng"])
    return State(**saved["state"])


def _save(task: Task, optimizer: torch.optim.Optimizer, state: State, folder: Path) -> None:
    temporary = folder / ".checkpoint.pt.partial"
    if state.done:
        # The weights are in best.safetensors; a finished run needs no optimizer.
        contents = {"model": {}, "optimizer": optimizer.state_dict() | {"state": {}}}
    else:
        contents = {"model": task.trainable(), "optimizer": optimizer.state_dict()}
    torch.save({**contents, "rng": torch.get_rng_state(), "state": vars(state)}, temporary)
    atomic.publish_file(temporary, folder / "checkpoint.pt")


def _restore(task: Task, tensors: dict[str, Tensor]) -> None:
    own = task.trainable()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, temporary)
    atomic.publish_file(temporary, path)


@contextmanager
def _stop_on_sigint() -> Iterator[threading.Event]:
    """Ctrl-C sets the event instead of breaking a step in two."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, previous)
