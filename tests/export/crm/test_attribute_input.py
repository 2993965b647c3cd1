"""Attributes of the events' items as an input: of known items alone, and alike in rows, requests and the graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import PropertyMock, patch

import numpy as np
import onnx
import onnxruntime
import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import InputError, RecipeError  # noqa: E402
from corella_edge.features.schema import OOV, PAD  # noqa: E402
from corella_edge.request import Candidate, Event, Request, User  # noqa: E402
from corella_edge_export.bundling.verify import check_crm  # noqa: E402
from corella_edge_export.crm.chunks import Chunks  # noqa: E402
from corella_edge_export.crm.ensemble import new_crm  # noqa: E402
from corella_edge_export.crm.fitted.schema import check_features, fit_schema  # noqa: E402
from corella_edge_export.crm.recipe import CrmRecipe, FeaturesRecipe  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx  # noqa: E402
from corella_edge_export.recipe import recipe_from  # noqa: E402
from corella_edge_export.training.run import deciding  # noqa: E402
from corella_edge_export.training.tasks.crm import tensors  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

KEYS = {"embedding_dim": 4, "hidden": (8,), "history": 7, "window": 11, "heads": 2, "inner": 12}
KINDS = ["dcnv2", "din", "sequence"]


def chosen(kind: str, **keys: Any) -> CrmRecipe:
    return crm_recipe(**{**KEYS, "kind": kind, "event_attributes": True, **keys})


def make(fitted: Any, recipe: CrmRecipe) -> Any:
    torch.manual_seed(0)
    model = new_crm(fitted.encoder.schema, recipe, fitted.encoder.catalog).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def request_of(fitted: Any, row: int, items: Any = None) -> Request:
    split = fitted.data.split("test")
    asked = [int(split.items[row])] if items is None else items
    found: Request = fitted.data.request(int(split.users[row]), int(split.positions[row]), asked)
    return found


def operations(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node if node.op_type != "Constant")


def feed_of(fitted: Any, request: Request) -> dict[str, Any]:
    return tensors(fitted.encoder.encode(request.user, request.candidates or ())[0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_gives_what_each_row_and_request_gives(fitted: Any, kind: str) -> None:
    model = make(fitted, chosen(kind))
    rows = EncodedRows(fitted.data, "test", fitted.encoder)
    with torch.inference_mode():
        whole = model(tensors(rows.batch(np.arange(8))))
        for row in range(8):
            alone = model(tensors(rows.batch(np.array([row]))))
            asked = model.serving_forward(feed_of(fitted, request_of(fitted, row)))
            torch.testing.assert_close(alone, whole[row : row + 1], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(asked, whole[row : row + 1], rtol=1e-5, atol=1e-5)


def test_along_a_users_events_rows_give_what_each_gives(fitted: Any) -> None:
    model, rows = make(fitted, chosen("sequence")), EncodedRows(fitted.data, "test", fitted.encoder)
    chunks = Chunks(rows)
    for batch in chunks.batches(60):
        along = chunks.along(batch)
        with torch.inference_mode():
            found = model.along(tensors(along.feed), torch.tensor(along.owners), torch.tensor(along.places))
            torch.testing.assert_close(found, model(tensors(rows.batch(along.rows))), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "members"), [(kind, 1) for kind in KINDS] + [("sequence", 2)])
def test_the_graph_gives_what_torch_gives(fitted: Any, kind: str, members: int, tmp_path: Path) -> None:
    model = make(fitted, chosen(kind, members=members))
    export_onnx(model, fitted.encoder.schema, tmp_path / "crm.onnx")
    strange = User("nobody", {}, (Event("never seen", 4.0), Event(fitted.encoder.catalog.ids[3], 2.0)))
    requests = [request_of(fitted, row, range(9)) for row in range(4)]
    requests += [Request(user, requests[0].candidates) for user in (strange, User("nobody", {}, ()))]
    assert check_crm(model, fitted.encoder, tmp_path / "crm.onnx", requests) <= 1e-5


def test_an_event_costs_the_graph_one_look_up_more(fitted: Any, tmp_path: Path) -> None:
    """The table of all items' attributes is made once, when the graph is loaded."""
    kept = {}
    for on in (False, True):
        path = tmp_path / f"{on}" / "crm.onnx"
        path.parent.mkdir()
        export_onnx(make(fitted, chosen("sequence", event_attributes=on)), fitted.encoder.schema, path)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path.with_name("loaded.onnx"))
        onnxruntime.InferenceSession(path.with_name("crm.events.onnx"), options)
        kept[on] = operations(path.with_name("loaded.onnx"))
    assert kept[True] - kept[False] == Counter({"Gather": 1, "Add": 1})
    assert not kept[False] - kept[True]


