"""A sentence encoder → text.onnx (optimum), and what a bundle needs beside it to make vectors of new items.

Pooling, normalising and a run's projection are inside the graph: token ids and mask int64 [n, length] → "vectors"
float32 [n, width].
"""

from __future__ import annotations

import json
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor, nn

from corella_edge.bundle.artefact import TEXT, TEXT_REFERENCE, TOKENIZER
from corella_edge.errors import ExportError
from corella_edge.features.derived import Floats
from corella_edge.features.vectors import as_float16, as_float32
from corella_edge_runtime.crm import Graph
from corella_edge_runtime.reference import distance
from corella_edge_runtime.text import INPUTS, TextModel

OPSET = 17
TOLERANCE = 1e-4
BATCHES = (1, 2, 7)
VECTORS = "vectors"
REPEATED = 16  # texts that `verify` repeats
JUDGED = 500  # texts by which the INT8 form is judged
BLOCK = 32  # weights that share a scale
INT8 = 4  # of MatMulNBits: the least exact activations
MICROSOFT = "com.microsoft"  # ONNX Runtime's own operators
_NONE = onnx.TensorProto()
LIKE = 0.9995  # mean cosine with float32 that INT8 vectors must reach: below, new items were found less often


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


def judged(texts: Sequence[str], seed: int) -> list[str]:
    """A seeded sample of the texts that are not empty, at most `JUDGED`, in their order."""
    there = [text for text in texts if text]
    chosen = np.random.default_rng([seed, JUDGED]).permutation(len(there))[:JUDGED]
    return [there[i] for i in np.sort(chosen).tolist()]


def write(model: Any, tokenizer: Any, folder: Path, texts: Sequence[str], int8: bool = False) -> dict[str, float]:
    """text.onnx and text/tokenizer.json, checked against torch.

    Args:
        model: a `SentenceEncoder` or `Projected`.
        texts: by which the INT8 form is judged (`judged`).
        int8: write that form, if its vectors are near enough to the float32 ones (`LIKE`).

    Returns:
        the greatest difference of a number; where `int8` was wanted also the mean and the lowest cosine of its vectors
        with the float32 ones, and whether it was written.

    Raises:
        ExportError: the graph differs from torch by more than 1e-4.
    """
    path, words = folder / TEXT, folder / TOKENIZER
    words.parent.mkdir(exist_ok=True)
    tokenizer.save(str(words))
    _export(model, path)
    found = {"difference": _check(model, path, tokenizer.truncation["max_length"])}
    return found | (_write_int8(path, words, model.width, texts) if int8 else {})


def verdict(found: Mapping[str, float]) -> str:
    """What became of the INT8 form, by what `write` returned."""
    if "cosine_mean" not in found:
        return f"no item has words to judge INT8 by, so {TEXT} stays in float32"
    kept = "" if found["int8"] else f", below {LIKE}: {TEXT} stays in float32"
    return f"INT8 at a mean cosine of {found['cosine_mean']:.4f} with float32{kept}"


def write_reference(
    folder: Path, texts: Sequence[str], by_torch: Callable[[Sequence[str]], Floats], width: int
) -> float:
    """text/reference.jsonl: some of the texts, from the shortest to the longest, with their vectors float32 [n, width].

    Returns:
        the greatest distance of a vector of text.onnx from one of those (`reference.distance`).
    """
    order = sorted({text for text in texts if text}, key=lambda text: (len(text), text))
    chosen = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, REPEATED).astype(int))] if order else []
    expected = as_float32(as_float16(by_torch(chosen)))  # as the runtime has them
    rows = [{"text": text, "vector": vector.tolist()} for text, vector in zip(chosen, expected, strict=True)]
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
    (folder / TEXT_REFERENCE).write_text("".join(lines), "utf-8")
    found = TextModel(folder / TEXT, folder / TOKENIZER, width).vectors(chosen)
    return max((distance(one, other) for one, other in zip(found, expected, strict=True)), default=0.0)


def _write_int8(path: Path, words: Path, width: int, texts: Sequence[str]) -> dict[str, float]:
    """The INT8 form in the place of the float32 one, where it passes; what `write` tells of it."""
    exact = TextModel(path, words, width).vectors(texts)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / path.name
        _quantize(path, made)
        cosine = _cosines(exact, TextModel(made, words, width).vectors(texts))
        passes = cosine.size > 0 and float(cosine.mean()) >= LIKE
        if passes:
            shutil.copyfile(made, path)
    told = {"cosine_mean": float(cosine.mean()), "cosine_lowest": float(cosine.min())} if cosine.size else {}
    return {**told, "int8": passes}


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


def _quantize(source: Path, target: Path) -> None:
    """8-bit weights, BLOCK numbers of an output to a scale; ONNX Runtime rounds activations alike, block by block.

    Its usual dynamic INT8, with one scale for all activations of a product, is faster, but an outlier among them costs
    all others their digits: twenty times the error in a vector's cosine.
    """
    graph = onnx.load(source)
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    linear = [n for n in graph.graph.node if n.op_type == "MatMul" and len(weights.get(n.input[1], _NONE).dims) == 2]
    for node in linear:
        node.CopyFrom(_in_blocks(graph, node, numpy_helper.to_array(weights[node.input[1]]).astype(np.float32)))
    read = {name for node in graph.graph.node for name in node.input}
    left = [tensor for tensor in graph.graph.initializer if tensor.name in read]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(left)
    graph.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    onnx.save(graph, target)


def _in_blocks(graph: Any, node: Any, weight: Floats) -> Any:
    """A product with `weight` [k, n] as ONNX Runtime's MatMulNBits, whose constants are added to the graph."""
    k, n = weight.shape
    blocks = -(-k // BLOCK)
    rows = np.zeros((n, blocks * BLOCK), np.float32)
    rows[:, :k] = weight.T
    parts = rows.reshape(n, blocks, BLOCK)
    scale = np.abs(parts).max(axis=2) / 127
    scale[scale == 0] = 1.0
    whole = np.round(parts / scale[:, :, None]) + 128  # what stands for zero where nothing else is said
    names = [f"{node.name}.{part}" for part in ("weight", "scale")]
    for name, values in zip(names, (whole.astype(np.uint8), scale.astype(np.float32)), strict=True):
        graph.graph.initializer.append(numpy_helper.from_array(values, name))
    return helper.make_node(
        "MatMulNBits", [node.input[0], *names], node.output, name=node.name, domain=MICROSOFT,
        K=k, N=n, bits=8, block_size=BLOCK, accuracy_level=INT8,
    )  # fmt: skip


def _cosines(exact: Floats, found: Floats) -> Floats:
    """Of each pair of vectors; those of texts without a vector are left out."""
    length = np.linalg.norm(exact, axis=1) * np.linalg.norm(found, axis=1)
    cosine: Floats = (exact * found).sum(axis=1)[length > 0] / length[length > 0]
    return cosine
