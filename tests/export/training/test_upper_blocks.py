"""Adapters on the upper blocks alone, with the ranking loss: what is kept for gradients, told of speed, and resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from checkpoints import save_checkpoint
from corella_edge.cli import main
from corella_edge.errors import InputError
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm import precision
from corella_edge_export.llm.model import checkpoint_model, hidden_states, recomputing, with_lora
from corella_edge_export.llm.recipe import LlmRecipe, LoraRecipe
from corella_edge_export.recipe import Recipe, recipe_from
from corella_edge_export.training import loop, stages
from corella_edge_export.training.loop import Part, State, speed_text
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks.llm import LlmTask

BLOCKS = 4
TABLE: dict[str, Any] = {
    "name": "upper",
    "crm": {"batch_size": 64, "epochs": 1, "evaluations": 1, "features": {"history": 5, "window": 16},
            "dcnv2": {"embedding_dim": 4, "cross_layers": 1, "hidden": [8]}},
    "llm": {"source": "checkpoint", "context": 200, "batch_tokens": 1024, "valid_rows": 40, "evaluations": 2,
            "learning_rate": 1e-2, "ranking_weight": 0.5, "precision": "bfloat16",
            "lora": {"layers": 1, "r": 2, "targets": ["q_proj", "v_proj"]}},
    "prompt": {"item": "{title}:", "history_lines": 3, "block": 2},
}  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("models") / "small", num_hidden_layers=BLOCKS)


@pytest.fixture(scope="module")
def recipe(checkpoint: Path) -> Recipe:
    return recipe_from({**TABLE, "llm": {**TABLE["llm"], "path": str(checkpoint)}}, "upper")


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that multiplies in bfloat16, whatever this one is."""
    monkeypatch.setattr(precision, "_flags", lambda: precision.MULTIPLY)


def adapted(checkpoint: Path, layers: int) -> Any:
    return with_lora(checkpoint_model(checkpoint), LlmRecipe(lora=LoraRecipe(layers=layers, r=2, dropout=0.0)))


@pytest.mark.parametrize(("layers", "chosen"), [(0, {0, 1, 2, 3}), (1, {3}), (3, {1, 2, 3}), (4, {0, 1, 2, 3})])
def test_adapters_sit_on_the_upper_blocks(checkpoint: Path, layers: int, chosen: set[int]) -> None:
    names = [name for name, p in adapted(checkpoint, layers).named_parameters() if p.requires_grad]
    assert {int(name.split(".layers.")[1].split(".")[0]) for name in names} == chosen


