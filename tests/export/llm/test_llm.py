from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corella_edge.errors import InputError

torch = pytest.importorskip("torch")

from corella_edge_export.llm.model import (  # noqa: E402
    answer_logits,
    checkpoint_model,
    hidden_states,
    merged,
    scratch_model,
    with_lora,
)
from corella_edge_export.llm.recipe import LlmRecipe, LoraRecipe  # noqa: E402

RECIPE = LlmRecipe(hidden=16, layers=2, heads=2, kv_heads=1, intermediate=24, context=64)


def make() -> Any:
    torch.manual_seed(0)
    return scratch_model(RECIPE, 40, 1, 2, 0).eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make().save_pretrained(folder)
    return folder


def logits(model: Any, tokens: Any) -> Any:
    with torch.inference_mode():
        return model(input_ids=tokens).logits


TOKENS = torch.tensor([[1, 5, 6, 7, 8], [1, 9, 9, 0, 0]])


def test_a_model_has_the_recipes_sizes() -> None:
    config = make().config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 2, 2)
    assert (config.num_key_value_heads, config.intermediate_size, config.max_position_embeddings) == (1, 24, 64)
    assert config.tie_word_embeddings


def test_answer_logits_are_the_models_at_the_targets() -> None:
    model = make()
    where, answers = (torch.tensor([0, 0, 1]), torch.tensor([1, 4, 2])), torch.tensor([11, 30])
    with torch.inference_mode():
        found = answer_logits(model, hidden_states(model, TOKENS)[0][where], answers)
    torch.testing.assert_close(found, logits(model, TOKENS)[where][:, answers])
    # What pads on the right is never looked at.
    alone = logits(model, TOKENS[1:, :3])[0, 2, answers]
    torch.testing.assert_close(found[2], alone, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_is_the_model_that_was_saved(checkpoint: Path) -> None:
    torch.testing.assert_close(logits(checkpoint_model(checkpoint).eval(), TOKENS), logits(make(), TOKENS))


def test_merged_adapters_score_like_adapters(checkpoint: Path) -> None:
    lora = LoraRecipe(r=2, dropout=0.0, targets=("q_proj", "v_proj", "up_proj"))
    model = with_lora(checkpoint_model(checkpoint), replace(RECIPE, lora=lora)).eval()
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 2 * 3
    assert all("lora" in name for name in trainable)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trainable:
                parameter.normal_(std=0.3)
    before = logits(model, TOKENS)
    with torch.inference_mode():
        chosen = answer_logits(model, hidden_states(model, TOKENS)[0][:1, 2], torch.tensor([3, 4]))
    torch.testing.assert_close(chosen[0], before[0, 2, [3, 4]])
    assert float((before - logits(make(), TOKENS)).abs().max()) > 1e-3
    whole = merged(model)
    torch.testing.assert_close(logits(whole, TOKENS), before, rtol=1e-4, atol=1e-5)
    assert not [name for name in whole.state_dict() if "lora" in name]
    plain = make()
    assert merged(plain) is plain


def test_an_adapter_without_a_target_is_refused(checkpoint: Path) -> None:
    recipe = replace(RECIPE, lora=LoraRecipe(targets=("no_such_layer",)))
    with pytest.raises(InputError, match=r"llm\.lora"):
        with_lora(checkpoint_model(checkpoint), recipe)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model_type": "gpt2"}, "'gpt2'"),
        ({"model_type": None}, "None"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 5e5}, "odd": {}}},
            "rope_parameters of full_attention, odd",
        ),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling 'dynamic'"),
    ],
)
def test_a_checkpoint_that_would_be_misread_is_refused(
    checkpoint: Path, tmp_path: Path, change: dict[str, Any], part: str
) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(InputError) as caught:
        checkpoint_model(folder)
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b"\xff"),
        ("config.json", None),
        ("model.safetensors", b"12345678"),
        ("model.safetensors", b""),
        ("model.safetensors", None),
    ],
)
def test_a_damaged_checkpoint_is_named(checkpoint: Path, tmp_path: Path, name: str, content: bytes | None) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(InputError, match="other"):
        checkpoint_model(folder)


def test_what_is_no_folder_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "absent", tmp_path):
        with pytest.raises(InputError, match=r"config\.json: missing"):
            checkpoint_model(path)
