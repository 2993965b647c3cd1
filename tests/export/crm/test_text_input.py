"""Text vectors as an input of every family: rows of training, requests and the graph give the same logits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.catalog import Catalog  # noqa: E402
from corella_edge.errors import RecipeError  # noqa: E402
from corella_edge.features.encoder import FeatureEncoder  # noqa: E402
from corella_edge.features.schema import Field, Schema  # noqa: E402
from corella_edge_export.crm.ensemble import new_crm  # noqa: E402
from corella_edge_export.crm.recipe import FAMILIES  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.crm.text_input import ALIKE, TextInput  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx  # noqa: E402
from corella_edge_export.training.tasks.crm import tensors  # noqa: E402
from corella_edge_export.training.tasks.sequences import item_feed  # noqa: E402
from corella_edge_runtime.crm import Crm  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

WIDTH, EVENTS = 6, 7
KINDS = [kind for kind in FAMILIES if kind != "text-sequence"]  # which reads nothing else: test_text_sequence.py
TEXT = (
    Field("item_text", "vector", "item", "text", length=WIDTH, args={"attributes": ["title"]}),
    Field("history_text", "vectors", "user", "text", length=EVENTS, args={"width": WIDTH}),
)
KEYS = {"embedding_dim": 4, "hidden": (8,), "history": EVENTS, "window": 11}


@pytest.fixture
def worded(fitted: Any) -> Any:
    """The fitted inputs, with a vector of every item but the first."""
    schema, catalog = fitted.encoder.schema, fitted.encoder.catalog
    whole = Catalog(catalog.ids, catalog.attributes)
    whole.vectors = np.random.default_rng(0).normal(size=(len(catalog), WIDTH)).astype(np.float16)
    whole.vectors[0] = 0
    return replace(fitted, encoder=FeatureEncoder(Schema((*schema.fields, *TEXT), schema.vocabularies), whole))


def make(worded: Any, kind: str) -> Any:
    torch.manual_seed(0)
    model = new_crm(worded.encoder.schema, crm_recipe(**KEYS, kind=kind), worded.encoder.catalog).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_rows_requests_and_the_graph_are_scored_alike(worded: Any, kind: str, tmp_path: Path) -> None:
    model, encoder = make(worded, kind), worded.encoder
    rows = EncodedRows(worded.data, "test", encoder)
    export_onnx(model, encoder.schema, tmp_path / "crm.onnx")
    served = Crm(tmp_path / "crm.onnx", encoder.schema)
    with torch.inference_mode():
        expected = model(tensors(rows.batch(np.arange(8)))).numpy()
        for place in range(8):
            user, position = int(rows.split.users[place]), int(rows.split.positions[place])
            request = worded.data.request(user, position, [int(rows.split.items[place])])
            feed = encoder.encode(request.user, request.candidates or ())[0]
            np.testing.assert_allclose(model(tensors(feed)).numpy(), expected[place : place + 1], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(served.logits(feed), expected[place : place + 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_words_of_candidate_and_events_count(worded: Any, kind: str) -> None:
    model, encoder = make(worded, kind), worded.encoder
    split = worded.data.split("test")
    request = worded.data.request(int(split.users[3]), int(split.positions[3]), range(5))
    feed = tensors(encoder.encode(request.user, request.candidates or ())[0])
    with torch.inference_mode():
        before = model(feed)
        for name in ("item_text", "history_text"):
            changed = model({**feed, name: feed[name] + 1.0})
            assert (changed - before).abs().min() > 1e-6, name


def test_an_item_without_words_adds_nothing_and_the_table_stays_out_of_what_is_kept() -> None:
    torch.manual_seed(0)
    part, table = TextInput(WIDTH, 3), torch.randn(5, WIDTH)
    assert part.state_dict().keys() == {"map.weight"}
    part.start(table, tuned=False)
    assert part.state_dict().keys() == {"map.weight"}
    rows = torch.tensor([[5, 0], [3, 5]])
    found = part(rows)
    assert found[0, 0].tolist() == found[1, 1].tolist() == [0.0] * 3
    torch.testing.assert_close(found[1, 0], part(table[3]))
    found.sum().backward()
    assert part.map.weight.grad is not None


def test_a_tuned_table_is_trained_and_kept() -> None:
    torch.manual_seed(0)
    part, table = TextInput(WIDTH, 3), torch.randn(5, WIDTH)
    part.start(table.clone(), tuned=True)
    assert part.state_dict().keys() == {"map.weight", "table"}
    part(torch.tensor([[5, 0], [3, 0]])).sum().backward()
    moved = part.table.grad.abs().sum(dim=1) > 0
    assert moved.tolist() == [True, False, False, True, False]


def test_a_map_that_starts_alike_keeps_the_cosines_of_what_is_not_common() -> None:
    rng = torch.Generator().manual_seed(0)
    table = torch.randn(40, WIDTH, generator=rng) + torch.tensor([3.0, 0, 0, 0, 0, 0])
    trained = torch.arange(30)
    part = TextInput(WIDTH, WIDTH + 2)
    part.start(table, tuned=False)
    part.start_alike(trained)
    found = part(trained)
    mean = torch.nn.functional.normalize(table[trained].mean(dim=0), dim=0)
    apart = table[trained] - (table[trained] @ mean).unsqueeze(1) * mean
    torch.testing.assert_close(cosines(found), cosines(apart), rtol=1e-4, atol=1e-4)
    assert found.detach().norm(dim=1).mean().item() == pytest.approx(ALIKE, rel=1e-4)
    table[30:] = 100.0  # words of other items have no say
    again = TextInput(WIDTH, WIDTH + 2)
    again.start(table, tuned=False)
    again.start_alike(trained)
    torch.testing.assert_close(again.map.weight, part.map.weight)


def cosines(vectors: Any) -> Any:
    unit = torch.nn.functional.normalize(vectors, dim=1)
    return unit @ unit.T


def test_a_model_of_products_starts_by_the_words_of_the_last_event(worded: Any) -> None:
    chosen = crm_recipe(**{**KEYS, "embedding_dim": 32, "embedding_std": 1e-3}, kind="sequence", head="dot", heads=2,
                        source="encoder", path="anywhere", map_start="cosine")  # fmt: skip
    torch.manual_seed(0)
    encoder = worded.encoder
    kept = tuple(field for field in encoder.schema.fields if field.kind not in ("derived", "numeric"))
    schema = Schema(kept, encoder.schema.vocabularies)
    model = new_crm(schema, chosen, encoder.catalog).eval()
    items = EncodedRows(worded.data, "test", FeatureEncoder(schema, encoder.catalog))
    catalogue = tensors(item_feed(items, np.arange(len(encoder.catalog))))
    events = {name: value[:1, -1:] for name, value in tensors(items.batch(np.arange(1))).items() if "history" in name}
    with torch.inference_mode():
        vectors = model.item_vectors(catalogue)
        for item in range(1, 6):
            user = model.text(torch.tensor([item]))
            feed = {**tensors(items.batch(np.arange(1))), **events, "history_text": torch.tensor([[item]])}
            found = model.catalogue_scores(feed, catalogue)[0]
            expected = torch.nn.functional.cosine_similarity(user, vectors)
            assert np.corrcoef(found / vectors.norm(dim=1), expected)[0, 1] > 0.9


def test_a_start_by_cosines_wants_products_and_words() -> None:
    with pytest.raises(RecipeError, match="map_start: 'cosine' is for scores that are products"):
        crm_recipe(kind="din", source="encoder", path="anywhere", map_start="cosine")
    with pytest.raises(RecipeError, match="map_start: there are no words without a source"):
        crm_recipe(kind="sequence", head="dot", map_start="cosine")
