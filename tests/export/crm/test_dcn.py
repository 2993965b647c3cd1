from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corella_edge.errors import ExportError
from corella_edge.features.schema import PAD

torch = pytest.importorskip("torch")

from corella_edge_export.bundling.verify import check_crm  # noqa: E402
from corella_edge_export.crm.dcnv2 import CrossLayer, DCNv2  # noqa: E402
from corella_edge_export.crm.layers import masked_mean  # noqa: E402
from corella_edge_export.crm.recipe import CrmRecipe  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx  # noqa: E402
from corella_edge_export.training.tasks.crm import predict, tensors  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

KEYS = {"embedding_dim": 4, "hidden": (8, 6), "history": 7, "window": 11, "cross_layers": 2, "dropout": 0.5}
RECIPE = crm_recipe(**KEYS)
SHAPES = [
    crm_recipe(**{**KEYS, **changes}) for changes in (
        {}, {"cross_rank": 3}, {"structure": "stacked"}, {"structure": "stacked", "cross_rank": 2, "hidden": ()},
        {"cross_layers": 0, "hidden": (5,)}, {"pooling": "attention"}, {"pooling": "attention", "structure": "stacked"},
    )
]  # fmt: skip
shapes = [recipe.dcnv2 for recipe in SHAPES]
names = [f"{r.structure}-rank{r.cross_rank}-{r.cross_layers}layers-{len(r.hidden)}hidden-{r.pooling}" for r in shapes]


def make(fitted: Any, recipe: CrmRecipe) -> Any:
    torch.manual_seed(0)
    model = DCNv2(fitted.encoder.schema, recipe).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


def requests(fitted: Any, count: int = 4) -> list[Any]:
    split = fitted.data.split("test")
    return [fitted.data.request(int(split.users[r]), int(split.positions[r]), range(9)) for r in range(count)]


@pytest.mark.parametrize("recipe", SHAPES, ids=names)
def test_one_user_is_broadcast_over_the_candidates(fitted: Any, recipe: CrmRecipe) -> None:
    model = make(fitted, recipe)
    for request in requests(fitted):
        feed, _ = fitted.encoder.encode(request.user, request.candidates or ())
        expanded = {name: np.repeat(v, 9, axis=0) if len(v) == 1 else v for name, v in feed.items()}
        with torch.inference_mode():
            one, many = model(tensors(feed)), model(tensors(expanded))
        assert one.shape == (9,)
        torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-5)
        assert float(one.std()) > 0


