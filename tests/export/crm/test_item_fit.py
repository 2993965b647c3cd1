"""Numbers of items from training rows: the formulas, and that no row is encoded with its own label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_run  # noqa: E402
from corella_edge.errors import InputError  # noqa: E402
from corella_edge.features.encoder import FeatureEncoder  # noqa: E402
from corella_edge_export.bundling.verify import check_crm  # noqa: E402
from corella_edge_export.crm.dcnv2 import DCNv2  # noqa: E402
from corella_edge_export.crm.fitted import items as item_fit  # noqa: E402
from corella_edge_export.crm.fitted import schema as fit  # noqa: E402
from corella_edge_export.crm.fitted import users as user_fit  # noqa: E402
from corella_edge_export.crm.fitted import words as item_text  # noqa: E402
from corella_edge_export.crm.fitted.schema import catalog_of, fit_schema  # noqa: E402
from corella_edge_export.crm.recipe import FeaturesRecipe, NumberRecipe  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx  # noqa: E402
from corella_edge_export.training.run import Run, deciding  # noqa: E402
from corella_edge_export.training.tasks import crm as train_crm  # noqa: E402

RECIPE = tiny_run.crm_recipe(embedding_dim=4, hidden=(8,), history=7, window=11, item_quality=True, item_vectors=6)
FEATURES = RECIPE.features
NUMBERS = ("history_number_quality", "history_similarity")


def everyone(data: Any) -> Any:
    return np.ones(len(data.user_ids), dtype=np.bool_)


PRICE = NumberRecipe("price", mean=5.0, scale=3.0, first=1, last=9)


@pytest.mark.parametrize(("text", "number"), [((), NumberRecipe()), (("title", "genres"), NumberRecipe()), ((), PRICE)])
def test_quality_is_the_least_penalised_loss(fitted: Any, text: tuple[str, ...], number: NumberRecipe) -> None:
    """The same logistic regression by Newton steps on the whole design."""
    data, rows = fitted.data, fitted.data.split("train")
    features = FeaturesRecipe(item_text=text, item_number=number if "price" in data.items else NumberRecipe())
    words = item_text.columns(data, text).to_dense().numpy()  # effects of variance 1
    known = np.hstack([item_fit._known(data, rows.items, features.item_number), words])
    users, items = np.eye(len(data.user_ids)), np.eye(len(data.item_ids))
    design = np.hstack([items[rows.items], known[rows.items], np.ones((len(rows.items), 1)), users[rows.users]])
    sizes = [items.shape[1], known.shape[1] - words.shape[1], words.shape[1], 1, users.shape[1]]
    penalty = np.repeat([1 / item_fit.EFFECT, 1 / item_fit.STEP, 1.0, 0.0, 1 / item_fit.EFFECT], sizes)
    weights = np.zeros(design.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-design @ weights))
        gradient = design.T @ (p - rows.labels) + penalty * weights
        weights -= np.linalg.solve((design.T * (p * (1 - p))) @ design + np.diag(penalty), gradient)
    part = design.shape[1] - users.shape[1]
    expected = np.hstack([items, known, np.ones((len(items), 1))]) @ weights[:part]
    np.testing.assert_allclose(item_fit.quality(data, everyone(data), features), expected, atol=2e-3)


def test_a_number_is_an_input_and_steps_of_quality(fitted: Any) -> None:
    data = fitted.data
    features = FeaturesRecipe(item_quality=True, item_number=PRICE)
    if "price" not in data.items:
        with pytest.raises(InputError, match=r"crm, features, item_number: .* has no attribute 'price' of an item"):
            catalog_of(data, features)
        return
    field = next(f for f in fit_schema(data, features).fields if f.name == "history_number_price")
    assert (field.args["attribute"], field.args["mean"], field.args["scale"]) == ("price", 5.0, 3.0)
    steps = item_fit._known(data, np.zeros(0, dtype=np.int64), PRICE)[:, 1:]
    prices = data.items["price"]
    assert steps.shape == (len(prices), 9)
    assert steps.sum(axis=1).tolist() == [0.0 if p is None else min(9, int(p)) for p in prices]
    feed = {f.name: torch.ones(2, 4) for f in fit_schema(data, features).fields}
    assert len(user_fit.leaning(feed)) == 4


def test_vectors_are_right_singular_vectors(fitted: Any) -> None:
    data = fitted.data
    likes = np.zeros((len(data.user_ids), len(data.item_ids)))
    likes[item_fit._likes(data, everyone(data))] = 1.0
    scaled = likes / np.sqrt(likes.sum(axis=0) + 5)
    right = np.linalg.svd(scaled, full_matrices=False)[2][:3].T
    found = item_fit.vectors(data, everyone(data), 3)
    length = np.linalg.norm(right, axis=1)
    known = length > 1e-3
    unit = right[known] / length[known, None]
    np.testing.assert_allclose(found[known] @ found[known].T, unit @ unit.T, atol=1e-6)
    assert item_fit.vectors(data, everyone(data), 100).shape == (len(data.item_ids), 100)


def test_vectors_of_a_large_matrix_are_nearly_the_same(fitted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them span the same space whatever the method; the first ones are its directions."""
    data, state = fitted.data, torch.get_rng_state()
    exact = item_fit.vectors(data, everyone(data), 40)
    monkeypatch.setattr(item_fit, "ENTRIES", 0)
    found = item_fit.vectors(data, everyone(data), 40)
    np.testing.assert_allclose(found @ found.T, exact @ exact.T, atol=1e-5)
    assert torch.equal(torch.get_rng_state(), state)  # nobody else's random numbers are taken
    assert np.array_equal(found, item_fit.vectors(data, everyone(data), 40))


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_the_smaller_side_gives_the_same_vectors(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    who, what = np.nonzero(rng.random(shape) < 0.6)
    matrix = np.zeros(shape)
    matrix[who, what] = entries = rng.random(len(who))
    found = item_fit._right_vectors(who, what, entries, shape, 2)
    expected = np.linalg.svd(matrix)[2][:2].T
    np.testing.assert_allclose(np.abs(np.sum(found * expected, axis=0)), 1.0, atol=1e-9)


def test_folds_part_the_users(fitted: Any) -> None:
    parts = item_fit.folds(fitted.data)
    assert len(parts) == item_fit.FOLDS
    np.testing.assert_array_equal(np.sum(parts, axis=0), 1)


def test_a_training_row_does_not_see_its_own_fold(tmp_path: Path) -> None:
    data, recipe = tiny_run.prepared(tmp_path / "data"), tiny_run.recipe()
    recipe = replace(recipe, crm=RECIPE)
    (tmp_path / "run").mkdir()
    run = Run(tmp_path / "run", recipe, data)
    schema, catalog = run.fit_inputs()
    encoder = FeatureEncoder(schema, catalog)
    train = EncodedRows(data, "train", encoder, parts=run.parts())
    plain = EncodedRows(data, "train", encoder)
    users = item_fit.folds(data)[0]
    rows = data.split("train")
    inside = np.flatnonzero(users[rows.users])
    without = catalog_of(data, FEATURES, users)
    own = train.derived[NUMBERS[0]][inside, 0]
    qualities = [without.attributes[item]["quality"] for item in rows.items[inside]]
    np.testing.assert_allclose(own, qualities, atol=1e-6)
    # Other labels of the fold's users change nothing of what its rows see.
    flipped = rows.labels.copy()
    flipped[inside] = 1 - flipped[inside]
    split = data.split
    data.split = lambda name: replace_labels(split(name), flipped) if name == "train" else split(name)
    again = catalog_of(data, FEATURES, users)
    assert again.attributes == without.attributes
    assert catalog_of(data, FEATURES).attributes != catalog.attributes
    for name in NUMBERS:
        assert not np.array_equal(train.derived[name], plain.derived[name]), name


def replace_labels(split: Any, labels: Any) -> Any:
    return replace(split, labels=labels)


def test_onnx_equals_torch_with_the_numbers(fitted: Any, tmp_path: Path) -> None:
    data = fitted.data
    encoder = FeatureEncoder(fit_schema(data, FEATURES), catalog_of(data, FEATURES))
    torch.manual_seed(0)
    model = DCNv2(encoder.schema, RECIPE).eval()
    split = data.split("test")
    requests = [data.request(int(split.users[r]), int(split.positions[r]), range(9)) for r in range(4)]
    export_onnx(model, encoder.schema, tmp_path / "crm.onnx")
    assert check_crm(model, encoder, tmp_path / "crm.onnx", requests) <= 1e-5
    rows = EncodedRows(data, "test", encoder)
    batch = rows.batch(np.arange(6))
    for row in range(6):
        request = data.request(int(split.users[row]), int(split.positions[row]), [int(split.items[row])])
        feed, _ = encoder.encode(request.user, request.candidates or ())
        for name, values in feed.items():
            np.testing.assert_allclose(values[0], batch[name][row], rtol=1e-5, atol=1e-6, err_msg=name)
    assert np.isfinite(train_crm.predict(model, rows)).all()


def test_later_keys_change_a_recipe_only_when_they_are_used() -> None:
    assert deciding({"crm": {"item_quality": False, "item_vectors": 0, "window": 3}}) == {"crm": {"window": 3}}
    used = {"crm": {"item_quality": True, "item_vectors": 8}}
    assert deciding(used) == used
    words = {"text": {"source": "encoder", "attributes": ["title"]}}
    assert deciding({"text": {**words["text"], "form": "values"}}) == words
    assert deciding({"text": {**words["text"], "form": "pairs"}}) != words


def test_an_attribute_with_the_name_of_a_fitted_number_is_refused(monkeypatch: Any) -> None:
    data = SimpleNamespace(
        root=Path("data"), items={"title": ["a"], "quality": [1.0]}, item_attributes={"quality": "numeric"},
        item_ids=["a"], user_ids=["u"],
    )  # fmt: skip
    monkeypatch.setattr(fit, "rated", lambda data: False)
    monkeypatch.setattr(item_fit, "quality", lambda data, users, features: np.zeros(1))
    with pytest.raises(InputError, match="'quality'"):
        fit.catalog_of(data, FeaturesRecipe(item_quality=True))
