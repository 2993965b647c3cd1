"""A GGUF file's head, looked at before llama.cpp is asked: what its assertions would end the process for is an error.

llama.cpp checks sizes and places in a file itself. It trusts that the tokens differ, that the numbers of a Llama fit
each other, and that its kernels know the type of each tensor. Files of `export` hold nothing else than is known here.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from corella_edge.errors import BundleError

T = TypeVar("T")
VERSION = 3
MAX_KEYS, MAX_TENSORS, MAX_BLOCKS, MAX_SIZE = 1000, 10_000, 512, 2**24
# Numbers of GGUF's value types.
_U32, _I32, _F32, _BOOL, _TEXT, _ARRAY = 4, 5, 6, 7, 8, 9
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", _U32: "I", _I32: "i", _F32: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_LENGTH = struct.Struct("<Q")
_WIDTHS = {kind: struct.calcsize(f"<{form}") for kind, form in _FORMS.items()}
_NUMBERS = ("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
            "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
            "rope.dimension_count")  # fmt: skip
_TOKENIZER = "tokenizer.ggml"
_TOKENS, _BYTES = f"{_TOKENIZER}.tokens", [f"<0x{byte:02X}>".encode() for byte in range(256)]
# Key → value type, of an array's entries for negative ones.
_KNOWN = {
    **{f"llama.{name}": _U32 for name in _NUMBERS},
    **{f"llama.{name}": _F32 for name in ("rope.freq_base", "attention.layer_norm_rms_epsilon")},
    **{f"{_TOKENIZER}.{name}": _TEXT for name in ("model", "pre")},
    **{f"{_TOKENIZER}.{name}": -_TEXT for name in ("tokens", "merges")},
    f"{_TOKENIZER}.token_type": -_I32, f"{_TOKENIZER}.scores": -_F32,
    **{f"{_TOKENIZER}.{name}_token_id": _U32 for name in ("bos", "eos", "unknown", "padding")},
    **{f"{_TOKENIZER}.{name}": _BOOL for name in ("add_bos_token", "add_eos_token", "add_space_prefix")},
}  # fmt: skip
_PARTS = "attn_norm|attn_q|attn_k|attn_v|attn_output|ffn_norm|ffn_gate|ffn_up|ffn_down"
_TENSOR = re.compile(rf"(token_embd|output_norm|output|blk\.\d{{1,3}}\.({_PARTS}))\.weight".encode())
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
        BundleError: it is no Llama as `export` writes it; names what is wrong.
    """
    return _read(path, _check)


def matrices_in(path: Path) -> tuple[frozenset[str], int]:
    """The types of the matrices of any model's file, whether or not a bundle may hold it, and their shortest row.

    Raises:
        BundleError: the head cannot be read, or holds a type that llama.cpp cannot multiply with.
    """
    return _read(path, _matrices_in)


def weights_in(path: Path) -> list[tuple[str, str, int]]:
    """Of each matrix of any model's file: its name, the name of its type, how many numbers it holds.

    Raises:
        BundleError: see `matrices_in`.
    """
    return _read(path, lambda head: [(name, kind, math.prod(shape)) for name, kind, shape in _matrices(head)])


def _read(path: Path, look: Callable[[_Head], T]) -> T:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            return look(_Head(raw))
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read ({error.strerror})") from None
    except (struct.error, ValueError) as error:
        problem = "its head is cut off" if isinstance(error, struct.error) else str(error)
        raise BundleError(f"{path.name}: not a Llama that this release can run: {problem}") from None


@dataclass(slots=True)
class _Head:
    """The bytes of a file and how far they are read."""

    raw: mmap.mmap
    place: int = 0

    def take(self, form: str) -> Any:
        """One number. Raises struct.error beyond the end."""
        (value,) = struct.unpack_from(f"<{form}", self.raw, self.place)
        self.place += struct.calcsize(f"<{form}")
        return value

    def text(self) -> bytes:
        length = self.take("Q")
        start = self.place
        self.skip(length)
        return self.raw[start : self.place]

    def texts(self, count: int) -> list[bytes]:
        """As many texts one after the other; there may be hundreds of thousands."""
        raw, end, found = self.raw, len(self.raw), []
        for _ in range(count):
            start = self.place + 8
            (length,) = _LENGTH.unpack_from(raw, self.place)
            if length > end - start:
                raise struct.error
            self.place = start + length
            found.append(raw[start : self.place])
        return found

    def skip(self, length: int) -> None:
        if length > len(self.raw) - self.place:
            raise struct.error
        self.place += length

    def value(self, kind: int) -> Any:
        """A value; of an array of numbers only how many there are."""
        if kind == _TEXT:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.take("I"), self.take("Q")
            if count > MAX_SIZE or (inner != _TEXT and inner not in _WIDTHS):
                raise ValueError(f"an array of {count} values of the type {inner}")
            if inner == _TEXT:
                return -inner, self.texts(count)
            self.skip(count * _WIDTHS[inner])
            return -inner, range(count)
        if kind not in _FORMS:
            raise ValueError(f"a value is of the unknown type {kind}")
        return self.take(_FORMS[kind])


