"""Tiny sentence encoders: a BERT with random weights, and a tokenizer that knows letters and a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from made_once import copy_of

WIDTH, LONGEST = 16, 12
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_WORDS = [*"abcdefghijklmnopqrstuvwxyz0123456789", "item", "the", "tea", "cup", "film"]


def make_encoder(folder: Path, pooling: str = "mean", normalises: bool = True, seed: int = 0) -> Path:
    """A Hugging Face folder with the files of sentence-transformers beside it."""
    name = f"encoder-{pooling}-{normalises}-{seed}"
    return copy_of(name, folder, lambda kept: _make(kept, pooling, normalises, seed))


def _make(folder: Path, pooling: str, normalises: bool, seed: int) -> None:
    from transformers import BertConfig, BertModel

    folder.mkdir(parents=True)
    _tokenizer().save(str(folder / "tokenizer.json"))
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=2 * len(_WORDS) + len(_SPECIAL), hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=LONGEST + 4, pad_token_id=0, initializer_range=0.3,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    kinds = ["Transformer", "Pooling", *["Normalize"] * normalises]
    write(folder / "modules.json", [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds])
    write(folder / "1_Pooling" / "config.json",
          {"pooling_mode_cls_token": pooling == "cls", "pooling_mode_mean_tokens": pooling == "mean"})  # fmt: skip
    write(folder / "sentence_bert_config.json", {"max_seq_length": LONGEST})


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    entries = [*_SPECIAL, *_WORDS, *(f"##{word}" for word in _WORDS)]
    found = Tokenizer(models.WordPiece({text: i for i, text in enumerate(entries)}, unk_token="[UNK]"))
    found.normalizer = normalizers.BertNormalizer(lowercase=True)
    found.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    found.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    found.add_special_tokens(_SPECIAL)
    return found
