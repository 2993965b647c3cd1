"""crm.onnx computes what torch does, for any number of candidates; a wrong graph does not pass."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from corella_edge.errors import BundleError, ExportError
from corella_edge.request import Candidate, Request
from corella_edge_export.bundling import verify
from corella_edge_export.crm import to_onnx
from corella_edge_export.data.prepared import PreparedData
from corella_edge_runtime.crm import Crm
from exported_crm import ExportedCrm
from tiny_run import crm_recipe

SHAPES = {
    "parallel": crm_recipe(embedding_dim=4, hidden=(8, 6), history=7, window=11, cross_layers=2),
    "stacked low-rank": crm_recipe(embedding_dim=4, hidden=(8,), cross_layers=2, cross_rank=3, structure="stacked"),
    "DIN": crm_recipe(kind="din", embedding_dim=4, hidden=(8, 6), attention=5, history=7, window=11),
}


@pytest.fixture(scope="module", params=list(SHAPES))
def exported(
    request: pytest.FixtureRequest, data: PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> ExportedCrm:
    return ExportedCrm(data, SHAPES[request.param], tmp_path_factory.mktemp("onnx"), deviation=0.3)


def test_probabilities_are_those_of_torch(exported: ExportedCrm) -> None:
    assert verify.check_crm(exported.model, exported.encoder, exported.path, exported.requests) <= 1e-5


@pytest.mark.parametrize("n", [1, 2, 3, 7, 64, 1000])
def test_any_number_of_candidates(exported: ExportedCrm, n: int) -> None:
    ids = exported.catalog.ids
    request = Request(exported.requests[5].user, tuple(Candidate(ids[i % len(ids)]) for i in range(n)))
    feed, _ = exported.encoder.encode(request.user, request.candidates or ())
    found = Crm(exported.path, exported.encoder.schema).probability(feed)
    assert found.shape == (n,)
    assert np.abs(found - verify.torch_crm(exported.model, exported.encoder, request)).max() <= 1e-5
    assert len(np.unique(found)) > 1 or n == 1


def test_the_users_side_comes_once_and_candidates_are_free(exported: ExportedCrm) -> None:
    graph = onnx.load(exported.path).graph
    schema = exported.encoder.schema
    leading = {value.name: value.type.tensor_type.shape.dim[0] for value in graph.input}
    assert set(leading) == {item.name for item in schema.fields}
    for item in schema.fields:
        dim = leading[item.name]
        assert (dim.dim_value == 1) if item.side == "user" else (dim.dim_param == "n"), item.name
    assert [(v.name, v.type.tensor_type.shape.dim[0].dim_param) for v in graph.output] == [("logits", "n")]


def _damage(path: Path, out: Path, factor: float) -> Path:
    """Every weight matrix of the graph by a factor."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.ndim == 2:
            tensor.CopyFrom(numpy_helper.from_array((values * factor).astype(np.float32), tensor.name))
    onnx.save(model, out)
    return out


@pytest.mark.parametrize(
    ("factor", "kind", "told"),
    [
        (1.001, ExportError, "a probability differs from torch"),
        (0.5, ExportError, "a probability differs from torch"),
        (np.nan, BundleError, "expected two finite logits"),
    ],
)
def test_other_weights_are_found(
    exported: ExportedCrm, tmp_path: Path, factor: float, kind: type[Exception], told: str
) -> None:
    path = _damage(exported.path, tmp_path / "other.onnx", factor)
    with pytest.raises(kind, match=rf"other\.onnx: .*{told}"):
        verify.check_crm(exported.model, exported.encoder, path, exported.requests)


def test_another_graph_is_found(exported: ExportedCrm, tmp_path: Path) -> None:
    model = onnx.load(exported.path)
    changed = next(node for node in model.graph.node if node.op_type == "Relu")
    changed.op_type = "Sigmoid"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ExportError, match="differs from torch"):
        verify.check_crm(exported.model, exported.encoder, tmp_path / "other.onnx", exported.requests)


def test_a_batch_axis_that_is_frozen_is_found(
    exported: ExportedCrm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **kw: real(*args, **{**kw, "dynamic_axes": {}}))
    to_onnx.export_onnx(exported.model, exported.encoder.schema, tmp_path / "frozen.onnx")
    with pytest.raises(Exception, match=r"(?i)invalid dimensions"):
        verify.check_crm(exported.model, exported.encoder, tmp_path / "frozen.onnx", exported.requests)


def test_tables_of_another_size_are_found(exported: ExportedCrm, tmp_path: Path) -> None:
    model = onnx.load(exported.path)
    model.metadata_props[0].value = "1"
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(BundleError, match=r"other\.onnx: its table for"):
        verify.check_crm(exported.model, exported.encoder, tmp_path / "other.onnx", exported.requests)


def test_int8_ranks_nearly_alike_and_is_smaller(exported: ExportedCrm, tmp_path: Path) -> None:
    to_onnx.quantize_int8(exported.path, tmp_path / "crm.int8.onnx", exported.encoder.schema)
    operators = {node.op_type for node in onnx.load(tmp_path / "crm.int8.onnx").graph.node}
    assert operators & {"MatMulInteger", "DynamicQuantizeLinear", "QGemm"}
    ids = exported.catalog.ids
    request = Request(exported.requests[4].user, tuple(Candidate(item) for item in ids))
    feed, _ = exported.encoder.encode(request.user, request.candidates or ())
    found = Crm(tmp_path / "crm.int8.onnx", exported.encoder.schema).probability(feed)
    expected = verify.torch_crm(exported.model, exported.encoder, request)
    assert found.shape == expected.shape
    assert np.corrcoef(found, expected)[0, 1] > 0.98
    assert str(tmp_path).encode() not in (tmp_path / "crm.int8.onnx").read_bytes()
