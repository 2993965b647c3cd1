"""A sentence encoder → text.onnx (optimum), and what a bundle needs beside it to make vectors of new items.

Pooling, normalising and a run's projection are inside the graph: token ids and mask int64 [n, length] → "vectors"
float32 [n, width].
"""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from corella_edge.bundle.artefact import TEXT, TOKENIZER
from corella_edge.errors import ExportError
from corella_edge.features.derived import Floats
from corella_edge_runtime.crm import Graph
from corella_edge_runtime.text import INPUTS, TextModel

OPSET = 17
TOLERANCE = 1e-4
BATCHES = (1, 2, 7)
VECTORS = "vectors"


class Projected(nn.Module):
    """An encoder whose vectors x are given as x components + offset.

    Attributes:
        config, width, longest: as of a `SentenceEncoder`.
    """

    def __init__(self, encoder: Any, components: Floats, offset: Floats) -> None:
        """`components` float32 [w, width], `offset` float32 [width]."""
        super().__init__()
        self.encoder, self.config, self.longest = encoder, encoder.config, encoder.longest
        self.width = components.shape[1]
        self.register_buffer("components", torch.from_numpy(components.copy()))
        self.register_buffer("offset", torch.from_numpy(offset.copy()))

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """float32 [n, width]."""
        found: Tensor = self.encoder(input_ids, attention_mask) @ self.components + self.offset
        return found


def write(model: Any, tokenizer: Any, folder: Path, texts: Sequence[str], int8: bool = False) -> dict[str, float]:
    """text.onnx and text/tokenizer.json, checked against torch.

    Args:
        model: a `SentenceEncoder` or `Projected`.
        texts: of the catalogue; by some of them the INT8 form is judged.
        int8: write that form.

    Returns:
        the greatest difference of a number, and of the INT8 form the mean and the lowest cosine with the float32 one.

    Raises:
        ExportError: the graph differs from torch by more than 1e-4.
    """
    path, words = folder / TEXT, folder / TOKENIZER
    words.parent.mkdir(exist_ok=True)
    tokenizer.save(str(words))
    _export(model, path)
    found = {"difference": _check(model, path, tokenizer.truncation["max_length"])}
    if int8:
        exact = TextModel(path, words, model.width).vectors(texts)
        _quantize(path)
        found |= _cosines(exact, TextModel(path, words, model.width).vectors(texts))
    return found


def _export(model: Any, path: Path) -> None:
    """By optimum, with the inputs and outputs that the runtime expects."""
    from optimum.exporters.onnx.config import TextEncoderOnnxConfig
    from optimum.exporters.onnx.convert import export
    from optimum.utils import NormalizedTextConfig

    class Form(TextEncoderOnnxConfig):  # type: ignore[misc]
        NORMALIZED_CONFIG_CLASS = NormalizedTextConfig

        @property
        def inputs(self) -> dict[str, dict[int, str]]:
            return {name: {0: "n", 1: "length"} for name in INPUTS}

        @property
        def outputs(self) -> dict[str, dict[int, str]]:
            return {VECTORS: {0: "n"}}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export(model.eval(), Form(model.config, task="feature-extraction"), path, opset=OPSET)


def _check(model: Any, path: Path, longest: int) -> float:
    """Greatest difference between torch and ONNX Runtime for batches of 1, 2 and 7 texts of 1 to `longest` tokens."""
    graph, rng = Graph(path, 1), np.random.default_rng(0)
    worst = 0.0
    for n in BATCHES:
        for length in _lengths(longest):
            ids = rng.integers(0, model.config.vocab_size, (n, length))
            mask = (np.arange(length) < rng.integers(1, length + 1, (n, 1))).astype(np.int64)
            mask[0] = 1
            ids = np.where(mask == 1, ids, model.config.pad_token_id or 0)
            found = graph.run(graph.outputs, dict(zip(INPUTS, (ids, mask), strict=True)), None)[0]
            with torch.inference_mode():
                expected = model(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
            worst = max(worst, float(np.abs(found - expected).max()))
    if not worst <= TOLERANCE:
        raise ExportError(
            f"{path.name}: its vectors differ from torch's by {worst:.1e}, at most {TOLERANCE:.0e} is right"
        )
    return worst


def _lengths(longest: int) -> list[int]:
    """1, 2, 3, 5, 8 … and the longest."""
    found = [1, 2]
    while found[-1] < longest:
        found.append(found[-1] + found[-2])
    return sorted({min(length, longest) for length in found})


def _quantize(path: Path) -> None:
    """Dynamic INT8 in the file's place."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    settings = AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantizer = ORTQuantizer.from_pretrained(path.parent, file_name=path.name)
        quantizer.quantize(save_dir=folder, quantization_config=settings, file_suffix="int8")
        shutil.copyfile(next(Path(folder).glob("*.onnx")), path)


def _cosines(exact: Floats, found: Floats) -> dict[str, float]:
    length = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosine = (exact * found).sum(axis=1)[length > 0] / length[length > 0]
    return {"cosine_mean": float(cosine.mean()), "cosine_lowest": float(cosine.min())} if len(cosine) else {}
