"""A training run's state on disk: tensors in safetensors files of bounded size, and a JSON file that names them.

checkpoint.json       what the loop needs to go on, and the names of the files; replaced last, atomically
step-0000120-0.safetensors …    weights, optimizer, random state; files of older steps go after the new ones count
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from corella_edge import atomic
from corella_edge.errors import InputError

NAME = "checkpoint.json"
# A checkpoint can travel through whatever carries files of 16 MiB.
SHARD_BYTES = 15 << 20


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint; until it is complete, the previous one counts."""
    files = []
    for number, shard in enumerate(_shards(tensors)):
        files.append(f"step-{step:07d}-{number}.safetensors")
        _save_shard(shard, folder / files[-1])
    atomic.write_file(folder / NAME, json.dumps({"state": state, "files": files}).encode())
    for path in folder.glob("step-*.safetensors"):
        if path.name not in files:
            path.unlink()


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors on the CPU, state) of the last complete checkpoint, None if there is none.

    Raises:
        InputError: a file is missing or damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        about = json.loads(path.read_text("utf-8"))
        tensors: dict[str, Tensor] = {}
        for name in about["files"]:
            tensors.update(load_file(folder / name))
    except Exception as error:  # noqa: BLE001 - safetensors raises errors of its own
        raise InputError(f"{path}: the checkpoint can not be read ({error}); remove {folder} to begin again") from None
    return tensors, about["state"]


def finished(folder: Path) -> bool:
    """Whether the training in `folder` is done."""
    path = folder / NAME
    return path.exists() and bool(json.loads(path.read_text("utf-8"))["state"]["done"])


def _save_shard(tensors: dict[str, Tensor], path: Path) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    save_file({name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}, temporary)
    atomic.publish_file(temporary, path)


def _shards(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors in order, a new file begun before `SHARD_BYTES` are passed."""
    shards: list[dict[str, Tensor]] = []
    size = 0
    for name, tensor in tensors.items():
        weight = tensor.numel() * tensor.element_size()
        if not shards or size + weight > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += weight
    return shards


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """One safetensors file, complete or not at all."""
    _save_shard(tensors, path)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter number, as plain tensors."""
    state = optimizer.state_dict()["state"]
    return {f"optimizer.{i}.{name}": value for i, values in state.items() for name, value in values.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The counterpart of `optimizer_tensors`."""
    whole = optimizer.state_dict()
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, number, name = key.split(".", 2)
            whole["state"].setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(whole)
