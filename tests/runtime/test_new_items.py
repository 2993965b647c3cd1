"""A bundle whose `stack` has weights of its own for new items, in the engine with a real LLM, in its log and beyond."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bundles import ITEMS, make_bundle, reseal
from corella_edge.decision_log import read_logged
from corella_edge.request import Candidate, Event, Request, User
from corella_edge.routing.fusion import Fusion, fuse
from corella_edge.routing.gate import NEW_ITEM
from corella_edge_runtime import reference
from corella_edge_runtime.bench.measure.opened import Opened
from corella_edge_runtime.decisions import DecisionLog
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.site.catalog_change import change
from corella_edge_runtime.site.catalog_update import Update
from sessions import succeed

KNOWN, NEW = (0.1, 0.7, 0.4), (-0.3, 0.9, 0.05)
BY_ITEM = {"rule": "stack", "weights": {"known_items": list(KNOWN), "new_items": list(NEW)}}
USER = User("u3", {}, tuple(Event(f"i{i}", 4.0) for i in range(4)))
# The last five of the catalogue have no training row; one came by an update, and one by the request alone.
TYPED = Candidate("typed", {"title": "Film 99", "genres": ["Drama"]})
EVERYTHING = (*(Candidate(f"i{i}") for i in range(ITEMS)), Candidate("fresh"), TYPED)
FRESH = {f"i{i}" for i in range(ITEMS - 5, ITEMS)} | {"fresh", "typed"}
THRESHOLDS = ["ratio:0", "ratio:0.4", "ratio:1"]


def with_fusion(root: Path, name: str, fusion: dict[str, Any]) -> Path:
    out = Path(shutil.copytree(root, root.parent / name))
    routing = json.loads((out / "routing.json").read_text())
    (out / "routing.json").write_text(json.dumps({**routing, "fusion": fusion}))
    reseal(out)
    return out


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that `catalog update` gave a new item."""
    folder = tmp_path_factory.mktemp("new-items")
    (folder / "items.jsonl").write_text('{"item": "fresh", "title": "Fresh", "genres": ["Comedy"]}\n')
    change(Update, make_bundle(folder / "plain"), folder / "items.jsonl", folder / "updated")
    return folder / "updated"


@pytest.fixture(scope="module")
def root(updated: Path) -> Path:
    return with_fusion(updated, "by-item", BY_ITEM)


def opened(root: Path) -> Engine:
    return Engine.open(root, llm_threads=1, deterministic=True, tuned=False)


@pytest.fixture(scope="module")
def engine(root: Path) -> Iterator[Engine]:
    with opened(root) as made:
        yield made


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_new_items_are_answered_by_their_weights_however_they_came(engine: Engine, threshold: str) -> None:
    scores = engine.rank(Request(USER, EVERYTHING, threshold=threshold))
    assert {item for item, names in zip(scores.items, scores.unknown, strict=True) if "item" in names} == FRESH
    new = np.array([item in FRESH for item in scores.items])
    by = {name: fuse(scores.crm, scores.llm, scores.routed, Fusion("stack", weights))
          for name, weights in (("known", KNOWN), ("new", NEW))}  # fmt: skip
    assert scores.probability.tobytes() == np.where(new, by["new"], by["known"]).tobytes()
    if threshold == "ratio:1":
        assert scores.routed[new].sum() > 3
        assert not np.isclose(by["new"], by["known"])[new & scores.routed].any()


def test_the_same_weights_for_both_answer_as_plain_stack(updated: Path) -> None:
    same = {"rule": "stack", "weights": {"known_items": list(KNOWN), "new_items": list(KNOWN)}}
    found = []
    for name, rule in (("same", same), ("stack", {"rule": "stack", "weights": list(KNOWN)})):
        with opened(with_fusion(updated, name, rule)) as made:
            found.append(made.rank(Request(USER, EVERYTHING, threshold="ratio:0.5")).probability)
    assert found[0].tobytes() == found[1].tobytes()


def test_a_request_of_many_is_one_by_one(engine: Engine) -> None:
    together = engine.rank(Request(USER, EVERYTHING, threshold="ratio:1"))
    alone = [engine.rank(Request(USER, (one,), threshold="ratio:1")).probability[0] for one in EVERYTHING]
    np.testing.assert_allclose(together.probability, alone, rtol=0, atol=1e-6)


def test_verify_repeats_the_weights_of_new_items(engine: Engine) -> None:
    rows = reference.read(engine.bundle)
    assert {row.request.candidates[0].item in FRESH for row in rows if row.request.candidates} == {True, False}
    assert reference.compare(engine).problems == []


def test_the_log_and_its_replay_say_what_was_answered(engine: Engine, root: Path, tmp_path: Path) -> None:
    rng, labels = np.random.default_rng(0), ["request,item,label"]
    with DecisionLog.open(tmp_path / "log", 2**20) as log:
        for k in range(40):
            chosen = tuple(EVERYTHING[i] for i in rng.permutation(len(EVERYTHING))[:10])
            request = Request(User(f"u{k}"), chosen, threshold=0.66, id=f"r{k}")
            scores = engine.rank(request)
            log.put(request, scores, engine.name, wait=True, know=engine.gate_inputs)
            labels += [f"r{k},{one.item},{int(rng.random() < 0.5)}" for one in chosen]
    logged = read_logged(sorted((tmp_path / "log").glob("*.jsonl")))
    assert (logged.rows.inputs[NEW_ITEM] == [item in FRESH for item in logged.rows.item]).all()
    assert (logged.rows.inputs[NEW_ITEM][logged.routed] == 1).any()
    final = fuse(logged.rows.crm, logged.rows.llm, logged.routed, engine.fusion, logged.rows.inputs)
    assert final.tolist() == logged.final.tolist()
    (tmp_path / "labels.csv").write_text("\n".join(labels) + "\n")
    done = succeed("replay", tmp_path / "log", "--policy", root, "--threshold", "0.66", "--labels",
                   tmp_path / "labels.csv", "--json")  # fmt: skip
    quality = json.loads(done.out)["quality"]
    assert quality["now"]["logloss"] == quality["as answered"]["logloss"]
    assert quality["now"]["auc"] == quality["as answered"]["auc"]


def test_benchmark_knows_which_items_are_new(engine: Engine) -> None:
    found = Opened.here(engine).rank(Request(USER, EVERYTHING, threshold="ratio:0"))
    assert found.inputs[NEW_ITEM].tolist() == [float(one.item in FRESH) for one in EVERYTHING]
