"""In what precision an LLM is trained, on CPUs with instructions for bfloat16 and on others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm import precision
from corella_edge_export.recipe import load_recipe
from corella_edge_export.training.tasks.llm import LlmReader
from sessions import RECIPE, succeed

OLD = frozenset({"sse4_2", "avx2", "fma", "avx512f"})
ABLE = [{"avx512f", "avx512_bf16"}, {"amx_bf16", "avx512f"}, {"asimd", "bf16"}]
BF16 = replace(load_recipe("ml-1m-small"), name="bf16")


@pytest.mark.parametrize("flags", ABLE)
def test_a_cpu_that_multiplies_in_bfloat16_follows_the_recipe(flags: set[str]) -> None:
    assert precision.computed_in("bfloat16", "cpu", flags | OLD) == "bfloat16"
    assert precision.computed_in("float32", "cpu", flags | OLD) == "float32"


@pytest.mark.parametrize("flags", [OLD, frozenset({"asimd", "sve"})])
def test_another_cpu_takes_float32(flags: frozenset[str]) -> None:
    assert precision.computed_in("bfloat16", "cpu", flags) == "float32"
    assert precision.computed_in("float32", "cpu", flags) == "float32"


def test_a_gpu_and_a_cpu_of_which_nothing_is_known_follow_the_recipe() -> None:
    assert precision.computed_in("bfloat16", "cuda", OLD) == "bfloat16"
    assert precision.computed_in("bfloat16", "cpu", frozenset()) == "bfloat16"


@pytest.mark.parametrize(("flags", "dtype"), [(OLD, torch.float32), (OLD | ABLE[0], torch.bfloat16)])
def test_the_forward_pass_is_computed_in_it(
    flags: frozenset[str], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_flags", lambda: flags)
    layer = nn.Linear(3, 2)
    with LlmReader(layer, (0, 1), "bfloat16").cast():
        assert layer(torch.ones(1, 3)).dtype == dtype


def test_one_note_tells_it_where_an_llm_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    assert BF16.llm.precision == "bfloat16"
    alone = replace(BF16, llm=replace(BF16.llm, epochs=0), joint=replace(BF16.joint, epochs=0),
                    continuation=replace(BF16.continuation, epochs=0))  # fmt: skip
    assert (BF16.computes_llm, alone.computes_llm) == (True, False)
    for flags, told in ((OLD, True), (OLD | ABLE[0], False)):
        monkeypatch.setattr(precision, "_flags", lambda flags=flags: flags)
        assert ("float32 and not in the recipe's" in precision.note("bfloat16", "cpu")) == told
        assert precision.note("bfloat16", "cuda") == ""


@pytest.mark.slow
def test_train_says_it_and_comes_to_what_a_recipe_in_float32_comes_to(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_flags", lambda: OLD)
    found, text = [], RECIPE.read_text("utf-8").replace("epochs = 7", "epochs = 1")
    for name in ("float32", "bfloat16"):
        chosen = tmp_path / f"{name}.toml"
        chosen.write_text(text.replace("[llm]\n", f'[llm]\nprecision = "{name}"\n'), "utf-8")
        out = tmp_path / name
        done = succeed("train", chosen, "--data", data.root, "--out", out)
        assert done.err.count("note: the LLM is trained in float32") == (name == "bfloat16")
        found.append((out / "llm" / "best.safetensors").read_bytes())
    assert found[0] == found[1]
