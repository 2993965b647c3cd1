"""A checkpoint, looked at before anything is trained: its config, its files, and every number in them.

transformers goes on with random weights where some are missing, lets an adapter's file choose another model, and has
no opinion on weights that are no numbers. What it would load is decided here, by names and shapes alone.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from corella_edge.errors import InputError
from corella_edge_export.llm.architectures import ARCHITECTURES, from_version_5, problem
from corella_edge_export.llm.from_gguf import SUFFIX, GgufModel

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
ADAPTER = "adapter_config.json"
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
F16_MAX = 65504.0  # what GGUF's matrices hold
CHUNK = 1 << 24  # numbers looked at together
_POINTER = b"version https://git-lfs"
_WHOLE = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# What tools leave in front of a name, and what to do about it.
_PREFIXES = {
    "_orig_mod.": "they were saved from a compiled model; save the model inside it (`_orig_mod`) again",
    "module.": "they were saved from a parallel wrapper; save the model inside it (`module`) again",
    "base_model.model.": "they were saved with adapters around them; merge those (`merge_and_unload`) and save again",
}
_QUANTISED = "adapters are trained on whole weights: take the checkpoint as it was before, or save it dequantised"


@dataclass(frozen=True, slots=True)
class Header:
    """A tensor as its file announces it; `dtype` in safetensors' words ("BF16")."""

    name: str
    file: str
    dtype: str
    shape: tuple[int, ...]


def check(folder: Path) -> str:
    """What will be loaded from where, in one line; all numbers have been looked at.

    Raises:
        InputError: neither a GGUF file nor the folder of a whole, unquantised model with finite weights, of an
            architecture that llama.cpp computes alike.
    """
    if folder.suffix == SUFFIX:
        return _check_gguf(GgufModel(folder))
    config = read_config(folder)
    check_config(folder, config)
    files = weight_files(folder)
    headers = [header for file in files for header in read_headers(file)]
    tied = bool(model_config(folder).tie_word_embeddings)
    wrong = misfit(headers, expected(folder), tied)
    if wrong:
        raise InputError(f"{folder}: {wrong}")
    for file in files:
        for name, about in spans(file).items():
            if text := unusable(about):
                raise InputError(f"{file}: {name} {text}")
    if tied:
        _check_tied(folder, headers)
    return summary(folder, headers)


def _check_gguf(file: GgufModel) -> str:
    """The same of a GGUF file, whose numbers are looked at as they are after dequantising."""
    count, kinds = 0, sorted({tensor.tensor_type.name for tensor in file.reader.tensors})
    for name, tensor in file.tensors():
        count += tensor.numel()
        low, high = (float(value) for value in torch.aminmax(tensor))
        if text := unusable(Span(low, high, matrix=tensor.ndim > 1)):
            raise InputError(f"{file.path}: {name} {text}")
    return f"{file.path}: {len(file.reader.tensors)} tensors with {count:,} numbers ({', '.join(kinds)})"


def weight_files(folder: Path) -> list[Path]:
    """The files transformers reads. Raises InputError for none, some that the index names and are not there, or
    pointers of Git LFS in their place."""
    first = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if first is None:
        raise InputError(f"{folder}: holds no weights ({', '.join(WEIGHTS[:2])})")
    files = [first] if first.suffix != ".json" else _indexed(folder, first)
    for path in files:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                raise InputError(f"{path}: is a Git LFS pointer, not weights; `git lfs pull` fetches them")
    return files


