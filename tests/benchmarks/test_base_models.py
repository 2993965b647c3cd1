"""The benchmark of base models: what it asks, what it holds the families against, and its plot."""

from __future__ import annotations

import argparse
import importlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import base_models
from bundles import make_bundle
from corella_edge.errors import InputError
from corella_edge.request import Event, User

USER = User("u", {"age": 3}, [Event("a", 4.0, 10), Event("b", 2.0, 20)])


def options(**changes: Any) -> argparse.Namespace:
    plain = {"pairs": 3, "requests": 2, "cpu_time": True, "quality": None, "plot": None, "metric": "auc"}
    return argparse.Namespace(**{**plain, "bundles": [("one", Path("a")), ("two", Path("b"))], **changes})


def test_a_returning_user_comes_with_one_more_event_of_the_last_ones_rating() -> None:
    found = base_models.longer(USER, "c")
    assert list(found.history) == [*USER.history, Event("c", 2.0, 20)]
    assert list(base_models.longer(User("new"), "c").history) == [Event("c")]


def test_no_encoder_has_seen_the_history_that_is_asked_with() -> None:
    request = base_models.request_of(USER, base_models.Workload("new", 2), ["x", "y", "z"])
    assert request.user.history == USER.history
    assert request.user.history is not USER.history
    assert [candidate.item for candidate in request.candidates or ()] == ["x", "y"]
    whole = base_models.request_of(USER, base_models.Workload("new", None), ["x"])
    assert (whole.candidates, whole.top_k) == (None, 10)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = make_bundle(tmp_path_factory.mktemp("base") / "bundle", llm=False)
    with base_models.Contender.open("one", root).engine as first, base_models.Contender.open("two", root).engine as two:
        found = [base_models.Contender("one", first, "dcnv2"), base_models.Contender("two", two, "din")]
        models = base_models.measured(found, options())
    return {"models": models, "void": False}


def test_each_bundle_has_every_workload_and_the_first_is_the_measure(figures: dict[str, Any]) -> None:
    one, two = figures["models"]
    assert list(one["workloads"]) == [asked.name for asked in base_models.WORKLOADS]
    assert {cell["ratio"]["median"] for cell in one["workloads"].values()} == {1.0}
    for cell in two["workloads"].values():
        assert 0 < cell["low"] <= cell["us"] <= cell["high"]
        assert cell["ratio"]["pairs"] == 3
    assert one["megabytes"] == two["megabytes"]
    assert one["megabytes"].keys() == {"crm.onnx"}
    assert base_models.table(figures).count("\n") == len(base_models.WORKLOADS) + 1


def test_a_family_is_held_against_its_limits() -> None:
    def model(family: str, value: float) -> dict[str, Any]:
        ratio = {"median": value, "low": value, "high": value, "pairs": 21}
        cells = {asked.name: {"ratio": ratio} for asked in base_models.WORKLOADS}
        return {"name": family, "family": family, "workloads": cells}

    models = [model("dcnv2", 1.0), model("din", 1.4), model("sequence", 2.0)]
    found = list(base_models.targets({"models": models, "void": False}))
    assert [(row["limit"], row["met"]) for row in found] == [(1.5, True), (4.0, True), (1.5, False)]


def test_the_plot_names_every_model(figures: dict[str, Any]) -> None:
    given = {"quality": {"auc": 0.8}, "metric": "auc"}
    of_labels = {"models": [{**model, **given} for model in figures["models"]]}
    ranks = {"quality": {"ndcg@10": 0.05}, "metric": "ndcg@10"}
    of_ranks = {
        "models": [{**figures["models"][0], "name": "unjudged"}, {**figures["models"][1], "name": "three", **ranks}]
    }
    drawn = base_models.plot([of_labels, of_ranks])
    assert drawn.startswith("<?xml")
    assert all(f">{name}<" in drawn for name in ("one", "two", "three"))
    assert ">unjudged<" not in drawn
    assert ">AUC, " in drawn
    assert ">NDCG@10, " in drawn


