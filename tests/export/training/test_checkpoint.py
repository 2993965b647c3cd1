"""A local Hugging Face checkpoint with LoRA, from recipe to bundle; and all that is refused before long work."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from checkpoints import copy_tokenizer, save_checkpoint
from corella_edge.cli import main
from corella_edge.errors import CorellaError, ExportError, InputError
from corella_edge.prompt import Template
from corella_edge.request_message import parse_request
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm.model import checkpoint_model, merged
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.training import run, stages
from corella_edge_export.training.tasks.llm import LlmTask
from corella_edge_runtime.engine import Engine
from corella_edge_runtime.llm.llama.binding import Model

RECIPE = """
name = "tiny"
[crm]
batch_size = 64
epochs = 1
evaluations = 1
[crm.features]
history = 5
window = 16
[crm.dcnv2]
embedding_dim = 4
cross_layers = 1
hidden = [8]
[llm]
source = "checkpoint"
path = "{path}"
context = 200
batch_tokens = 1024
valid_rows = 40
evaluations = 3
learning_rate = 1e-2
[llm.lora]
r = 2
targets = ["q_proj", "v_proj"]
[prompt]
item = "{{title}}:"
history_lines = 3
block = 2
[export]
calibration_rows = 30
sample_rows = 40
reference_rows = 8
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("models") / "secret-folder", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def recipe(checkpoint: Path) -> Recipe:
    file = checkpoint.parent / "recipe.toml"
    file.write_text(RECIPE.format(path=checkpoint))
    return load_recipe(str(file))


@pytest.fixture(scope="module")
def trained(recipe: Recipe, data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> run.Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    stages.train(folder, recipe, data, quiet=True)
    return run.Run.open(folder, data)


@pytest.fixture(scope="module")
def bundle(trained: run.Run) -> Path:
    out = trained.folder.parent / "bundle"
    export(trained, out, ExportOptions(("Q8_0", "F16"), crm_int8=True, threads=1))
    return out


def test_only_adapters_are_kept(trained: run.Run) -> None:
    tensors = load_file(trained.folder / "llm" / "best.safetensors")
    assert len(tensors) == 2 * 2 * 2
    assert all("lora_" in name for name in tensors)
    assert any(float(tensor.abs().max()) > 0 for name, tensor in tensors.items() if "lora_B" in name)


def test_merged_weights_score_like_adapters(trained: run.Run, checkpoint: Path) -> None:
    tokens = torch.arange(5, 45)[None]
    with torch.inference_mode():
        with_adapters = trained.llm()(tokens).logits
        torch.testing.assert_close(merged(trained.llm())(tokens).logits, with_adapters, rtol=1e-4, atol=1e-4)
        assert float((with_adapters - checkpoint_model(checkpoint).eval()(tokens).logits).abs().max()) > 1e-3


def test_the_bundle_scores(bundle: Path, trained: run.Run) -> None:
    lines = [json.loads(line) for line in (bundle / "reference.jsonl").read_text().splitlines()]
    with Engine.open(bundle, threshold="ratio:1", llm_threads=1, require_llm=True) as engine:
        scores = [engine.rank(parse_request(line["request"])) for line in lines]
    assert all(s.llm[0] == pytest.approx(line["llm"], abs=2e-2) for s, line in zip(scores, lines, strict=True))
    assert not any(math.isnan(s.llm[0]) for s in scores)
    # Prompts are limited by the recipe, not by all that the checkpoint could read.
    model = Model(bundle / "llm.gguf")
    assert model.trained_context == trained.recipe.llm.context
    model.close()


def test_every_variant_is_judged(bundle: Path) -> None:
    assert (bundle / "llm.F16.gguf").stat().st_size > (bundle / "llm.gguf").stat().st_size
    found = json.loads((bundle / "verification.json").read_text())
    assert found["differences"]["llm_f16"] <= 2e-3
    assert found["differences"]["crm"] <= 1e-5
    assert {"torch", "F16", "Q8_0", "crm", "crm_int8", "crm_valid", "llm_valid"} <= set(found["metrics"])
    crm, int8 = found["metrics"]["crm"], found["metrics"]["crm_int8"]
    assert abs(crm["auc"] - int8["auc"]) < 0.05
    assert abs(crm["logloss"] - int8["logloss"]) < 0.05


def test_a_bundle_tells_nothing_about_the_machine(
    bundle: Path, trained: run.Run, checkpoint: Path, data: PreparedData
) -> None:
    secrets = [str(path).encode() for path in (trained.folder, checkpoint.parent, data.root, bundle, Path.home())]
    secrets += [str(Path(run.__file__).parent).encode(), b".gguf.part", b"site-packages"]
    for file in bundle.rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        assert [s for s in secrets if s in content] == [], file.name
    assert json.loads((bundle / "manifest.json").read_text())["about"]["recipe"]["llm"]["path"] == "secret-folder"
    assert b"tiny" in (bundle / "llm.gguf").read_bytes()[:4096]


def test_an_interrupted_training_ends_in_the_same_adapters(
    recipe: Recipe, data: PreparedData, trained: run.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = LlmTask.losses

    def broken(self: LlmTask, *args: Any) -> Any:
        if (tmp_path / "run" / "llm" / "checkpoint.json").exists():
            raise RuntimeError("the power is gone")
        return losses(self, *args)

    monkeypatch.setattr(LlmTask, "losses", broken)
    with pytest.raises(RuntimeError, match="power"):
        stages.train(tmp_path / "run", recipe, data, quiet=True)
    assert not (tmp_path / "run" / "summary.json").exists()
    with pytest.raises(InputError, match="not finished"):
        run.Run.open(tmp_path / "run", data)
    monkeypatch.setattr(LlmTask, "losses", losses)
    stages.train(tmp_path / "run", recipe, data, quiet=True)
    first, second = (load_file(f / "llm" / "best.safetensors") for f in (trained.folder, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_adapters_stay_with_the_weights_they_were_trained_on(
    checkpoint: Path, recipe: Recipe, data: PreparedData, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    moved = replace(recipe, llm=replace(recipe.llm, path=str(folder)))
    stages.train(tmp_path / "run", moved, data, quiet=True)
    run.Run.open(tmp_path / "run", data)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] += 0.5
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="other: is not the checkpoint"):
        run.Run.open(tmp_path / "run", data)
    with pytest.raises(InputError, match="another checkpoint"):
        stages.train(tmp_path / "run", moved, data, quiet=True)


def test_a_missing_checkpoint_is_one_line_before_any_work(
    data: PreparedData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "recipe.toml"
    file.write_text(RECIPE.format(path=tmp_path / "nowhere"))
    with pytest.raises(SystemExit) as left:
        main(["train", str(file), "--data", str(data.root), "--out", str(tmp_path / "run")])
    message = capsys.readouterr().err.strip()
    assert left.value.code == 2
    assert "\n" not in message
    assert "nowhere/config.json: missing" in message
    assert not (tmp_path / "run").exists()


Change = Callable[[Path], None]


def _config(**values: Any) -> Change:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **values}))

    return change


def _saved_with(**values: Any) -> Change:
    """The checkpoint of another configuration, with weights that fit it."""

    def change(folder: Path) -> None:
        LlamaForCausalLM(LlamaConfig.from_pretrained(folder, **values)).save_pretrained(folder)

    return change


def _without(name: str) -> Change:
    return lambda folder: (folder / name).unlink()


def _slow_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps({"<unk>": 0, "a</w>": 1}))
    (folder / "merges.txt").write_text("#version\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CTRLTokenizer"}))


