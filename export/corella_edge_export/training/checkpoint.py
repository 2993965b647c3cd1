"""A training run's state on disk: tensors in safetensors files of bounded size, and a JSON file that names them.

checkpoint.json       what the loop needs to go on, and the names of the files; replaced last, atomically
step-0000120-0.safetensors …    weights, optimizer, random state; files of older steps go after the new ones count
best.safetensors      the weights that are kept; it names further files, best-0000120-1.safetensors …, if they are many
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from corella_edge import atomic
from corella_edge.errors import InputError

NAME = "checkpoint.json"
# A checkpoint can travel through whatever carries files of 16 MiB.
SHARD_BYTES = 15 << 20
# Parts of a tensor that is larger than a file, along its first dimension: "name#0", "name#1" …
PART = "#"


def save(folder: Path, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Write a checkpoint; until it is complete, the previous one counts."""
    files = []
    for number, shard in enumerate(_shards(tensors)):
        files.append(f"step-{step:07d}-{number}.safetensors")
        _save_shard(shard, folder / files[-1])
    atomic.write_file(folder / NAME, json.dumps({"state": state, "files": files}).encode())
    _remove_others(folder, "step-", files)


def load(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """(tensors on the CPU, state) of the last complete checkpoint, None if there is none.

    Raises:
        InputError: a file is missing or damaged.
    """
    path = folder / NAME
    if not path.exists():
        return None
    files, state = _about(path)
    return _joined([_load_shard(folder / name) for name in files]), state


def finished(folder: Path) -> bool:
    """Whether the training in `folder` is done. Raises InputError as `load`."""
    return (folder / NAME).exists() and bool(state_of(folder)["done"])


def state_of(folder: Path) -> dict[str, Any]:
    """Where the training in `folder` stands by its last checkpoint. Raises InputError as `load`."""
    return _about(folder / NAME)[1]


def save_tensors(tensors: dict[str, Tensor], path: Path, step: int) -> None:
    """`path`, and files beside it that it names: all of it complete, or what was there before."""
    first, *others = _shards(tensors) or [{}]
    more = [f"{path.stem}-{step:07d}-{number}{path.suffix}" for number, _ in enumerate(others, 1)]
    for name, shard in zip(more, others, strict=True):
        _save_shard(shard, path.with_name(name))
    _save_shard(first, path, {"more": json.dumps(more)})
    _remove_others(path.parent, f"{path.stem}-", more)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """What `save_tensors` wrote, on the CPU.

    Raises:
        InputError: a file is missing or damaged.
    """
    return _joined([_load_shard(file) for file in (path, *_others(path))])


def check_tensors(path: Path) -> None:
    """Whether what `save_tensors` wrote is there, and as long as it says; numbers are not looked at.

    Raises:
        InputError: a file is missing or damaged.
    """
    for file in _others(path):
        _others(file)


def _others(path: Path) -> list[Path]:
    """The further files that the first one names, from its header."""
    try:
        with safe_open(path, "pt") as file:
            return [path.with_name(name) for name in json.loads((file.metadata() or {}).get("more", "[]"))]
    except Exception as error:  # noqa: BLE001 - safetensors raises errors of its own
        raise _unreadable(path, error) from None


def _about(path: Path) -> tuple[list[str], dict[str, Any]]:
    """The files and the state of a checkpoint.json."""
    try:
        about = json.loads(path.read_text("utf-8"))
        files, state = list(map(str, about["files"])), dict(about["state"])
        state["done"] = bool(state["done"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(path, error) from None
    return files, state


def _unreadable(path: Path, error: Exception) -> InputError:
    return InputError(f"{path}: the checkpoint cannot be read ({error}); remove {path.parent} to begin again")


def _load_shard(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except Exception as error:  # noqa: BLE001 - safetensors raises errors of its own
        raise _unreadable(path, error) from None
    return found


def _save_shard(tensors: dict[str, Tensor], path: Path, about: dict[str, str] | None = None) -> None:
    temporary = path.with_name(f".{path.name}.partial")
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(copies, temporary, about)
        atomic.publish_file(temporary, path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"{path}: writing failed ({error}); make room there, then run the same command again"
        ) from error


def _remove_others(folder: Path, start: str, files: list[str]) -> None:
    """Files of earlier checkpoints, and what a kill left half-written."""
    for path in (*folder.glob(f"{start}*.safetensors"), *folder.glob(f".{start}*.partial")):
        if path.name not in files:
            path.unlink()


def _shards(tensors: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors in order, a new file begun before `SHARD_BYTES` are passed."""
    shards: list[dict[str, Tensor]] = []
    size = 0
    for name, tensor in _parts(tensors):
        if not shards or size + _weight(tensor) > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += _weight(tensor)
    return shards


def _weight(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _parts(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in order, those that no file could hold in parts."""
    for name, tensor in tensors.items():
        if tensor.ndim == 0 or _weight(tensor) <= SHARD_BYTES:
            yield name, tensor
            continue
        rows = max(1, SHARD_BYTES * len(tensor) // _weight(tensor))
        yield from ((f"{name}{PART}{number}", part) for number, part in enumerate(torch.split(tensor, rows)))


def _joined(shards: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all files, parts put together."""
    found: dict[str, Tensor] = {}
    parts: dict[str, dict[int, Tensor]] = {}
    for name, tensor in (entry for shard in shards for entry in shard.items()):
        whole, cut, number = name.partition(PART)
        if cut:
            parts.setdefault(whole, {})[int(number)] = tensor
        else:
            found[name] = tensor
    return found | {name: torch.cat([some[i] for i in range(len(some))]) for name, some in parts.items()}


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
