"""The training loop of every stage: schedule, early stopping on validation, checkpoints that resume exactly.

It runs on Hugging Face Accelerate: one CPU, one GPU, or several processes (`accelerate launch`). A batch is cut
into parts, one or more a process; each part's loss counts with its share of the batch's targets, and gradients
are summed over parts and processes, so their number changes rounding (and the masks of dropout) only. What a
step sees is a function of (seed, epoch, index) alone and the random state is part of the checkpoint, so an
interrupted run ends in the same weights as an uninterrupted one on the same CPU.
"""

from __future__ import annotations

import math
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from tqdm import tqdm

from corella_edge.errors import InputError, InterruptedRunError
from corella_edge.stopping import stop_on_sigint
from corella_edge_export.training import checkpoint, metrics_log

BEST = "best.safetensors"
CHECKPOINT_SECONDS = 30.0
LOGGED = 200
Metrics = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """Which of `count` equal shares of a batch to work off."""

    index: int = 0
    count: int = 1

    @property
    def cut(self) -> slice:
        """This part's samples: `batch[part.cut]`."""
        return slice(self.index, None, self.count)


class Task(Protocol):
    """One stage: a model, its batches and its validation."""

    name: str
    model: nn.Module

    def batches(self, epoch: int) -> Sequence[Any]:
        """The epoch's batches in order, a function of the seed and the epoch."""

    def losses(self, batch: Any, epoch: int, index: int, part: Part) -> dict[str, Tensor]:
        """ "loss" of a part, weighted with its share of the batch (parts add up to the batch's mean), and further
        figures for the log, weighted alike; empty for a part without a sample. "tokens", how many the part has, are
        counted and not logged."""

    def evaluate(self) -> Metrics:
        """Validation metrics; "ndcg" where there is one, else "auc" or the least "perplexity", decides which weights
        are kept."""

    def trainable(self) -> dict[str, Tensor]:
        """The tensors to save and restore: all of a small model, adapters of a large one."""

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        """Parameters to train, with a factor on the schedule's learning rate."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Linear warm-up over a share of all steps, then cosine to a tenth of the rate.

    A batch is worked off in `accumulate` parts a process. Evaluation judges, and the run keeps, not the weights as
    trained but their mean with those they began with, of which these are the `start_share` (WiSE-FT, arXiv 2109.01903,
    section 3); parameters that learn faster than the schedule's rate only fit what the others give, and are kept.
    """

    learning_rate: float
    weight_decay: float
    epochs: int
    evaluations: int
    patience: int
    warmup: float = 0.02
    clip: float = 1.0
    accumulate: int = 1
    start_share: float = 0.0

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
    """Where a run stands; saved with the weights.

    Attributes:
        seconds: of everything. tokens, stepping: what the steps read, and the seconds they took; validation is apart.
        peak: bytes of memory that were held at most, by any of the run's pieces.
    """

    epoch: int = 0
    index: int = 0
    step: int = 0
    best: float | None = None
    stale: int = 0
    done: bool = False
    seconds: float = 0.0
    tokens: int = 0
    stepping: float = 0.0
    peak: int = 0


def whole(model: nn.Module) -> list[tuple[list[nn.Parameter], float]]:
    """All trainable parameters at the schedule's own rate."""
    return [([p for p in model.parameters() if p.requires_grad], 1.0)]


def fit(task: Task, schedule: Schedule, folder: Path, seed: int, quiet: bool = False) -> Metrics:
    """Train, or go on training, until done; the best weights by validation end up in the model.

    Returns:
        The validation metrics of the weights that were kept.
    """
    accelerator = Accelerator()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
    accelerator.wait_for_everyone()
    torch.manual_seed(seed)
    task.model.to(accelerator.device)
    training = _Training(task, schedule, folder, accelerator, quiet)
    training.run()
    accelerator.wait_for_everyone()  # only the main process writes
    restore(task, checkpoint.load_tensors(folder / BEST))
    task.model.eval()
    return best_line(folder)


def best_line(folder: Path) -> Metrics:
    """The metrics of the weights that were kept. Raises InputError if the log has lost them."""
    best = checkpoint.state_of(folder).get("best")
    for line in metrics_log.read(folder):
        if line["kind"] == "valid" and _merit(line) == best:
            return line
    path = folder / metrics_log.NAME
    raise InputError(f"{path}: has lost the evaluation of the kept weights; remove {folder} to train the stage again")


