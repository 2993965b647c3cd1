"""Items' vectors by a language model: the mean of its last hidden states over an item's words, `source = "llm"`.

A hidden state has much in common with every other one, so the mean over training items is taken off before the vectors
are normalised; cosine and inner product then tell texts apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from corella_edge.errors import InputError
from corella_edge.features.derived import Floats
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm import model as llm
from corella_edge_export.llm.tokenizer import load_tokenizer
from corella_edge_export.recipe import Recipe
from corella_edge_export.text.vectors import PARTIAL, resumed, training_items
from corella_edge_runtime.text import batches

BATCH = 16


def place_of(recipe: Recipe) -> Path:
    """The checkpoint's folder. Raises InputError where the recipe names none."""
    path = recipe.crm.text.path or recipe.llm.path
    if not path:
        raise InputError(
            f"recipe {recipe.name}, crm, text: the LLM is trained from scratch after the CRM; name the folder of a "
            "checkpoint as path"
        )
    return Path(path)


def identity(recipe: Recipe) -> str:
    """A hash of the checkpoint's weights."""
    return llm.weights_of(place_of(recipe))


def raw(recipe: Recipe, data: PreparedData, texts: Sequence[str], folder: Path, quiet: bool) -> Floats:
    """float32 [n, w], of length 1."""
    place = place_of(recipe)
    model = llm.checkpoint_model(place).eval()
    make = reader(model, load_tokenizer(place), recipe.crm.text.tokens)
    found = resumed(make, model.config.hidden_size, texts, folder / PARTIAL, identity(recipe), quiet)
    centre = found[training_items(data, texts)].mean(axis=0, dtype=np.float64).astype(np.float32)
    there = np.array([bool(text) for text in texts])[:, None]
    moved = np.where(there, found - centre, np.float32(0.0))
    unit: Floats = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-12)
    return unit


def text_model(recipe: Recipe, folder: Path) -> None:
    """None: a language model is not for a box to make vectors with, so new items have none."""


def reader(model: Any, tokenizer: Any, tokens: int) -> Callable[[Sequence[str]], Floats]:
    """Texts → mean last hidden states, float32 [n, w]; zeros for an empty one."""

    def make(texts: Sequence[str]) -> Floats:
        found = np.zeros((len(texts), model.config.hidden_size), np.float32)
        for places in batches(texts, BATCH):
            ids = [tokenizer(texts[i]).input_ids[:tokens] for i in places]
            longest = max(map(len, ids))
            # Filled up on the right, where a causal model does not look.
            filled = torch.tensor([row + [0] * (longest - len(row)) for row in ids])
            mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids])
            with torch.inference_mode():
                states = model.model(input_ids=filled, attention_mask=mask).last_hidden_state
                weight = mask.unsqueeze(-1).to(states.dtype)
                found[places] = ((states * weight).sum(1) / weight.sum(1).clamp(min=1.0)).numpy()
        return found

    return make
