"""Users' levels: the formula by hand, no row sees its own sitting, and training, serving and ONNX agree."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import tiny_run  # noqa: E402
from corella_edge.errors import InputError, RecipeError  # noqa: E402
from corella_edge.features.schema import OOV  # noqa: E402
from corella_edge_export.bundling.verify import check_crm  # noqa: E402
from corella_edge_export.crm.ensemble import members_of  # noqa: E402
from corella_edge_export.crm.fitted import users as user_fit  # noqa: E402
from corella_edge_export.crm.fitted.schema import catalog_of, fit_schema  # noqa: E402
from corella_edge_export.crm.recipe import FeaturesRecipe  # noqa: E402
from corella_edge_export.crm.rows import Masking  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx  # noqa: E402
from corella_edge_export.data.prepared import Split  # noqa: E402
from corella_edge_export.recipe import recipe_from  # noqa: E402
from corella_edge_export.training.run import Run, deciding  # noqa: E402
from corella_edge_export.training.stages import Stages  # noqa: E402
from corella_edge_export.training.tasks import crm as train_crm  # noqa: E402

CRM = {"item_quality": True, "item_text": ["title"], "user_level": True}
DAY = user_fit.SITTING


def split(users: list[int], times: list[int], labels: list[int]) -> Split:
    n = len(users)
    users_, positions = np.asarray(users, np.int32), np.zeros(n, np.int32)
    nothing = np.full(n, np.nan, np.float32)
    return Split(users_, positions, np.asarray(labels, np.int8), nothing, np.asarray(times, np.int64), positions)


def test_levels_by_hand() -> None:
    """User 0 has two sittings, user 1 one, user 2 none; every row is expected to be liked with 0.5."""
    rows = split([0, 1, 0, 0], [0, 5, DAY, 3 * DAY], [1, 0, 1, 0])
    levels = user_fit.fit(rows, np.zeros(4), 3)
    whole = [0.5 / 2.75, np.log(1.75), 1]
    np.testing.assert_allclose(levels.users, [whole, [-0.5 / 2.25, np.log(1.25), 1], [0, 0, 0]], rtol=1e-6)
    first, other = [-0.5 / 2.25, np.log(1.25), 1], [1.0 / 2.5, np.log(1.5), 1]
    np.testing.assert_allclose(levels.rows, [first, [0, 0, 0], first, other], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_a_row_does_not_depend_on_labels_of_its_sitting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = split(*(rng.integers(0, high, 60).tolist() for high in (4, 9 * DAY, 2)))
    logits, sitting = rng.normal(size=60), user_fit.sittings(rows)
    for row in (0, 30, 59):
        own = sitting == sitting[row]
        flipped = replace(rows, labels=np.where(own, 1 - rows.labels, rows.labels))
        before, after = user_fit.fit(rows, logits, 4), user_fit.fit(flipped, logits, 4)
        np.testing.assert_allclose(after.rows[own], before.rows[own], atol=1e-6)
        others = rows.users != rows.users[row]
        np.testing.assert_array_equal(after.rows[others], before.rows[others])
        balanced = 2 * rows.labels[own].sum() == own.sum()
        assert balanced or after.users[rows.users[row], 0] != before.users[rows.users[row], 0]


def columns(rng: np.random.Generator, n: int) -> Any:
    return np.stack([np.ones(n), *rng.normal(size=(3, n))], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_leanings_by_a_slow_solution_and_without_the_rows_sitting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = split(*(rng.integers(0, high, 60).tolist() for high in (4, 9 * DAY, 2)))
    logits, own, served = rng.normal(size=60), columns(rng, 60), columns(rng, 60)
    levels, sitting = user_fit.fit(rows, logits, 5, own, served), user_fit.sittings(rows)
    np.testing.assert_array_equal(levels.users[:, :3], user_fit.fit(rows, logits, 5).users)
    p = 1 / (1 + np.exp(-logits))

    def slow(x: Any, chosen: Any) -> Any:
        curvature = x[chosen].T @ (x[chosen] * (p * (1 - p))[chosen, None]) + np.diag([2, 10, 10, 10])
        return np.linalg.solve(curvature, x[chosen].T @ (rows.labels - p)[chosen])

    for user in range(5):
        np.testing.assert_allclose(levels.users[user, 3:], slow(served, rows.users == user), atol=1e-6)
    for row in range(60):
        others = (rows.users == rows.users[row]) & (sitting != sitting[row])
        np.testing.assert_allclose(levels.rows[row, 3:], slow(own, others), atol=1e-6)


def test_sittings_end_with_a_pause_and_never_cross_users() -> None:
    rows = split([1, 0, 1, 1, 1], [DAY, 0, 0, 2 * DAY, 3 * DAY + 1], [1] * 5)
    found = user_fit.sittings(rows)
    assert found[0] == found[2] == found[3]
    assert len({found[0], found[1], found[4]}) == 3


@pytest.fixture(scope="module", params=["levels", "leanings, two members"])
def stages(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Stages:
    folder = tmp_path_factory.mktemp("levels")
    more = {} if request.param == "levels" else {"user_leaning": True, "members": 2, "history_pace": True}
    recipe = tiny_run.recipe(crm={**CRM, **more})
    (folder / "run").mkdir()
    return Stages(Run(folder / "run", recipe, tiny_run.prepared(folder / "data")), quiet=True)


def test_known_users_have_their_level_in_the_graph(stages: Stages, tmp_path: Path) -> None:
    train, valid = stages.rows("train"), stages.rows("valid")
    task = train_crm.CrmTask(stages.run.new_crm(), train, valid, stages.run.recipe.crm, 1)
    first = members_of(task.model)[0]
    table = first.levels.table.numpy()
    known = train.user_levels()
    np.testing.assert_array_equal(table, known)
    users = stages.run.data.user_ids
    for user, level in zip(users, train.levels.users, strict=True):
        index = stages.schema.vocabularies["user_id"].index(user)
        np.testing.assert_array_equal(table[index], level if index != OOV else np.zeros(table.shape[1]))
    assert not table[:2].any()
    assert np.abs(table).sum() > 0
    # The table is kept with the weights, is not trained, and decides scores.
    assert any(name.endswith("levels.table") for name in task.trainable())
    assert all(parameter.shape != table.shape for group, _ in task.groups() for parameter in group)
    before = train_crm.predict(task.model, valid)
    first.levels.fill(np.ones_like(table))
    assert not np.allclose(train_crm.predict(task.model, valid), before)


def test_a_training_row_brings_its_own_level(stages: Stages) -> None:
    train = stages.rows("train")
    batch = train.batch(np.arange(40))
    np.testing.assert_array_equal(batch[user_fit.USER_LEVEL], train.levels.rows[:40])
    assert user_fit.USER_LEVEL not in stages.rows("valid").batch(np.arange(3))
    masking = Masking(train.encoder.schema, FeaturesRecipe(), 0.5)
    masked = masking.hide(batch, np.random.default_rng(0))
    hidden = masked["user_id"] == OOV
    assert hidden.any()
    assert not masked[user_fit.USER_LEVEL][hidden].any()
    shown = (masked["user_id"] == batch["user_id"]) & ~hidden
    np.testing.assert_array_equal(masked[user_fit.USER_LEVEL][shown], batch[user_fit.USER_LEVEL][shown])


def test_onnx_equals_torch_with_levels(stages: Stages, tmp_path: Path) -> None:
    data, train = stages.run.data, stages.rows("train")
    model = train_crm.with_levels(stages.run.new_crm(), train).eval()
    rows = data.split("train")
    requests = [data.request(int(rows.users[r]), int(rows.positions[r]), range(9)) for r in range(4)]
    export_onnx(model, stages.schema, tmp_path / "crm.onnx")
    assert check_crm(model, train.encoder, tmp_path / "crm.onnx", requests) <= 1e-5


def test_stages_train_with_levels_and_find_them_again(stages: Stages) -> None:
    stages.do("crm", ())
    again = stages.run.crm("crm")
    for member in members_of(again):
        np.testing.assert_array_equal(member.levels.table.numpy(), stages.rows("train").user_levels())


def test_text_and_levels_want_quality() -> None:
    for key, value in (("item_text", ["title"]), ("user_level", True)):
        with pytest.raises(RecipeError, match=f"crm, features: {key} rests on the items' quality"):
            recipe_from({"name": "x", "crm": {"features": {key: value}}}, "x")


@pytest.mark.parametrize(
    ("number", "told"),
    [({"attribute": "year"}, "item_number rests on the items' quality"), ({"first": 3}, "first 3 is above last 0")],
)
def test_what_is_wrong_of_a_number_is_told(number: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=rf"crm, features: .*{told}"):
        recipe_from({"name": "x", "crm": {"features": {"item_number": number}}}, "x")


def test_leanings_want_levels() -> None:
    with pytest.raises(RecipeError, match="crm, features: user_leaning goes with the users' levels"):
        recipe_from({"name": "x", "crm": {"features": {"item_quality": True, "user_leaning": True}}}, "x")


def test_a_text_that_the_data_lack_is_named(fitted: Any) -> None:
    recipe = FeaturesRecipe(item_quality=True, item_text=("title", "plot"))
    with pytest.raises(InputError, match=r"item_text: .* has no text 'plot' of an item, only title, genres"):
        catalog_of(fitted.data, recipe)


def test_a_text_is_no_field_and_a_list_is(tmp_path: Path) -> None:
    data = tiny_run.prepared(tmp_path / "data")
    data.items["plot"] = [f"war and peace {row % 2}" for row in range(len(data.item_ids))]
    data.info["attributes"]["items"]["plot"] = "categorical"
    plain, told = FeaturesRecipe(item_quality=True), FeaturesRecipe(item_quality=True, item_text=("plot", "genres"))
    names = [{f.name for f in fit_schema(data, recipe).fields} for recipe in (plain, told)]
    assert names[0] - names[1] == {"item_plot"}
    assert "item_genres" in names[1]
    with_text, without = (catalog_of(data, recipe).attributes for recipe in (told, plain))
    assert [a["quality"] for a in with_text] != [a["quality"] for a in without]


def test_later_keys_that_are_off_change_no_run() -> None:
    off = {"item_text": [], "user_level": False, "item_quality": False, "item_vectors": 0}
    off |= {"user_leaning": False, "history_pace": False, "members": 1, "embedding_std": 0.05}
    assert deciding({"crm": {**off, "window": 3}}) == {"crm": {"window": 3}}
    on = {"crm": {"item_text": ["title"], "user_level": True}}
    assert deciding(on) == on
    assert deciding({"crm": {"item_text": ()}}) == {"crm": {}}
