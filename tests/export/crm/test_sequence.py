"""The sequence family: events read once, in parts or along a user's rows, give what each row gives by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from corella_edge.errors import BundleError, RecipeError  # noqa: E402
from corella_edge.features.encoder import FeatureEncoder  # noqa: E402
from corella_edge.features.schema import OOV, PAD, Field, Schema  # noqa: E402
from corella_edge.request import Candidate, Event, Request, User  # noqa: E402
from corella_edge_export.crm.chunks import Chunks  # noqa: E402
from corella_edge_export.crm.ensemble import new_crm  # noqa: E402
from corella_edge_export.crm.fitted.schema import apart, catalog_of, fit_schema  # noqa: E402
from corella_edge_export.crm.recipe import FAMILIES, CrmRecipe  # noqa: E402
from corella_edge_export.crm.rows import EncodedRows  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.data.rowset import history_needed  # noqa: E402
from corella_edge_export.training.tasks.crm import predict, tensors  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

KEYS = {"kind": "sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "hidden": (8,), "dropout": 0.5,
        "history": 7, "history_block": 3, "window": 11, "history_pace": True}  # fmt: skip
SHAPES = [
    crm_recipe(**KEYS),
    crm_recipe(**{**KEYS, "blocks": 3, "hidden": ()}),
    crm_recipe(**KEYS, head="dot"),
    crm_recipe(**KEYS, members=2, blocks=1),
    crm_recipe(**KEYS, block="hstu"),
    crm_recipe(**KEYS, block="hstu", head="dot"),
]
NAMES = ["attention", "three blocks, no hidden layers", "dot", "two members", "hstu", "hstu, dot"]


def make(schema: Any, chosen: CrmRecipe) -> Any:
    torch.manual_seed(0)
    model = new_crm(schema, chosen).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return model


@pytest.fixture(scope="module")
def encoder(fitted: Any) -> FeatureEncoder:
    return FeatureEncoder(fit_schema(fitted.data, SHAPES[0].features), catalog_of(fitted.data))


def feed_of(encoder: FeatureEncoder, user: User, items: list[str]) -> Any:
    """Inputs of a request, its events without padding."""
    feed, _ = encoder.encode(user, [Candidate(item) for item in items])
    kept = feed["history_items"][0] != PAD
    for item in encoder.schema.of("sequence"):
        feed[item.name] = feed[item.name][:, kept]
    return tensors(feed)


def users(fitted: Any) -> list[User]:
    """With a long history, a short one, one of unknown items, and none."""
    positions = fitted.data.split("test").positions
    long, short = int(positions.argmax()), int(positions.argmin())
    found = [request(fitted, row).user for row in (long, short)]
    odd = [(f"unknown {n}", event.rating) for n, event in enumerate(found[0].history)]
    strange = User("nobody", {}, tuple(Event(i, r, None) for i, r in odd))
    return [*found, strange, User("nobody", {}, ())]


def request(fitted: Any, row: int) -> Request:
    split = fitted.data.split("test")
    return fitted.data.request(int(split.users[row]), int(split.positions[row]), [0])


@pytest.mark.parametrize("chosen", SHAPES, ids=NAMES)
def test_events_read_in_parts_are_kept_as_if_read_at_once(fitted: Any, encoder: Any, chosen: CrmRecipe) -> None:
    model = make(encoder.schema, chosen)
    feed = feed_of(encoder, users(fitted)[0], encoder.catalog.ids[:3])
    names = [f.name for f in encoder.schema.of("sequence")]
    e = feed["history_items"].shape[1]
    assert e > 4
    with torch.inference_mode():
        whole = model.read(feed, model.nothing())
        assert whole.shape == (model.memory[0], 2, e, model.memory[1])
        for cut in (0, 1, e - 1):
            first = model.read({name: feed[name][:, :cut] for name in names}, model.nothing())
            second = model.read({name: feed[name][:, cut:] for name in names}, first)
            torch.testing.assert_close(second, whole, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(first, whole[:, :, :cut], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chosen", SHAPES, ids=NAMES)
def test_one_candidate_is_scored_as_among_many_and_as_a_row(fitted: Any, encoder: Any, chosen: CrmRecipe) -> None:
    model, items = make(encoder.schema, chosen), [*encoder.catalog.ids[:5], "no such item"]
    for user in users(fitted):
        padded, _ = encoder.encode(user, [Candidate(item) for item in items])
        rows = {name: np.repeat(v, 6, axis=0) if len(v) == 1 else v for name, v in padded.items()}
        with torch.inference_mode():
            many = model.serving_forward(feed_of(encoder, user, items))
            alone = [model.serving_forward(feed_of(encoder, user, [item])) for item in items]
            torch.testing.assert_close(torch.cat(alone), many, rtol=1e-5, atol=1e-5)
            for feed in (tensors(padded), tensors(rows)):
                torch.testing.assert_close(model(feed), many, rtol=1e-5, atol=1e-5)
        assert many.std() > 0


@pytest.mark.parametrize("chosen", SHAPES, ids=NAMES)
def test_rows_along_a_users_events_are_scored_as_each_by_itself(fitted: Any, encoder: Any, chosen: CrmRecipe) -> None:
    model = make(encoder.schema, chosen)
    rows = EncodedRows(fitted.data, "train", encoder)
    chunks = Chunks(rows)
    seen = []
    for batch in chunks.batches(40):
        along = chunks.along(batch)
        seen += along.rows.tolist()
        with torch.inference_mode():
            found = model.along(tensors(along.feed), torch.tensor(along.owners), torch.tensor(along.places))
            torch.testing.assert_close(found, model(tensors(rows.batch(along.rows))), rtol=1e-4, atol=1e-4)
    assert sorted(seen) == list(range(len(rows)))
    with torch.inference_mode():
        expected = torch.sigmoid(model(tensors(rows.batch(np.arange(len(rows))))).double())
    np.testing.assert_allclose(predict(model, rows), expected, rtol=1e-4, atol=1e-5)


def test_part_of_a_batch_is_those_chunks_alone(fitted: Any, encoder: Any) -> None:
    chunks = Chunks(EncodedRows(fitted.data, "train", encoder))
    batch = np.random.default_rng(2).permutation(len(chunks))[:9]
    whole = chunks.along(batch)
    for cut in (slice(0, None, 2), slice(1, None, 2), slice(3, 4)):
        part, alone = whole.of(cut), chunks.along(batch[cut])
        e = alone.events["history_items"].shape[1]
        np.testing.assert_array_equal(part.rows, alone.rows)
        np.testing.assert_array_equal(part.owners, alone.owners)
        np.testing.assert_array_equal(part.places, alone.places)
        np.testing.assert_array_equal(part.events["history_items"][:, :e], alone.events["history_items"])
        assert not part.events["history_items"][:, e:].any()
        np.testing.assert_array_equal(part.beside["item_id"], alone.beside["item_id"])


@pytest.mark.parametrize("head", ["dot", "attention"])
def test_an_items_numbers_count(fitted: Any, encoder: Any, head: str) -> None:
    """Of an item that nothing else is known of, too: it has a place by its numbers alone."""
    model, user = make(encoder.schema, crm_recipe(**KEYS, head=head)), users(fitted)[0]
    numbers = list(encoder.schema.of("numeric", side="item"))
    with torch.inference_mode():
        feed = feed_of(encoder, user, ["no such item", "no such item"])
        torch.testing.assert_close(*model.serving_forward(feed), rtol=1e-5, atol=1e-6)
        for item in numbers:
            other = {**feed, item.name: feed[item.name] + torch.tensor([[0.0], [1.0]])}
            first, second = model.serving_forward(other)
            assert abs(first - second) > 1e-3
    assert (head == "dot" and bool(numbers)) == (getattr(model, "numbers", None) is not None)


def test_products_learn_from_the_items_numbers(data: PreparedData) -> None:
    schema = apart(fit_schema(data, SHAPES[2].features))
    assert [f.name for f in schema.of("numeric", side="item")] == ["item_minutes"]
    assert not schema.of("derived", side="item")
    rows = EncodedRows(data, "train", FeatureEncoder(schema, catalog_of(data)))
    model = new_crm(schema, SHAPES[2])
    model(tensors(rows.batch(np.arange(20)))).sum().backward()
    assert model.numbers.weight.grad.abs().sum() > 0


@given(st.integers(0, 400), st.integers(1, 60), st.integers(1, 60))
def test_a_sequence_begins_at_a_multiple_of_its_block(events: int, length: int, block: int) -> None:
    block = min(block, length)
    item = Field("s", "sequence", "user", "item", "item_id", length, {"block": block} if block > 1 else {})
    kept = item.kept(events)
    assert (events - kept) % block == 0
    assert kept == events if events <= length else length - block < kept <= length
    assert item.kept(np.array([events])).tolist() == [kept]


@pytest.mark.parametrize("block", [0, 8, 2.0, True, "3"])
def test_a_block_that_is_none_is_refused(encoder: Any, block: Any) -> None:
    fields = [replace(f, args={"block": block}) if f.name == "history_items" else f for f in encoder.schema.fields]
    with pytest.raises(BundleError, match="history_items: args: block must be a whole number from 1 to its length, 7"):
        Schema(tuple(fields), encoder.schema.vocabularies)


def test_schemas_without_a_block_are_as_they_were(fitted: Any) -> None:
    fields = fit_schema(fitted.data, replace(SHAPES[0].features, history_block=1)).to_json()["fields"]
    assert not any("block" in item["args"] for item in fields)
    assert fitted.encoder.schema.block == 1


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_row_is_the_request_it_stands_for_also_with_a_block(fitted: Any, encoder: Any, split: str) -> None:
    rows = EncodedRows(fitted.data, split, encoder)
    cut = history_needed(encoder.schema, None)
    for row in range(0, len(rows), 7):
        user, place = int(rows.split.users[row]), int(rows.split.positions[row])
        for most, block in ((None, 1), (cut.events, cut.block)):
            request = fitted.data.request(user, place, [0], most, block=block)
            feed, _ = encoder.encode(request.user, request.candidates or ())
            for item in encoder.schema.of("sequence"):
                np.testing.assert_array_equal(feed[item.name], rows.batch(np.array([row]))[item.name])


@pytest.mark.parametrize("kind", [kind for kind in FAMILIES if kind != "text-sequence"])  # which reads no id
def test_without_user_ids_nobody_is_known_by_his(fitted: Any, encoder: Any, kind: str) -> None:
    """But by them he is with them; his attributes and events count in any case."""
    rows = EncodedRows(fitted.data, "train", encoder).batch(np.arange(12))
    others = {**rows, "user_id": np.where(rows["user_id"] > OOV, rows["user_id"] - 1, OOV)}
    for ids in (True, False):
        model = make(encoder.schema, crm_recipe(kind=kind, user_ids=ids, history=7, history_block=3, window=11))
        with torch.inference_mode():
            same = torch.equal(model(tensors(rows)), model(tensors(others)))
        assert same != ids
        assert any(name.startswith("embeddings.user_id") for name in model.state_dict()) == ids
    with pytest.raises(RecipeError, match="user_level is kept of each user by his id; set user_ids = true"):
        crm_recipe(kind=kind, user_ids=False, user_level=True, item_quality=True)


@pytest.mark.parametrize(
    ("keys", "problem"),
    [({"embedding_dim": 10, "heads": 4}, "embedding_dim 10 must divide by heads 4"),
     ({"loss": "softmax"}, "loss = 'softmax' ranks by products; set head = 'dot'"),
     ({"history": 5, "history_block": 6}, "history_block: at most history, 5")],
)  # fmt: skip
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, Any], problem: str) -> None:
    with pytest.raises(RecipeError, match=problem):
        crm_recipe(kind="sequence", **keys)
