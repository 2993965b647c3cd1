"""A bundle whose base model multiplies ranks its catalogue by one product: as `crm.onnx` scores it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from corella_edge.bundle import artefact  # noqa: E402
from corella_edge.bundle.artefact import product_files  # noqa: E402
from corella_edge.request import Candidates, Event, History, Request, User  # noqa: E402
from corella_edge.request_message import parse_request  # noqa: E402
from corella_edge.scores import answer  # noqa: E402
from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.evaluation.ranking import catalogue_scorer  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_runtime.engine import Engine  # noqa: E402
from corella_edge_runtime.reference import SPREAD, compare  # noqa: E402
from corella_edge_runtime.site.catalog_change import change  # noqa: E402
from corella_edge_runtime.site.catalog_update import Update  # noqa: E402
from sessions import run, succeed  # noqa: E402
from tiny_run import recipe  # noqa: E402

OFF = {"epochs": 0}
KEYS = {"kind": "sequence", "heads": 2, "inner": 8, "history": 6, "history_block": 2, "head": "dot", "loss": "softmax",
        "members": 2, "epochs": 3, "learning_rate": 2e-2}  # fmt: skip
BOTH = product_files("crm.onnx")
OLD = {"title": "A twin", "genres": ["drama"]}
TWINS = [{"item": f"twin {i}", **OLD} for i in range(3)]


@pytest.fixture(scope="module")
def bundle(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    stages.train(folder / "run", recipe(crm=KEYS, llm=OFF, joint=OFF, continuation=OFF), data, quiet=True)
    export(Run.open(folder / "run", data), folder / "bundle", ExportOptions())
    return folder / "bundle"


@pytest.fixture(scope="module")
def earlier(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a release that knew no such graphs wrote it."""
    root = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("earlier") / "bundle"))
    for name in BOTH:
        (root / name).unlink()
    return sealed(root)


def sealed(root: Path) -> Path:
    artefact.seal(root, "tiny", "1", {})
    return root