def restore(task: Task, tensors: dict[str, Tensor]) -> None:
    """Copy saved tensors into the task's model."""
    own = task.trainable()
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def peak_bytes(device: torch.device) -> int:
    """Memory that this process has held at most so far: on a GPU what torch took there, else its resident set."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts KiB


def speed_text(name: str, state: State) -> str:
    """How fast a stage of the LLM was and what memory it took, in one line."""
    rate = state.tokens / state.stepping if state.stepping else math.inf
    return (
        f"{name}: {state.tokens:,} tokens at {rate:,.0f} a second, validation apart; "
        f"{state.peak / 1e9:.2f} GB of memory at most"
    )


def _merit(metrics: Metrics) -> float:
    """What decides which weights are kept; rows of one class have no AUC. Never nan, which nothing equals.

    As evaluated, where nan is what has no value, or from the log, where null is.
    """
    if "ndcg" in metrics:
        return float(metrics["ndcg"])
    known = {name: value for name, value in metrics.items() if value is not None and value == value}
    if "auc" not in metrics:
        return -float(known.get("perplexity", math.inf))
    return float(known.get("auc", -1.0))


class _Training:
    """One call of `fit`."""

    def __init__(self, task: Task, schedule: Schedule, folder: Path, accelerator: Accelerator, quiet: bool) -> None:
        self.task, self.schedule, self.folder, self.accelerator = task, schedule, folder, accelerator
        self.quiet = quiet or not accelerator.is_main_process
        self.factors = [factor for _, factor in task.groups()]
        groups = [{"params": parameters} for parameters, _ in task.groups()]
        self.optimizer = torch.optim.AdamW(groups, lr=schedule.learning_rate, weight_decay=schedule.weight_decay)
        self.start = self._trained_slowly() if schedule.start_share else {}  # before a checkpoint is restored
        self.state = self._resume()

    def _trained_slowly(self) -> dict[str, Tensor]:
        """A copy of the parameters, but those that learn faster than the schedule's rate."""
        places = {p.data_ptr() for part, factor in self.task.groups() if factor <= 1.0 for p in part}
        return {name: own.clone() for name, own in self.task.trainable().items() if own.data_ptr() in places}

    @contextmanager
    def _mixed_with_start(self) -> Iterator[None]:
        """The model with the weights that are judged and kept."""
        own = self.task.trainable()
        trained = {name: own[name].clone() for name in self.start}
        share = self.schedule.start_share
        restore(self.task, {name: torch.lerp(trained[name], first, share) for name, first in self.start.items()})
        try:
            yield
        finally:
            restore(self.task, trained)

    def run(self) -> None:
        if self.state.done:
            return
        self.total = len(self.task.batches(0)) * self.schedule.epochs
        self.logged = max(1, self.total // LOGGED)
        self.saved, self.started, self.before = time.monotonic(), time.monotonic(), self.state.seconds
        if not self.total:
            raise InputError(f"{self.task.name}: there is no sample to train on")
        place = {"total": self.total, "initial": self.state.step}
        bar = tqdm(**place, desc=self.task.name, mininterval=1.0, unit="step", disable=self.quiet)
        with bar, stop_on_sigint() as stop:
            self._epochs(bar, stop)
        self.state.done = True
        self._save()
        if self.state.tokens and not self.quiet:
            tqdm.write(speed_text(self.task.name, self.state), file=sys.stderr)

    def _epochs(self, bar: Any, stop: threading.Event) -> None:
        state = self.state
        while state.epoch < self.schedule.epochs and not state.done:
            batches = self.task.batches(state.epoch)
            judged = self.schedule.judged(len(batches))
            while state.index < len(batches) and not state.done:
                begun = time.monotonic()
                found = self._step(batches[state.index])
                state.tokens += self._everyones(found.pop("tokens", None))
                state.stepping += time.monotonic() - begun
                bar.update(1)
                self._after(found, state.index in judged, bar, self._anyone(stop.is_set()))
            state.epoch, state.index = state.epoch + 1, 0

    def _step(self, batch: Any) -> dict[str, Tensor]:
        state, count = self.state, self.schedule.accumulate
        self.task.model.train()
        rate = self.schedule.rate(state.step, self.total)
        for group, factor in zip(self.optimizer.param_groups, self.factors, strict=True):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        found: dict[str, Tensor] = {}
        for k in range(count):
            part = Part(self.accelerator.process_index * count + k, self.accelerator.num_processes * count)
            values = self.task.losses(batch, state.epoch, state.index, part)
            if values:
                self.accelerator.backward(values["loss"])
            for name, value in values.items():
                found[name] = found.get(name, 0.0) + value.detach()
        self._update()
        state.index += 1
        state.step += 1
        return found

    def _update(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        if self.accelerator.num_processes > 1:
            flat = torch.cat(
                [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
            )
            parts = self.accelerator.reduce(flat, "sum").split([p.numel() for p in parameters])
            for p, gradient in zip(parameters, parts, strict=True):
                p.grad = gradient.view_as(p)
        nn.utils.clip_grad_norm_(parameters, self.schedule.clip)
        self.optimizer.step()

    def _after(self, found: dict[str, Tensor], judge: bool, bar: Any, stop: bool) -> None:
        """Log, evaluate and save what is due; stop if asked to."""
        state = self.state
        state.seconds = self.before + time.monotonic() - self.started
        state.peak = max(state.peak, peak_bytes(self.accelerator.device))
        if judge or state.step % self.logged == 0:
            figures = self._figures(found)
            self._log("train", {**figures, "rate": self.optimizer.param_groups[0]["lr"]})
            if judge:
                with self._mixed_with_start():
                    self._judge(figures["loss"], bar)
                self.saved = -math.inf
        if stop or time.monotonic() - self.saved > CHECKPOINT_SECONDS:
            self._save()
            self.saved = time.monotonic()
        if stop:
            where = f"step {state.step} of {self.total}"
            raise InterruptedRunError(f"{self.task.name}: stopped at {where}; run the same command again to resume")

    def _figures(self, found: dict[str, Tensor]) -> Metrics:
        """A step's figures over all processes, as numbers and lists; a process without a sample has none."""
        own: dict[str, Tensor] = {name: value.cpu() for name, value in found.items()}
        parts: list[dict[str, Tensor]] = gather_object([own])
        names = sorted({name for part in parts for name in part})
        return {name: torch.stack([p[name] for p in parts if name in p]).sum(dim=0).tolist() for name in names}

    def _judge(self, loss: float, bar: Any) -> None:
        """Evaluate, keep the weights if they are the best so far, stop when patience is spent."""
        self.task.model.eval()
        with torch.inference_mode():
            found = [self.task.evaluate() if self.accelerator.is_main_process else None]
        metrics: Metrics = broadcast_object_list(found)[0]
        self._log("valid", {"loss": loss, **metrics})
        defined = [name for name in ("ndcg", "auc", "perplexity") if math.isfinite(metrics.get(name, math.nan))]
        shown = {name: f"{metrics[name]:.4f}" for name in defined}
        bar.set_postfix(loss=f"{loss:.4f}", **shown)
        state, merit = self.state, _merit(metrics)
        if state.best is None or merit > state.best:
            state.best, state.stale = merit, 0
            if self.accelerator.is_main_process:
                checkpoint.save_tensors(self.task.trainable(), self.folder / BEST, state.step)
        else:
            state.stale += 1
            state.done = state.stale >= self.schedule.patience

    def _everyones(self, tokens: Tensor | None) -> int:
        """A step's tokens, over all processes; a process without a sample, and a stage of the CRM, has none."""
        own = 0 if tokens is None else int(tokens)
        if self.accelerator.num_processes == 1:
            return own
        return int(self.accelerator.reduce(torch.tensor(own, device=self.accelerator.device), "sum"))

    def _anyone(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.accelerator.num_processes == 1:
            return flag
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.accelerator.device), "sum") > 0)

    def _log(self, kind: str, figures: Metrics) -> None:
        """Append a line; lines of a later step than the checkpoint (a killed run's) are dropped first."""
        if not self.accelerator.is_main_process:
            return
        line = {"kind": kind, "step": self.state.step, **figures, "seconds": round(self.state.seconds, 1)}
        kept = [old for old in metrics_log.read(self.folder) if _place(old) < _place(line)]
        metrics_log.write(self.folder, [*kept, line])

    def _resume(self) -> State:
        found = checkpoint.load(self.folder)
        if found is None:
            return State()
        tensors, state = found
        if state["best"] is not None:
            best_line(self.folder)
        names = [name for name in tensors if name.startswith("model.")]
        restore(self.task, {name.removeprefix("model."): tensors[name] for name in names})
        if not state["done"]:
            checkpoint.restore_optimizer(self.optimizer, tensors)
            torch.set_rng_state(tensors["rng"])
        return State(**state)

    def _save(self) -> None:
        """A finished run needs no optimizer, and its weights are in best.safetensors."""
        if not self.accelerator.is_main_process:
            return
        tensors: dict[str, Tensor] = {}
        if not self.state.done:
            tensors = {f"model.{name}": tensor for name, tensor in self.task.trainable().items()}
            tensors |= {**checkpoint.optimizer_tensors(self.optimizer), "rng": torch.get_rng_state()}
        checkpoint.save(self.folder, self.state.step, tensors, vars(self.state))


def _place(line: Metrics) -> tuple[int, int]:
    return int(line["step"]), int(line["kind"] == "valid")
