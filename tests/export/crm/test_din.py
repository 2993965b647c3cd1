"""DIN, the second family: its formula, its graph, and a run of it by the same path as DCNv2's."""

from __future__ import annotations

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.features.schema import PAD  # noqa: E402
from corella_edge.request import Candidate, Request, User  # noqa: E402
from corella_edge_export.bundling.verify import check_crm  # noqa: E402
from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.crm.ensemble import new_crm  # noqa: E402
from corella_edge_export.crm.recipe import (  # noqa: E402
    FAMILIES,
    SECTIONS,
    CrmRecipe,
    FamilyRecipe,
    FeaturesRecipe,
    section_of,
)
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from corella_edge_export.training.loop import Part  # noqa: E402
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_export.training.tasks.crm import CrmTask, tensors  # noqa: E402
from corella_edge_runtime.crm import Crm  # noqa: E402
from tiny_run import crm_recipe, recipe  # noqa: E402

KEYS = {"kind": "din", "embedding_dim": 4, "hidden": (8, 6), "attention": 5, "dropout": 0.5, "history": 7, "window": 11}
SHAPES = [
    crm_recipe(**KEYS),
    crm_recipe(**{**KEYS, "hidden": ()}),
    crm_recipe(**KEYS, members=2),
    crm_recipe(**KEYS, in_order=True),
]
NAMES = ["one", "no hidden layers", "two members", "in order"]


def make(fitted: Any, chosen: CrmRecipe) -> Any:
    torch.manual_seed(0)
    model = new_crm(fitted.encoder.schema, chosen).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def requests(fitted: Any, count: int = 4) -> list[Request]:
    split = fitted.data.split("test")
    return [fitted.data.request(int(split.users[r]), int(split.positions[r]), range(9)) for r in range(count)]


def feed_of(fitted: Any, request: Request) -> dict[str, Any]:
    return fitted.encoder.encode(request.user, request.candidates or ())[0]


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def test_every_family_has_a_section_of_its_own() -> None:
    assert list(FAMILIES) == ["dcnv2", "din", "sequence", "text-sequence"]
    for kind in FAMILIES:
        found = crm_recipe(kind=kind, source="encoder", path="anywhere")
        assert isinstance(found.family, FamilyRecipe)
        assert set(SECTIONS) & found.table().keys() == {section_of(kind)}


def test_the_network_is_the_formula(fitted: Any) -> None:
    """In numpy, from the weights: attention by event and candidate, then the layers."""
    model, feed = make(fitted, SHAPES[0]), feed_of(fitted, requests(fitted)[0])
    w = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    with torch.inference_mode():
        events, mask = (part.numpy() for part in model.events(tensors(feed)))
        user = model.user_side(tensors(feed), *model.events(tensors(feed))).numpy()
        item, found = model.item_side(tensors(feed)).numpy(), model(tensors(feed)).numpy()
    logits = []
    for row in item:
        wanted = w["candidate.weight"] @ row + w["candidate.bias"]
        pooled = np.zeros(4)
        for event, there in zip(events[0], mask[0], strict=True):
            both = w["unit.of_event.weight"] @ event + w["unit.of_event.bias"] + w["unit.of_candidate.weight"] @ wanted
            both += w["unit.of_both.weight"] @ (event * wanted)
            weight = sigmoid(w["unit.weight.weight"] @ np.maximum(both, 0) + w["unit.weight.bias"])
            pooled += there * weight * event / math.sqrt(len(events[0]))
        x = np.concatenate([user[0], row, pooled])
        for layer in (0, 3):
            x = np.maximum(w[f"deep.{layer}.weight"] @ x + w[f"deep.{layer}.bias"], 0)
        logits.append(float((w["head.weight"] @ x + w["head.bias"])[0]))
    np.testing.assert_allclose(found, logits, rtol=1e-4, atol=1e-4)
    assert np.std(logits) > 0


