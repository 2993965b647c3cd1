"""The recipe `generic` on data of five shapes: trained, exported, evaluated, benchmarked and served."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import shapes
from corella_edge.request_message import read_request
from corella_edge_export.data.table.description import Label, SplitPlan
from corella_edge_export.recipe import load_recipe, recipe_of
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.reference import compare
from sessions import ONE, succeed
from tables import Event
from tables import prepared as made_of

pytestmark = pytest.mark.slow  # 20 to 40 s a shape on one core


@pytest.mark.parametrize("name", list(shapes.SHAPES))
def test_any_data_become_a_served_ranking(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = shapes.prepared(name, tmp_path / "data")
    out, bundle = tmp_path / "run", tmp_path / "bundle"
    trained = succeed("train", "generic", "--data", data.root, "--out", out)
    assert "on this CPU" in trained.err
    assert "intervals are wide" in trained.err
    assert "without learning: validation AUC" in trained.out
    exported = succeed("export", out, "--out", bundle, *ONE)
    assert "by the share that the LLM is asked about" in exported.out
    lines = (data.root / "requests.jsonl").read_text("utf-8").splitlines()
    with Engine.open(bundle, llm="thread", llm_threads=1, require_llm=True, tuned=False) as engine:
        for line in lines:
            scores = engine.rank(read_request(line.encode()))
            assert ((scores.probability > 0) & (scores.probability < 1)).all()
    evaluated = succeed("evaluate", bundle, "--data", data.root, "--out", tmp_path / "evaluation", *ONE)
    assert "without learning: AUC" in evaluated.out
    assert "intervals are wide" in evaluated.out
    alone = succeed("evaluate", bundle, "--data", data.root, "--out", tmp_path / "alone", "--no-llm")
    assert "LLM" not in alone.out.replace("the LLM alone", "LLM")
    succeed("benchmark", bundle, "--out", tmp_path / "report", "--ratios", "0,1", "--budget", "1s", *ONE)
    text = succeed("recipe", "show", out).out
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    assert load_recipe(str(tmp_path / "mine.toml")) == recipe_of(out / "run.json")


def test_any_data_can_be_studied(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = shapes.prepared("purchases", tmp_path / "data")
    (tmp_path / "quick.toml").write_text(
        'base = "generic"\nname = "quick"\n[crm]\nepochs = 2\n[llm]\nepochs = 1\n', "utf-8"
    )
    out = tmp_path / "study"
    made = succeed("study", tmp_path / "quick.toml", "--data", data.root, "--out", out, "--seeds", "1", "--draws", "20")
    assert "Smoothed like rates" in made.out
    assert (out / "study.json").exists()


def test_likes_alone_become_a_ranking_of_what_comes_next(tmp_path: Path) -> None:
    """Also where items have numbers and lists, whose statistics are of a user and an item at once."""
    torch.set_num_threads(1)
    items = {
        "price": ("numeric", {f"p{i}": 1.5 * i for i in range(20)}),
        "uses": ("multi", {f"p{i}": ["gift", "home"][: 1 + i % 2] for i in range(20)}),
    }
    events = [Event(f"c{user}", f"p{(user + 3 * time) % 20}", time) for user in range(24) for time in range(8)]
    likes = {"label": Label(positives_only=True), "items": items}
    data = made_of(tmp_path / "data", events, SplitPlan("leave-one-out"), **likes)
    out, bundle = tmp_path / "run", tmp_path / "bundle"
    succeed("train", "generic", "--data", data.root, "--out", out)
    assert recipe_of(out / "run.json").crm.family.ranks
    succeed("export", out, "--out", bundle, *ONE)
    with Engine.open(bundle, llm=None, tuned=False) as engine:
        assert list(compare(engine).problems) == []
        assert engine.bundle.manifest.about["models"] == {"crm": "SequenceModel", "llm": {}}
    found = succeed("evaluate", bundle, "--data", data.root, "--out", tmp_path / "ranked", "--ranking")
    assert "NDCG@10" in found.out