def kept_bytes(model: Any, tokens: torch.Tensor) -> int:
    """What a forward pass keeps for the gradients, without the model's own weights."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        hidden_states(model, tokens)
    return sum(found.values())


@pytest.mark.parametrize("twice", [False, True])
def test_nothing_is_kept_of_the_blocks_below(checkpoint: Path, twice: bool) -> None:
    tokens = torch.randint(3, 300, (4, 64))
    models = {layers: adapted(checkpoint, layers).train() for layers in (1, BLOCKS)}
    if twice:
        models = {layers: recomputing(model) for layers, model in models.items()}
    _, states = hidden_states(models[1], tokens, blocks=True)
    assert [state.requires_grad for state in states] == [False] * (BLOCKS - 1) + [True]
    if not twice:
        assert kept_bytes(models[1], tokens) < 0.4 * kept_bytes(models[BLOCKS], tokens)


@pytest.fixture(scope="module")
def trained(recipe: Recipe, data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "_flags", lambda: precision.MULTIPLY)
        stages.train(folder, recipe, data, quiet=True)
    return folder


def test_base_weights_are_held_in_what_is_computed(
    recipe: Recipe, data: PreparedData, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert precision.base_dtype(recipe.llm, "cpu") == torch.bfloat16
    model = Run(Path(), recipe, data, torch.bfloat16).new_llm()
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}
    monkeypatch.setattr(precision, "_flags", lambda: frozenset({"avx2"}))
    assert precision.base_dtype(recipe.llm, "cpu") == torch.float32
    assert precision.base_dtype(replace(recipe.llm, precision="float32"), "cuda") == torch.float32


@pytest.mark.parametrize("breaks", [1, 2])
def test_an_interrupted_training_ends_in_the_same_adapters(
    recipe: Recipe, data: PreparedData, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks: int
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
    for _ in range(breaks):
        with monkeypatch.context() as patch:
            patch.setattr(LlmTask, "losses", failing(LlmTask.losses, after=3))
            with pytest.raises(RuntimeError, match="power"):
                stages.train(tmp_path / "run", recipe, data, quiet=True)
    stages.train(tmp_path / "run", recipe, data, quiet=True)
    first, second = (load_file(folder / "llm" / "best.safetensors") for folder in (trained, tmp_path / "run"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    counts = [state(folder)["tokens"] for folder in (trained, tmp_path / "run")]
    assert counts[0] == counts[1] > 0


def failing(losses: Callable[..., Any], after: int) -> Callable[..., Any]:
    calls = iter(range(after))

    def broken(*args: Any) -> Any:
        if next(calls, None) is None:
            raise RuntimeError("the power is gone")
        return losses(*args)

    return broken


def state(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "llm" / "checkpoint.json").read_text())["state"]
    return found


def test_the_tokens_of_every_step_are_counted(recipe: Recipe, data: PreparedData, trained: Path) -> None:
    task, schedule = stages.Stages(Run(trained, recipe, data), quiet=True).task("llm")
    assert isinstance(task, LlmTask)
    read = sum(
        len(sequence.tokens)
        for epoch in range(schedule.epochs)
        for batch in task.batches(epoch)
        for sequence in task._batches.chosen(epoch, batch)
    )
    found = state(trained)
    assert found["tokens"] == read
    assert 0 < found["stepping"] <= found["seconds"]
    assert found["peak"] > 50e6  # torch alone takes more


def test_the_ranking_loss_is_part_of_the_loss(recipe: Recipe, data: PreparedData, trained: Path) -> None:
    task, _ = stages.Stages(Run(trained, recipe, data), quiet=True).task("llm")
    task.model.eval()  # no dropout
    batch = max(task.batches(0), key=len)
    whole = task.losses(batch, 0, 0, Part())
    torch.testing.assert_close(whole["loss"], whole["answer_loss"] + 0.5 * whole["ranking_loss"])
    parts = [task.losses(batch, 0, 0, Part(k, 2)) for k in range(2)]
    assert all(parts)
    for name in ("loss", "ranking_loss", "tokens"):  # parts add up to the batch
        torch.testing.assert_close(sum(part[name] for part in parts), whole[name])


def test_speed_and_memory_are_one_line(
    recipe: Recipe, data: PreparedData, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert speed_text("llm", State(tokens=1_200_000, stepping=2000.0, peak=2_150_000_000)) == (
        "llm: 1,200,000 tokens at 600 a second, validation apart; 2.15 GB of memory at most"
    )
    stages.train(tmp_path / "run", recipe, data)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llm: ")]
    assert any("tokens at" in line and "GB of memory" in line for line in lines)


def test_more_blocks_than_there_are_is_one_error_before_any_work(
    recipe: Recipe, data: PreparedData, tmp_path: Path
) -> None:
    own = replace(recipe.llm, lora=replace(recipe.llm.lora, layers=BLOCKS + 1))
    with pytest.raises(InputError, match=r"llm\.lora\.layers: 5 are more than the 4 blocks"):
        stages.train(tmp_path / "run", replace(recipe, llm=own), data)
    assert not (tmp_path / "run").exists()


def test_the_base_models_stage_is_taken_over_beside_another_checkpoint(
    recipe: Recipe, data: PreparedData, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = save_checkpoint(tmp_path / "other", num_hidden_layers=BLOCKS, intermediate_size=40)
    elsewhere = replace(recipe, llm=replace(recipe.llm, path=str(other)))
    keys = [stages.keys(chosen, data) for chosen in (recipe, elsewhere)]
    assert keys[0]["crm"] == keys[1]["crm"]
    assert keys[0]["llm"] != keys[1]["llm"]
    fitted: list[str] = []
    fit = loop.fit
    monkeypatch.setattr(stages.loop, "fit", lambda task, *rest: (fitted.append(task.name), fit(task, *rest))[1])
    (tmp_path / "upper.toml").write_text(toml(elsewhere))
    command = ["train", str(tmp_path / "upper.toml"), "--data", str(data.root), "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as left:
        main([*command, "--reuse", str(trained)])
    assert left.value.code in (0, None)
    assert fitted == ["llm"]
    assert (tmp_path / "run" / "crm" / "best.safetensors").read_bytes() == (
        trained / "crm" / "best.safetensors"
    ).read_bytes()


def toml(recipe: Recipe) -> str:
    """This module's recipe with the checkpoint's place, as a file."""
    table = {**TABLE, "llm": {**TABLE["llm"], "path": recipe.llm.path}}
    return "\n".join(_lines(table, ""))


def _lines(table: dict[str, Any], name: str) -> list[str]:
    plain = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    below = [_lines(value, f"{name}.{key}".strip(".")) for key, value in table.items() if isinstance(value, dict)]
    return [*([f"[{name}]"] if name else []), *plain, *(line for lines in below for line in lines)]