@pytest.mark.parametrize("chosen", SHAPES, ids=NAMES)
def test_rows_of_many_users_and_one_users_candidates_are_scored_alike(fitted: Any, chosen: CrmRecipe) -> None:
    model = make(fitted, chosen)
    for request in requests(fitted):
        feed = feed_of(fitted, request)
        expanded = {name: np.repeat(v, 9, axis=0) if len(v) == 1 else v for name, v in feed.items()}
        with torch.inference_mode():
            one, many, served = model(tensors(feed)), model(tensors(expanded)), model.serving_forward(tensors(feed))
        torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one, served, rtol=1e-5, atol=1e-5)


def test_padding_counts_for_nothing(fitted: Any) -> None:
    model, feed = make(fitted, SHAPES[0]), tensors(feed_of(fitted, requests(fitted)[0]))
    with torch.inference_mode():
        before = model(feed)
        for table in model.embeddings.values():
            table.weight[PAD] = 1e6
        assert torch.equal(model(feed), before)


@pytest.mark.parametrize("chosen", SHAPES, ids=NAMES)
def test_onnx_equals_torch(fitted: Any, chosen: CrmRecipe, tmp_path: Path) -> None:
    """At batches of 1, 2, 7 and 64 with unknown ids (`check_crm`), and for a user without a history."""
    model, path = make(fitted, chosen), tmp_path / "crm.onnx"
    export_onnx(model, fitted.encoder.schema, path)
    new = Request(User("nobody", {}, ()), tuple(Candidate(item) for item in fitted.encoder.catalog.ids[:7]))
    assert check_crm(model, fitted.encoder, path, [*requests(fitted), new]) <= 1e-5
    feed = feed_of(fitted, new)
    with torch.inference_mode():
        expected = torch.sigmoid(model(tensors(feed)).double()).numpy()
    assert np.abs(Crm(path, fitted.encoder.schema).probability(feed) - expected).max() <= 1e-5


def test_the_state_is_what_the_logits_come_from(fitted: Any) -> None:
    model = make(fitted, SHAPES[0])
    feed = tensors(EncodedRows(fitted.data, "train", fitted.encoder).batch(np.arange(9)))
    logits, layers = model.states(feed)
    assert len(layers) == SHAPES[0].family.layers == 1
    assert layers[0].shape == (9, model.width) == (9, 6)
    torch.testing.assert_close(model.head(layers[0]).squeeze(1), logits)


def test_every_weight_is_trained(fitted: Any) -> None:
    rows = EncodedRows(fitted.data, "train", fitted.encoder)
    task = CrmTask(make(fitted, SHAPES[0]).train(), rows, rows, SHAPES[0], 1)
    task.losses(np.arange(len(rows)), 0, 0, Part())["loss"].backward()
    without = [name for name, p in task.model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not [name for name in without if not name.startswith("embeddings.")]


def test_a_run_of_it_trains_aligns_and_exports(data: PreparedData, tmp_path: Path) -> None:
    own = {"kind": "din", "attention": 5, "user_level": True, "item_quality": True}
    chosen = recipe(crm=own, continuation={"epochs": 0})
    assert chosen.crm.family.layers == 1
    stages.train(tmp_path / "run", chosen, data, quiet=True)
    bundle = export(Run.open(tmp_path / "run", data), tmp_path / "bundle", ExportOptions(("F16",), threads=1))
    about = bundle.manifest.about
    assert about["models"]["crm"] == "DIN"
    assert about["recipe"]["crm"]["kind"] == "din"
    assert about["recipe"]["crm"].keys() & set(SECTIONS) == {"din"}
    assert bundle.json("verification.json")["differences"]["crm"] <= 1e-5
    assert "distance" in (tmp_path / "run" / "joint" / "metrics.jsonl").read_text()


def test_no_key_of_a_family_has_the_name_of_another_section() -> None:
    """A stage's key is a hash of `flat`, in which all stand side by side."""
    shared = [{item.name for item in fields(cls)} for cls in (CrmRecipe, FeaturesRecipe)]
    assert not shared[0] & shared[1]
    for name in SECTIONS:
        own = {item.name for item in fields(type(getattr(CrmRecipe(), name)))}
        assert not own & (shared[0] | shared[1]), name
