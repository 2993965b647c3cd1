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

from corella_edge.bundle.artefact import events_file, product_files
from corella_edge.features.schema import EVENTS, NUMBERS, Feed, Schema
from corella_edge_export.crm.base import CrmModel
from corella_edge_runtime.crm import PAST, STATES, VOCAB_KEY
from corella_edge_runtime.products import VECTORS, item_fields, user_fields

OPSET = 17


class _ByPosition(nn.Module):
    """The exporter names inputs by position, the model by field."""

    def __init__(self, model: CrmModel, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *values: Tensor) -> Tensor:
        logits: Tensor = self.model.serving_forward(dict(zip(self.names, values, strict=True)))
        return logits


class _Reading(_ByPosition):
    """`read`, with what was read before as the last input."""

    def forward(self, *values: Tensor) -> Tensor:
        *fields, past = values
        return self.model.read(dict(zip(self.names, fields, strict=True)), past)


class _Scoring(_ByPosition):
    """`score`, with the states as the last input."""

    def forward(self, *values: Tensor) -> Tensor:
        *fields, states = values
        return self.model.score(dict(zip(self.names, fields, strict=True)), states)


class _Items(_ByPosition):
    """`item_vectors`, a column an item: so one user's row is multiplied the fastest."""

    def forward(self, *values: Tensor) -> Tensor:
        return self.model.item_vectors(dict(zip(self.names, values, strict=True))).T


class _Products(_ByPosition):
    """`products`, with the states and the items' vectors as the last inputs."""

    def forward(self, *values: Tensor) -> Tensor:
        *fields, states, vectors = values
        return self.model.products(dict(zip(self.names, fields, strict=True)), states, vectors)


def export_onnx(model: CrmModel, schema: Schema, path: Path) -> None:
    """Write `path`: inputs named after the fields, output "logits" float32 [n], n free on the item side.

    Of a CRM that remembers, the events' fields are inputs of a second graph beside it (`events_file`), and this one
    has what that gives: "states" float32 [layers, 2, e, d], e free. Of one that multiplies there are two more
    (`product_files`).
    """
    free = {item.name: {0: "n"} for item in schema.fields if item.side == "item"} | {"logits": {0: "n"}}
    # An example batch of 1 would freeze the axis of the candidates.
    example = _tensors(example_feed(schema, 2))
    if model.remembers:
        _export_events(model, schema, path.with_name(events_file(path.name)))
        for name in _events(schema):
            del example[name]
        states, free[STATES] = _states(model, 3), {2: "e"}
        _write(_Scoring(model, [*example]), {**example, STATES: states}, "logits", free, path)
    else:
        _write(_ByPosition(model, [*example]), example, "logits", free, path)
    _complete(path, example, free)
    record_tables(path, schema)
    if model.multiplies:
        _export_products(model, schema, *(path.with_name(name) for name in product_files(path.name)))


def _export_products(model: CrmModel, schema: Schema, items: Path, products: Path) -> None:
    """`items`: the items' side without what a user has a part in → "vectors" float32 [k, n], n free.

    `products`: the user's side without the events, "states" and "vectors" → "logits" float32 [n].
    """
    example = _tensors(example_feed(schema, 2))
    of_items = {field.name: example[field.name] for field in item_fields(schema)}
    free = {**{name: {0: "n"} for name in of_items}, VECTORS: {1: "n"}, STATES: {2: "e"}, "logits": {0: "n"}}
    _write(_Items(model, [*of_items]), of_items, VECTORS, free, items)
    of_user = {field.name: example[field.name] for field in user_fields(schema, _events(schema))}
    with torch.no_grad():
        vectors = model.item_vectors(of_items).T
    given = {**of_user, STATES: _states(model, 3), VECTORS: vectors}
    _write(_Products(model, [*of_user]), given, "logits", free, products)
    for path, inputs in ((items, of_items), (products, given)):
        _complete(path, inputs, free)
        record_tables(path, schema)


def _export_events(model: CrmModel, schema: Schema, path: Path) -> None:
    """Inputs: the events' fields, [1, m] or [1, m, w] with m free, and "past"; output "states" with those of both."""
    user = _tensors(example_feed(schema, 1))
    example = {name: torch.cat([user[name][:, :1]] * 3, dim=1) for name in _events(schema)}
    free = {**{name: {1: "m"} for name in example}, PAST: {2: "p"}, STATES: {2: "e"}}
    _write(_Reading(model, [*example]), {**example, PAST: _states(model, 2)}, STATES, free, path)
    _complete(path, example, free)
    record_tables(path, schema)


def _events(schema: Schema) -> list[str]:
    """The inputs that hold a user's events."""
    return [item.name for item in schema.fields if item.kind in EVENTS]


def _states(model: CrmModel, events: int) -> Tensor:
    """An example of what was read: of no events it would freeze the axis."""
    layers, d = model.memory
    return torch.zeros(layers, 2, events, d)


def _tensors(feed: Feed) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in feed.items()}


def _write(
    module: _ByPosition, inputs: dict[str, Tensor], output: str, free: dict[str, dict[int, str]], path: Path
) -> None:
    with warnings.catch_warnings():
        # The TorchScript exporter is deprecated but is what ORTQuantizer reads without further steps.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            path,
            input_names=[*inputs],
            output_names=[output],
            dynamic_axes=free,
            opset_version=OPSET,
            dynamo=False,
        )


def _complete(path: Path, inputs: dict[str, Tensor], free: dict[str, dict[int, str]]) -> None:
    """Declare the fields that the model does not read, which the exporter leaves out: who serves gives all of them."""
    graph = onnx.load(path)
    declared = {value.name for value in graph.graph.input}
    for name, values in inputs.items():
        if name not in declared:
            kind = onnx.TensorProto.FLOAT if values.is_floating_point() else onnx.TensorProto.INT64
            shape = [free.get(name, {}).get(axis, size) for axis, size in enumerate(values.shape)]
            graph.graph.input.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    onnx.save(graph, path)


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