def _sentencepiece(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink()
    copy_tokenizer("llama2", folder)
    _saved_with(vocab_size=32000)(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_config(model_type="gpt2"), "model_type is 'gpt2'"),
        (_config(model_type="qwen2"), "its weights do not fit"),  # whose biases are missing
        (
            _config(rope_scaling={"rope_type": "llama3", "factor": 8.0}),
            r"config\.json: cannot be read.*low_freq_factor",
        ),
        (_config(rope_scaling={"rope_type": "dynamic", "factor": 8.0}), "rope_scaling 'dynamic'"),
        (_saved_with(vocab_size=100), "the model embeddings for 100"),
        (_config(vocab_size=100), r"model\.embed_tokens\.weight is \[\d+, 32\], config\.json asks for \[100, 32\]"),
        (_without("model.safetensors"), "holds no weights"),
        (_without("tokenizer.json"), "tokenizer"),
        (_slow_tokenizer, "no fast form"),
        (_sentencepiece, "write yes = 'Yes' and no = 'No'"),
    ],
)
def test_what_can_not_be_exported_is_refused_before_the_crm_trains(
    checkpoint: Path, recipe: Recipe, data: PreparedData, tmp_path: Path, change: Change, message: str
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    change(folder)
    changed = replace(recipe, llm=replace(recipe.llm, path=str(folder)))
    with pytest.raises(CorellaError, match=message) as caught:
        stages.train(tmp_path / "run", changed, data, quiet=True)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "crm").exists()


@pytest.mark.parametrize("targets", [("q_proj", "no_such"), ("lm_head",), ("embed_tokens",), ()])
def test_adapters_on_other_layers_are_refused(
    recipe: Recipe, data: PreparedData, tmp_path: Path, targets: tuple[str, ...]
) -> None:
    lora = replace(recipe.llm.lora, targets=targets)
    with pytest.raises(InputError, match=r"llm\.lora\.targets.*q_proj, k_proj"):
        stages.train(tmp_path / "run", replace(recipe, llm=replace(recipe.llm, lora=lora)), data, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_template_of_several_tokens_is_refused_before_the_crm_trains(
    recipe: Recipe, data: PreparedData, tmp_path: Path
) -> None:
    prompt = Template(yes=" Absolutely so", no=" By no means")
    with pytest.raises(ExportError, match="choose two other words"):
        stages.train(tmp_path / "run", replace(recipe, prompt=prompt), data, quiet=True)
    assert not (tmp_path / "run" / "crm").exists()


@pytest.mark.parametrize("keep", [True, False])
def test_weights_that_do_not_fit_are_not_replaced_by_random_ones(checkpoint: Path, tmp_path: Path, keep: bool) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    removed = tensors.pop(name)
    if keep:
        tensors["model.layers.7.mlp.up_proj.weight"] = removed
        tensors[name] = removed.clone()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"weights do not fit config\.json.*up_proj"):
        checkpoint_model(folder)


def test_bfloat16_weights_become_float32(checkpoint: Path) -> None:
    raw = load_file(checkpoint / "model.safetensors")
    model = checkpoint_model(checkpoint)
    assert {tensor.dtype for tensor in raw.values()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    name = "model.layers.0.self_attn.q_proj.weight"
    np.testing.assert_array_equal(model.state_dict()[name].numpy(), raw[name].float().numpy())