def _indexed(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: cannot be read ({error})") from None
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(f"{index}: names no files of weights")
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        raise InputError(f"{folder}: {len(absent)} of {len(names)} weight files are missing, such as {absent[0]}")
    return [folder / name for name in names]


def read_config(folder: Path) -> dict[str, Any]:
    """config.json. Raises InputError."""
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except OSError:
        if (folder / ADAPTER).is_file():
            raise InputError(_adapter_text(folder)) from None
        raise InputError(
            f"{path}: missing; llm.path (--checkpoint) must name a Hugging Face checkpoint directory"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: expected an object")
    return config


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises InputError for an unknown architecture, quantised weights, or adapters beside the model."""
    if wrong := config_problem(config):
        raise InputError(f"{folder}/config.json: {wrong}")
    if (folder / ADAPTER).is_file():
        raise InputError(_adapter_text(folder))


def config_problem(config: Mapping[str, Any]) -> str:
    """Why a checkpoint with this config is refused; empty = it is not."""
    if (kind := config.get("model_type")) not in ARCHITECTURES:
        return f"model_type is {kind!r}, expected one of {', '.join(ARCHITECTURES)}"
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            return f"{key}: the weights are quantised{_method(config[key])}; {_QUANTISED}"
    if config.get("quantization_config", {}) is None:
        return "quantization_config is null, which transformers 4 cannot read; remove that line"
    return ""


def _method(settings: Any) -> str:
    if not isinstance(settings, Mapping) or "quant_method" not in settings:
        return ""
    bits = settings.get("bits") or (4 if settings.get("load_in_4bit") else 8 if settings.get("load_in_8bit") else None)
    return f" ({settings['quant_method']}{f', {bits} bits' if bits else ''})"


def _adapter_text(folder: Path) -> str:
    try:
        base = json.loads((folder / ADAPTER).read_text("utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = "their base"
    if not any((folder / name).is_file() for name in WEIGHTS):
        return (
            f"{folder}: holds adapters of peft ({ADAPTER}) and no model; merge them into {base} "
            "(`merge_and_unload`, then `save_pretrained`) and name the merged model's folder"
        )
    return (
        f"{folder}/{ADAPTER}: stands beside a model's weights, and transformers would load {base} instead of them; "
        "where the adapters are merged, move their files elsewhere, else merge them first"
    )


def model_config(folder: Path) -> Any:
    """The config of transformers for a folder or a GGUF file, also for a folder that transformers 5 saved.

    Raises:
        InputError: it cannot be read, or has a setting that llama.cpp has no counterpart for.
    """
    from transformers import AutoConfig

    if folder.suffix == SUFFIX:
        return GgufModel(folder).config()
    try:
        told = from_version_5(read_config(folder))
        config = AutoConfig.for_model(told.pop("model_type"), **told)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{folder}/config.json: cannot be read ({str(error).splitlines()[0]})") from None
    if why := problem(config):
        raise InputError(f"{folder}/config.json: {why}")
    return config


def expected(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of the architecture's tensors, by transformers itself; no memory is taken. Raises InputError."""
    from transformers import AutoModelForCausalLM

    config = model_config(folder)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(f"{folder}/config.json: makes no model ({str(error).splitlines()[0]})") from None
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def read_headers(path: Path) -> list[Header]:
    """The tensors of a file, without their numbers. Raises InputError for a file that is damaged or cut off."""
    with _Opened(path) as tensors:
        return [Header(name, path.name, *tensors.about(name)) for name in tensors.names]


def misfit(headers: Sequence[Header], shapes: Mapping[str, tuple[int, ...]], tied: bool) -> str:
    """Why files with these headers are not the whole model of these shapes; empty = they are.

    A tied head may be left out, and with it the `model.` before every name, as `LlamaModel` is saved; old checkpoints'
    rotary tables are passed over.
    """
    if EMBEDDINGS.removeprefix("model.") in {header.name for header in headers}:
        shapes = {name.removeprefix("model."): shape for name, shape in shapes.items()}
    found = {header.name: header for header in headers if not header.name.endswith("rotary_emb.inv_freq")}
    if packed := next((h for h in found.values() if h.dtype not in _WHOLE), None):
        return f"{packed.file}: {packed.name} is stored as {packed.dtype}, so quantised; {_QUANTISED}"
    twice = [name for name, count in Counter(header.name for header in headers).items() if count > 1]
    if twice:
        return f"{twice[0]} stands in more than one of the weight files; remove those that are left over"
    absent = [name for name in shapes if name not in found and not (tied and name == HEAD)]
    other = [name for name in found if name not in shapes]
    if absent or other:
        return _names_text(absent, other, found)
    for name, header in found.items():
        if header.shape != shapes[name]:
            wanted = f"config.json asks for {list(shapes[name])}"
            return f"its weights do not fit config.json: {header.file}: {name} is {list(header.shape)}, {wanted}"
    return ""


def _names_text(absent: Sequence[str], other: Sequence[str], found: Mapping[str, Header]) -> str:
    """What is missing and what is there instead, with the reason where the names tell it."""
    parts = [f"{len(absent)} of them are missing, such as {absent[0]}"] if absent else []
    if other:
        first = found[other[0]]
        parts.append(f"{len(other)} have no place in the model, such as {first.name} in {first.file}")
    start = next((prefix for prefix in _PREFIXES if other and other[0].startswith(prefix)), None)
    text = f"its weights do not fit config.json: {' and '.join(parts)}"
    return f"{text}: {_PREFIXES[start]}" if start else f"{text}; save the whole model again with `save_pretrained`"


@dataclass(frozen=True, slots=True)
class Span:
    """The least and the greatest number of a tensor, nan where there is one; `matrix` = it has two dimensions."""

    low: float
    high: float
    matrix: bool


def unusable(span: Span) -> str:
    """Why a tensor with these numbers cannot be trained on or exported; empty = it can."""
    if not (math.isfinite(span.low) and math.isfinite(span.high)):
        worst = next(value for value in (span.low, span.high) if not math.isfinite(value))
        return f"has numbers that are not finite ({worst}), so no answer would be one; take an undamaged checkpoint"
    if span.matrix and max(-span.low, span.high) > F16_MAX:
        return f"has {max(-span.low, span.high):.3g}, more than the {F16_MAX:.0f} that GGUF's f16 can hold"
    return ""


def spans(path: Path) -> dict[str, Span]:
    """Of every tensor of a file, by one pass over it; looked at once as long as the file stays the same."""
    state = path.stat()
    return _spans(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _spans(path: Path, _size: int, _changed: int) -> dict[str, Span]:
    with _Opened(path) as tensors:
        return {name: _span(tensors, name) for name in tensors.names}


def _span(tensors: _Opened, name: str) -> Span:
    ends = [torch.aminmax(chunk) for chunk in tensors.chunks(name) if chunk.numel()]
    if not ends:
        return Span(0.0, 0.0, matrix=False)
    low, high = (torch.stack(values).float() for values in zip(*ends, strict=True))
    return Span(float(low.min()), float(high.max()), matrix=len(tensors.about(name)[1]) > 1)


def _check_tied(folder: Path, headers: Sequence[Header]) -> None:
    """Raises InputError if the files hold a head of its own, which transformers would replace by the embeddings."""
    files = {header.name: folder / header.file for header in headers}
    if HEAD not in files:
        return
    with _Opened(files[HEAD]) as one, _Opened(files[EMBEDDINGS]) as other:
        pairs = zip(one.chunks(HEAD), other.chunks(EMBEDDINGS), strict=True)
        if not all(torch.equal(head.float(), embeddings.float()) for head, embeddings in pairs):
            raise InputError(
                f"{files[HEAD]}: {HEAD} differs from {EMBEDDINGS}, but config.json ties them; "
                "set tie_word_embeddings to false there, or leave the head out"
            )


def summary(folder: Path, headers: Sequence[Header]) -> str:
    """One line: how many numbers of which kinds come from which files, and which files of weights are not read."""
    files = list(dict.fromkeys(header.file for header in headers))
    kinds = ", ".join(sorted({_WHOLE.get(header.dtype, header.dtype) for header in headers}))
    count = sum(math.prod(header.shape) for header in headers)
    stored = {path.name for suffix in ("*.safetensors", "*.bin", "*.gguf") for path in folder.glob(suffix)}
    aside = sorted(stored - {*files, "training_args.bin"})
    shown = files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} to {files[-1]}"
    more = f"; not read: {', '.join(aside)}" if aside else ""
    return f"{folder}: {len(headers)} tensors with {count:,} numbers ({kinds}) from {shown}{more}"


class _Opened:
    """The tensors of one file, read by pieces: a safetensors file, or torch's pickle without code in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._loaded: dict[str, Tensor] = {}

    def __enter__(self) -> _Opened:
        try:
            if self.path.suffix == ".safetensors":
                self._file = safe_open(self.path, "pt").__enter__()  # type: ignore[no-untyped-call]
            else:
                mapped = zipfile.is_zipfile(self.path)
                self._loaded = torch.load(self.path, map_location="cpu", mmap=mapped, weights_only=True)
                if not all(isinstance(tensor, Tensor) for tensor in self._loaded.values()):
                    raise ValueError("it holds more than tensors by name")
        except Exception as error:  # noqa: BLE001 - safetensors, torch and pickle raise errors of their own
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self.path}: cannot be read ({why}); fetch or save it again") from None
        return self

    def __exit__(self, *about: object) -> None:
        if self._file is not None:
            self._file.__exit__(*about)

    @property
    def names(self) -> list[str]:
        return list(self._loaded if self._file is None else self._file.keys())

    def about(self, name: str) -> tuple[str, tuple[int, ...]]:
        """(dtype, shape) of a tensor."""
        if self._file is None:
            tensor = self._loaded[name]
            words = {f"torch.{word}": short for short, word in _WHOLE.items()}
            return words.get(str(tensor.dtype), str(tensor.dtype)), tuple(tensor.shape)
        piece = self._file.get_slice(name)
        return str(piece.get_dtype()), tuple(piece.get_shape())

    def chunks(self, name: str) -> Iterator[Tensor]:
        """A tensor's rows in order, few enough at a time."""
        shape = self.about(name)[1]
        whole = self._file.get_slice(name) if self._file is not None and shape else None
        if whole is None:
            yield self._loaded[name] if self._file is None else self._file.get_tensor(name)
            return
        rows = max(1, CHUNK // max(1, math.prod(shape[1:])))
        for start in range(0, shape[0], rows):
            yield whole[start : start + rows]
