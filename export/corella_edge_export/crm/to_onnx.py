"""A CRM → ONNX, and its INT8 form (optimum). User-side inputs keep leading dimension 1 and are broadcast inside,
after whatever can be computed of them alone."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from corella_edge.features.schema import NUMBERS, Feed, Schema
from corella_edge_export.crm.base import CrmModel
from corella_edge_runtime.crm import VOCAB_KEY

OPSET = 17


class _ByPosition(nn.Module):
    """The exporter names inputs by position, the model by field."""

    def __init__(self, model: CrmModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Tensor:
        logits: Tensor = self.model.serving_forward(dict(zip(self.names, values, strict=True)))
        return logits


def export_onnx(model: CrmModel, schema: Schema, path: Path) -> None:
    """Write `path`: inputs named after the fields, output "logits" float32 [n], n free on the item side."""
    names = [item.name for item in schema.fields]
    # An example batch of 1 would freeze the axis of the candidates.
    example = example_feed(schema, 2)
    free = {item.name: {0: "n"} for item in schema.fields if item.side == "item"}
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but is what ORTQuantizer reads without further steps.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _ByPosition(model, names).eval(),
            tuple(torch.from_numpy(example[name]) for name in names),
            path,
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**free, "logits": {0: "n"}},
            opset_version=OPSET,
            dynamo=False,
        )
    record_tables(path, schema)


def record_tables(path: Path, schema: Schema) -> None:
    """Note the rows of every embedding table in the file, so that the runtime can hold them against the schema."""
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {VOCAB_KEY + v.name: str(len(v)) for v in schema.vocabularies.values()})
    onnx.checker.check_model(graph)
    onnx.save(graph, path)


def quantize_int8(source: Path, target: Path, schema: Schema) -> None:
    """Dynamic INT8 of the linear layers through optimum's ORTQuantizer."""
    from optimum.onnxruntime import ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    settings = AutoQuantizationConfig.avx2(is_static=False, per_channel=False)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantizer = ORTQuantizer.from_pretrained(source.parent, file_name=source.name)
        quantizer.quantize(save_dir=folder, quantization_config=settings, file_suffix="int8")
        made = next(Path(folder).glob("*.onnx"))
        target.write_bytes(made.read_bytes())
    record_tables(target, schema)


def example_feed(schema: Schema, n: int) -> Feed:
    """Arrays of the right shapes and types: 1 user, n candidates, all values unseen."""
    feed: Feed = {}
    for item in schema.fields:
        shape = (1 if item.side == "user" else n, *item.shape)
        numbers = item.kind in NUMBERS
        feed[item.name] = np.zeros(shape, dtype=np.float32) if numbers else np.ones(shape, dtype=np.int64)
    return feed
