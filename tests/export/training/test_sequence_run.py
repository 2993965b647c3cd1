"""A run whose CRM remembers: the stages train it, align it and predict by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge_export.crm.ensemble import members_of  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
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
