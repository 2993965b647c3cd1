"""What LoRA training has learned → a GGUF adapter, llama.cpp's form of it, beside the model that it was trained on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from corella_edge.errors import ExportError
from corella_edge_export.llm.architectures import ARCHITECTURES
from corella_edge_export.llm.model import plain
from corella_edge_export.llm.to_gguf import Array, gguf_name, interleave_heads

_ADAPTER = "default"  # peft's name of the one that training adds
_PART = re.compile(rf"base_model\.model\.(.+)\.lora_([AB])\.{_ADAPTER}\.weight")


def write_adapter(model: Any, path: Path, name: str) -> None:
    """Write `path`: both factors of every adapted matrix, in f16.

    The base's converter reorders rows of queries and keys for llama.cpp; what is added to them is reordered alike,
    which concerns the second factor alone.

    Args:
        model: what `model.with_lora` made, trained.

    Raises:
        ExportError: training has changed something that an adapter cannot hold.
    """
    config, row = plain(model).config, ARCHITECTURES[plain(model).config.model_type]
    lora = model.peft_config[_ADAPTER]
    writer = gguf.GGUFWriter(path, row.name)
    try:
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(lora.lora_alpha))
        writer.add_name(name)
        for key, parameter in model.named_parameters():
            if parameter.requires_grad:  # all that training changes
                writer.add_tensor(*_factor(key, parameter.detach().float().numpy(), config, row))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _factor(key: str, values: Array, config: Any, row: Any) -> tuple[str, Array]:
    """GGUF's name and form of a factor: A [r, columns] or B [rows, r] of W + alpha / r · B A."""
    part = _PART.fullmatch(key)
    if part is None:
        raise ExportError(f"training has changed {key}, which is no LoRA of a matrix: only --adapter merged holds it")
    name, factor = gguf_name(f"{part[1]}.weight", row), part[2].lower()
    if factor == "b":
        values = interleave_heads(name, values, config, row)
    if not np.abs(values).max() <= np.finfo(np.float16).max:
        raise ExportError(f"the tensor {key} has values that f16 cannot hold")
    return f"{name}.lora_{factor}", values.astype(np.float16)
