"""Checkpoints as tools leave them: what is loaded from where, or one line before any training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from corella_edge.errors import InputError
from corella_edge_export.llm import pretrained
from corella_edge_export.llm.model import checkpoint_model, scratch_model
from corella_edge_export.llm.pretrained import EMBEDDINGS, HEAD, Header, Span, misfit, unusable
from corella_edge_export.llm.recipe import LlmRecipe

RECIPE = LlmRecipe(hidden=16, layers=2, heads=2, kv_heads=1, intermediate=24, context=64)
UP = "model.layers.1.mlp.up_proj.weight"
SHAPES = {EMBEDDINGS: (40, 16), UP: (24, 16), "model.norm.weight": (16,), HEAD: (40, 16)}
WHOLE = [Header(name, "model.safetensors", "BF16", shape) for name, shape in SHAPES.items()]
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("saved")
    scratch_model(RECIPE, 40, 1, 2, 0).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "model.safetensors"
        save_file(change(load_file(path)), path, {"format": "pt"})

    return apply


def config(**values: Any) -> Change:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return apply


def with_value(name: str, value: float, dtype: torch.dtype = torch.float32) -> Change:
    def change(tensors: dict[str, Any]) -> dict[str, Any]:
        tensors[name] = tensors[name].to(dtype)
        tensors[name].view(-1)[-1] = value
        return tensors

    return weights(change)


def prefixed(prefix: str) -> Change:
    return weights(lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()})


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def adapters(folder: Path) -> None:
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))


def adapters_alone(folder: Path) -> None:
    adapters(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()


def sharded(*stray: str) -> Change:
    """Two files and their index; `stray` names tensors that stand in both."""

    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(tensors)
        parts = [{*names[::2], *stray}, {*names[1::2], *stray}]
        files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
        for file, part in zip(files, parts, strict=True):
            save_file({name: tensors[name] for name in part}, folder / file, {"format": "pt"})
        places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))

    return apply


def index(places: dict[str, Any]) -> Change:
    def apply(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))

    return apply


def own_head(change: float) -> Change:
    return weights(lambda tensors: {**tensors, HEAD: tensors[EMBEDDINGS] + change})


def pickled(content: Callable[[dict[str, Any]], Any]) -> Change:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(content(tensors), folder / "pytorch_model.bin")

    return apply


def base_only(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def tables(tensors: dict[str, Any]) -> dict[str, Any]:
    return {**tensors, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}


def mixed(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.to(torch.bfloat16 if tensor.ndim > 1 else torch.float32) for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (lambda folder: None, ["(float32)", "from model.safetensors"]),
        (sharded(), ["2 files, model-00001-of-00002.safetensors to model-00002-of-00002.safetensors"]),
        (weights(mixed), ["(bfloat16, float32)"]),
        (weights(base_only), ["from model.safetensors"]),
        (weights(tables), ["from model.safetensors"]),
        (own_head(0.0), ["from model.safetensors"]),
        (pickled(dict), ["from pytorch_model.bin"]),
        (lambda folder: (folder / "pytorch_model.bin").write_bytes(b"old"), ["not read: pytorch_model.bin"]),
        (config(dtype=None, torch_dtype="bfloat16", eos_token_id=[2, 0], head_dim=None), []),
    ],
)
def test_what_is_told_is_what_transformers_loads(folder: Path, change: Change, parts: list[str]) -> None:
    change(folder)
    line = pretrained.check(folder)
    assert "\n" not in line
    assert all(part in line for part in parts)
    checkpoint_model(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_value(UP, float("nan")), rf"model\.safetensors: {UP} has numbers that are not finite \(nan\)"),
        (with_value(UP, float("-inf"), torch.bfloat16), rf"{UP} has numbers that are not finite \(-inf\)"),
        (with_value("model.norm.weight", float("inf"), torch.float16), r"model\.norm\.weight has .* \(inf\)"),
        (with_value(UP, 1e6), rf"{UP} has 1e\+06, more than the 65504"),
        (prefixed("_orig_mod."), "compiled model"),
        (prefixed("module."), "parallel wrapper"),
        (prefixed("base_model.model."), "merge those"),
        (weights(lambda t: {k: v for k, v in t.items() if k != UP}), f"1 of them are missing, such as {UP}"),
        (weights(lambda t: {**t, "score.weight": torch.ones(2, 16)}), r"1 have no place in the model, such as score\."),
        (weights(lambda t: {**t, UP: torch.ones(48, 8)}), rf"{UP} is \[48, 8\], config\.json asks for \[24, 16\]"),
        (weights(lambda t: {**t, UP: torch.ones(24, 16, dtype=torch.int8)}), f"{UP} is stored as I8, so quantised"),
        (weights(lambda t: {**t, UP: torch.ones(24, 16).to(torch.float8_e4m3fn)}), "stored as F8_E4M3, so quantised"),
        (config(quantization_config={"quant_method": "gptq", "bits": 4}), r"quantised \(gptq, 4 bits\)"),
        (config(quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True}), r"bytes, 8 bits\)"),
        (config(quantization_config={"quant_method": "fp8"}), r"config\.json: quantization_config: .*\(fp8\)"),
        (config(compression_config={"format": "pack-quantized"}), "compression_config: the weights are quantised"),
        (config(quantization_config=None), "quantization_config is null"),
        (config(tie_word_embeddings=False), f"1 of them are missing, such as {HEAD}"),
        (config(num_attention_heads=0), "config.json: "),
        (config(hidden_size="x"), "config.json: "),
        (own_head(1.0), f"{HEAD} differs from {EMBEDDINGS}, but config.json ties them"),
        (sharded(UP), f"{UP} stands in more than one"),
        (index({"a": 5}), r"model\.safetensors\.index\.json: names no files of weights"),
        (index({}), r"model\.safetensors\.index\.json: names no files of weights"),
        (index({"a": "model-00001.safetensors"}), r"1 of 1 weight files are missing, such as model-00001\.safetensors"),
        (cut, r"model\.safetensors: cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b""), r"model\.safetensors: cannot be read"),
        (pickled(lambda tensors: {"state_dict": tensors}), r"pytorch_model\.bin: cannot be read \(it holds more"),
        (pickled(lambda tensors: {"model": Path("x")}), r"pytorch_model\.bin: cannot be read"),
        (pickled(lambda t: {**t, UP: torch.full((24, 16), torch.nan)}), r"pytorch_model\.bin: .* not finite"),
        (adapters, r"adapter_config\.json: stands beside .* would load org/base instead"),
        (adapters_alone, "holds adapters of peft .* merge them into org/base"),
    ],
)
def test_what_would_be_lost_or_wrong_is_one_line(folder: Path, change: Change, message: str) -> None:
    change(folder)
    before = sorted(folder.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        pretrained.check(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert sorted(folder.iterdir()) == before


def test_a_number_is_found_wherever_it_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a few rows cover a tensor, the last one too."""
    monkeypatch.setattr(pretrained, "CHUNK", 16 * 5)
    pretrained._spans.cache_clear()
    tensors = load_file(folder / "model.safetensors")
    for row in (0, 4, 5, 23):
        changed = {**tensors, UP: tensors[UP].clone()}
        changed[UP][row, row % 16] = torch.nan
        save_file(changed, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(InputError, match="not finite"):
            pretrained.check(folder)


def test_a_file_is_read_again_once_it_has_changed(folder: Path) -> None:
    pretrained.check(folder)
    with_value(UP, float("nan"))(folder)
    with pytest.raises(InputError, match="not finite"):
        pretrained.check(folder)


@given(st.sampled_from(range(len(WHOLE))), st.sampled_from(["drop", "shape", "name", "dtype"]), st.booleans())
def test_no_changed_header_passes(place: int, kind: str, tied: bool) -> None:
    header = WHOLE[place]
    changed = {
        "drop": [],
        "shape": [Header(header.name, header.file, header.dtype, (*header.shape, 1))],
        "name": [Header(f"x.{header.name}", header.file, header.dtype, header.shape)],
        "dtype": [Header(header.name, header.file, "U8", header.shape)],
    }[kind]
    left_out = kind == "drop" and tied and header.name == HEAD
    found = misfit([*WHOLE[:place], *changed, *WHOLE[place + 1 :]], SHAPES, tied)
    assert bool(found) != left_out
    if not left_out and kind != "drop":
        assert header.name in found


@given(st.permutations(WHOLE), st.booleans())
def test_the_order_of_tensors_decides_nothing(headers: list[Header], tied: bool) -> None:
    assert misfit(headers, SHAPES, tied) == ""


@given(st.floats(), st.floats(), st.booleans())
def test_a_tensor_is_usable_if_all_its_numbers_are(one: float, other: float, matrix: bool) -> None:
    ends = torch.aminmax(torch.tensor([one, other], dtype=torch.float64))
    finite = all(abs(value) < float("inf") for value in (one, other))
    fits = not matrix or max(abs(one), abs(other)) <= 65504
    assert (unusable(Span(float(ends.min), float(ends.max), matrix)) == "") == (finite and fits)
