"""crm.events.onnx and crm.onnx: together they compute what torch does, whatever was read before and is kept."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from corella_edge.errors import BundleError, ExportError  # noqa: E402
from corella_edge.request import Candidate, History, Request, User  # noqa: E402
from corella_edge_export.bundling.verify import check_crm, torch_crm  # noqa: E402
from corella_edge_export.crm import to_onnx  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_runtime import crm as runtime  # noqa: E402
from corella_edge_runtime.crm import Crm  # noqa: E402
from exported_crm import ExportedCrm  # noqa: E402
from tiny_run import crm_recipe  # noqa: E402

KEYS = {"kind": "sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "hidden": (8,), "history": 7,
        "history_block": 3, "window": 11}  # fmt: skip
SHAPES = {
    "attention": crm_recipe(**KEYS),
    "one block, no hidden layers": crm_recipe(**{**KEYS, "blocks": 1, "hidden": ()}),
    "dot": crm_recipe(**KEYS, head="dot"),
    "two members": crm_recipe(**KEYS, members=2),
    "hstu": crm_recipe(**KEYS, block="hstu"),
    "hstu, dot": crm_recipe(**KEYS, block="hstu", head="dot"),
}
ITEMS = 50
BUDGETS = (1500, 2**20)
DEVIATION = 0.4  # of the weights


@pytest.fixture(scope="module", params=list(SHAPES))
def exported(
    request: pytest.FixtureRequest, data: PreparedData, tmp_path_factory: pytest.TempPathFactory
) -> ExportedCrm:
    return ExportedCrm(data, SHAPES[request.param], tmp_path_factory.mktemp("two"), DEVIATION)


@pytest.fixture(scope="module")
def one(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> ExportedCrm:
    return ExportedCrm(data, SHAPES["attention"], tmp_path_factory.mktemp("one"), DEVIATION)


def test_probabilities_are_those_of_torch(exported: ExportedCrm) -> None:
    assert check_crm(exported.model, exported.encoder, exported.path, exported.requests) <= 1e-5


@pytest.mark.parametrize("events", [0, 1, 2, 7, 8, 9, 30])
def test_rows_by_themselves_give_the_same(exported: ExportedCrm, events: int) -> None:
    """The padded row of each candidate, as in training, against the two graphs."""
    feed = exported.feed(exported.user(1, range(events)), range(9))
    rows = {name: torch.from_numpy(np.repeat(v, 9, axis=0) if len(v) == 1 else v) for name, v in feed.items()}
    with torch.inference_mode():
        expected = torch.sigmoid(exported.model.logits(rows).double()).numpy()
    assert np.abs(exported.opened(0).probability(feed) - expected).max() <= 1e-5


def test_the_axes_of_events_and_candidates_are_free(one: ExportedCrm) -> None:
    def axes(path: Path) -> dict[str, list[Any]]:
        graph = onnx.load(path).graph
        values = [*graph.input, *graph.output]
        return {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}

    read, scored = axes(one.path.with_name("crm.events.onnx")), axes(one.path)
    assert read == {"history_items": [1, "m"], "history_ratings": [1, "m"], "past": [2, 2, "p", 8],
                    "states": [2, 2, "e", 8]}  # fmt: skip
    assert scored["states"] == [2, 2, "e", 8]
    assert scored.keys() - {"logits", "states"} == {
        f.name for f in one.encoder.schema.fields if not f.name.startswith(("history_items", "history_ratings"))
    }


STEPS = st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.integers(0, 5), min_size=1, max_size=9), st.booleans()),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=settings.default.max_examples // 3)
@given(STEPS, st.sampled_from(BUDGETS))
def test_whatever_is_kept_scores_are_those_of_a_fresh_reading(
    exported: ExportedCrm, steps: list[tuple[int, list[int], bool]], budget: int
) -> None:
    """Users in any order, events added one by one or many, more than the memory holds, and forgotten in between."""
    crm, fresh = exported.opened(budget), exported.opened(0)
    crm.forget()
    histories: list[list[int]] = [[], [], [], []]
    for user, events, forget in steps:
        histories[user] += events
        feed = exported.feed(exported.user(user, histories[user]), range(user + 1, user + 6))
        np.testing.assert_allclose(crm.probability(feed), fresh.probability(feed), rtol=0, atol=1e-6)
        if forget:
            crm.forget()
    assert fresh.stats()["crm_kept_histories"] == 0
    assert crm.stats()["crm_kept_bytes"] <= budget


def test_a_returning_user_costs_the_new_events_alone(one: ExportedCrm) -> None:
    crm = one.crm()
    for events, read in ((4, 4), (4, 0), (5, 1), (7, 2), (8, 5), (9, 1)):  # at 8 the beginning moves on by a block
        before = crm.stats()["crm_events_read"]
        crm.probability(one.feed(one.user(0, range(events)), [1, 2]))
        assert crm.stats()["crm_events_read"] - before == read, events


def test_more_candidates_than_a_run_takes_read_the_history_once(
    one: ExportedCrm, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = one.feed(one.user(0, range(5)), range(ITEMS))
    whole = one.crm().probability(feed)
    monkeypatch.setattr(runtime, "MAX_BATCH", 7)
    crm = one.crm(memory=0)
    np.testing.assert_allclose(crm.probability(feed), whole, rtol=0, atol=1e-6)
    assert crm.stats()["crm_events_read"] == 5


def test_threads_get_the_scores_of_one(one: ExportedCrm) -> None:
    fresh, crm = one.opened(0), one.crm(memory=3000)
    feeds = [one.feed(one.user(u, range(u, u + n)), [1, 2, 3]) for u in range(4) for n in range(8)]
    wanted = [fresh.probability(feed) for feed in feeds]
    worst: list[float] = []

    def ask(seed: int) -> None:
        for i in np.random.default_rng(seed).integers(0, len(feeds), 200).tolist():
            worst.append(float(np.abs(crm.probability(feeds[i]) - wanted[i]).max()))
            if i == 0:
                crm.forget()

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(worst) == 800
    assert max(worst) <= 1e-6
    assert crm.stats()["crm_history_hits"] > 0


def test_int8_of_both_ranks_nearly_alike(exported: ExportedCrm, tmp_path: Path) -> None:
    for name in ("crm.onnx", "crm.events.onnx"):
        small = tmp_path / name.replace(".onnx", ".int8.onnx")
        to_onnx.quantize_int8(exported.path.with_name(name), small, exported.encoder.schema)
        assert {node.op_type for node in onnx.load(small).graph.node} & {"MatMulInteger", "DynamicQuantizeLinear"}
    crm = Crm(tmp_path / "crm.int8.onnx", exported.encoder.schema)
    request = Request(exported.user(3, range(7)), tuple(map(Candidate, exported.catalog.ids)))
    found = crm.probability(exported.encoder.encode(request.user, request.candidates or ())[0])
    assert np.corrcoef(found, torch_crm(exported.model, exported.encoder, request))[0, 1] > 0.95


def test_a_graph_that_looks_ahead_does_not_pass(
    one: ExportedCrm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its states of the first events would differ once others follow."""
    usual = one.model.read

    def read(feed: Any, past: Any) -> Any:
        states = usual(feed, past)
        return states + 0.1 * feed["history_items"].sum()

    monkeypatch.setattr(one.model, "read", read)
    to_onnx.export_onnx(one.model, one.encoder.schema, tmp_path / "crm.onnx")
    with pytest.raises(ExportError, match=r"crm\.onnx: a probability differs from torch"):
        check_crm(one.model, one.encoder, tmp_path / "crm.onnx", one.requests)


