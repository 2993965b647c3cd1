"""The study of a recipe whose base model is all that is trained, from its training to its tables."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_run
from corella_edge.metrics import auc
from corella_edge_export.study.study import StudySettings, study

OFF = {"epochs": 0}
SETTINGS = StudySettings(seeds=(1, 2), draws=20)


def test_two_seeds_of_a_base_model(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data = tiny_run.prepared(tmp_path / "data")
    recipe = tiny_run.recipe(llm=OFF, joint=OFF, continuation=OFF)
    found = study(recipe, data, tmp_path / "out", SETTINGS, lambda message: None, quiet=True)
    test = data.split("test")
    for seed in ("1", "2"):
        folder = tmp_path / "out" / f"seed-{seed}" / "full"
        assert [path.name for path in folder.iterdir() if (path / "best.safetensors").exists()] == ["crm"]
        (path,) = (folder / "predictions").glob("test-crm-*.f64")
        scores = np.frombuffer(path.read_bytes(), dtype=np.float64)
        analysis = found["by_seed"][seed]
        assert analysis["parts"]["all"]["crm"]["auc"]["value"] == pytest.approx(auc(scores, test.labels), abs=1e-12)
        ranked = analysis["ranking"]["slices"]["all"]["rankings"]
        assert ranked["crm"] == ranked["base"]  # no stage comes after the first
        assert not list((folder / "predictions").glob("*-llm-*"))
    assert found["ablation"] == []
    assert json.loads((tmp_path / "out" / "study.json").read_text("utf-8"))["analysis"]["seeds"] == {"1": {}, "2": {}}
    text = (tmp_path / "out" / "study.md").read_text("utf-8")
    assert "## The base model alone" in text
    assert "## Ranking the whole catalogue" in text
    assert not list((tmp_path / "out").glob("*.svg"))
    again = study(recipe, data, tmp_path / "out", SETTINGS, lambda message: pytest.fail(message) if "scores" in message
                  else None, quiet=True)  # fmt: skip
    assert again["analysis"] == found["analysis"]
