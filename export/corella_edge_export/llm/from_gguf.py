"""A GGUF file → what transformers computes with: config, float32 weights, and a BPE of bytes or pieces as tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import torch

from corella_edge.errors import BundleError, CorellaError, InputError
from corella_edge_export.llm.architectures import (
    ARCHITECTURES,
    FACTORS,
    HEAD_SIZES,
    MODEL_TYPES,
    OUTSIDE,
    PATTERN,
    Architecture,
    head_size,
    yarn_attention,
)
from corella_edge_export.llm.to_gguf import pre_tokenizer_of
from corella_edge_runtime.llm.llama.dangers import check_gguf

Array = npt.NDArray[Any]
SUFFIX = ".gguf"
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """A file that passed `check_gguf` may still contradict itself: whatever then fails is one error that names it."""
    try:
        yield
    except CorellaError:
        raise
    except Exception as error:  # noqa: BLE001 - gguf, transformers and tokenizers raise what comes up
        why = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: cannot be read as a model ({type(error).__name__}: {why})") from None


class GgufModel:
    """One file, opened. Raises InputError for what is no model that llama.cpp and transformers both compute."""

    def __init__(self, path: Path) -> None:
        try:
            check_gguf(path)
        except BundleError as error:
            raise InputError(f"{path.parent / str(error)}") from None
        with _reading(path):
            self.path, self.reader = path, gguf.GGUFReader(path)
        self.kind = MODEL_TYPES[self.value("general.architecture")]
        self.row: Architecture = ARCHITECTURES[self.kind]

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a key as Python has it."""
        found = self.reader.fields.get(key)
        return default if found is None else found.contents()

    def config(self) -> Any:
        """The config of transformers, with the settings of the file."""
        with _reading(self.path):
            return self._config()

    def _config(self) -> Any:
        from transformers import AutoConfig

        settings = {setting: self.value(f"{self.row.name}.{key}") for setting, key in self.row.settings.items()}
        settings["head_dim"] = self.value(f"{self.row.name}.{HEAD_SIZES[0]}")
        if not settings["vocab_size"]:
            settings["vocab_size"] = len(self.value("tokenizer.ggml.tokens"))
        names = {tensor.name for tensor in self.reader.tensors}
        settings["tie_word_embeddings"] = f"{OUTSIDE['lm_head']}.weight" not in names
        settings["mlp_bias"] = "blk.0.ffn_up.bias" in names
        settings["attention_bias"] = "blk.0.attn_output.bias" in names or (
            self.kind != "qwen2" and "blk.0.attn_q.bias" in names
        )
        if self.row.windows:
            settings["layer_types"] = self._layer_types(settings["num_hidden_layers"])
        settings["rope_scaling"] = self._scaling()
        for kind in ("bos", "eos", "padding"):
            name = f"{'pad' if kind == 'padding' else kind}_token_id"
            settings[name] = self.value(f"tokenizer.ggml.{kind}_token_id")
        known = {name: value for name, value in settings.items() if value is not None or name.endswith("_id")}
        made = AutoConfig.for_model(self.kind, **known)
        if self.row.shift:
            made.query_pre_attn_scalar = head_size(made)
        return made

    def _layer_types(self, count: int) -> list[str]:
        """Which blocks look through a window: the file's pattern, or the architecture's own."""
        told = self.value(f"{self.row.name}.{PATTERN}", 2 if self.kind == "gemma2" else 6)
        sliding = list(told) if isinstance(told, list) else [i % told < told - 1 for i in range(count)]
        return ["sliding_attention" if found else "full_attention" for found in sliding]

    def _scaling(self) -> dict[str, Any] | None:
        """How positions are scaled, in transformers' words; a file's own factors come with the weights."""
        start = f"{self.row.name}.rope.scaling"
        kind, factor = self.value(f"{start}.type", "none"), self.value(f"{start}.factor")
        if kind == "none" or not factor:
            return None
        found: dict[str, Any] = {"rope_type": kind, "factor": float(factor)}
        if kind == "yarn":
            found["original_max_position_embeddings"] = self.value(f"{start}.original_context_length")
            if share := self.value(f"{start}.attn_factor"):
                found["attention_factor"] = yarn_attention(float(factor)) * float(share)
            found |= {f"beta_{name}": self.value(f"{start}.yarn_beta_{name}", usual)
                      for name, usual in (("fast", 32.0), ("slow", 1.0))}  # fmt: skip
        return found

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """(transformers' name, float32) of every weight, dequantised one by one."""
        names = self._names()
        for tensor in self.reader.tensors:
            if tensor.name == FACTORS:
                continue
            if tensor.name not in names:
                raise InputError(f"{self.path}: the tensor {tensor.name} has no place in a {self.row.name}")
            values: Array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
            yield names[tensor.name], torch.from_numpy(self._as_transformers(tensor.name, values))

    def _names(self) -> dict[str, str]:
        """GGUF's name → transformers'."""
        found = {f"{ours}.weight": f"{theirs}.weight" for theirs, ours in OUTSIDE.items()}
        for block in range(self.value(f"{self.row.name}.block_count")):
            for theirs, ours in self.row.blocks.items():
                for kind in ("weight", "bias"):
                    found[f"blk.{block}.{ours}.{kind}"] = f"model.layers.{block}.{theirs}.{kind}"
        return found

    def _as_transformers(self, name: str, values: Array) -> Array:
        part = name.split(".")[-2]
        if self.row.neighbours and part in ("attn_q", "attn_k"):
            return self._halves(values, part)
        return values - np.float32(self.row.shift) if part.endswith("norm") else values

    def _halves(self, weight: Array, part: str) -> Array:
        """The rows of each head in halves again, where the file has them in neighbouring pairs."""
        key = "attention.head_count" if part == "attn_q" else "attention.head_count_kv"
        heads = self.value(f"{self.row.name}.{key}") or self.value(f"{self.row.name}.attention.head_count")
        pairs = weight.reshape(heads, len(weight) // heads // 2, 2, *weight.shape[1:])
        return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(weight.shape))

    def model(self, dtype: torch.dtype = torch.float32) -> Any:
        """The causal model of transformers with the file's weights. Raises InputError if they are not all of it."""
        with _reading(self.path):
            return self._model(dtype)

    def _model(self, dtype: torch.dtype) -> Any:
        from transformers import AutoModelForCausalLM

        config = self.config()
        made = AutoModelForCausalLM.from_config(config, attn_implementation=self.row.attention, dtype=dtype)
        own = made.state_dict()
        wanted = {name for name in own if not (config.tie_word_embeddings and name == "lm_head.weight")}
        for name, tensor in self.tensors():
            if name not in wanted or own[name].shape != tensor.shape:
                raise InputError(f"{self.path}: {name} is none of the model's, or of another shape")
            own[name].copy_(tensor)
            wanted.discard(name)
        if wanted:
            raise InputError(f"{self.path}: lacks {len(wanted)} of the model's tensors, such as {sorted(wanted)[0]}")
        made.tie_weights()
        self._apply_factors(made)
        return made.eval()

    def _apply_factors(self, model: Any) -> None:
        """Divide each frequency by the file's own factor (Llama 3)."""
        found = next((tensor for tensor in self.reader.tensors if tensor.name == FACTORS), None)
        if found is not None:
            rope = model.model.rotary_emb
            rope.inv_freq = rope.inv_freq / torch.from_numpy(np.array(found.data, np.float32))
            rope.original_inv_freq = rope.inv_freq

    def tokenizer(self) -> Any:
        """A `PreTrainedTokenizerFast` that splits as llama.cpp does. Raises InputError if it is no BPE."""
        with _reading(self.path):
            return self._tokenizer()

    def _tokenizer(self) -> Any:
        from tokenizers import AddedToken
        from transformers import PreTrainedTokenizerFast

        words, kinds = self.value("tokenizer.ggml.tokens"), self.value("tokenizer.ggml.token_type")
        pieces = self.value("tokenizer.ggml.model") == "llama"
        made = self._of_pieces(words) if pieces else self._of_bytes(words)
        added = {gguf.TokenType.CONTROL: True, gguf.TokenType.USER_DEFINED: False}
        for word, number in zip(words, kinds or [], strict=False):
            if number in added:
                made.add_tokens([AddedToken(word, special=added[number], normalized=False)])
        special = {
            name: words[i]
            for short, name in _SPECIAL.items()
            if (i := self.value(f"tokenizer.ggml.{short}_token_id")) is not None and i < len(words)
        }
        if not self.value("tokenizer.ggml.add_bos_token", pieces):  # what llama.cpp takes for granted
            special.pop("bos_token", None)
        return PreTrainedTokenizerFast(tokenizer_object=made, **special)

    def _of_bytes(self, words: list[str]) -> Any:
        """A BPE of bytes. Raises InputError for rules of splitting that are not known."""
        from tokenizers import Tokenizer, decoders, models

        pre, kind = self.value("tokenizer.ggml.pre", ""), self.value("tokenizer.ggml.model")
        try:
            splits = pre_tokenizer_of(pre if kind == "gpt2" else kind)
        except KeyError:
            raise InputError(
                f"{self.path}: a tokenizer of the kind {kind} ({pre}) is read from no GGUF; name the Hugging Face "
                "folder that the file was made of"
            ) from None
        merges = [tuple(merge.split(" ", 1)) for merge in self.value("tokenizer.ggml.merges")]
        vocabulary = {word: i for i, word in enumerate(words)}
        made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe"))
        made.pre_tokenizer = splits
        made.decoder = decoders.ByteLevel()
        return made

    def _of_pieces(self, words: list[str]) -> Any:
        """SentencePiece's BPE: of two neighbours that make a piece, those of the highest score are joined first."""
        from tokenizers import Tokenizer, decoders, models, normalizers
        from transformers.convert_slow_tokenizer import generate_merges

        vocabulary = {word: i for i, word in enumerate(words)}
        scores = dict(zip(words, self.value("tokenizer.ggml.scores"), strict=True))
        unknown = words[self.value("tokenizer.ggml.unknown_token_id", 0)]
        made = Tokenizer(models.BPE(vocab=vocabulary, merges=generate_merges(vocabulary, scores), unk_token=unknown,
                                    fuse_unk=True, byte_fallback=True))  # fmt: skip
        first = [normalizers.Prepend("▁")] if self.value("tokenizer.ggml.add_space_prefix", True) else []
        made.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        return made