@pytest.mark.parametrize("kind", KINDS)
def test_attributes_are_the_mean_of_the_candidates_embeddings(fitted: Any, kind: str) -> None:
    """Of known items; PAD and unknown items have none."""
    model, schema = make(fitted, chosen(kind)), fitted.encoder.schema
    part, vocabulary = model.attributes, schema.vocabularies["item_id"]
    with torch.inference_mode():
        found = part(torch.arange(len(vocabulary)), model.embeddings)
        assert not found[[PAD, OOV]].any()
        for item in (vocabulary.values[0], vocabulary.values[-1]):
            feed = tensors(fitted.encoder.encode(User("nobody", {}, ()), [Candidate(item)])[0])
            fields = [f for f in schema.of("categorical", "multi", side="item") if f.source != "id"]
            mean = torch.stack([model._field(f, feed[f.name]) for f in fields]).mean(dim=0)
            torch.testing.assert_close(found[vocabulary.index(item)], mean[0])


def test_hash_buckets_have_none(fitted: Any) -> None:
    recipe = chosen("din", unknown={"item_id": "hash:3"})
    schema = fit_schema(fitted.data, recipe.features)
    model = new_crm(schema, recipe, fitted.encoder.catalog)
    assert model.get_submodule("attributes").rows[-3:].sum() == 0
    assert len(schema.vocabularies["item_id"]) == len(model.get_submodule("attributes").rows)


@pytest.mark.parametrize("kind", KINDS)
def test_the_attributes_of_events_count_and_are_trained(fitted: Any, kind: str) -> None:
    model, plain = make(fitted, chosen(kind)), make(fitted, chosen(kind, event_attributes=False))
    assert model.state_dict().keys() == plain.state_dict().keys()
    feed = feed_of(fitted, request_of(fitted, int(fitted.data.split("test").positions.argmax()), range(5)))
    assert (model(feed) - plain(feed)).abs().min() > 1e-6
    (name, *_) = [f.vocab for f in model.attributes.fields]
    model.attributes(feed["history_items"], model.embeddings).sum().backward()
    assert model.embeddings[name].weight.grad.abs().sum() > 0


def test_the_key_left_out_changes_no_stage() -> None:
    assert "event_attributes" not in deciding({"event_attributes": False, "history": 30})
    assert deciding({"event_attributes": True}) == {"event_attributes": True}


def test_data_without_such_attributes_and_a_family_without_ids_are_refused(fitted: Any) -> None:
    where, none = (
        "event_attributes: .* has no categorical or multi-valued",
        PropertyMock(return_value={"size": "numeric"}),
    )
    with patch.object(type(fitted.data), "item_attributes", none), pytest.raises(InputError, match=where):
        check_features(fitted.data, FeaturesRecipe(event_attributes=True))
    check_features(fitted.data, FeaturesRecipe(event_attributes=True))
    crm = {"kind": "text-sequence", "features": {"event_attributes": True}, "text": {"source": "encoder", "path": "x"}}
    with pytest.raises(RecipeError, match=r"event_attributes: is of ids or attributes"):
        recipe_from({"name": "x", "crm": crm}, "x")
