"""The models that are measured: random weights of two known shapes with fixed seeds, and a trained one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from corella_edge.errors import InputError
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.training.run import Run
from corella_edge_runtime.llm.llama.binding import quantize
from harness.vocabulary import MERGES, SPECIAL, filler_tokenizer, filler_tokens

TYPES = ("F16", "BF16", "Q8_0", "Q4_0")
SEED = 7
CONTEXT = 2048
# SmolLM2-135M and Qwen2.5-0.5B as their configurations give them.
LLAMA_135M = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "intermediate_size": 1536, "vocab_size": 49152, "tie_word_embeddings": True, "rope_theta": 100000.0,
    "rms_norm_eps": 1e-5, "max_position_embeddings": CONTEXT,
}  # fmt: skip
QWEN_05B = {
    "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    "intermediate_size": 4864, "vocab_size": 151936, "tie_word_embeddings": True, "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-6, "max_position_embeddings": CONTEXT,
}  # fmt: skip


@dataclass(frozen=True)
class Subject:
    """One model under measurement.

    Attributes:
        reference: the transformers model in float32, whose weights the files hold.
        files: GGUF type → file.
        blocks: parameters outside the embedding, each multiplied once a token.
    """

    name: str
    reference: Any
    files: dict[str, Path]
    blocks: int
    vocab: int

    @property
    def layers(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the matrices of one layer."""
        layer = self.reference.model.layers[0]
        return [(m.in_features, m.out_features) for m in layer.modules() if isinstance(m, torch.nn.Linear)]


def subject(name: str, work: Path, types: Sequence[str], trained: Path | None, data: Path | None) -> Subject:
    """Make a model and its files in `work`, or take the files that an earlier run has left there.

    Raises:
        InputError: an unknown name, or "trained" without --trained.
    """
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    model = _reference(name, trained, data)
    model.eval()
    files = {"F16": folder / "F16.gguf"}
    if name == "trained" or not files["F16"].exists():
        write_file(model, folder / "partial.gguf", name)
        (folder / "partial.gguf").rename(files["F16"])
    for kind in types:
        files[kind] = folder / f"{kind}.gguf"
        if name == "trained" or not files[kind].exists():
            _quantize(files["F16"], files[kind], kind)
    blocks = sum(p.numel() for key, p in model.named_parameters() if "embed" not in key and "lm_head" not in key)
    return Subject(name, model, {kind: files[kind] for kind in types}, blocks, model.config.vocab_size)


def _quantize(source: Path, target: Path, kind: str) -> None:
    if source != target:
        partial = target.with_suffix(".partial")
        quantize(source, partial, kind)
        partial.rename(target)


def _reference(name: str, trained: Path | None, data: Path | None) -> Any:
    if name == "135m":
        return _random(LlamaForCausalLM, LlamaConfig(**LLAMA_135M))
    if name == "0.5b":
        return _random(Qwen2ForCausalLM, Qwen2Config(**QWEN_05B))
    if name != "trained":
        raise InputError(f"--models {name!r}: known are 135m, 0.5b and trained")
    if trained is None:
        raise InputError("--models trained: give the bundle or run with --trained DIR")
    return _trained(trained, data)


def _random(kind: Any, config: Any) -> Any:
    torch.manual_seed(SEED)
    model = kind(config)
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if key.endswith("bias"):  # zeros would hide a bias that a file has lost
                tensor.normal_(0.0, 0.1)
    return model


def _trained(folder: Path, data: Path | None) -> Any:
    """A bundle's model as its file holds it (weights of a quantised file are those it decodes to), or a run's."""
    if (folder / "manifest.json").is_file():
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file="llm.gguf", dtype=torch.float32)
    if data is None:
        raise InputError(f"--trained {folder}: not a bundle; for a run, give its prepared data with --data DIR")
    return Run.open(folder, PreparedData.open(data)).llm()


def write_file(model: Any, path: Path, name: str) -> None:
    """A Llama or Qwen2 of transformers as an F16 file with a filler vocabulary."""
    config = model.config
    if config.model_type == "qwen2":
        _write_qwen(model, path, name)
    else:
        write_gguf(model, filler_tokenizer(config.vocab_size), path, name, None, CONTEXT)


def _write_qwen(model: Any, path: Path, name: str) -> None:
    """Qwen2 as llama.cpp wants it: rotation by halves as in transformers, so rows keep their order."""
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    writer = gguf.GGUFWriter(path, "qwen2")
    try:
        _qwen_header(writer, config, name)
        for key, tensor in model.state_dict().items():
            if key != "lm_head.weight":  # tied
                values = tensor.float().numpy()
                writer.add_tensor(
                    names.get_name(key, try_suffixes=(".weight", ".bias")),
                    values.astype(np.float16) if values.ndim > 1 else values,
                )
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _qwen_header(writer: Any, config: Any, name: str) -> None:
    writer.add_name(name)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(float(config.rope_theta))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(int(gguf.LlamaFileType.MOSTLY_F16))
    tokens = filler_tokens(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    writer.add_token_types([control if token in SPECIAL else normal for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in MERGES])
    writer.add_eos_token_id(2)
