"""A Llama of one block with random weights, written in any type, and what it computes by plain arithmetic.

Its matrices are wide enough for every kernel of llama.cpp: rows of 256 and 512 values, 128 to 512 rows.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corella_edge_runtime.llm.llama.dangers import TYPES
from corella_edge_runtime.llm.llama.library import C

Floats = npt.NDArray[np.float32]
VOCABULARY, WIDTH, INNER, HEADS, KV_HEADS, HEAD = 256, 256, 512, 4, 2, 64
CONTEXT, BASE, EPSILON = 128, 10_000.0, 1e-5
_SHAPES = {
    "token_embd": (VOCABULARY, WIDTH), "output": (VOCABULARY, WIDTH),
    "blk.0.attn_q": (HEADS * HEAD, WIDTH), "blk.0.attn_k": (KV_HEADS * HEAD, WIDTH),
    "blk.0.attn_v": (KV_HEADS * HEAD, WIDTH), "blk.0.attn_output": (WIDTH, HEADS * HEAD),
    "blk.0.ffn_gate": (INNER, WIDTH), "blk.0.ffn_up": (INNER, WIDTH), "blk.0.ffn_down": (WIDTH, INNER),
}  # fmt: skip
_NORMS = ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm")
_NUMBERS = {
    "context_length": CONTEXT, "embedding_length": WIDTH, "block_count": 1, "feed_forward_length": INNER,
    "attention.head_count": HEADS, "attention.head_count_kv": KV_HEADS, "rope.dimension_count": HEAD,
    "vocab_size": VOCABULARY, "attention.layer_norm_rms_epsilon": EPSILON, "rope.freq_base": BASE,
}  # fmt: skip
_ALIGNMENT = 32
_TO_FLOAT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


def write(path: Path, kind: str, seed: int = 0) -> dict[str, Floats]:
    """Write the model with matrices of the type `kind`, one of `gguf.TYPES`.

    Returns:
        Name → float32 [rows, columns], what the written matrices stand for.
    """
    rng = np.random.default_rng(seed)
    drawn = {name: rng.normal(0.0, shape[1] ** -0.5, shape).astype(np.float32) for name, shape in _SHAPES.items()}
    number = next(value for value, name in TYPES.items() if name == kind)
    packed = {name: _pack(values, number) for name, values in drawn.items()}
    norms = {name: (0, np.ones(WIDTH, np.float32).tobytes(), (WIDTH,)) for name in _NORMS}
    matrices = {name: (number, raw, drawn[name].shape[::-1]) for name, raw in packed.items()}
    path.write_bytes(_file({f"{name}.weight": entry for name, entry in {**norms, **matrices}.items()}))
    return {name: _unpack(raw, number, _SHAPES[name]) for name, raw in packed.items()}


def logits(weights: Mapping[str, Floats], tokens: Sequence[int]) -> npt.NDArray[np.float64]:
    """float64 [tokens, VOCABULARY]: what is said after each token, computed here."""
    w = {name.removeprefix("blk.0."): values.astype(np.float64) for name, values in weights.items()}
    x = w["token_embd"][np.asarray(tokens)]
    h = _norm(x)
    q, k, v = (_heads(h @ w[f"attn_{name}"].T) for name in "qkv")
    x = x + _attend(_turned(q), _turned(k), v) @ w["attn_output"].T
    h = _norm(x)
    gate = h @ w["ffn_gate"].T
    x = x + (gate / (1.0 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T
    result: npt.NDArray[np.float64] = _norm(x) @ w["output"].T
    return result


def _norm(x: Any) -> Any:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON)


def _heads(x: Any) -> Any:
    """[tokens, heads · size] → [heads, tokens, size]"""
    return x.reshape(len(x), -1, HEAD).transpose(1, 0, 2)


def _turned(x: Any) -> Any:
    """Rotary positions: each pair of neighbours by its own angle."""
    angle = np.arange(x.shape[1])[:, None] * BASE ** (-np.arange(0, HEAD, 2) / HEAD)
    turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angle)
    return np.stack([turned.real, turned.imag], axis=-1).reshape(x.shape)


def _attend(q: Any, k: Any, v: Any) -> Any:
    k, v = (np.repeat(part, HEADS // KV_HEADS, axis=0) for part in (k, v))
    weight = q @ k.transpose(0, 2, 1) / np.sqrt(HEAD)
    weight = np.exp(np.where(np.tri(weight.shape[-1], dtype=bool), weight, -np.inf))
    return (weight / weight.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)


def _pack(values: Floats, number: int) -> bytes:
    """float32 [rows, columns] → the bytes of the GGUF type."""
    lib, (rows, columns) = C._lib, values.shape
    lib.ggml_row_size.argtypes, lib.ggml_row_size.restype = [ctypes.c_int, ctypes.c_int64], ctypes.c_size_t
    lib.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p
    ]  # fmt: skip
    lib.ggml_quantize_chunk.restype = ctypes.c_size_t
    packed = np.zeros(rows * lib.ggml_row_size(number, columns), np.uint8)
    alike = np.ones(columns, np.float32)  # some types want to know how much each column matters
    lib.ggml_quantize_chunk(number, values.ctypes.data, packed.ctypes.data, 0, rows, columns, alike.ctypes.data)
    return packed.tobytes()


def _unpack(raw: bytes, number: int, shape: tuple[int, int]) -> Floats:
    """The values that the bytes stand for."""
    if TYPES[number] == "F32":
        return np.frombuffer(raw, np.float32).reshape(shape)
    lib, values = C._lib, np.empty(shape, np.float32)
    lib.ggml_get_type_traits.argtypes, lib.ggml_get_type_traits.restype = [ctypes.c_int], ctypes.POINTER(_Traits)
    to_float = _TO_FLOAT(lib.ggml_get_type_traits(number).contents.to_float)
    to_float(raw, values.ctypes.data, values.size)
    return values


class _Traits(ctypes.Structure):
    """struct ggml_type_traits of ggml.h."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleaved", ctypes.c_int64),
        ("size", ctypes.c_size_t),
        ("quantised", ctypes.c_bool),
        ("to_float", ctypes.c_void_p),
        ("from_float", ctypes.c_void_p),
    )


def _file(tensors: Mapping[str, tuple[int, bytes, tuple[int, ...]]]) -> bytes:
    """A GGUF file; name → type, bytes, sizes (the row's first)."""
    texts = {"general.architecture": "llama", "general.name": "tiny", "tokenizer.ggml.model": "no_vocab"}
    keys = [_text(key) + struct.pack("<I", 8) + _text(value) for key, value in texts.items()]
    keys += [_text(f"llama.{key}") + _number(value) for key, value in _NUMBERS.items()]
    head, place = [], 0
    for name, (number, raw, sizes) in tensors.items():
        head.append(_text(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, number, place))
        place += len(_padded(raw))
    start = b"GGUF" + struct.pack("<IQQ", 3, len(head), len(keys)) + b"".join(keys + head)
    return _padded(start) + b"".join(_padded(raw) for _, raw, _ in tensors.values())


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _number(value: float) -> bytes:
    return struct.pack("<II", 4, value) if isinstance(value, int) else struct.pack("<If", 6, value)


def _padded(raw: bytes) -> bytes:
    return raw + bytes(-len(raw) % _ALIGNMENT)
