"""An adapter's GGUF file, looked at before llama.cpp is asked: what it would misread, or end the process for.

llama.cpp compares rows and columns with the base's and takes the rest for granted: that texts are texts, that matrices
have two dimensions and a type that its kernels multiply with. What it passes over (norms), or does only in its own
server (adapters that begin at certain tokens), would be another computation than the trained one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from corella_edge_runtime.llm.llama.gguf_head import F32, TEXT, U32, GgufHead, counts, entries, read_head, shown, tensor

MAX_RANK = 4096
MAX_ALPHA = 65536.0  # times the largest weight of a request it is still far from what a float32 holds
_ALIGNMENT, _NVFP4 = 32, 40
_NAME = re.compile(rb"(blk\.\d{1,3}\.(?:attn_(?:q|k|v|output)|ffn_(?:gate|up|down))\.weight)\.lora_([ab])")
# Numbers of GGUF's types of tensors → ours, and numpy's.
_TYPES: dict[int, tuple[str, np.dtype[Any]]] = {0: ("F32", np.dtype("<f4")), 1: ("F16", np.dtype("<f2"))}
_ALPHA = "adapter.lora.alpha"
# Key → the value type that is taken for granted, and the values that are served; none: the key may not be there.
_ONLY: dict[str, tuple[int, tuple[Any, ...]]] = {
    "general.type": (TEXT, (b"adapter",)), "adapter.type": (TEXT, (b"lora",)),
    "general.alignment": (U32, (_ALIGNMENT,)), "adapter.alora.invocation_tokens": (0, ()), "split.count": (0, ()),
}  # fmt: skip
_NEEDED = ("general.type", "adapter.type", "general.architecture", _ALPHA)


@dataclass(frozen=True, slots=True)
class AdapterBase:
    """What an adapter has to fit.

    Attributes:
        shapes: tensor → numbers in a row, rows; of two dimensions alone. Matrices in NVFP4 with a scale of their own
            are left out: llama.cpp ends the process where an adapter changes them.
    """

    architecture: bytes
    shapes: Mapping[bytes, tuple[int, int]]


def base_of(path: Path) -> AdapterBase:
    """Of a model's file. Raises BundleError: its head cannot be read."""
    return read_head(path, _base)


def check_adapter(path: Path, base: AdapterBase) -> frozenset[str]:
    """The types of its matrices, names of `dangers.TYPES`.

    Raises:
        BundleError: it is no LoRA of that base, or has what llama.cpp would misread or end the process for; names it.
    """
    return read_head(path, lambda head: _check(head, base), "an adapter")


def _base(head: GgufHead) -> AdapterBase:
    tensors, keys = counts(head)
    _, architecture = entries(head, keys).get("general.architecture", (0, b""))
    found = [tensor(head) for _ in range(tensors)]
    scaled = {name.removesuffix(b".scale") + b".weight" for name, *_ in found if name.endswith(b".scale")}
    return AdapterBase(
        architecture,
        {name: (shape[0], shape[1]) for name, shape, kind, _ in found
         if len(shape) == 2 and not (kind == _NVFP4 and name in scaled)},
    )  # fmt: skip


def _check(head: GgufHead, base: AdapterBase) -> frozenset[str]:
    tensors, keys = counts(head)
    _check_keys(entries(head, keys), base.architecture)
    found: dict[bytes, tuple[list[int], int, int]] = {}
    for _ in range(tensors):
        name, shape, kind, offset = tensor(head)
        if name in found or not _NAME.fullmatch(name):
            raise ValueError(f"the tensor {shown(name)} is {'there twice' if name in found else 'of no known matrix'}")
        found[name] = shape, kind, offset
    _check_pairs({name: shape for name, (shape, *_) in found.items()}, base)
    start = -(-head.place // _ALIGNMENT) * _ALIGNMENT
    return frozenset(_check_numbers(head, start, name, *rest) for name, rest in found.items())


def _check_keys(pairs: Mapping[str, tuple[int, Any]], architecture: bytes) -> None:
    for key in _NEEDED:
        if key not in pairs:
            raise ValueError(f"it lacks {key}")
    for key, (kind, values) in _ONLY.items():
        if key in pairs and (pairs[key][0] != kind or pairs[key][1] not in values):
            raise ValueError(f"{key} is {shown(pairs[key][1])}")
    kind, own = pairs["general.architecture"]
    if kind != TEXT or own != architecture:
        raise ValueError(f"its architecture is {shown(own)}, the model's is {shown(architecture)}")
    kind, alpha = pairs[_ALPHA]
    if kind != F32 or not 0.0 < alpha <= MAX_ALPHA:
        raise ValueError(f"{_ALPHA} is {shown(alpha)}")


def _check_pairs(shapes: Mapping[bytes, list[int]], base: AdapterBase) -> None:
    """Of each matrix both factors: lora_a with as many rows as lora_b has columns, together of the matrix's shape."""
    if not shapes:
        raise ValueError("it holds no matrix")
    for stem in dict.fromkeys(name[: -len(b".lora_a")] for name in shapes):
        a, b = (shapes.get(stem + end) for end in (b".lora_a", b".lora_b"))
        if a is None or b is None:
            raise ValueError(f"{shown(stem)} has one factor of two")
        if len(a) != 2 or len(b) != 2 or a[1] != b[0] or not 1 <= b[0] <= MAX_RANK:
            raise ValueError(f"the factors of {shown(stem)} have the shapes {a} and {b}")
        if base.shapes.get(stem) != (a[0], b[1]):
            raise ValueError(f"{shown(stem)} is changed in {(a[0], b[1])}, the model has {base.shapes.get(stem)} there")


def _check_numbers(head: GgufHead, start: int, name: bytes, shape: list[int], kind: int, offset: int) -> str:
    """The name of a tensor's type; its numbers are there, and finite: one that is not would spoil every answer."""
    if kind not in _TYPES:
        raise ValueError(f"the tensor {shown(name)} is of the type {kind}, not F32 or F16")
    own, dtype = _TYPES[kind]
    count = math.prod(shape)
    if offset % _ALIGNMENT or start + offset + count * dtype.itemsize > len(head.raw):
        raise ValueError(f"the numbers of {shown(name)} are not where the file says")
    if not np.isfinite(np.frombuffer(head.raw, dtype, count, start + offset)).all():
        raise ValueError(f"the tensor {shown(name)} holds a number that is not finite")
    return own
