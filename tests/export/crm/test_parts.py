"""How a batch is cut into parts changes rounding only; and the joint stage's loss is the sum of its parts."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from corella_edge.errors import InterruptedRunError  # noqa: E402
from corella_edge_export.data.prepared import PreparedData  # noqa: E402
from corella_edge_export.training import (  # noqa: E402
    checkpoint,
    loop,
    stages,
)
from corella_edge_export.training.run import Run  # noqa: E402
from corella_edge_export.training.stages import Stages  # noqa: E402
from corella_edge_export.training.tasks.joint import CrmSide, JointTask  # noqa: E402
from tiny_run import recipe  # noqa: E402

# No epochs of their own: the joint stage begins with fresh models.
FRESH = {"crm": {"epochs": 0}, "llm": {"epochs": 0}}
SCHEDULE = {"learning_rate": 1e-3, "weight_decay": 0.01, "epochs": 2, "evaluations": 1, "patience": 9}


@pytest.fixture(scope="module")
def folder(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose tokenizer and schema are there already."""
    found = tmp_path_factory.mktemp("run")
    Stages(Run(found, recipe(), data))
    return found


Make = Any


@pytest.fixture
def make(folder: Path, data: PreparedData) -> Make:
    def made(name: str, **changes: Any) -> Any:
        chosen = recipe(**changes)
        return Stages(Run(folder, chosen, data), quiet=True).task(name)[0]

    return made


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Everything in float64, so that what rounding does is far from what Adam does."""
    from_numpy, usual = torch.from_numpy, torch.get_default_dtype()
    monkeypatch.setattr(torch, "from_numpy", lambda a: from_numpy(a.astype("f8") if a.dtype == np.float32 else a))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(usual)


def weights(task: Any, accumulate: int, folder: Path) -> dict[str, Any]:
    """Of a whole training."""
    task.model.double()
    loop.fit(task, loop.Schedule(**SCHEDULE, accumulate=accumulate), folder, seed=5, quiet=True)
    return {name: tensor.clone() for name, tensor in task.trainable().items()}


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


@pytest.mark.parametrize(("name", "count"), [("crm", 4), ("llm", 4), ("joint", 5)])
def test_parts_change_nothing_but_rounding(make: Make, double: Any, tmp_path: Path, name: str, count: int) -> None:
    changes = FRESH if name == "joint" else {}
    one = weights(make(name, **changes), 1, tmp_path / "one")
    many = weights(make(name, **changes), count, tmp_path / "many")
    for key, tensor in one.items():
        torch.testing.assert_close(many[key], tensor, rtol=1e-6, atol=1e-8)
    for ours, theirs in zip(lines(tmp_path / "one", "train"), lines(tmp_path / "many", "train"), strict=True):
        assert ours.keys() == theirs.keys()
        assert all(theirs[k] == pytest.approx(v, rel=1e-6) for k, v in ours.items() if k not in ("kind", "seconds"))


@pytest.mark.parametrize("name", ["crm", "llm", "joint"])
def test_the_gradients_of_parts_add_up(make: Make, double: Any, name: str) -> None:
    task = make(name, **(FRESH if name == "joint" else {}))
    task.model.double()
    batch = max(task.batches(1), key=len)
    found = []
    # The last cut has more parts than the batch has samples.
    for count in (1, 3, len(batch) + 2):
        task.model.zero_grad(set_to_none=True)
        figures: dict[str, Any] = {}
        empty = 0
        for index in range(count):
            values = task.losses(batch, 1, 3, loop.Part(index, count))
            if values:
                values["loss"].backward()
            empty += not values
            for key, value in values.items():
                figures[key] = figures.get(key, 0) + value.detach()
        assert empty == max(0, count - len(batch))
        gradients = [p.grad.clone() for group, _ in task.groups() for p in group if p.grad is not None]
        found.append((figures, gradients))
    for figures, gradients in found[1:]:
        assert figures.keys() == found[0][0].keys()
        for key, value in found[0][0].items():
            torch.testing.assert_close(figures[key], value, rtol=1e-6, atol=1e-9)
        for ours, theirs in zip(gradients, found[0][1], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_the_crm_reads_the_llms_target_rows(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make("joint", **FRESH)
    seen: list[Any] = []
    real = CrmSide.states

    def states(self: CrmSide, rows: Any, mine: Any, *args: Any) -> Any:
        seen.append(rows[mine])
        return real(self, rows, mine, *args)

    monkeypatch.setattr(CrmSide, "states", states)
    batch = max(task.batches(0), key=len)
    sequences = task._batches.chosen(0, batch)
    for count in (1, 2):
        for index in range(count):
            task.losses(batch, 0, 0, loop.Part(index, count))
            expected = np.concatenate([s.rows for s in sequences[index::count]])
            np.testing.assert_array_equal(seen[-1], expected)
            # And the CRM's labels are those rows' labels, as the LLM's are.
            labels = np.concatenate([s.labels for s in sequences[index::count]])
            np.testing.assert_array_equal(task.crm.train.labels[seen[-1]], labels)


def test_the_joint_loss_is_the_weighted_sum(make: Make) -> None:
    task = make("joint", **FRESH)
    values = {k: v.detach() for k, v in task.losses(task.batches(0)[0], 0, 0, loop.Part()).items()}
    assert set(values) == {"loss", "llm_loss", "crm_loss", "align_loss", "distance", "tokens"}
    assert values["distance"].shape == (2,)
    expected = values["llm_loss"] + values["crm_loss"] + 0.1 * values["align_loss"]
    torch.testing.assert_close(values["loss"], expected)
    assert min(float(v) for k, v in values.items() if k != "distance") > 0


@pytest.mark.parametrize(
    ("off", "still"),
    [({"llm_weight", "align_weight"}, "llm"), ({"crm_weight", "align_weight"}, "crm"), ({"align_weight"}, "align")],
)
def test_a_weight_of_zero_switches_a_part_off(make: Make, off: set[str], still: str) -> None:
    task: JointTask = make("joint", **FRESH, joint=dict.fromkeys(off, 0.0))
    task.losses(task.batches(0)[0], 0, 0, loop.Part())["loss"].backward()
    moved = {
        side: any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
        for side, model in task.model.named_children()
    }
    assert moved == {side: side != still and side != "align" for side in ("crm", "llm", "align")}


def test_the_crm_learns_at_its_own_rate(make: Make) -> None:
    groups = make(
        "joint", **FRESH, joint={"learning_rate": 1e-3, "crm_learning_rate": 2e-4, "align_learning_rate": 4e-3}
    ).groups()
    assert [factor for _, factor in groups] == [1.0, pytest.approx(0.2), pytest.approx(4.0)]
    assert len({id(p) for group, _ in groups for p in group}) == sum(len(group) for group, _ in groups)


@pytest.mark.parametrize("how", ["error", "sigint"])
def test_an_interrupted_joint_stage_ends_in_the_same_weights(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    small = {"joint": {"batch_tokens": 60, "rows": 60}, "crm": {"epochs": 0, "dropout": 0.3}, "llm": {"epochs": 0}}
    schedule = loop.Schedule(**{**SCHEDULE, "evaluations": 2}, accumulate=2)
    loop.fit(make("joint", **small), schedule, tmp_path / "whole", seed=5, quiet=True)
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0 if how == "error" else 1e9)
    for stop in (3, 8):
        task, real = make("joint", **small), JointTask.losses

        def losses(self: JointTask, batch: Any, epoch: int, index: int, part: Any, stop: int = stop) -> Any:
            if epoch * len(self.batches(0)) + index == stop and part.index == 1:
                if how == "error":
                    raise RuntimeError("the power is gone")
                os.kill(os.getpid(), signal.SIGINT)
            return real(self, batch, epoch, index, part)  # noqa: B023

        with monkeypatch.context() as patch:
            patch.setattr(JointTask, "losses", losses)
            with pytest.raises((RuntimeError, InterruptedRunError)):
                loop.fit(task, schedule, tmp_path / "cut", seed=5, quiet=True)
    loop.fit(make("joint", **small), schedule, tmp_path / "cut", seed=5, quiet=True)
    ours, theirs = (checkpoint.load_tensors(tmp_path / name / loop.BEST) for name in ("cut", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    for kind in ("train", "valid"):
        pairs = zip(lines(tmp_path / "cut", kind), lines(tmp_path / "whole", kind), strict=True)
        assert all({**a, "seconds": 0} == {**b, "seconds": 0} for a, b in pairs)


def test_nothing_to_train_on_is_one_error(make: Make, tmp_path: Path) -> None:
    task = make("joint", **FRESH)
    task.batches = lambda epoch: []
    with pytest.raises(stages.InputError, match="joint: there is no sample"):
        loop.fit(task, loop.Schedule(**SCHEDULE), tmp_path, seed=5, quiet=True)
