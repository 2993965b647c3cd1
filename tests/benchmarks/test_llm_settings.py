"""The settings that are set side by side: what a change reaches, and what is called faster."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import llm_settings
from harness.models import Subject, write_file
from harness.pairs import OURS, Pair
from harness.shapes import PromptStream
from harness.variants import CANDIDATES, CHANGES, PREFIX, opened, slate

ROOT = Path(__file__).parents[2]
SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
         "intermediate_size": 96, "vocab_size": 600, "tie_word_embeddings": True, "max_position_embeddings": 512,
         "initializer_range": 0.2}  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    torch.manual_seed(3)
    model: Any = LlamaForCausalLM(LlamaConfig(**SIZES)).eval()
    path = tmp_path_factory.mktemp("settings") / "F16.gguf"
    write_file(model, path, "tiny")
    return Subject("tiny", model, {"F16": path}, 1, 600)


@pytest.fixture(scope="module")
def found(tiny: Subject) -> Any:
    """A block of one round, by change."""
    return llm_settings.block(tiny, "F16", 40, 1, 1)


def test_every_change_finds_the_same_probabilities(found: Any) -> None:
    assert [row["change"] for row in found["rows"]] == list(CHANGES)
    assert all(row["difference"] <= 5e-3 for row in found["rows"])


def test_a_change_of_size_makes_as_many_decodes_as_it_says(found: Any) -> None:
    decodes = {row["change"]: row["decodes"] for row in found["rows"]}
    assert found["decodes"] == 2
    assert decodes["one suffix a decode"] == CANDIDATES
    assert decodes["10 suffixes a decode"] == 2
    assert decodes["decodes of 1024 tokens"] == 1
    assert decodes["decodes of 128 tokens"] == 7


def test_no_side_computes_the_kept_prefix_again(tiny: Subject) -> None:
    stream = PromptStream(tiny.vocab, 1)
    prefix = stream.ids(PREFIX)
    with opened(tiny.files["F16"], list(CHANGES), 1) as sides:
        for side in sides.values():
            llm_settings.warm(side, slate(stream, prefix, 8))
            before = side.counters.evaluated_tokens
            llm_settings.clock(side, slate(stream, prefix, 8), {}, OURS)
            assert side.counters.evaluated_tokens - before == 8 * CANDIDATES
            assert side.counters.errors == 0


def test_the_runtime_makes_its_own_context_again_once_the_changed_ones_are_open(tiny: Subject) -> None:
    from corella_edge_runtime.llm.llama import binding, scorer

    before = binding.C.llama_init_from_model, scorer.Context
    with opened(tiny.files["F16"], list(CHANGES), 1):
        assert (binding.C.llama_init_from_model, scorer.Context) == before


@pytest.mark.parametrize("suffix", [1, 40])
def test_the_first_tokens_of_a_slate_differ(suffix: int) -> None:
    found = slate(PromptStream(60, 1), (7,), suffix)
    assert len({prompt.suffix[0] for prompt in found}) == CANDIDATES
    assert {len(prompt.suffix) for prompt in found} == {suffix}


def row(change: str, high: float, pairs: int = 15) -> dict[str, Any]:
    ratio = {"median": high - 0.05, "low": high - 0.1, "high": high, "pairs": pairs}
    return {"change": change, "ms": 1.0, "decodes": 3, "ratio": ratio, "difference": 0.0}


def test_faster_is_a_change_whose_whole_interval_lies_below_1_over_enough_pairs() -> None:
    rows = [row("a", 0.99), row("b", 1.0), row("c", 0.9, pairs=14), row("d", 1.2)]
    assert llm_settings.faster(rows) == ["a"]


def test_a_ratio_is_the_changed_time_over_the_usual_one() -> None:
    made = llm_settings.row_of("a", [Pair(ours=1.0, peer=2.0)], 3, 0.0)
    assert made["ratio"]["median"] == 2.0
    assert made["ms"] == 2000.0


@pytest.mark.parametrize(
    "wrong", [["--pairs", "0"], ["--suffixes", "41"], ["--types", "Q9"], ["--models", "7b"], ["--retries", "-1"]]
)
def test_an_option_that_does_not_fit_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["llm_settings.py", "--work", "nowhere", *wrong])
    assert llm_settings.main() != 0
    assert wrong[0] in capsys.readouterr().err


def test_the_page_has_a_column_a_length_and_names_what_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    section = importlib.import_module("llm_page").SECTIONS["settings"][1]
    about = {"model": "135m", "type": "Q4_0", "usual_ms": 10.0, "decodes": 1, "load": {}, "void": False}
    blocks = [{**about, "suffix": 8, "rows": [row("a", 0.99)], "faster": ["a"]},
              {**about, "suffix": 40, "rows": [row("a", 1.4)], "faster": []}]  # fmt: skip
    machine = {"cpu": "c", "cores": 2}
    made = {"made": "2026-01-01T", "commit": "abc", "machine": machine, "versions": {}, "threads": 2}
    text = "\n".join(section({**made, "prefix": 200, "candidates": 20, "blocks": blocks}))
    assert "| 135m, Q4_0 | suffixes of 8 | suffixes of 40 |" in text
    assert "| a | 0.94 [0.89, 0.99] (3) | 1.35 [1.30, 1.40] (3) |" in text
    assert "by the whole interval: a (suffixes of 8)." in text
