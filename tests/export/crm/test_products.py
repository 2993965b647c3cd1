"""crm.items.onnx and crm.product.onnx: one product scores every item of the catalogue as crm.onnx does."""

from __future__ import annotations

import copy
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import BundleError, ExportError  # noqa: E402
from corella_edge.features.encoder import FeatureEncoder  # noqa: E402
from corella_edge.features.schema import Field, Schema  # noqa: E402
from corella_edge.request import Candidate, Candidates, Event, Request, User  # noqa: E402
from corella_edge_export.bundling.verify import check_products  # noqa: E402
from corella_edge_export.crm.ensemble import new_crm  # noqa: E402
from corella_edge_export.crm.fitted.schema import catalog_of, fit_schema  # noqa: E402
from corella_edge_export.crm.to_onnx import export_onnx  # noqa: E402
from corella_edge_runtime import products as runtime  # noqa: E402
from corella_edge_runtime.crm import Crm  # noqa: E402
from corella_edge_runtime.products import Products  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

WIDTH = 6
DOT: dict[str, Any] = {"kind": "sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "head": "dot", "history": 7,
                       "history_block": 3}  # fmt: skip
WORDS = {"source": "encoder", "path": "anywhere"}
SHAPES = {
    "dot": DOT,
    "users' levels": {**DOT, "user_level": True, "item_quality": True},
    "no ids of users": {**DOT, "user_ids": False},
    "hstu, softmax": {**DOT, "block": "hstu", "loss": "softmax"},
    "three members": {**DOT, "members": 3},
    "text vectors, two members, softmax": {**DOT, **WORDS, "members": 2, "loss": "softmax", "event_attributes": True},
    "text-sequence": {**DOT, **WORDS, "kind": "text-sequence"},
    "text-sequence, two members": {**DOT, **WORDS, "kind": "text-sequence", "members": 2},
}
HISTORIES = (0, 1, 5, 7, 20)


class Exported:
    """A CRM with large random weights, its files in a folder, and the runtime's of them."""

    def __init__(self, data: Any, keys: dict[str, Any], folder: Path) -> None:
        recipe = crm_recipe(**keys)
        schema, catalog = fit_schema(data, recipe.features), catalog_of(data)
        if "source" in keys:
            schema = with_words(schema)
            rng = np.random.default_rng(0)
            catalog.vectors = rng.normal(size=(len(catalog), WIDTH)).astype(np.float16)
            catalog.vectors[0] = 0
        self.encoder, self.path = FeatureEncoder(schema, catalog), folder / "crm.onnx"
        self.ids = catalog.ids
        torch.manual_seed(3)
        self.model = new_crm(schema, recipe, catalog).eval()
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.normal_(std=0.4)
            for part in self.model.modules():
                if hasattr(part, "scale") and hasattr(part, "offset"):
                    part.scale.uniform_(0.5, 1.0)
        export_onnx(self.model, schema, self.path)
        self.crm = Crm(self.path, schema)
        self.requests = [Request(self.user(n), [Candidate(self.ids[n])]) for n in HISTORIES]

    def user(self, events: int, name: str = "u1") -> User:
        rated = [Event(self.ids[(3 * i) % len(self.ids)], float(1 + i % 5), 1000 * i) for i in range(events)]
        return User(name, {}, [*rated[:-1], Event("no such item", 4.0, 10**6)] if events == 5 else rated)

    def opened(self) -> Products:
        found = Products.beside(Crm(self.path, self.encoder.schema), self.encoder)
        assert found is not None
        return found

    def candidates(self, rows: list[int] | None = None) -> Candidates:
        chosen = np.arange(len(self.ids)) if rows is None else np.array(rows, np.int64)
        return Candidates([self.ids[row] for row in chosen.tolist()], None, chosen)

    def logits(self, user: User, chosen: Candidates) -> np.ndarray:
        """By crm.onnx."""
        return self.crm.many_logits(self.encoder.encode(user, chosen)[0])

    def multiplied(self, products: Products, user: User, chosen: Candidates) -> np.ndarray:
        assert chosen.rows is not None
        return products.logits(self.encoder.encode_beside(user, chosen)[0], chosen.rows)


def with_words(schema: Schema) -> Schema:
    (events,) = (f for f in schema.fields if f.kind == "sequence" and f.source == "item")
    more = (
        Field("item_text", "vector", "item", "text", length=WIDTH, args={"attributes": ["title"]}),
        replace(events, name="history_text", kind="vectors", source="text", vocab="",
                args={**events.args, "width": WIDTH}),
    )  # fmt: skip
    return Schema((*schema.fields, *more), schema.vocabularies)


