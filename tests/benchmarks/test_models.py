"""The files hold the weights that transformers has, and every peer in this process finds the same P(Yes)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from corella_edge.errors import InputError
from harness.models import Subject, write_file
from peers.table import COLD, check_names
from scenarios.scoring.blocks import MeasuringPlan, block
from scenarios.scoring.parity import parity

SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "vocab_size": 600, "tie_word_embeddings": True, "max_position_embeddings": 512,
         "initializer_range": 0.2}  # fmt: skip
KINDS = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen2": (Qwen2ForCausalLM, Qwen2Config)}
# The largest difference of P(Yes) from ours that a number format explains at these sizes.
TOLERANCE = {"f32": 5e-3, "bf16": 8e-2, "F16": 5e-3}


@pytest.fixture(scope="module", params=KINDS)
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    kind, config = KINDS[request.param]
    torch.manual_seed(3)
    model: Any = kind(config(**SIZES)).eval()
    with torch.no_grad():
        for key, tensor in model.named_parameters():
            if key.endswith("bias"):
                tensor.normal_(0.0, 0.5)
    path = tmp_path_factory.mktemp(request.param) / "F16.gguf"
    write_file(model, path, "tiny")
    return Subject("tiny", model, {"F16": path}, 1, 600)


def test_the_file_scores_as_transformers_does(tiny: Subject) -> None:
    found = parity(tiny, 1, users=1)
    assert found["one_a_decode"] <= 5e-3
    assert found["batched"] <= 5e-3


def test_every_peer_in_this_process_computes_the_same(tiny: Subject) -> None:
    peers = ("completion", "completion-reuse", "eval", "eval-reuse", "torch-f32", "torch-bf16", "torch-bf16-shared")
    found = block(tiny, "a2", peers, MeasuringPlan(1, 1, 1, ("F16",), 0), lambda _: None)
    rows = {row["peer"]: row for row in found["rows"]}
    assert set(rows) == set(peers)
    for name, row in rows.items():
        assert row["difference"] <= TOLERANCE[row["peer_type"]]
        assert row["compared"] == (2 if name in COLD else 20)
    assert found["cold"] == min(COLD & rows.keys(), key=lambda name: rows[name]["peer_ms"])


def test_a_peer_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"'vllm'.*torch-bf16-shared"):
        check_names(["vllm"])
