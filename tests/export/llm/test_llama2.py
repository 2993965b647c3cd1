"""The shipped recipe `ml-1m-llama2-7b` on a tiny random Llama, saved as the 7B one is and with its tokenizer.

Only what must shrink is replaced: the checkpoint's place, the numbers of rows and tokens, and the passes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoints import copy_tokenizer, random_llama
from corella_edge.cli import main
from corella_edge.errors import CorellaError
from corella_edge_export import report
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepare import write_prepared
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm import model as llm
from corella_edge_export.llm import precision
from corella_edge_export.llm.tokenizer import load_tokenizer
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.study import study
from corella_edge_export.training import stages
from corella_edge_export.training.align import pairs_for
from corella_edge_export.training.checkpoint import finished
from corella_edge_export.training.loop import Part
from corella_edge_export.training.run import Run
from corella_edge_export.training.stage import enabled
from corella_edge_export.training.tasks.joint import JointTask
from corella_edge_export.training.tasks.llm import LlmTask
from corella_edge_runtime.llm.llama.binding import Model
from films import films

NAME = "ml-1m-llama2-7b"
BASE_DTYPE = precision.base_dtype
# meta-llama/Llama-2-7b-chat-hf: its config.json, and a buffer that its files hold for every block.
CONFIG = {
    "_name_or_path": "meta-llama/Llama-2-7b-chat-hf", "architectures": ["LlamaForCausalLM"], "bos_token_id": 1,
    "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02, "intermediate_size": 11008,
    "max_position_embeddings": 4096, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32,
    "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None,
    "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.32.0.dev0", "use_cache": True,
    "vocab_size": 32000,
}  # fmt: skip
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 4, "max_position_embeddings": 4096}  # fmt: skip
BUFFER = "model.layers.{}.self_attn.rotary_emb.inv_freq"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("prepared") / "films"
    write_prepared(films(), folder, requests=5)
    return PreparedData.open(folder)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random float16 weights in two files with an index, the tokenizer in both its forms, the 7B model's config."""
    folder = tmp_path_factory.mktemp("models") / "Llama-2-7b-chat-hf"
    copy_tokenizer("llama2", folder)
    load_tokenizer(folder).save_pretrained(folder)  # with a tokenizer.json
    (folder / "config.json").write_text(json.dumps({**CONFIG, **SIZES}))
    weights = {k: t.half() for k, t in random_llama(32000, **SIZES, tie_word_embeddings=False).state_dict().items()}
    weights |= {BUFFER.format(i): torch.ones(4) for i in range(3)}
    files = {k: f"model-0000{1 + ('layers.0' in k)}-of-00002.safetensors" for k in weights}
    for file in set(files.values()):
        save_file({k: t.clone() for k, t in weights.items() if files[k] == file}, folder / file, {"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def recipe(checkpoint: Path) -> Recipe:
    shipped = load_recipe(NAME)
    small = {"rows": 90, "batch_tokens": 2048, "epochs": 2}
    return replace(
        shipped,
        crm=replace(shipped.crm, batch_size=64),
        llm=replace(shipped.llm, path=str(checkpoint), valid_rows=20),
        joint=replace(shipped.joint, **small),
        continuation=replace(shipped.continuation, **small),
        export=replace(shipped.export, calibration_rows=30, sample_rows=30, reference_rows=8),
    )


@pytest.fixture(scope="module", autouse=True)
def as_on_a_gpu() -> Iterator[None]:
    """Adapters train on bfloat16 weights here too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(precision, "base_dtype", lambda recipe, _: BASE_DTYPE(recipe, "cuda"))
        patch.setattr(precision, "_flags", lambda: precision.MULTIPLY)
        yield


@pytest.fixture(scope="module")
def trained(recipe: Recipe, data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    summary = stages.train(folder, recipe, data, quiet=True)
    assert list(summary) == ["crm", "joint", "continuation"]
    return Run.open(folder, data)


def test_the_recipe_is_the_papers() -> None:
    recipe = load_recipe(NAME)
    assert [stage.name for stage in enabled(recipe)] == ["crm", "joint", "continuation"]
    joint = recipe.joint
    assert (joint.llm_weight, joint.crm_weight, joint.align_weight) == (1.0, 1.0, 0.1)
    assert all(20_000 <= stage.rows <= 30_000 for stage in (joint, recipe.continuation))
    assert pairs_for(joint.pairs, 32, recipe.crm.family.layers) == [(30, 1), (31, 2), (32, 3)]


def test_only_adapters_are_kept(trained: Run, checkpoint: Path) -> None:
    joint, last = (load_file(trained.folder / name / "best.safetensors") for name in ("joint", "continuation"))
    assert {name.split(".")[0] for name in joint} == {"crm", "llm", "align"}
    assert len(last) == 3 * 2 * 2
    assert {name for name in joint if name.startswith("llm.")} == {f"llm.{name}" for name in last}
    assert all("lora_" in name and tensor.dtype == torch.float32 for name, tensor in last.items())
    assert all(float(tensor.abs().max()) > 0 for tensor in last.values())
    assert any(not torch.equal(tensor, joint[f"llm.{name}"]) for name, tensor in last.items())
    weights = sum(path.stat().st_size for path in checkpoint.glob("*.safetensors"))
    assert (trained.folder / "continuation" / "best.safetensors").stat().st_size < weights / 100


def test_the_base_is_bfloat16_in_training_and_float32_at_export(
    recipe: Recipe, data: PreparedData, trained: Run, checkpoint: Path
) -> None:
    def types(run: Run) -> dict[bool, set[torch.dtype]]:
        named = list(run.new_llm().named_parameters())
        return {mine: {p.dtype for name, p in named if ("lora_" in name) == mine} for mine in (True, False)}

    assert BASE_DTYPE(replace(recipe.llm, precision="float32"), "cpu") == torch.float32
    assert BASE_DTYPE(replace(recipe.llm, precision="float32"), "cuda") == torch.float32
    on_gpu = Run(trained.folder, recipe, data, BASE_DTYPE(recipe.llm, "cuda"))
    assert types(on_gpu) == {True: {torch.float32}, False: {torch.bfloat16}}
    assert types(trained) == {True: {torch.float32}, False: {torch.float32}}


def test_the_alignment_reaches_the_adapters(recipe: Recipe, data: PreparedData, trained: Run) -> None:
    """Alone: the gradient of L_align, with blocks computed twice or kept."""
    found = [_gradients(replace(recipe, llm=replace(recipe.llm, gradient_checkpointing=twice)), data, trained)
             for twice in (True, False)]  # fmt: skip
    adapters = [name for name in found[0] if "lora_B" in name]
    # The last pair reads the last block, so every block is on the way.
    assert len(adapters) == 3 * 2
    assert all(float(found[0][name].abs().max()) > 0 for name in adapters)
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-3, atol=1e-5)


def _gradients(recipe: Recipe, data: PreparedData, trained: Run) -> dict[str, torch.Tensor]:
    alone = replace(recipe, joint=replace(recipe.joint, llm_weight=0.0, crm_weight=0.0, align_weight=1.0))
    made = stages.Stages(Run(trained.folder, alone, data, torch.bfloat16), quiet=True)
    task, _ = made.task("joint")
    assert isinstance(task, JointTask)
    task.model.train()
    torch.manual_seed(3)
    task.losses(task.batches(0)[0], 0, 0, Part())["loss"].backward()
    llama = task.reader.model
    return {name: p.grad for name, p in llama.named_parameters() if p.grad is not None}


@pytest.mark.slow
def test_interrupted_trainings_end_in_the_same_adapters(
    recipe: Recipe, data: PreparedData, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails in both stages, each time after the first checkpoint."""
    shutil.copytree(trained.folder / "crm", trained.folder.parent / "crm" / "crm")
    stages_of: list[tuple[Any, str]] = [(JointTask, "joint"), (LlmTask, "continuation")]
    for task, stage in stages_of:
        with monkeypatch.context() as patch:
            patch.setattr(task, "losses", _failing(task.losses, tmp_path / "run" / stage / "checkpoint.json"))
            with pytest.raises(RuntimeError, match="power"):
                stages.train(tmp_path / "run", recipe, data, quiet=True, reuse=(trained.folder.parent / "crm",))
        assert not finished(tmp_path / "run" / stage)
    stages.train(tmp_path / "run", recipe, data, quiet=True)
    for _, stage in stages_of:
        first, second = (load_file(f / stage / "best.safetensors") for f in (trained.folder, tmp_path / "run"))
        assert all(torch.equal(first[name], second[name]) for name in first)


def _failing(losses: Callable[..., Any], checkpoint: Path) -> Callable[..., Any]:
    def broken(*args: Any) -> Any:
        if checkpoint.exists():
            raise RuntimeError("the power is gone")
        return losses(*args)

    return broken


def test_the_bundle_holds_merged_adapters(
    trained: Run, data: PreparedData, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(trained, tmp_path / "bundle", ExportOptions(threads=1))
    found = json.loads((tmp_path / "bundle" / "verification.json").read_text())
    assert found["differences"]["llm_f16"] <= 2e-3
    model = Model(tmp_path / "bundle" / "llm.gguf")
    assert model.trained_context == trained.recipe.llm.context == 2048
    model.close()
    with pytest.raises(SystemExit) as left:
        main(["verify", str(tmp_path / "bundle")])
    assert left.value.code in (0, None)
    assert "verified" in capsys.readouterr().out
    about = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["about"]
    assert about["recipe"]["llm"]["path"] == checkpoint.name
    lines = [json.loads(line) for line in (tmp_path / "bundle" / "reference.jsonl").read_text().splitlines()]
    with torch.inference_mode():
        plain = llm.checkpoint_model(checkpoint).eval()
        yes, no = (trained.builder().encoder.tokens.yes, trained.builder().encoder.tokens.no)
        changes = []
        for line in lines[:8]:
            both = plain(torch.tensor([line["prompt"]])).logits[0, -1, [no, yes]].double().softmax(0)[1]
            changes.append(abs(line["llm"] - float(both)))
        assert max(changes) > 1e-4


@pytest.mark.parametrize("name", ["train", "study"])
def test_the_command_takes_the_checkpoints_folder(
    data: PreparedData,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    out = tmp_path / "run"

    def command(recipe: str, folder: Path) -> tuple[int | str | None, str]:
        with pytest.raises(SystemExit) as left:
            main([name, recipe, "--data", str(data.root), "--out", str(out), "--checkpoint", str(folder)])
        return left.value.code, capsys.readouterr().err

    code, message = command(NAME, tmp_path / "nowhere")
    assert code == 2
    assert "nowhere/config.json: missing; llm.path (--checkpoint) must name" in message
    code, message = command("demo", checkpoint)
    assert code == 2
    assert "--checkpoint: the recipe demo trains a model from scratch" in message
    # The folder is right, so the rows are counted next: there are fewer than the recipe draws.
    code, message = command(NAME, checkpoint)
    assert code == 2
    assert "together more than the" in message
    assert not out.exists()
    begun: list[Recipe] = []

    def begin(*given: Any, **_: Any) -> dict[str, Any]:
        begun.extend(part for part in given if isinstance(part, Recipe))
        (out / "study.md").touch()
        return {}

    out.mkdir()
    monkeypatch.setattr(*((stages, "train", begin) if name == "train" else (study, "study", begin)))
    monkeypatch.setattr(report, "report_if_possible", lambda folder: None)
    monkeypatch.chdir(checkpoint.parent)
    code, _ = command(NAME, Path(checkpoint.name))
    assert code == 0
    shipped = load_recipe(NAME)
    assert begun == [replace(shipped, llm=replace(shipped.llm, path=str(checkpoint.resolve())))]


def test_the_export_finds_a_checkpoint_that_has_moved(
    trained: Run, data: PreparedData, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(checkpoint, tmp_path / "moved"))
    assert Run.open(trained.folder, data, moved).recipe.llm.path == str(moved)
    with pytest.raises(SystemExit) as left:
        main(["export", str(trained.folder), "--out", str(tmp_path / "out"), "--checkpoint", str(tmp_path / "nowhere")])
    assert left.value.code == 2
    assert "nowhere/config.json: missing; llm.path (--checkpoint) must name" in capsys.readouterr().err
    weights = moved / "model-00001-of-00002.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(CorellaError, match="moved: is not the checkpoint that"):
        Run.open(trained.folder, data, moved)


@pytest.mark.slow
@pytest.mark.parametrize("ablations", [False, True])
def test_a_study_of_adapters_scores_them_in_the_precision_of_their_training(
    recipe: Recipe, data: PreparedData, trained: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    ablations: bool,
) -> None:  # fmt: skip
    held: list[torch.dtype] = []
    monkeypatch.setattr(llm, "checkpoint_model", _noting(llm.checkpoint_model, held))
    settings = study.StudySettings((recipe.seed,), ablations, draws=20, reuse=(trained.folder,))
    found = study.study(recipe, data, tmp_path / "study", settings, lambda message: None, quiet=True)
    assert set(held) == {torch.bfloat16}
    variants = ["full", "without stage 1", "without stage 2", "without alignment", "without stage 3"]
    assert list(study.variants(recipe)) == variants
    wanted = variants if ablations else variants[:1]
    assert list(found["analysis"]["models_by_variant"]) == wanted
    assert [row["name"] for row in found["ablation"][: len(wanted)]] == wanted
    full = tmp_path / "study" / f"seed-{recipe.seed}" / "full"
    for stage in ("crm", "joint", "continuation"):  # nothing of the finished run is trained again
        ours, theirs = (folder / stage / "best.safetensors" for folder in (full, trained.folder))
        assert ours.read_bytes() == theirs.read_bytes()
    assert found["recipe"]["llm"]["path"] == checkpoint.name


def _noting(load: Callable[..., Any], held: list[torch.dtype]) -> Callable[..., Any]:
    def noted(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
        held.append(dtype)
        return load(folder, dtype)

    return noted


def test_a_block_that_the_checkpoint_has_not_is_one_error_before_any_work(
    recipe: Recipe, data: PreparedData, checkpoint: Path, tmp_path: Path
) -> None:
    blocks = llm.checkpoint_config(checkpoint).num_hidden_layers
    with pytest.raises(CorellaError, match=f"joint, pairs: there is no block {blocks + 1}, the LLM has {blocks}"):
        stages.train(tmp_path / "run", replace(recipe, joint=replace(recipe.joint, pairs=((blocks + 1, 1),))), data)
    assert not (tmp_path / "run").exists()


def test_a_run_goes_on_with_a_checkpoint_that_has_moved(
    recipe: Recipe, trained: Run, data: PreparedData, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of its weights tells it, not its place: nothing is trained again, there or in another run."""
    moved = Path(shutil.copytree(checkpoint, tmp_path / "moved"))
    elsewhere = replace(recipe, llm=replace(recipe.llm, path=str(moved)))
    shutil.copytree(trained.folder, tmp_path / "run")
    monkeypatch.setattr(stages.loop, "fit", None)
    for name in ("run", "other"):
        stages.train(tmp_path / name, elsewhere, data, quiet=True, reuse=(trained.folder,))
        assert Run.open(tmp_path / name, data).recipe.llm.path == str(moved)


def _remove(pattern: str) -> Callable[[Path], None]:
    return lambda folder: [path.unlink() for path in folder.glob(pattern)].clear()


def _pointer(folder: Path) -> None:
    (folder / "model-00002-of-00002.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_remove("*.safetensors*"), "holds no weights"),
        (_remove("*-00002-of*"), "1 of 2 weight files are missing, such as model-00002-of-00002"),
        (_pointer, "is a Git LFS pointer"),
        (_remove("tokenizer*"), "tokenizer"),
    ],
)
def test_a_checkpoint_that_lacks_a_part_is_refused_before_the_crm_trains(
    checkpoint: Path, recipe: Recipe, data: PreparedData, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    change(folder)
    moved = replace(recipe, llm=replace(recipe.llm, path=str(folder)))
    with pytest.raises(CorellaError, match=message):
        stages.train(tmp_path / "run", moved, data, quiet=True)
    assert not (tmp_path / "run" / "crm").exists()
