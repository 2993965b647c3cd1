"""Policies for unknown values in a recipe: what the schema gets, what training hides, and that the export has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from corella_edge.errors import InputError, RecipeError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import FIRST, OOV, PAD
from corella_edge.request import Candidate, Event, User

torch = pytest.importorskip("torch")

from corella_edge_export.bundling.verify import check_crm  # noqa: E402
from corella_edge_export.crm.ensemble import new_crm  # noqa: E402
from corella_edge_export.crm.fitted.schema import catalog_of, fit_schema  # noqa: E402
from corella_edge_export.crm.recipe import FeaturesRecipe  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows, Masking  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx  # noqa: E402
from corella_edge_export.data.rowset import HistoryCut, choose_users  # noqa: E402
from corella_edge_export.evaluation.unknown import unknown  # noqa: E402
from corella_edge_export.recipe import table_of  # noqa: E402
from corella_edge_export.training.loop import Part  # noqa: E402
from corella_edge_export.training.run import deciding  # noqa: E402
from corella_edge_export.training.tasks.crm import CrmTask  # noqa: E402
from tiny_run import crm_recipe, recipe  # noqa: E402

POLICIES = {"item_id": "hash:8", "item_genres": "hash:3", "user_id": "refuse"}
FEATURES = FeaturesRecipe(history=5, window=9, text_words=3, text_buckets=64, sequence_length=4, unknown=POLICIES)


@pytest.fixture(scope="module")
def encoder(fitted: Any) -> FeatureEncoder:
    return FeatureEncoder(fit_schema(fitted.data, FEATURES), catalog_of(fitted.data))


def test_the_schema_has_the_policies(fitted: Any, encoder: FeatureEncoder) -> None:
    vocabularies = encoder.schema.vocabularies
    assert (vocabularies["item_id"].buckets, vocabularies["item_genres"].buckets) == (8, 3)
    assert [f.name for f in encoder.schema.refused] == ["user_id"]
    assert vocabularies["user_id"].buckets == 0
    if "blurb" in fitted.data.item_attributes:
        kinds = {f.name: (f.kind, f.length) for f in encoder.schema.fields}
        assert kinds["item_blurb"] == ("text", 3)
        assert kinds["user_visits"] == ("ordered", 4)
        assert len(vocabularies["item_blurb"]) == FIRST + 64
        missing = {f.name: f.width for f in encoder.schema.of("numeric")}
        assert missing == {"user_age": 2, "item_price": 2}


def test_texts_may_be_left_out(fitted: Any) -> None:
    fields = {f.name for f in fit_schema(fitted.data, FeaturesRecipe(text_buckets=0)).fields}
    assert "item_blurb" not in fields


def test_training_hides_values_behind_their_own_buckets(fitted: Any, encoder: FeatureEncoder) -> None:
    rows = EncodedRows(fitted.data, "train", encoder)
    feed = rows.batch(np.arange(len(rows)))
    masked = Masking(encoder.schema, FEATURES, 0.4).hide(feed, np.random.default_rng(0))
    assert masked["user_id"] is feed["user_id"]  # a request with an unknown one would be refused
    for name in ("item_id", "item_genres"):
        vocab = encoder.schema.vocabularies[name]
        hidden = (masked[name] != feed[name]).reshape(len(rows), -1).any(axis=1)
        assert 0.1 < hidden.mean() < 0.6
        for shown, other in zip(feed[name][hidden].reshape(-1), masked[name][hidden].reshape(-1), strict=True):
            known = FIRST <= shown < vocab.first_bucket
            assert other == (vocab.unseen(vocab.values[shown - FIRST]) if known else shown)
        assert (masked[name][feed[name] == PAD] == PAD).all()
    assert {name for name in feed if masked[name] is not feed[name]} == {"item_id", "item_genres"}


def test_a_trained_bucket_serves_the_unseen(fitted: Any, encoder: FeatureEncoder, tmp_path: Path) -> None:
    recipe = crm_recipe(embedding_dim=4, hidden=(8,), cross_layers=1, batch_size=16, oov_rate=0.5)
    recipe = replace(recipe, features=FEATURES)
    torch.manual_seed(0)
    model: Any = new_crm(encoder.schema, recipe)
    task = CrmTask(model, EncodedRows(fitted.data, "train", encoder), EncodedRows(fitted.data, "valid", encoder),
                   recipe, 1)  # fmt: skip
    before = model.embeddings["item_id"].weight.detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    for index, batch in enumerate(task.batches(0)):
        optimiser.zero_grad()
        task.losses(batch, 0, index, Part())["loss"].backward()
        optimiser.step()
    vocab = encoder.schema.vocabularies["item_id"]
    moved = (model.embeddings["item_id"].weight != before).any(dim=1).numpy()
    assert moved[vocab.first_bucket :].all()
    assert moved[OOV] == (vocab.hidden()[FIRST : vocab.first_bucket] == OOV).any()
    export_onnx(model, encoder.schema, tmp_path / "crm.onnx")
    split = fitted.data.split("test")
    requests = [fitted.data.request(int(split.users[r]), int(split.positions[r]), range(6)) for r in range(4)]
    strange = [replace(r, user=User("?", {"visits": ["p1", "?"], "age": None}, [Event("never"), *r.user.history]),
                       candidates=[Candidate(f"new-{i}", {"blurb": f"A bold number {i}", "genres": ["?", "g1"]})
                                   for i in range(6)]) for r in requests]  # fmt: skip
    assert check_crm(model, encoder, tmp_path / "crm.onnx", [*requests, *strange]) <= 1e-5


def test_an_evaluation_tells_the_rate_of_each_field(fitted: Any, encoder: FeatureEncoder) -> None:
    rows = choose_users(fitted.data, "test", 0, 1, HistoryCut(9))
    found = unknown(encoder, rows)
    seen = {name: set(fitted.data.split("train").users.tolist() if name == "user_id"
                      else fitted.data.split("train").items.tolist()) for name in ("user_id", "item_id")}  # fmt: skip
    items = rows.split.items[rows.indices].tolist()
    assert found["user_id"] == _rate("refuse", [u not in seen["user_id"] for u in rows.users.tolist()])
    assert found["item_id"] == _rate("hash:8", [i not in seen["item_id"] for i in items])
    names = [encoder.encode(request.user, request.candidates or ())[1][0] for request in rows.requests()]
    assert found["item_genres"] == _rate("hash:3", ["genres" in told for told in names])
    assert "item_blurb" not in found


def _rate(policy: str, flags: list[bool]) -> dict[str, Any]:
    return {"policy": policy, "rows": sum(flags), "rate": round(sum(flags) / len(flags), 6)}


@pytest.mark.parametrize("policy", ["hash", "hash:0", "hash:-1", "hash:99999999", "OOV", "", "hash:1e3"])
def test_a_policy_that_is_none_is_named(policy: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown, item_id: expected 'oov', 'hash:N' .* got "):
        recipe(crm={"unknown": {"item_id": policy}})


def test_a_policy_of_no_field_is_named(fitted: Any) -> None:
    with pytest.raises(InputError, match=r"no field 'item_genre' with known values, .* did you mean 'item_genres'"):
        fit_schema(fitted.data, FeaturesRecipe(unknown={"item_genre": "refuse"}))


def test_runs_that_were_begun_before_go_on() -> None:
    features = deciding(table_of(recipe()))["crm"].get("features", {})
    assert not {"unknown", "text_words", "text_buckets", "sequence_length"} & features.keys()
    assert deciding(table_of(recipe(crm={"unknown": POLICIES})))["crm"]["features"]["unknown"] == POLICIES