@pytest.fixture(scope="module")
def engine(bundle: Path) -> Iterator[Engine]:
    with Engine.open(bundle, llm=None, tuned=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def older(earlier: Path) -> Iterator[Engine]:
    with Engine.open(earlier, llm=None, tuned=False) as engine:
        assert engine.products is None
        yield engine


def users(engine: Engine) -> list[User]:
    ids = engine.encoder.catalog.ids
    events = [Event(ids[(7 * i) % len(ids)], float(1 + i % 5), 1000 * i) for i in range(20)]
    return [User(name, {}, History.of(events[:n])) for n in (0, 1, 3, 20) for name in ("u1", "nobody")]


def test_the_export_says_how_far_it_is_from_torch(engine: Engine) -> None:
    assert set(BOTH) <= engine.bundle.manifest.files.keys()
    found = engine.bundle.json("verification.json")["differences"]
    assert found["crm_product"] <= 1e-5
    assert engine.bundle.manifest.to_json()["format_version"] == 1


@pytest.mark.parametrize("changes", [{}, {"exclude_seen": False}, {"filter": "of the first item"}])
def test_the_catalogue_is_ranked_as_by_a_bundle_without_the_graphs(
    engine: Engine, older: Engine, changes: dict[str, Any]
) -> None:
    catalog, clear = engine.encoder.catalog, list[bool]()
    genres = catalog.of(catalog.ids[0])["genres"]
    selected = {name: {"genres": genres} if name == "filter" else value for name, value in changes.items()}
    for user in users(engine):
        request = replace(parse_request({"user": {"id": user.id}, "top_k": 10, **selected}), user=user)
        found, expected = engine.rank(request), older.rank(request)
        assert found.items == expected.items
        assert found.unknown == expected.unknown
        assert np.ptp(expected.crm) > 1e-4
        np.testing.assert_allclose(found.crm, expected.crm, rtol=0, atol=1e-5)
        clear.append(float(np.abs(np.diff(np.sort(expected.crm)[::-1][:11])).min(initial=1.0)) > 2e-5)
        best, wanted = (answer(request, scores, "b@1")["candidates"] for scores in (found, expected))
        assert not clear[-1] or [row["item"] for row in best] == [row["item"] for row in wanted]
    assert any(clear)


def test_candidates_that_are_listed_go_through_crm_onnx(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those typed in are not in the table, and a few cost nothing."""
    ids = engine.encoder.catalog.ids
    whole = engine.rank(Request(users(engine)[4], None))
    assert engine.products is not None
    monkeypatch.setattr(type(engine.products), "logits", None)
    listed = engine.rank(Request(users(engine)[4], Candidates([*whole.items[:5], "typed in"], {5: OLD})))
    np.testing.assert_allclose(listed.crm[:5], whole.crm[:5], rtol=0, atol=1e-5)
    assert len(engine.rank(Request(users(engine)[0], Candidates(ids[:3]))).crm) == 3
    with pytest.raises(TypeError):
        engine.rank(Request(users(engine)[4], None))


def test_a_catalogue_update_is_ranked_with_what_is_new_and_ties_stand_in_its_order(
    bundle: Path, earlier: Path, tmp_path: Path
) -> None:
    items = tmp_path / "items.jsonl"
    items.write_text("".join(json.dumps(item) + "\n" for item in TWINS), "utf-8")
    tops = []
    for place, root in enumerate((bundle, earlier)):
        change(Update, root, items, tmp_path / f"new-{place}")
        with Engine.open(tmp_path / f"new-{place}", llm=None, tuned=False) as engine:
            assert (engine.products is None) == (place == 1)
            n = len(engine.encoder.catalog)
            scores = engine.rank(Request(users(engine)[4], None, top_k=n))
            names = dict(zip(scores.items, scores.crm.tolist(), strict=True))
            assert len({names[twin["item"]] for twin in TWINS}) == 1
            ranked = [row["item"] for row in answer(Request(User(), None), scores, "b@1")["candidates"]]
            first = ranked.index("twin 0")
            assert ranked[first : first + 3] == ["twin 0", "twin 1", "twin 2"]
            tops.append(names)
            assert compare(engine).problems == []
            assert engine.products is None or engine.products.vectors.shape[1] == n
    assert tops[0].keys() == tops[1].keys()
    np.testing.assert_allclose([*tops[0].values()], [*tops[1].values()], rtol=0, atol=1e-5)


def test_events_of_a_user_who_returns_are_read_once_for_both_ways(engine: Engine) -> None:
    engine.forget()
    user = users(engine)[6]
    before = engine.stats()["crm_events_read"]
    first = engine.rank(Request(user, None))
    read = engine.stats()["crm_events_read"]
    assert read > before
    engine.rank(Request(user, Candidates(first.items[:4])))
    assert engine.rank(Request(user, None)).crm.tolist() == first.crm.tolist()
    assert engine.stats()["crm_events_read"] == read


def test_the_vectors_are_there_before_the_first_request(bundle: Path) -> None:
    with Engine.open(bundle, llm=None, tuned=False) as engine:
        assert engine.products is not None
        assert engine.products._vectors.shape[1] == 0
        engine.warm_up()
        assert engine.products._vectors.shape == (2 * 4, len(engine.encoder.catalog))


def test_an_evaluation_ranks_by_the_same_logits(engine: Engine, older: Engine, data: PreparedData) -> None:
    for user in users(engine)[::3]:
        found, expected = (catalogue_scorer(one, data)(user) for one in (engine, older))
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_verify_compares_the_product_with_crm_onnx(bundle: Path, earlier: Path, tmp_path: Path) -> None:
    found = succeed("verify", bundle, "--json")
    product = json.loads(found.out)["product"]
    with Engine.open(bundle, llm=None, tuned=False) as engine:
        assert product["rows"] == compare(engine).rows * min(SPREAD, len(engine.encoder.catalog))
    assert product["difference"] <= 1e-5
    assert "ranking of the catalogue by one product: " in succeed("verify", bundle).out
    assert "by one product" not in succeed("verify", earlier).out
    root = Path(shutil.copytree(bundle, tmp_path / "other"))
    moved(root / BOTH[1])
    done = run("verify", sealed(root))
    assert done.code != 0
    assert "the product by which the catalogue is ranked gives a probability that is" in done.out + done.err


def moved(path: Path) -> None:
    """Every logit is half a nat higher."""
    model = onnx.load(path)
    (last,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == last.name else name for name in node.output]
    half = onnx.numpy_helper.from_array(np.float32(0.5), "half")
    model.graph.initializer.append(half)
    model.graph.node.append(onnx.helper.make_node("Add", ["before", "half"], [last.name]))
    onnx.save(model, path)
