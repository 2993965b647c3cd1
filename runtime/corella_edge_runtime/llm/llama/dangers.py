"""A GGUF file's head, looked at before llama.cpp is asked: what its assertions would end the process for is an error.

llama.cpp checks sizes and places in a file itself, and the types of most values. It trusts that the tokens differ, that
the numbers of a model fit each other, and that its kernels know the type of each tensor. A key that is not named here
is none of its dangers and passes.
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from corella_edge.errors import BundleError

T = TypeVar("T")
VERSIONS = (2, 3)
MAX_KEYS, MAX_TENSORS, MAX_BLOCKS, MAX_SIZE = 1000, 10_000, 512, 2**24
# What was held against transformers (docs/checkpoints.md). Of others nobody looked for the assertions.
ARCHITECTURES = ("llama", "qwen2", "qwen3", "gemma2", "gemma3", "smollm3")
# Numbers of GGUF's value types.
_U32, _I32, _F32, _BOOL, _TEXT, _ARRAY = 4, 5, 6, 7, 8, 9
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", _U32: "I", _I32: "i", _F32: "f", _BOOL: "?", 10: "Q", 11: "q", 12: "d"}
_LENGTH = struct.Struct("<Q")
_WIDTHS = {kind: struct.calcsize(f"<{form}") for kind, form in _FORMS.items()}
_COUNTS = ("context_length", "embedding_length", "block_count", "feed_forward_length", "vocab_size",
           "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
           "rope.dimension_count")  # fmt: skip
_EPSILON, _BASE = "attention.layer_norm_rms_epsilon", "rope.freq_base"
_TOKENIZER = "tokenizer.ggml"
_TOKENS, _BYTES = f"{_TOKENIZER}.tokens", [f"<0x{byte:02X}>".encode() for byte in range(256)]
# Key → the value type that is taken for granted here or there, of an array's entries for negative ones. Those of the
# architecture stand without its name.
_TYPES = {
    **dict.fromkeys(_COUNTS, _U32), _EPSILON: _F32, _BASE: _F32, "general.architecture": _TEXT,
    f"{_TOKENIZER}.model": _TEXT, f"{_TOKENIZER}.pre": _TEXT, _TOKENS: -_TEXT, f"{_TOKENIZER}.merges": -_TEXT,
    f"{_TOKENIZER}.token_type": -_I32, f"{_TOKENIZER}.scores": -_F32,
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
_MOST_DIMENSIONS = 4
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
    return _read(path, _check)


def metadata(path: Path) -> dict[str, Any]:
    """Key → value of any model's file, texts as bytes; an array of numbers as how many there are, a range.

    Raises:
        BundleError: the head cannot be read.
    """
    return _read(path, lambda head: {key: value for key, (_, value) in _pairs(head, _counts(head)[1]).items()})


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


def _read(path: Path, look: Callable[[_GgufHead], T]) -> T:
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
            return look(_GgufHead(raw))
    except OSError as error:
        raise BundleError(f"{path.name}: cannot be read ({error.strerror})") from None
    except (struct.error, ValueError) as error:
        problem = "its head is cut off" if isinstance(error, struct.error) else str(error)
        raise BundleError(f"{path.name}: not a model that this release can run: {problem}") from None


@dataclass(slots=True)
class _GgufHead:
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


def _counts(head: _GgufHead) -> tuple[int, int]:
    """How many tensors and keys follow."""
    if head.raw[:4] != b"GGUF":
        raise ValueError("not GGUF")
    head.skip(4)
    version, tensors, keys = head.take("I"), head.take("Q"), head.take("Q")
    if version not in VERSIONS or keys > MAX_KEYS or tensors > MAX_TENSORS:
        raise ValueError(f"GGUF version {version} with {keys} keys and {tensors} tensors")
    return tensors, keys


def _matrices_in(head: _GgufHead) -> tuple[frozenset[str], int]:
    found = _matrices(head)
    return frozenset(kind for _, kind, _ in found), min((shape[0] for *_, shape in found), default=0)


def _matrices(head: _GgufHead) -> list[tuple[str, str, list[int]]]:
    """Of each matrix: its name, the name of its type, its shape."""
    tensors, keys = _counts(head)
    for _ in range(keys):
        head.text()
        head.value(head.take("I"))
    found = [_tensor(head) for _ in range(tensors)]
    return [(name.decode("utf-8", "replace"), _type_of(name, kind), shape) for name, shape, kind in found
            if len(shape) > 1]  # fmt: skip


def _tensor(head: _GgufHead) -> tuple[bytes, list[int], int]:
    """Name, shape (numbers in a row first), number of the type."""
    name, dimensions = head.text(), head.take("I")
    if not 1 <= dimensions <= _MOST_DIMENSIONS:
        raise ValueError(f"the tensor {_shown(name)} has {dimensions} dimensions")
    shape = [head.take("Q") for _ in range(dimensions)]
    kind = head.take("I")
    head.skip(8)
    return name, shape, kind


def _type_of(name: bytes, kind: int) -> str:
    if kind not in TYPES:
        raise ValueError(f"the tensor {_shown(name)} is of the type {kind}")
    return TYPES[kind]


def _check(head: _GgufHead) -> frozenset[str]:
    tensors, keys = _counts(head)
    pairs = _pairs(head, keys)
    architecture = _architecture(pairs)
    found = {key.removeprefix(f"{architecture}."): value for key, value in _of_their_types(architecture, pairs).items()}
    for key, (values, meaning) in _ONLY.items():
        if key in found and found[key] not in values:
            raise ValueError(f"{meaning} ({key})")
    _check_numbers(architecture, found)
    _check_vocabulary(found)
    kinds = [_check_tensor(head) for _ in range(tensors)]
    return frozenset(kind for kind in kinds if kind)


def _pairs(head: _GgufHead, count: int) -> dict[str, tuple[int, Any]]:
    """Key → (value type, of an array's entries negative; value)."""
    found = {}
    for _ in range(count):
        key, kind = head.text().decode("ascii", "replace"), head.take("I")
        value = head.value(kind)
        found[key] = value if kind == _ARRAY else (kind, value)
    return found


def _architecture(pairs: Mapping[str, tuple[int, Any]]) -> str:
    _, value = pairs.get("general.architecture", (0, None))
    name = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    if name not in ARCHITECTURES:
        raise ValueError(f"its architecture is {_shown(name)}, known are {', '.join(ARCHITECTURES)}")
    return str(name)


def _of_their_types(architecture: str, pairs: Mapping[str, tuple[int, Any]]) -> dict[str, Any]:
    """The values alone, where each that is looked at is of the type that is taken for granted."""
    for key, (kind, _) in pairs.items():
        if _TYPES.get(key.removeprefix(f"{architecture}."), kind) != kind:
            raise ValueError(f"the key {_shown(key)} is of another type")
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
        raise ValueError(f"a tokenizer of the kind {_shown(kind)} with {len(tokens)} tokens")
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


def _check_tensor(head: _GgufHead) -> str:
    """The type of a matrix; empty for a norm, a bias or factors."""
    name, _, kind = _tensor(head)
    if _MATRIX.fullmatch(name):
        return _type_of(name, kind)
    if kind != _F32_TENSOR:
        raise ValueError(f"the tensor {_shown(name)} is of the type {TYPES.get(kind, kind)}, not F32")
    return ""


def _shown(value: Any) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    return repr(text)[:80]
