"""A GGUF file's head, looked at before llama.cpp is asked: what its assertions would end the process for is an error.

llama.cpp checks sizes and places in a file itself, and the types of most values. It trusts that the tokens differ, that
the numbers of a model fit each other, and that its kernels know the type of each tensor. A key that is not named here
is none of its dangers and passes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corella_edge_runtime.llm.llama.gguf_head import (
    F32,
    I32,
    MAX_SIZE,
    TEXT,
    U32,
    GgufHead,
    counts,
    entries,
    plain,
    read_head,
    shown,
    tensor,
)

MAX_BLOCKS = 512
# What was held against transformers (docs/checkpoints.md). Of others nobody looked for the assertions.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3")
_COUNTS = ("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
           "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
           "rope.dimension_count")  # fmt: skip
_EPSILON, _BASE = "attention.layer_norm_rms_epsilon", "rope.freq_base"
_TOKENIZER = "tokenizer.ggml"
_TOKENS, _BYTES = f"{_TOKENIZER}.tokens", [f"<0x{byte:02X}>".encode() for byte in range(256)]
# Key → the value type that is taken for granted here or there, of an array's entries for negative ones. Those of the
# architecture stand without its name.
_TYPES = {
    **dict.fromkeys(_COUNTS, U32), _EPSILON: F32, _BASE: F32, "general.architecture": TEXT,
    f"{_TOKENIZER}.model": TEXT, f"{_TOKENIZER}.pre": TEXT, _TOKENS: -TEXT, f"{_TOKENIZER}.merges": -TEXT,
    f"{_TOKENIZER}.token_type": -I32, f"{_TOKENIZER}.scores": -F32,
}  # fmt: skip
# Key → the only values that are served, and what any other means: an assertion, or a computation that is another one.
_EXPERTS = ((0,), "it is a mixture of experts")
_ONLY: dict[str, tuple[tuple[Any, ...], str]] = {
    "general.type": ((b"model",), "it is no whole model"),
    "split.count": ((0, 1), "it is one part of several; join them (llama-gguf-split --merge)"),
    "expert_count": _EXPERTS, "expert_used_count": _EXPERTS, "expert_group_count": _EXPERTS,
    "nextn_predict_layers": ((0,), "it has blocks that predict several tokens"),
    "attention.causal": ((True,), "its attention looks ahead, so that it predicts no next token"),
    "pooling_type": ((0,), "it is a model of embeddings"),
    "classifier.output_labels": ((), "it is a classifier"),
    "rope.scaling.type": ((b"none", b"linear", b"yarn"), "its positions are scaled in another way"),
    **dict.fromkeys(("embedding_length_out", "attention.key_length_swa", "attention.value_length_swa",
                     "rope.dimension_count_swa"), ((), "its blocks differ in size")),
}  # fmt: skip
# What may be of any type that llama.cpp multiplies with; norms, biases and factors are F32.
_MATRIX = re.compile(rb"(token_embd|output|blk\.\d{1,3}\.(attn_(q|k|v|qkv|output)|ffn_(gate|up|down)))\.weight")
_F32_TENSOR = 0
# Types that llama.cpp can multiply with, by their numbers: floats, and the quantised ones that files are made of.
TYPES = {
    _F32_TENSOR: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
    40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
}  # fmt: skip


def check_gguf(path: Path) -> frozenset[str]:
    """The types of a file's matrices, names of `TYPES`.

    Raises:
        BundleError: it is none of `ARCHITECTURES`, or has what llama.cpp would end the process for; names it.
    """
    return read_head(path, _check)


def metadata(path: Path) -> dict[str, Any]:
    """Key → value of any model's file, texts as bytes; an array of numbers as how many there are, a range.

    Raises:
        BundleError: the head cannot be read.
    """
    return read_head(path, lambda head: {key: value for key, (_, value) in entries(head, counts(head)[1]).items()})


def matrices_in(path: Path) -> tuple[frozenset[str], int]:
    """The types of the matrices of any model's file, whether or not a bundle may hold it, and their shortest row.

    Raises:
        BundleError: the head cannot be read, or holds a type that llama.cpp cannot multiply with.
    """
    return read_head(path, _matrices_in)


def weights_in(path: Path) -> list[tuple[str, str, int]]:
    """Of each matrix of any model's file: its name, the name of its type, how many numbers it holds.

    Raises:
        BundleError: see `matrices_in`.
    """
    return read_head(path, lambda head: [(name, kind, math.prod(shape)) for name, kind, shape in _matrices(head)])


def _matrices_in(head: GgufHead) -> tuple[frozenset[str], int]:
    found = _matrices(head)
    return frozenset(kind for _, kind, _ in found), min((shape[0] for *_, shape in found), default=0)


def _matrices(head: GgufHead) -> list[tuple[str, str, list[int]]]:
    """Of each matrix: its name, the name of its type, its shape."""
    tensors, keys = counts(head)
    for _ in range(keys):
        plain(head.text())
        head.value(head.take("I"))
    found = [tensor(head) for _ in range(tensors)]
    return [(name.decode("utf-8", "replace"), _type_of(name, kind), shape) for name, shape, kind, _ in found
            if len(shape) > 1]  # fmt: skip


def _type_of(name: bytes, kind: int) -> str:
    if kind not in TYPES:
        raise ValueError(f"the tensor {shown(name)} is of the type {kind}")
    return TYPES[kind]


def _check(head: GgufHead) -> frozenset[str]:
    tensors, keys = counts(head)
    pairs = entries(head, keys)
    architecture = _architecture(pairs)
    found = {key.removeprefix(f"{architecture}."): value for key, value in _of_their_types(architecture, pairs).items()}
    for key, (values, meaning) in _ONLY.items():
        if key in found and found[key] not in values:
            raise ValueError(f"{meaning} ({key})")
    _check_numbers(architecture, found)
    _check_vocabulary(found)
    kinds = [_check_tensor(head) for _ in range(tensors)]
    return frozenset(kind for kind in kinds if kind)


def _architecture(pairs: Mapping[str, tuple[int, Any]]) -> str:
    _, value = pairs.get("general.architecture", (0, None))
    name = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if name not in ARCHITECTURES:
        raise ValueError(f"its architecture is {shown(name)}, known are {', '.join(ARCHITECTURES)}")
    return str(name)


def _of_their_types(architecture: str, pairs: Mapping[str, tuple[int, Any]]) -> dict[str, Any]:
    """The values alone, where each that is looked at is of the type that is taken for granted."""
    for key, (kind, _) in pairs.items():
        if _TYPES.get(key.removeprefix(f"{architecture}."), kind) != kind:
            raise ValueError(f"the key {shown(key)} is of another type")
    return {key: value for key, (_, value) in pairs.items()}


def _check_numbers(architecture: str, found: Mapping[str, Any]) -> None:
    for name in _COUNTS:
        value = found.get(name, 1)
        if not 1 <= value <= (MAX_BLOCKS if name == "block_count" else MAX_SIZE):
            raise ValueError(f"its {name} is {value}")
    for name in ("embedding_length", "block_count", "attention.head_count"):
        if name not in found:
            raise ValueError(f"it lacks {architecture}.{name}")
    heads, width = found["attention.head_count"], found["embedding_length"]
    key = found.get("attention.key_length", width // heads)
    sizes = {key, found.get("attention.value_length", width // heads), found.get("rope.dimension_count", key)}
    if heads % found.get("attention.head_count_kv", heads) or len(sizes) > 1 or key < 2 or key % 2:
        raise ValueError("its numbers of heads and their sizes do not fit each other")
    if not 0.0 < found.get(_EPSILON, math.nan) < 1.0 or not 1.0 <= found.get(_BASE, 1.0) <= 1e12:
        raise ValueError("its layer_norm_rms_epsilon or rope.freq_base is out of range")


def _check_vocabulary(found: Mapping[str, Any]) -> None:
    tokens = [_read_by_llama(i, token) for i, token in enumerate(found.get(_TOKENS, []))]
    kind = found.get(f"{_TOKENIZER}.model")
    if kind not in (b"gpt2", b"llama") or not tokens:
        raise ValueError(f"a tokenizer of the kind {shown(kind)} with {len(tokens)} tokens")
    if len(set(tokens)) != len(tokens):
        raise ValueError("two of its tokens are alike")
    for name in ("token_type", "scores"):
        if len(found.get(f"{_TOKENIZER}.{name}", tokens)) != len(tokens):
            raise ValueError(f"not as many {name} entries as tokens")
    # What no token stands for is written in bytes.
    if kind == b"llama" and not set(_BYTES) <= set(tokens):
        raise ValueError("it lacks a token for each byte")


def _read_by_llama(place: int, token: bytes) -> bytes:
    """A token as llama.cpp has it: up to the first NUL, and an empty one under a name."""
    return token.split(b"\0", 1)[0] or b"[EMPTY_%d]" % place


def _check_tensor(head: GgufHead) -> str:
    """The type of a matrix; empty for a norm, a bias or factors."""
    name, _, kind, _ = tensor(head)
    if _MATRIX.fullmatch(name):
        return _type_of(name, kind)
    if kind != _F32_TENSOR:
        raise ValueError(f"the tensor {shown(name)} is of the type {TYPES.get(kind, kind)}, not F32")
    return ""
