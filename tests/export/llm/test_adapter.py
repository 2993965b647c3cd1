"""A LoRA as a GGUF adapter: the base with it is what torch computes with it, and what a merged file computes."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from checkpoints import random_model, save_checkpoint
from corella_edge.adapters import Weights
from corella_edge.errors import ExportError
from corella_edge_export.llm.adapter import write_adapter
from corella_edge_export.llm.model import LINEAR, checkpoint_model, merged, with_lora
from corella_edge_export.llm.recipe import LlmRecipe, LoraRecipe
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.llm.tokenizer import load_tokenizer
from corella_edge_runtime.llm.llama.adapter_file import base_of, check_adapter
from corella_edge_runtime.llm.llama.binding import Context, Model
from corella_edge_runtime.llm.llama.tree import Branches, unfold

KINDS = ["llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"]
TOKENS = tuple(5 + i * 7 % 300 for i in range(60))
ALL = LoraRecipe(r=4, alpha=6, dropout=0.0, targets=LINEAR)
YES, NO = 11, 12


def lora(folder: Path, seed: int, recipe: LoraRecipe = ALL) -> Any:
    """The checkpoint with adapters of random weights, as if trained."""
    model = with_lora(checkpoint_model(folder), LlmRecipe(lora=recipe)).eval()
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.2)
    return model


def probability(model: Any) -> float:
    """P(Yes) after the tokens, by torch."""
    with torch.inference_mode():
        logits = model(torch.tensor([TOKENS])).logits[0, -1].double()
    return float(torch.sigmoid(logits[YES] - logits[NO]))


def served(base: Path, adapters: dict[str, Path], choices: Sequence[Weights]) -> list[float]:
    """P(Yes) by llama.cpp, with each choice of adapters."""
    model = Model(base, adapters=adapters)
    context, found = Context(model, 256, 1, 256, 1, exact=True), []
    for choice in choices:
        context.clear()
        context.adapt(choice)
        leaves, rows = unfold(Branches.one(TOKENS))
        context.decode(rows)
        yes, no = context.logits(leaves.last, (YES, NO))[0]
        found.append(1.0 / (1.0 + math.exp(no - yes)))
    context.close()
    model.close()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_base_and_adapter_score_as_torch_and_as_the_merged_file(kind: str, tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint", model_type=kind)
    tokenizer = load_tokenizer(folder)
    trained = lora(folder, 1)
    expected = probability(trained)
    write_adapter(trained, tmp_path / "a.gguf", "a")
    base = trained.unload()
    write_gguf(base, tokenizer, tmp_path / "base.gguf", kind)
    write_gguf(merged(lora(folder, 1)), tokenizer, tmp_path / "merged.gguf", kind)
    check_adapter(tmp_path / "a.gguf", base_of(tmp_path / "base.gguf"))
    alone, with_adapter = served(tmp_path / "base.gguf", {"a": tmp_path / "a.gguf"}, [(), (("a", 1.0),)])
    (whole,) = served(tmp_path / "merged.gguf", {}, [()])
    assert with_adapter == pytest.approx(expected, abs=2e-3)
    assert with_adapter == pytest.approx(whole, abs=2e-3)
    assert alone == pytest.approx(probability(checkpoint_model(folder).eval()), abs=2e-3)
    assert abs(alone - with_adapter) > 0.02


def test_averaged_adapters_score_as_torch_with_both_changes_halved(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint")
    files = {}
    half = checkpoint_model(folder).eval()
    plain = {name: parameter.clone() for name, parameter in half.named_parameters()}
    for seed, name in enumerate("ab", 1):
        write_adapter(lora(folder, seed), tmp_path / f"{name}.gguf", name)
        files[name] = tmp_path / f"{name}.gguf"
        whole = dict(merged(lora(folder, seed)).named_parameters())
        with torch.no_grad():
            for key, parameter in half.named_parameters():
                parameter += 0.5 * (whole[key] - plain[key])
    write_gguf(checkpoint_model(folder), load_tokenizer(folder), tmp_path / "base.gguf", "base")
    choices: list[Weights] = [(("a", 0.5), ("b", 0.5)), (("a", 1.0),), (("b", 1.0),), ()]
    found = served(tmp_path / "base.gguf", files, choices)
    assert found[0] == pytest.approx(probability(half), abs=2e-3)
    assert min(abs(found[0] - other) for other in found[1:]) > 5e-3


def test_the_upper_blocks_alone_are_in_the_file_and_its_scale_is_alpha(tmp_path: Path) -> None:
    folder = save_checkpoint(tmp_path / "checkpoint")
    trained = lora(folder, 1, LoraRecipe(layers=1, r=3, alpha=6, targets=("q_proj", "down_proj")))
    write_adapter(trained, tmp_path / "a.gguf", "named")
    reader = gguf.GGUFReader(tmp_path / "a.gguf")
    assert {tensor.name: tuple(map(int, tensor.shape)) for tensor in reader.tensors} == {
        "blk.1.attn_q.weight.lora_a": (32, 3), "blk.1.attn_q.weight.lora_b": (3, 32),
        "blk.1.ffn_down.weight.lora_a": (48, 3), "blk.1.ffn_down.weight.lora_b": (3, 32),
    }  # fmt: skip
    said = {key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    assert said == {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora",
                    "adapter.lora.alpha": 6.0, "general.name": "named"}  # fmt: skip


def test_what_is_trained_beside_the_lora_is_refused_by_name(tmp_path: Path) -> None:
    trained = lora(save_checkpoint(tmp_path / "checkpoint"), 1)
    trained.get_base_model().model.norm.weight.requires_grad_(True)
    with pytest.raises(ExportError, match=r"training has changed .*model\.norm\.weight.*only --adapter merged"):
        write_adapter(trained, tmp_path / "a.gguf", "a")


def test_numbers_that_f16_cannot_hold_are_refused(tmp_path: Path) -> None:
    trained = lora(save_checkpoint(tmp_path / "checkpoint"), 1)
    broken = copy.deepcopy(trained)
    name, parameter = next((n, p) for n, p in broken.named_parameters() if "lora_B" in n)
    with torch.no_grad():
        parameter[0, 0] = np.inf
    with pytest.raises(ExportError, match=f"{name} has values that f16 cannot hold"):
        write_adapter(broken, tmp_path / "a.gguf", "a")


def test_models_of_the_tests_have_grouped_queries() -> None:
    """So that the order of rows of queries and keys differs."""
    config = random_model("llama", 10).config
    assert config.num_attention_heads != config.num_key_value_heads