@pytest.fixture(scope="module", params=list(SHAPES))
def exported(request: pytest.FixtureRequest, fitted: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(fitted.data, SHAPES[request.param], tmp_path_factory.mktemp("products"))


@pytest.fixture(scope="module")
def one(data: Any, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(data, SHAPES["three members"], tmp_path_factory.mktemp("one"))


ON_GAPS = pytest.mark.parametrize("fitted", ["gaps"], indirect=True)  # attributes of every kind


@ON_GAPS
@pytest.mark.parametrize("events", HISTORIES)
def test_every_item_is_scored_as_by_crm_onnx(exported: Exported, events: int) -> None:
    products, every = exported.opened(), exported.candidates()
    for name in ("u1", "nobody"):
        user = exported.user(events, name)
        expected = exported.logits(user, every)
        assert np.ptp(expected) > 1e-3
        np.testing.assert_allclose(exported.multiplied(products, user, every), expected, rtol=1e-5, atol=1e-5)


@ON_GAPS
def test_and_as_by_torch(exported: Exported) -> None:
    assert check_products(exported.model, exported.encoder, exported.path, exported.requests) <= 1e-5
    other = copy.deepcopy(exported.model)
    with torch.no_grad():
        for part in other.modules():
            if hasattr(part, "offset"):
                part.offset.add_(1e-3)
    with pytest.raises(ExportError, match=r"crm\.product\.onnx: a probability differs from torch by .*e-0"):
        check_products(other, exported.encoder, exported.path, exported.requests)


@ON_GAPS
def test_few_items_are_scored_as_among_all_and_in_any_order(exported: Exported) -> None:
    products, user = exported.opened(), exported.user(7)
    whole = exported.multiplied(products, user, exported.candidates())
    for rows in ([4], [9, 2, 2], [*range(len(exported.ids) - 1, 3, -1)]):
        found = exported.multiplied(products, user, exported.candidates(rows))
        np.testing.assert_allclose(found, whole[rows], rtol=0, atol=1e-5)
    assert exported.multiplied(products, user, exported.candidates([])).shape == (0,)


@ON_GAPS
def test_what_is_unseen_is_told_as_ever(exported: Exported) -> None:
    every = exported.candidates()
    for name in ("u1", "nobody"):
        user = exported.user(2, name)
        assert exported.encoder.encode_beside(user, every)[1] == exported.encoder.encode(user, every)[1]


def test_the_vectors_are_made_once_in_parts_and_their_graph_is_closed(
    one: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = one.opened().vectors
    assert (whole.dtype, whole.shape) == (np.float32, (3 * 8, len(one.ids)))
    monkeypatch.setattr(runtime, "MAX_BATCH", 7)
    products, asked = one.opened(), list[int]()
    usual = one.encoder.encode_items
    monkeypatch.setattr(one.encoder, "encode_items", lambda rows: (asked.append(len(rows)), usual(rows))[1])
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(products.vectors)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {id(vectors) for vectors in found} == {id(products.vectors)}
    assert sum(asked) == len(one.ids)
    assert max(asked) == 7
    assert products._items is None
    np.testing.assert_allclose(products.vectors, whole, rtol=0, atol=1e-6)


def test_the_states_of_a_returning_user_are_those_that_crm_onnx_keeps(one: Exported) -> None:
    products, every, user = one.opened(), one.candidates(), one.user(4)
    crm = products._crm
    crm.probability(one.encoder.encode(user, every)[0])
    assert crm.stats()["crm_events_read"] == 4
    first = one.multiplied(products, user, every)
    assert (crm.stats()["crm_events_read"], crm.stats()["crm_history_hits"]) == (4, 1)
    assert crm.reader is not None
    crm.forget()
    assert one.multiplied(products, user, every).tolist() == first.tolist()


def test_candidates_that_bring_something_of_their_own_or_are_unknown_are_not_for_products(one: Exported) -> None:
    products, rows = one.opened(), np.arange(2)
    _ = products.vectors
    assert products.serves(Candidates(one.ids[:2], None, rows)) is rows
    assert products.serves(Candidates(one.ids[:2], {1: {"genres": []}}, rows)) is None
    assert products.serves(Candidates(one.ids[:2])) is None
    assert products.serves(Candidates(["x"], None, np.array([len(one.ids)]))) is None


def test_for_a_few_items_the_vectors_of_all_are_not_made(one: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    products, many = one.opened(), list(range(0, len(one.ids), 2))
    assert products.serves(one.candidates([3, 4])) is None
    assert products.serves(one.candidates(many)) is not None
    monkeypatch.setattr(runtime, "MAX_BATCH", 1)  # more than a run takes are no few
    assert products.serves(one.candidates([3, 4])) is not None
    monkeypatch.undo()
    _ = products.vectors
    assert products.serves(one.candidates([3, 4])) is not None


def test_no_other_head_and_no_int8_form_has_the_graphs(one: Exported, data: Any, tmp_path: Path) -> None:
    for path in one.path.parent.glob("crm.*"):
        shutil.copy(path, tmp_path)
    for name in ("crm", "crm.events"):  # the very graphs: it is the form that counts
        shutil.copy(tmp_path / f"{name}.onnx", tmp_path / f"{name}.int8.onnx")
    assert Products.beside(Crm(tmp_path / "crm.int8.onnx", one.encoder.schema), one.encoder) is None
    assert Products.beside(Crm(tmp_path / "crm.onnx", one.encoder.schema), one.encoder) is not None
    (tmp_path / "plain").mkdir()
    plain = Exported(data, {**DOT, "head": "attention"}, tmp_path / "plain")
    assert not plain.model.multiplies
    assert {path.name for path in plain.path.parent.iterdir()} == {"crm.onnx", "crm.events.onnx"}
    assert Products.beside(plain.crm, plain.encoder) is None


def renamed(path: Path, old: str, new: str) -> None:
    model = onnx.load(path)
    for value in model.graph.input:
        value.name = new if value.name == old else value.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    onnx.save(model, path)


def smaller_table(path: Path) -> None:
    model = onnx.load(path)
    for prop in model.metadata_props:
        if prop.key.endswith(".item_id"):
            prop.value = "1"
    onnx.save(model, path)


def swapped(path: Path) -> None:
    """The vectors of one member where those of three are wanted."""
    model = onnx.load(path)
    (last,) = model.graph.output
    model.graph.output.remove(last)
    shape = onnx.helper.make_tensor_value_info("half", onnx.TensorProto.FLOAT, None)
    model.graph.node.append(onnx.helper.make_node("Split", [last.name], ["half", "rest"], axis=0))
    model.graph.output.append(shape)
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("crm.items.onnx", lambda path: path.write_bytes(b"none"), r"crm\.items\.onnx: ONNX Runtime cannot load it"),
        ("crm.items.onnx", lambda path: renamed(path, "item_id", "x"), r"crm\.items\.onnx: its inputs .*'item_id'"),
        ("crm.items.onnx", smaller_table, r"crm\.items\.onnx: its table for 'item_id' does not fit"),
        ("crm.product.onnx", lambda path: path.write_bytes(b""), r"crm\.product\.onnx: ONNX Runtime cannot load it"),
        ("crm.product.onnx", lambda path: renamed(path, "states", "x"), r"crm\.product\.onnx: its inputs .*'states'"),
        ("crm.items.onnx", swapped, r"crm\.product\.onnx: ONNX Runtime cannot run it"),
    ],
)  # fmt: skip
def test_graphs_that_do_not_fit_are_refused(
    one: Exported, tmp_path: Path, name: str, damage: Callable[[Path], Any], told: str
) -> None:
    for path in one.path.parent.glob("crm.*"):
        shutil.copy(path, tmp_path)
    damage(tmp_path / name)
    with pytest.raises(BundleError, match=told):
        Products.beside(Crm(tmp_path / "crm.onnx", one.encoder.schema), one.encoder)


def test_the_axes_of_items_and_events_are_free(one: Exported) -> None:
    def axes(name: str) -> dict[str, list[Any]]:
        graph = onnx.load(one.path.with_name(name)).graph
        values = [*graph.input, *graph.output]
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    items, product = axes("crm.items.onnx"), axes("crm.product.onnx")
    schema = one.encoder.schema
    assert items["vectors"] == product["vectors"] == [24, "n"]
    assert product["logits"] == ["n"]
    assert product["states"] == [9, 2, "e", 8]
    own = {f.name for f in schema.fields if f.side == "item" and f.kind != "derived"}
    assert items.keys() - {"vectors"} == own
    user = {f.name for f in schema.fields if f.side == "user" and f.kind != "sequence"}
    assert product.keys() - {"vectors", "states", "logits"} == user
