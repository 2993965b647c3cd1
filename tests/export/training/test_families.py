"""Every family goes through the stages that train both models, and through every ablation of a study."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge_export.bundling.write import ExportOptions, export  # noqa: E402
from corella_edge_export.crm.recipe import FAMILIES  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.study.study import FULL, variants  # noqa: E402
from corella_edge_export.training import stages  # noqa: E402
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_export.training.tasks.crm import predict  # noqa: E402
from corella_edge_runtime.engine import Engine  # noqa: E402
from corella_edge_runtime.reference import compare  # noqa: E402
from tiny_run import recipe  # noqa: E402

pytestmark = pytest.mark.slow  # about ten seconds a family on one core

OFF = {"epochs": 0}
ORDERED = {"embedding_dim": 8, "heads": 2, "inner": 12, "history": 6, "history_block": 3, "batch_events": 100}
FORMS: dict[str, dict[str, Any]] = {
    "dcnv2": {"kind": "dcnv2"},
    "din": {"kind": "din", "in_order": True},
    "sequence": {"kind": "sequence", **ORDERED},
    "next item": {"kind": "sequence", "head": "dot", "loss": "softmax", **ORDERED},
    "hstu": {"kind": "sequence", "block": "hstu", **ORDERED},
    "text-sequence": {"kind": "text-sequence", "source": "encoder", "attributes": ["title", "genres"], **ORDERED},
}


@pytest.fixture(scope="module")
def llm(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that lends its LLM, which no family decides."""
    folder = tmp_path_factory.mktemp("lending") / "run"
    stages.train(folder, recipe(joint=OFF, continuation=OFF), data, quiet=True)
    return folder


@pytest.fixture(scope="module", params=list(FORMS))
def runs(
    request: pytest.FixtureRequest, data: PreparedData, sentence_encoder: Path, llm: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Run]:  # fmt: skip
    """Each variant that a study trains of a recipe → its finished run."""
    keys = FORMS[request.param]
    path = {"path": str(sentence_encoder)} if "source" in keys else {}
    made: dict[str, Run] = {}
    for name, chosen in variants(recipe(crm=keys | path)).items():
        folder = tmp_path_factory.mktemp("variants") / "run"
        stages.train(folder, chosen, data, True, (llm, *(run.folder for run in made.values())))
        made[name] = Run.open(folder, data)
    return made


def weights(run: Run, stage: str | None = None) -> dict[str, Any]:
    return dict(run.crm(stage).state_dict())


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_no_family_is_left_out() -> None:
    assert {keys["kind"] for keys in FORMS.values()} == set(FAMILIES)


def test_each_stage_leaves_its_mark_on_the_crm(runs: dict[str, Run]) -> None:
    full = runs[FULL]
    assert set(runs) == {FULL, "without stage 1", "without stage 2", "without alignment", "without stage 3"}
    assert not same(weights(full), weights(full, "crm"))
    assert same(weights(runs["without stage 2"]), weights(full, "crm"))
    assert same(weights(runs["without stage 3"]), weights(full))
    assert not same(weights(runs["without stage 1"]), weights(full))


def test_the_alignment_pulls_the_crm(runs: dict[str, Run]) -> None:
    lines = (runs[FULL].folder / "joint" / "metrics.jsonl").read_text().splitlines()
    distances = [line["distance"] for line in map(json.loads, lines) if line["kind"] == "train"]
    assert distances
    assert np.isfinite(distances).all()
    assert not same(weights(runs["without alignment"]), weights(runs[FULL]))


def test_every_variant_tells_rows_apart(runs: dict[str, Run]) -> None:
    for run in runs.values():
        rows = stages.Stages(run, quiet=True).rows("test")
        probability = predict(run.crm(), rows)
        assert probability.shape == (len(rows),)
        assert 0 < probability.std() < 0.5


def test_an_aligned_crm_is_exported_as_it_was_trained(runs: dict[str, Run], tmp_path: Path) -> None:
    export(runs[FULL], tmp_path / "bundle", ExportOptions(llm=False, threads=1))
    with Engine.open(tmp_path / "bundle", llm=None, tuned=False) as engine:
        assert engine.bundle.json("verification.json")["differences"]["crm"] <= 1e-5
        assert list(compare(engine).problems) == []
