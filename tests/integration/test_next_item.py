"""From sequences without dislikes to a ranking: prepared, trained on the next item, exported, judged."""

from __future__ import annotations

import json

import numpy as np
import pytest

from corella_edge.formats.strict_json import decode
from sessions import run, succeed

SWAP = 0.01  # of NDCG, where another CPU swaps two items of nearly the same score for one of 60 users
RECIPE = """
name = "next"
llm = { epochs = 0 }
joint = { epochs = 0 }
continuation = { epochs = 0 }
[crm]
kind = "sequence"
epochs = 2
evaluations = 1
[crm.features]
user_ids = false
[crm.sequence]
embedding_dim = 8
blocks = 1
heads = 2
inner = 8
head = "dot"
loss = "softmax"
"""
DATA = """
name = "walks"
events = { files = ["events.csv"], user = "user", item = "item", time_unit = "none" }
label = { positives_only = true }
negatives = { per_positive = 0 }
items = { missing_title = "id" }
split = { rule = "leave-one-out", hide_items = 0.2 }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 users who each have 8 of 40 items."""
    root, rng = tmp_path_factory.mktemp("next"), np.random.default_rng(0)
    lines = [f"u{user},i{item}" for user in range(60) for item in rng.choice(40, 8, False)]
    (root / "events.csv").write_text("\n".join(["user,item", *lines, ""]))
    (root / "data.toml").write_text(DATA)
    (root / "next.toml").write_text(RECIPE)
    done = succeed("prepare", "table", "--config", root / "data.toml", "--out", root / "data")
    assert "next: corella-edge train generic --data" in done.err
    succeed("train", root / "next.toml", "--data", root / "data", "--out", root / "run")
    succeed("export", root / "run", "--out", root / "bundle")
    return root


def test_a_run_of_likes_alone_is_told_in_strict_json(folder):
    line = decode((folder / "run" / "summary.json").read_bytes())["crm"]
    assert line["auc"] is None
    assert 0 < line["ndcg"] <= 1


def ndcg_of(folder, run_, bundle):
    """NDCG@10 of all 60 validation rows: by the runtime, and the best that training saw by torch."""
    out = folder / f"{bundle.name}-valid"
    succeed("evaluate", bundle, "--data", folder / "data", "--ranking", "--rows", 0, "--split", "valid", "--out", out)
    found = json.loads((out / "ranking.json").read_text("utf-8"))["slices"]["all"]
    lines = map(json.loads, (run_ / "crm" / "metrics.jsonl").read_text("utf-8").splitlines())
    assert found["rows"] == 60
    return found["rankings"]["crm"]["ndcg@10"]["value"], max(line["ndcg"] for line in lines if line["kind"] == "valid")


def test_the_bundle_ranks_as_training_did(folder):
    """What kept the weights, NDCG of validation rows by torch, is what the runtime finds of the bundle."""
    served, trained = ndcg_of(folder, folder / "run", folder / "bundle")
    assert served == pytest.approx(trained, abs=SWAP)


@pytest.mark.slow
def test_a_bundle_of_two_members_ranks_as_training_did(folder):
    (folder / "two.toml").write_text(RECIPE.replace("epochs = 2\n", "epochs = 2\nmembers = 2\n"))
    succeed("train", folder / "two.toml", "--data", folder / "data", "--out", folder / "two")
    succeed("export", folder / "two", "--out", folder / "two-bundle")
    served, trained = ndcg_of(folder, folder / "two", folder / "two-bundle")
    assert served == pytest.approx(trained, abs=SWAP)


def test_hidden_items_are_a_slice_that_ids_alone_cannot_tell_apart(folder):
    out = folder / "test"
    succeed("evaluate", folder / "bundle", "--data", folder / "data", "--ranking", "--out", out)
    slices = json.loads((out / "ranking.json").read_text("utf-8"))["slices"]
    told = json.loads((folder / "data" / "dataset.json").read_text("utf-8"))["hidden"]
    assert slices["unseen items"]["rows"] == told["rows"]["test"] > 0
    assert "hide_items = 0.2" in (out / "ranking.md").read_text("utf-8")


def test_figures_that_need_both_labels_say_nothing(folder):
    done = succeed("evaluate", folder / "bundle", "--data", folder / "data", "--out", folder / "plain")
    assert "all of them liked: there is no AUC" in done.out
    assert json.loads((folder / "plain" / "evaluation.json").read_text("utf-8"))["groups"]["all"]["at"][0]["auc"] == {
        "value": None, "low": None, "high": None,
    }  # fmt: skip


def test_a_recipe_that_learns_labels_is_refused(folder):
    recipe = folder / "labels.toml"
    recipe.write_text('base = "generic"\nname = "labels"\n[crm]\nkind = "dcnv2"\n')
    done = run("train", recipe, "--data", folder / "data", "--out", folder / "other")
    assert done.code == 2
    assert "has label 1, from which DCNv2 learns nothing: prepare again with --negatives 4" in done.err
    assert not (folder / "other").exists()