def renamed(path: Path, old: str, new: str) -> None:
    model = onnx.load(path)
    for value in model.graph.input:
        if value.name == old:
            value.name = new
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
    onnx.save(model, path)


def smaller_table(path: Path) -> None:
    model = onnx.load(path)
    for prop in model.metadata_props:
        if prop.key.endswith(".rating"):
            prop.value = "1"
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda events: events.unlink(), r"crm\.onnx: takes the states of events, but crm\.events\.onnx.* is missing"),
        (lambda events: events.write_bytes(b"no graph"), r"crm\.events\.onnx: ONNX Runtime cannot load it"),
        (lambda events: renamed(events, "history_items", "user_id"), r"crm\.events\.onnx: its inputs .*'user_id'"),
        (lambda events: renamed(events, "past", "passed"), r"crm\.events\.onnx: its input 'past' is \[\]"),
        (smaller_table, r"crm\.events\.onnx: its table for 'rating' does not fit vocab/rating\.json"),
    ],
)
def test_a_reader_of_events_that_does_not_fit_is_refused(
    one: ExportedCrm, tmp_path: Path, damage: Any, told: str
) -> None:
    for name in ("crm.onnx", "crm.events.onnx"):
        shutil.copy(one.path.with_name(name), tmp_path / name)
    damage(tmp_path / "crm.events.onnx")
    with pytest.raises(BundleError, match=told):
        Crm(tmp_path / "crm.onnx", one.encoder.schema)


def test_another_models_reader_is_refused(one: ExportedCrm, data: PreparedData, tmp_path: Path) -> None:
    other = ExportedCrm(data, crm_recipe(**{**KEYS, "blocks": 3}), tmp_path, DEVIATION)
    shutil.copy(one.path.with_name("crm.events.onnx"), tmp_path)
    with pytest.raises(BundleError, match=r"crm\.events\.onnx: its states are not those that crm\.onnx takes"):
        other.crm()


def test_a_reader_beside_a_crm_that_takes_no_states_is_refused(
    one: ExportedCrm, data: PreparedData, tmp_path: Path
) -> None:
    plain = ExportedCrm(data, crm_recipe(kind="din", embedding_dim=4, history=7, window=11), tmp_path, DEVIATION)
    shutil.copy(one.path.with_name("crm.events.onnx"), tmp_path)
    with pytest.raises(BundleError, match=r"crm\.events\.onnx: stands beside crm\.onnx, which takes no states"):
        plain.crm()


def test_a_user_without_a_history_is_scored(one: ExportedCrm) -> None:
    new = Request(User("nobody", {}, History()), tuple(map(Candidate, one.catalog.ids[:7])))
    found = one.crm().probability(one.encoder.encode(new.user, new.candidates or ())[0])
    assert np.abs(found - torch_crm(one.model, one.encoder, new)).max() <= 1e-5