def _counts(head: _Head) -> tuple[int, int]:
    """How many tensors and keys follow."""
    if head.raw[:4] != b"GGUF":
        raise ValueError("not GGUF")
    head.skip(4)
    version, tensors, keys = head.take("I"), head.take("Q"), head.take("Q")
    if version != VERSION or keys > MAX_KEYS or tensors > MAX_TENSORS:
        raise ValueError(f"GGUF version {version} with {keys} keys and {tensors} tensors")
    return tensors, keys


def _matrices_in(head: _Head) -> tuple[frozenset[str], int]:
    found = _matrices(head)
    return frozenset(kind for _, kind, _ in found), min((shape[0] for *_, shape in found), default=0)


def _matrices(head: _Head) -> list[tuple[str, str, list[int]]]:
    """Of each matrix: its name, the name of its type, its shape."""
    tensors, keys = _counts(head)
    for _ in range(keys):
        head.text()
        head.value(head.take("I"))
    found = [_tensor(head) for _ in range(tensors)]
    return [(name.decode("utf-8", "replace"), _type_of(name, kind), shape) for name, shape, kind in found
            if len(shape) > 1]  # fmt: skip


def _tensor(head: _Head) -> tuple[bytes, list[int], int]:
    """Name, shape (numbers in a row first), number of the type."""
    name, dimensions = head.text(), head.take("I")
    shape = [head.take("Q") for _ in range(dimensions)]
    kind = head.take("I")
    head.skip(8)
    return name, shape, kind


def _type_of(name: bytes, kind: int) -> str:
    if kind not in TYPES:
        raise ValueError(f"the tensor {_shown(name)} is of the type {kind}")
    return TYPES[kind]


def _check(head: _Head) -> frozenset[str]:
    tensors, keys = _counts(head)
    found = dict(_known(head, keys))
    if found.get("general.architecture") != b"llama":
        raise ValueError(f"its architecture is {_shown(found.get('general.architecture'))}")
    _check_numbers(found)
    _check_vocabulary(found)
    kinds = [_check_tensor(head) for _ in range(tensors)]
    return frozenset(kind for kind in kinds if kind)


def _known(head: _Head, count: int) -> Iterator[tuple[str, Any]]:
    """Keys and their values; those that llama.cpp looks at, with the types it takes for granted."""
    for _ in range(count):
        key, kind = head.text().decode("ascii", "replace"), head.take("I")
        value = head.value(kind)
        if kind == _ARRAY:
            kind, value = value
        if _KNOWN.get(key) != kind and not key.startswith("general."):
            raise ValueError(f"the key {_shown(key)} is unknown or of another type")
        yield key, value


def _check_numbers(found: Mapping[str, Any]) -> None:
    for name in _NUMBERS:
        value = found.get(f"llama.{name}", 1)
        if not 1 <= value <= (MAX_BLOCKS if name == "block_count" else MAX_SIZE):
            raise ValueError(f"its {name} is {value}")
    for name in ("embedding_length", "block_count", "attention.head_count"):
        if f"llama.{name}" not in found:
            raise ValueError(f"it lacks llama.{name}")
    heads, width = found["llama.attention.head_count"], found["llama.embedding_length"]
    sizes = [found.get(f"llama.{name}", width // heads) for name in _NUMBERS[-3:]]
    if heads % found.get("llama.attention.head_count_kv", heads) or len(set(sizes)) > 1 or sizes[0] < 2 or sizes[0] % 2:
        raise ValueError("its numbers of heads and their sizes do not fit each other")
    epsilon = found.get("llama.attention.layer_norm_rms_epsilon", math.nan)
    if not 0.0 < epsilon < 1.0 or not 1.0 <= found.get("llama.rope.freq_base", 1.0) <= 1e12:
        raise ValueError("its layer_norm_rms_epsilon or rope.freq_base is out of range")


def _check_vocabulary(found: Mapping[str, Any]) -> None:
    tokens = found.get(_TOKENS, [])
    kind = found.get(f"{_TOKENIZER}.model")
    if kind not in (b"gpt2", b"llama") or not tokens:
        raise ValueError(f"a tokenizer of the kind {_shown(kind)} with {len(tokens)} tokens")
    if len(set(tokens)) != len(tokens) or b"" in tokens or any(b"\0" in token for token in tokens):
        raise ValueError("two of its tokens are alike, or one is empty")
    for name in ("token_type", "scores"):
        if len(found.get(f"{_TOKENIZER}.{name}", tokens)) != len(tokens):
            raise ValueError(f"not as many {name} entries as tokens")
    # What no token stands for is written in bytes.
    if kind == b"llama" and not set(_BYTES) <= set(tokens):
        raise ValueError("it lacks a token for each byte")


def _check_tensor(head: _Head) -> str:
    """The type of a matrix; empty for a vector."""
    name, shape, kind = _tensor(head)
    dimensions = len(shape)
    if not _TENSOR.fullmatch(name) or dimensions not in (1, 2):
        raise ValueError(f"the tensor {_shown(name)} is none of a Llama's")
    if dimensions == 1 and kind != _F32_TENSOR:
        raise ValueError(f"the tensor {_shown(name)} is of the type {kind}")
    return _type_of(name, kind) if dimensions == 2 else ""


def _shown(value: Any) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return repr(text)[:80]
