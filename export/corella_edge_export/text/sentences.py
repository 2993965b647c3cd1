"""Items' vectors by a sentence encoder: `source = "encoder"`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from corella_edge.errors import InputError
from corella_edge.features.derived import Floats
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm.model import weights_of
from corella_edge_export.recipe import Recipe
from corella_edge_export.text.encoder import SentenceEncoder, tokenizer_for
from corella_edge_export.text.to_onnx import Projected
from corella_edge_export.text.vectors import PARTIAL, projection, resumed
from corella_edge_runtime.text import batches

BATCH = 64
FILES = ("tokenizer.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json")


def identity(recipe: Recipe) -> str:
    """A hash of the encoder's weights and files. Raises InputError where there are none."""
    folder = Path(recipe.crm.text.path)
    if not (folder / "config.json").is_file():
        raise InputError(
            f"recipe {recipe.name}, crm, text, path: {folder} is no Hugging Face folder of a sentence encoder "
            "(config.json is missing)"
        )
    found = hashlib.sha256(weights_of(folder).encode())
    for name in FILES:
        path = folder / name
        found.update(f"{name} ".encode() + (path.read_bytes() if path.exists() else b""))
    return found.hexdigest()


def raw(recipe: Recipe, data: PreparedData, texts: Sequence[str], folder: Path, quiet: bool) -> Floats:
    """float32 [n, w]."""
    place = Path(recipe.crm.text.path)
    encoder = SentenceEncoder(place)
    make = reader(encoder, tokenizer_for(place, encoder, recipe.crm.text.tokens))
    return resumed(make, encoder.width, texts, folder / PARTIAL, identity(recipe), quiet)


def text_model(recipe: Recipe, folder: Path) -> tuple[nn.Module, Any]:
    """The encoder with the projection of the run in `folder`, and its tokenizer."""
    place = Path(recipe.crm.text.path)
    encoder = SentenceEncoder(place)
    found = projection(folder)
    tokenizer = tokenizer_for(place, encoder, recipe.crm.text.tokens)
    return (encoder if found is None else Projected(encoder, *found)), tokenizer


def reader(encoder: Any, tokenizer: Any) -> Callable[[Sequence[str]], Floats]:
    """Texts → vectors float32 [n, w] by torch; zeros for an empty one."""

    def make(texts: Sequence[str]) -> Floats:
        found = np.zeros((len(texts), encoder.width), np.float32)
        for places in batches(texts, BATCH):
            coded = tokenizer.encode_batch([texts[i] for i in places])
            ids, mask = (torch.tensor([getattr(c, name) for c in coded]) for name in ("ids", "attention_mask"))
            with torch.inference_mode():
                found[places] = encoder(ids, mask).numpy()
        return found

    return make
