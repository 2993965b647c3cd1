"""Every architecture: what llama.cpp computes with our GGUF, and what we read of one, is what transformers computes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny_run
from checkpoints import random_model, save_scratch_tokenizer
from corella_edge.errors import ExportError, InputError
from corella_edge_export.bundling.write import ExportOptions, export
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm import pretrained
from corella_edge_export.llm.architectures import ARCHITECTURES, MODEL_TYPES, from_version_5, readable
from corella_edge_export.llm.from_gguf import GgufModel
from corella_edge_export.llm.model import answer_logits, check_checkpoint, checkpoint_model, hidden_states
from corella_edge_export.llm.recipe import LlmRecipe
from corella_edge_export.llm.to_gguf import write_gguf
from corella_edge_export.llm.tokenizer import load_tokenizer
from corella_edge_export.training import stages
from corella_edge_export.training.run import Run
from corella_edge_runtime.llm.llama.binding import Context, Model
from corella_edge_runtime.llm.llama.dangers import ARCHITECTURES as SERVED
from corella_edge_runtime.llm.llama.dangers import check_gguf
from corella_edge_runtime.llm.llama.tree import Branches, unfold

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_theta": 1000.0}),
    "llama, untied": ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 4}),
    "llama, biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "llama, llama3": ("llama", {"rope_scaling": LLAMA3, "rope_theta": 500.0}),
    "llama, yarn": ("llama", {"rope_scaling": YARN}),
    "llama, yarn with its factor": ("llama", {"rope_scaling": {**YARN, "attention_factor": 1.3, "beta_fast": 8.0}}),
    "mistral": ("mistral", {}),
    "smollm3": ("smollm3", {}),
    "qwen2": ("qwen2", {}),
    "qwen2, untied, yarn": ("qwen2", {"tie_word_embeddings": False, "rope_scaling": YARN}),
    "qwen3": ("qwen3", {}),
    "qwen3, heads wider than the model": ("qwen3", {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3_text", {}),
    "gemma3, linear": ("gemma3_text", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
}  # fmt: skip


def rows_of_logits(path: Path, ids: list[int], width: int) -> np.ndarray:
    """float64 [ids, width] by llama.cpp, keys and values in float32."""
    model = Model(path)
    context = Context(model, 256, 1, 64, 1, exact=True)
    found = []
    for position in range(len(ids)):
        context.decode(unfold(Branches.one(tuple(ids[: position + 1]), position))[1])
        found.append(context.logits([0], range(width))[0])
    context.close()
    model.close()
    return np.asarray(found)


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = model(torch.tensor([ids])).logits[0].double().numpy()
    return found


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(tmp_path: Path, case: str) -> None:
    kind, changes = CASES[case]
    count = save_scratch_tokenizer(tmp_path)
    model = random_model(kind, count, **changes)
    write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", case)
    assert check_gguf(tmp_path / "x.gguf") == {"F16"}
    ids = np.random.default_rng(2).integers(0, count, 48).tolist()
    expected = logits_of(model, ids)
    assert expected.std() > 0.1
    found = rows_of_logits(tmp_path / "x.gguf", ids, count)
    assert np.abs(found - expected).max() <= 2e-2
    read = GgufModel(tmp_path / "x.gguf").model()
    assert np.abs(logits_of(read, ids) - expected).max() <= 2e-2
    again = tmp_path / "again.gguf"
    write_gguf(read, GgufModel(tmp_path / "x.gguf").tokenizer(), again, case)
    assert np.abs(rows_of_logits(again, ids, count) - expected).max() <= 2e-2


def test_every_row_is_tried_and_served() -> None:
    assert {kind for kind, _ in CASES.values()} == set(ARCHITECTURES)
    assert {row.name for row in ARCHITECTURES.values()} == set(SERVED) == set(MODEL_TYPES)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("smollm3", {"no_rope_layers": [1, 1, 1, 1, 1]}, "no_rope_layers"),
        ("gemma2", {"query_pre_attn_scalar": 256}, "query_pre_attn_scalar is 256"),
        ("gemma2", {"hidden_activation": "gelu"}, "the activation is 'gelu'"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen2", {"rope_scaling": LLAMA3}, "rope_scaling 'llama3'"),
        ("llama", {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "rope_scaling 'dynamic'"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(
    tmp_path: Path, kind: str, changes: dict[str, Any], message: str
) -> None:
    count = save_scratch_tokenizer(tmp_path)
    model = random_model(kind, count, **changes)
    with pytest.raises(ExportError, match=message):
        write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", "x")


def test_prompts_end_within_a_window_that_llama_cpp_does_not_know(tmp_path: Path) -> None:
    count = save_scratch_tokenizer(tmp_path)
    model = random_model("mistral", count, sliding_window=40)
    assert readable(model.config) == 40
    write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", "x")
    opened = Model(tmp_path / "x.gguf")
    assert opened.trained_context == 40
    opened.close()


def as_version_5(folder: Path, nested: bool = False) -> None:
    """The folder as transformers 5 would have saved it."""
    path = folder / "config.json"
    told = json.loads(path.read_text())
    rope = {"rope_theta": told.pop("rope_theta"), **(told.pop("rope_scaling", None) or {"rope_type": "default"})}
    local = {"rope_theta": told.pop("rope_local_base_freq", 0.0), "rope_type": "default"}
    told["rope_parameters"] = {"full_attention": rope, "sliding_attention": local} if nested else rope
    path.write_text(json.dumps({**told, "transformers_version": "5.2.0"}))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "special_tokens_map.json").unlink(missing_ok=True)


@pytest.mark.parametrize("case", ["llama", "llama, llama3", "qwen2, untied, yarn", "gemma3, linear"])
def test_a_folder_saved_by_transformers_5_is_the_same_model(tmp_path: Path, case: str) -> None:
    kind, changes = CASES[case]
    count = save_scratch_tokenizer(tmp_path)
    model = random_model(kind, count, **changes)
    model.save_pretrained(tmp_path)
    before = load_tokenizer(tmp_path)
    as_version_5(tmp_path, nested=kind == "gemma3_text")
    assert pretrained.check(tmp_path)
    ids = np.random.default_rng(2).integers(0, count, 48).tolist()
    assert np.array_equal(logits_of(checkpoint_model(tmp_path), ids), logits_of(model, ids))
    after = load_tokenizer(tmp_path)
    assert [after.bos_token_id, after.eos_token_id, after.pad_token_id] == [
        before.bos_token_id, before.eos_token_id, before.pad_token_id,
    ]  # fmt: skip
    assert after("Heat (1995)").input_ids == before("Heat (1995)").input_ids


def test_settings_of_positions_without_a_place_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        from_version_5({"rope_parameters": {"full_attention": {"rope_theta": 1.0}, "odd": {}}})
    sliding = {"rope_theta": 1.0, "rope_type": "yarn"}
    with pytest.raises(ValueError, match="sliding"):
        from_version_5({"rope_parameters": {"full_attention": {"rope_theta": 1.0}, "sliding_attention": sliding}})


def test_a_gguf_that_lacks_a_tensor_is_no_source(tmp_path: Path) -> None:
    count = save_scratch_tokenizer(tmp_path)
    write_gguf(random_model("llama", count), load_tokenizer(tmp_path), tmp_path / "x.gguf", "x")
    file = GgufModel(tmp_path / "x.gguf")
    whole = list(file.tensors())
    file.tensors = lambda: iter(whole[:-1])  # type: ignore[method-assign]
    with pytest.raises(InputError, match="lacks 1 of the model's tensors"):
        file.model()
    (tmp_path / "y.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"y\.gguf: not a model that this release can run"):
        GgufModel(tmp_path / "y.gguf")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_packed_sequence_is_read_as_its_texts_alone(kind: str) -> None:
    """Training packs several texts that begin alike; what each sees is a mask of its own."""
    model = random_model(kind, 60)
    shared, first, second = [5, 6, 7, 8], [9, 10], [11, 12, 13]
    ids = torch.tensor([shared + first + second])
    seen = torch.ones(9, 9).tril().bool()
    seen[6:, 4:6] = False
    places = torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5, 6]])
    answers = torch.tensor([3, 4])
    with torch.inference_mode():
        packed, _ = hidden_states(model, ids, seen=(seen[None, None], places))
        found = answer_logits(model, packed[0, [5, 8]], answers)
        expected = [model(torch.tensor([shared + own])).logits[0, -1, answers] for own in (first, second)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-3, atol=1e-4)


def test_training_beyond_a_window_is_refused(tmp_path: Path) -> None:
    count = save_scratch_tokenizer(tmp_path)
    random_model("gemma3_text", count).save_pretrained(tmp_path)
    recipe = LlmRecipe(source="checkpoint", path=str(tmp_path), context=64)
    with pytest.raises(InputError, match=r"llm\.context: some blocks .* look back 12 tokens .* at most 12"):
        check_checkpoint(recipe)
    assert check_checkpoint(replace(recipe, context=12))


@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_a_gguf_is_trained_and_exported(tmp_path: Path, data: PreparedData, kind: str) -> None:
    """One file is all that there is of the model: weights, config and tokenizer come from it."""
    count = save_scratch_tokenizer(tmp_path)
    model = random_model(
        kind, count, max_position_embeddings=512, **({"sliding_window": 512} if kind == "gemma2" else {})
    )
    write_gguf(model, load_tokenizer(tmp_path), tmp_path / "x.gguf", "x")
    part = {"source": "checkpoint", "path": str(tmp_path / "x.gguf"), "whole_items": False}
    changes = {"llm": part, "joint": {"epochs": 0}, "continuation": {"epochs": 0}, "prompt": {"yes": "Y", "no": "N"}}
    stages.train(tmp_path / "run", tiny_run.recipe(**changes), data, quiet=True)
    run = Run.open(tmp_path / "run", data)
    moved = shutil.move(tmp_path / "x.gguf", tmp_path / "y.gguf")
    with pytest.raises(InputError):
        run.new_llm()
    export(Run.open(tmp_path / "run", data, Path(moved)), tmp_path / "bundle", ExportOptions(threads=1))
    found = json.loads((tmp_path / "bundle" / "verification.json").read_text())
    assert found["differences"]["llm_f16_whole"] <= 2e-3