@pytest.mark.parametrize("recipe", SHAPES, ids=names)
def test_the_network_is_the_papers_formula(fitted: Any, recipe: CrmRecipe) -> None:
    model = make(fitted, recipe)
    request = requests(fitted)[0]
    feed = tensors(fitted.encoder.encode(request.user, request.candidates or ())[0])
    weights = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    with torch.inference_mode():
        x0, found = model.embed(feed).double().numpy(), model(feed).numpy()
    x = x0
    for layer in range(recipe.dcnv2.cross_layers):
        x = x0 * cross(weights, layer, x, recipe.dcnv2.cross_rank) + x
    deep = x0 if recipe.dcnv2.structure == "parallel" else x
    for layer in range(len(recipe.dcnv2.hidden)):
        deep = np.maximum(deep @ weights[f"deep.{3 * layer}.weight"].T + weights[f"deep.{3 * layer}.bias"], 0)
    joined = np.concatenate([x, deep], axis=1) if recipe.dcnv2.structure == "parallel" else deep
    expected = (joined @ weights["head.weight"].T + weights["head.bias"])[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def cross(weights: dict[str, Any], layer: int, x: Any, rank: int) -> Any:
    name = f"cross.{layer}.weight"
    if not rank:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return x @ weights[f"{name}.0.weight"].T @ weights[f"{name}.1.weight"].T + weights[f"{name}.1.bias"]


def test_a_cross_layer_by_hand() -> None:
    layer = CrossLayer(2, 0)
    with torch.no_grad():
        layer.weight.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        layer.weight.bias.copy_(torch.tensor([10.0, 20.0]))
        found = layer(torch.tensor([[2.0, 3.0]]), torch.tensor([[5.0, 7.0]]))
    # x0 * (W x + b) + x = (2 * (5 + 14 + 10) + 5, 3 * (15 + 28 + 20) + 7)
    assert found.tolist() == [[63.0, 196.0]]


@pytest.mark.parametrize("recipe", [RECIPE, SHAPES[5]], ids=["mean", "attention"])
def test_padding_counts_for_nothing(fitted: Any, recipe: CrmRecipe) -> None:
    model = make(fitted, recipe)
    request = requests(fitted)[0]
    feed = tensors(fitted.encoder.encode(request.user, request.candidates or ())[0])
    with torch.inference_mode():
        before = model(feed)
        for table in model.embeddings.values():
            table.weight[PAD] = 1e6
        assert torch.equal(model(feed), before)


def test_the_history_is_pooled_signed_by_its_ratings(fitted: Any) -> None:
    model = make(fitted, RECIPE)
    request = requests(fitted)[0]
    feed = fitted.encoder.encode(request.user, request.candidates or ())[0]
    items, ratings = feed["history_items"][0], feed["history_ratings"][0]
    tables = {name: table.weight.detach().numpy() for name, table in model.embeddings.items()}
    pairs = [(i, r) for i, r in zip(items, ratings, strict=True) if i != PAD]
    vectors = [tables["item_id"][i] * (1 + tables["rating"][r]) for i, r in pairs]
    with torch.inference_mode():
        pooled = masked_mean(*model.events(tensors(feed)))[0].numpy()
    np.testing.assert_allclose(pooled, np.mean(vectors, axis=0) if vectors else np.zeros(4), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("recipe", [RECIPE, SHAPES[5]], ids=["mean", "attention"])
def test_predictions_do_not_depend_on_the_batch(
    fitted: Any, recipe: CrmRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make(fitted, recipe).train()
    rows = EncodedRows(fitted.data, "valid", fitted.encoder)
    whole = predict(model, rows)
    monkeypatch.setattr("corella_edge_export.training.tasks.crm.EVALUATION_BATCH", 3)
    np.testing.assert_allclose(predict(model, rows), whole, atol=1e-6)


@pytest.mark.parametrize("recipe", [SHAPES[k] for k in (0, 3, 5, 6)], ids=[names[k] for k in (0, 3, 5, 6)])
def test_the_onnx_file_equals_torch_at_any_batch(fitted: Any, recipe: CrmRecipe, tmp_path: Path) -> None:
    model = make(fitted, recipe)
    with torch.no_grad():
        model.head.weight *= 0.05  # far from 0 and 1, where nothing shows
    export_onnx(model, fitted.encoder.schema, tmp_path / "crm.onnx")
    assert check_crm(model, fitted.encoder, tmp_path / "crm.onnx", requests(fitted)) <= 1e-5
    with torch.no_grad():
        model.head.bias += 0.01
    with pytest.raises(ExportError, match=r"crm\.onnx"):
        check_crm(model, fitted.encoder, tmp_path / "crm.onnx", requests(fitted))


@pytest.mark.parametrize("recipe", SHAPES, ids=names)
def test_the_graph_of_one_user_computes_the_same(fitted: Any, recipe: CrmRecipe) -> None:
    model = make(fitted, recipe)
    for request in requests(fitted):
        feed = tensors(fitted.encoder.encode(request.user, request.candidates or ())[0])
        with torch.inference_mode():
            torch.testing.assert_close(model.serving_forward(feed), model(feed), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("recipe", SHAPES[:1] + SHAPES[5:6], ids=["mean", "attention"])
def test_layers_on_the_users_side_run_once(fitted: Any, recipe: CrmRecipe) -> None:
    """The first layers multiply the user's columns as one row, whatever the number of candidates."""
    model, rows = make(fitted, recipe), []
    linear = torch.nn.functional.linear
    feed = tensors(fitted.encoder.encode(requests(fitted)[0].user, requests(fitted)[0].candidates or ())[0])
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        note = lambda x, *rest: (rows.append(tuple(x.shape)), linear(x, *rest))[1]  # noqa: E731
        patch.setattr(torch.nn.functional, "linear", note)
        model.serving_forward(feed)
    first, second = [width for count, width in rows if count == 1]
    assert 0 < first == second < model.width
    assert {count for count, _ in rows} == {1, 9}
    assert [width for _, width in rows].count(model.width - first) == 2
