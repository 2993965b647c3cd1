"""The family that knows items by their words: no id in it, and a catalogue of other ids is scored alike."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.catalog import Catalog  # noqa: E402
from corella_edge.errors import RecipeError  # noqa: E402
from corella_edge.features.encoder import FeatureEncoder  # noqa: E402
from corella_edge.features.schema import Field, Schema  # noqa: E402
from corella_edge.request import Candidate, Event, Request, User  # noqa: E402
from corella_edge_export.crm.ensemble import new_crm  # noqa: E402
from corella_edge_export.crm.fitted.schema import catalog_of, events_schema  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows, Masking  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx, quantize_int8  # noqa: E402
from corella_edge_export.training import loop  # noqa: E402
from corella_edge_export.training.loop import Schedule  # noqa: E402
from corella_edge_export.training.tasks.crm import new_task, predict, tensors  # noqa: E402
from corella_edge_export.training.tasks.sequences import item_feed  # noqa: E402
from corella_edge_runtime.crm import Crm  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

WIDTH, EVENTS = 6, 7
KEYS = {"kind": "text-sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "dropout": 0.5, "history": EVENTS,
        "history_block": 3, "source": "encoder", "path": "anywhere"}  # fmt: skip


@dataclass(frozen=True)
class Made:
    data: Any
    encoder: FeatureEncoder
    model: Any


@pytest.fixture(scope="module")
def made(fitted: Any) -> Made:
    """A schema without ids, vectors of every item but the first, and a model with large weights."""
    chosen = crm_recipe(**KEYS)
    schema, catalog = events_schema(fitted.data, chosen.features), catalog_of(fitted.data)
    (events,) = (f for f in schema.fields if f.source == "item")
    text = (
        Field("item_text", "vector", "item", "text", length=WIDTH, args={"attributes": ["title"]}),
        replace(events, name="history_text", kind="vectors", source="text", vocab="",
                args={**events.args, "width": WIDTH}),
    )  # fmt: skip
    catalog.vectors = np.random.default_rng(0).normal(size=(len(catalog), WIDTH)).astype(np.float16)
    catalog.vectors[0] = 0
    encoder = FeatureEncoder(Schema((*schema.fields, *text), schema.vocabularies), catalog)
    torch.manual_seed(0)
    model = new_crm(encoder.schema, chosen, catalog).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return Made(fitted.data, encoder, model)


def requests(made: Made, count: int = 8) -> list[Request]:
    """Of a user with a long history among others, with five candidates; and of one without events."""
    split = made.data.split("test")
    chosen = [int(split.positions.argmax()), *range(count)]
    found = [made.data.request(int(split.users[row]), int(split.positions[row]), range(5)) for row in chosen]
    return [*found, Request(User("nobody", {}, ()), found[0].candidates)]


def test_no_field_holds_an_id(made: Made) -> None:
    schema = made.encoder.schema
    assert not schema.of("categorical", "derived", "numeric")
    assert len(schema.vocabularies["item_id"].values) == 0
    assert {f.side for f in schema.of("vector")} == {"item"}


def test_rows_requests_and_the_graphs_are_scored_alike(made: Made, tmp_path: Path) -> None:
    rows = EncodedRows(made.data, "test", made.encoder)
    export_onnx(made.model, made.encoder.schema, tmp_path / "crm.onnx")
    served = Crm(tmp_path / "crm.onnx", made.encoder.schema)
    along = predict(made.model, rows)
    with torch.inference_mode():
        for row in (0, 1, 5, int(rows.split.positions.argmax())):
            user, position = int(rows.split.users[row]), int(rows.split.positions[row])
            request = made.data.request(user, position, [int(rows.split.items[row])])
            feed = made.encoder.encode(request.user, request.candidates or ())[0]
            alone = made.model(tensors(feed))
            np.testing.assert_allclose(made.model(tensors(rows.batch(np.array([row])))).numpy(), alone, atol=1e-5)
            np.testing.assert_allclose(served.logits(feed), alone, atol=1e-5)
            assert along[row] == pytest.approx(torch.sigmoid(alone.double()).item(), abs=1e-6)


def test_int8_of_both_graphs_ranks_nearly_alike(made: Made, tmp_path: Path) -> None:
    schema = made.encoder.schema
    export_onnx(made.model, schema, tmp_path / "crm.onnx")
    for name in ("crm.onnx", "crm.events.onnx"):
        quantize_int8(tmp_path / name, tmp_path / name.replace(".onnx", ".int8.onnx"), schema)
    served = Crm(tmp_path / "crm.int8.onnx", schema)
    request = requests(made)[0]
    feed = made.encoder.encode(request.user, [Candidate(item) for item in made.encoder.catalog.ids])[0]
    with torch.inference_mode():
        expected = torch.sigmoid(made.model(tensors(feed)).double()).numpy()
    assert np.corrcoef(served.probability(feed), expected)[0, 1] > 0.95


def test_another_catalogue_with_the_same_words_is_scored_alike(made: Made) -> None:
    """Ids, and the order of the items, do not count; and an item without a vector is one without words."""
    catalog, rng = made.encoder.catalog, np.random.default_rng(1)
    order = rng.permutation(len(catalog))
    other = Catalog([f"other {i}" for i in order], [catalog.attributes[i] for i in order])
    assert catalog.vectors is not None
    other.vectors = catalog.vectors[order]
    swapped = FeatureEncoder(made.encoder.schema, other)
    with torch.inference_mode():
        for one in requests(made):
            renamed = [f"other {catalog.row_of[c.item]}" for c in one.candidates or ()]
            events = tuple(replace(e, item=f"other {catalog.row_of[e.item]}") for e in one.user.history)
            feed = made.encoder.encode(one.user, one.candidates or ())[0]
            again = swapped.encode(User("another", {}, events), [Candidate(item) for item in renamed])[0]
            torch.testing.assert_close(made.model(tensors(again)), made.model(tensors(feed)), rtol=0, atol=1e-6)


def test_words_of_candidate_and_events_count_but_not_those_of_padding(made: Made) -> None:
    feed = tensors(made.encoder.encode(requests(made)[0].user, [Candidate(made.encoder.catalog.ids[3])])[0])
    with torch.inference_mode():
        before = made.model(feed)
        for name in ("item_text", "history_text"):
            assert (made.model({**feed, name: feed[name] + torch.randn(WIDTH)}) - before).abs().min() > 1e-6, name
        nothing = torch.zeros_like(feed["history_items"])
        empty = {**feed, "history_items": nothing}
        other = {**empty, "history_text": torch.randn_like(feed["history_text"])}
        torch.testing.assert_close(made.model(other), made.model(empty))


def test_an_unknown_item_scores_the_offset(made: Made) -> None:
    """It has no words, so nothing is known of it: its cosine is that of no direction."""
    user = User("u", {}, (Event(made.encoder.catalog.ids[2], None, None),))
    feed = tensors(made.encoder.encode(user, [Candidate("never seen"), Candidate(made.encoder.catalog.ids[0])])[0])
    with torch.inference_mode():
        assert made.model(feed).tolist() == pytest.approx([made.model.offset.item()] * 2)


def test_there_is_no_id_to_hide_in_training(made: Made) -> None:
    rows = EncodedRows(made.data, "train", made.encoder)
    feed = rows.batch(np.arange(5))
    masking = Masking(made.encoder.schema, crm_recipe(**KEYS).features, 1.0)
    hidden = masking.hide(feed, np.random.default_rng(0))
    assert all((hidden[name] == feed[name]).all() for name in feed)


BAD = [
    ({"head": "attention", "loss": "pointwise"}, "'dot' alone"),
    ({"temperature": 0.0}, "temperature"),
]


@pytest.mark.parametrize(("keys", "told"), BAD)
def test_keys_that_do_not_go_together_are_told(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(RecipeError, match=told):
        crm_recipe(**{**KEYS, **keys})


def test_it_may_begin_by_cosines_and_keep_its_map(made: Made, tmp_path: Path) -> None:
    """Before any training the items nearest to the last event come first; at the rate 0 training moves no map."""
    chosen = crm_recipe(**{**KEYS, "embedding_dim": 32}, map_start="cosine", map_rate=0.0)
    torch.manual_seed(0)
    model = new_crm(made.encoder.schema, chosen, made.encoder.catalog).eval()
    rows = [EncodedRows(made.data, split, made.encoder) for split in ("train", "valid")]
    task = new_task(model, rows[0], rows[1], chosen, 1)
    last = made.data.log.items[made.data.log.offsets[1:] - 1]
    catalogue = tensors(item_feed(rows[0], np.arange(len(made.data.item_ids))))
    feed = {"history_items": torch.ones(1, 1, dtype=torch.int64), "history_text": torch.tensor([[0]])}
    feed |= {"item_text": torch.zeros(1, dtype=torch.int64)}
    feed |= {f.name: torch.zeros(1, 1, dtype=torch.int64) for f in made.encoder.schema.of("sequence")[1:]}
    with torch.inference_mode():
        for item in np.unique(last[last > 0])[:5].tolist():
            scores = model.catalogue_scores({**feed, "history_text": torch.tensor([[item]])}, catalogue)[0]
            assert int(scores.argmax()) == item
    before = model.text.map.weight.detach().clone()
    loop.fit(task, Schedule(1e-2, 0.1, 1, 1, 1), tmp_path / "crm", 1, quiet=True)
    assert torch.equal(model.text.map.weight, before)
