"""A run whose CRM remembers: the stages train it, align it and predict by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from corella_edge.cli import cli  # noqa: E402
from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.crm.ensemble import members_of  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from corella_edge_export.training.loop import best_line  # noqa: E402
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_export.training.tasks.crm import predict  # noqa: E402
from tiny_run import recipe  # noqa: E402

KEYS = {"kind": "sequence", "embedding_dim": 8, "heads": 2, "inner": 12, "history": 6, "history_block": 3,
        "batch_events": 100}  # fmt: skip
NEXT = {"head": "dot", "loss": "softmax"}


@pytest.mark.parametrize("keys", [{}, NEXT, {"head": "dot", "members": 2}], ids=["attention", "dot", "two members"])
def test_a_run_of_it_trains_and_aligns(data: PreparedData, tmp_path: Path, keys: Any) -> None:
    chosen = recipe(crm={**KEYS, **keys}, continuation={"epochs": 0})
    stages.train(tmp_path / "run", chosen, data, quiet=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "joint" / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["distance"]).all() for line in lines if line["kind"] == "train")
    run = Run.open(tmp_path / "run", data)
    rows = stages.Stages(run, quiet=True).rows("test")
    probability = predict(run.crm(), rows)
    assert probability.shape == (len(rows),)
    assert 0 < probability.std() < 0.5
    assert len(members_of(run.crm())) == chosen.crm.members


def test_a_bundle_tells_what_a_run_that_ranks_is_judged_by(data: PreparedData, tmp_path: Path) -> None:
    """The figure by which stage 1 chose its weights, and others of the same users."""
    off = {"epochs": 0}
    chosen = recipe(crm={**KEYS, **NEXT}, llm=off, joint=off, continuation=off)
    stages.train(tmp_path / "run", chosen, data, quiet=True)
    run = Run.open(tmp_path / "run", data)
    export(run, tmp_path / "bundle", ExportOptions(threads=1, crm_int8=True))
    judged = json.loads((tmp_path / "bundle" / "verification.json").read_text("utf-8"))["metrics"]
    exact, int8 = (judged[name]["ndcg@10"] for name in ("crm", "crm_int8"))
    assert 0 < exact <= 1
    assert abs(exact - int8) < 0.1
    assert {"auc", "logloss"} <= judged["crm"].keys()
    told = json.loads((tmp_path / "bundle" / "verification.json").read_text("utf-8"))["metrics"]["next_item"]
    assert told["ndcg@10"] == pytest.approx(best_line(tmp_path / "run" / "crm")["ndcg"])
    assert told["items"] == len(data.item_ids)
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "bundle")])
    assert shown.exit_code == 0, shown.output
    figures = f"base model alone HR@10 {told['hr@10']:.4f}, NDCG@10 {told['ndcg@10']:.4f}, MRR {told['mrr']:.4f}"
    assert f"{figures} (the next liked item of {told['users']:,} validation users" in " ".join(shown.output.split())