def test_quality_is_joined_by_name_or_refused(tmp_path: Path) -> None:
    file = tmp_path / "quality.json"
    file.write_text(json.dumps({"one": {"auc": 0.8, "ndcg@10": 0.1}, "two": {"auc": 0.7}}))
    found = base_models.quality_of(options(quality=file))
    assert found["one"] == {"quality": {"auc": 0.8, "ndcg@10": 0.1}, "metric": "auc"}
    with pytest.raises(InputError, match="has no number 'ndcg@10' of 'two'"):
        base_models.quality_of(options(quality=file, metric="ndcg@10"))
    with pytest.raises(InputError, match="give --quality"):
        base_models.quality_of(options(plot=tmp_path / "plot.svg"))
    assert base_models.quality_of(options()) == {}
    file.write_text(json.dumps({"two": {"auc": 0.7}}))
    assert base_models.quality_of(options(quality=file)).keys() == {"two"}
    file.write_text(json.dumps({"three": {"auc": 0.7}}))
    with pytest.raises(InputError, match="names none of the bundles"):
        base_models.quality_of(options(quality=file))


def multiplying(seconds: float = 0.002) -> Any:
    """An engine that ranks by a product."""
    return SimpleNamespace(products=SimpleNamespace(vectors=np.ones((4, 9), np.float32)), seconds=seconds)


def test_a_bundle_that_multiplies_comes_a_second_time_without_its_product(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_of(engine: Callable[[], Any], item_by_item: bool) -> list[tuple[str, bool]]:
        opened = staticmethod(lambda name, root: base_models.Contender(name, engine(), "sequence"))
        monkeypatch.setattr(base_models.Contender, "open", opened)
        found = base_models.Contender.all_of("x", Path("x"), item_by_item)
        return [(one.name, one.engine.products is not None) for one in found]

    assert all_of(multiplying, True) == [("x, item by item", False), ("x", True)]
    assert all_of(multiplying, False) == [("x", True)]
    assert all_of(lambda: SimpleNamespace(products=None), True) == [("x", False)]


def test_the_product_alone_is_the_floor_of_a_ranking(figures: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    assert base_models.Contender("x", multiplying(), "").product_seconds(lambda: float(next(clock)), 3) == 1.0
    without: Any = SimpleNamespace(products=None)
    assert math.isnan(base_models.Contender("x", without, "").product_seconds(lambda: 0.0, 3))
    assert "product" not in figures["models"][0]
    manifest = SimpleNamespace(files={"crm.onnx": SimpleNamespace(size=9)})
    engine: Any = SimpleNamespace(
        products=1, bundle=SimpleNamespace(label="x@1", manifest=manifest),
        encoder=SimpleNamespace(catalog=range(9)),
    )  # fmt: skip
    spent = {**{asked.name: [[100.0], [104.0]] for asked in base_models.WORKLOADS}, base_models.PRODUCT: [[10.0]] * 2}
    row = base_models.model_row(base_models.Contender("x", engine, "sequence"), 0, spent)
    assert row["product"]["us"] == 10.0
    assert row["product"]["top"].keys() == {"new", "returning"}
    assert row["product"]["top"]["new"]["median"] == 10.2
    assert "\nthe product alone" in base_models.table({"models": [row]})
    monkeypatch.syspath_prepend(Path(base_models.__file__).parents[1] / "docs")
    assert importlib.import_module("base_models_page")._product(row) == (
        "x 10 µs, the top 10 takes 10.20 [10.00, 10.40] times that for a returning user and "
        "10.20 [10.00, 10.40] times that for a new user"
    )


def test_families_have_limits_against_a_dcn_alone() -> None:
    assert list(base_models.targets({"models": [{"family": "sequence"}, {"family": "sequence"}], "void": False})) == []


def test_a_name_belongs_to_each_bundle() -> None:
    assert base_models.named("one=runs/a=b") == ("one", Path("runs/a=b"))
    for text in ("one", "=x", "one="):
        with pytest.raises(argparse.ArgumentTypeError):
            base_models.named(text)


def test_megabytes_are_those_of_all_graphs() -> None:
    sizes = {"crm.onnx": 1_800_000, "crm.events.onnx": 500_000, "crm.items.onnx": 200_000, "llm.gguf": 9}
    files = {name: SimpleNamespace(size=size) for name, size in sizes.items()}
    engine: Any = SimpleNamespace(bundle=SimpleNamespace(manifest=SimpleNamespace(files=files)))
    assert base_models.Contender("x", engine, "").megabytes() == {"crm.onnx": 2.5}
