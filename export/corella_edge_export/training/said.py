"""A run's text vectors by SAID (`text.said`): `source = "said"`.

The LLM is the recipe's: a checkpoint, or a small one from scratch that first reads the items' texts (and the files of
[llm.text], whose schedule it follows). Both trainings stand in the run's folder, said/llm and said/vectors, and resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from corella_edge import atomic
from corella_edge.catalog import Catalog
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm import model as llm
from corella_edge_export.llm import tokenizer as tokenizers
from corella_edge_export.recipe import Recipe
from corella_edge_export.text import sentences
from corella_edge_export.text.said import ItemWriter, Vectors, mean_cosine, ridge
from corella_edge_export.text.vectors import training_items
from corella_edge_export.training import loop
from corella_edge_export.training.tasks import text as plain_text
from corella_edge_export.training.tasks.llm import LlmReader
from corella_edge_export.training.tasks.said import SaidTask

FOLDER, NEARNESS = "said", "new_items.json"
HELD_OUT = 0.1  # share of the items that a second map does not see


def identity(recipe: Recipe) -> str:
    """A hash of the LLM and of how it and the vectors are trained; of the encoder too, which serves new items."""
    own = recipe.llm
    if own.source == "checkpoint":
        reader: Any = llm.base_of(own)
    else:
        sizes = [own.vocab_size, own.hidden, own.layers, own.heads, own.kv_heads, own.intermediate, own.context]
        schedule = {**asdict(own.text), "files": [plain_text.digest(file) for file in own.text.files]}
        reader = [sizes, schedule, recipe.prompt.to_json()]
    encoder = sentences.identity(recipe) if recipe.crm.text.path else ""
    parts = [reader, own.seed, asdict(recipe.crm.text.said), encoder]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=dict).encode()).hexdigest()


def raw(recipe: Recipe, data: PreparedData, texts: Sequence[str], folder: Path, quiet: bool) -> Vectors:
    """float32 [n, hidden]; what decides them is the LLM's own seed, so that all seeds of a recipe share them."""
    own = recipe.crm.text.said
    model, tokenizer = _reader(recipe, texts, folder / FOLDER, quiet)
    spell = tokenizers.speller(tokenizer)
    tokens = [spell(text)[: recipe.crm.text.tokens] for text in texts]
    torch.manual_seed(recipe.llm.seed)
    task = SaidTask(ItemWriter(model, tokens, own.start, tokenizer.bos_token_id), own, recipe.llm.seed)
    if own.epochs:
        schedule = loop.Schedule(own.learning_rate, 0.0, own.epochs, own.evaluations, own.patience)
        loop.fit(task, schedule, folder / FOLDER / "vectors", recipe.llm.seed, quiet)
    return task.writer.item_vectors()


def _reader(recipe: Recipe, texts: Sequence[str], folder: Path, quiet: bool) -> tuple[Any, Any]:
    """The LLM that is to write, and its tokenizer."""
    own = recipe.llm
    if own.source == "checkpoint":
        place = Path(own.path)
        return llm.checkpoint_model(place), tokenizers.load_tokenizer(place)
    return _from_scratch(recipe, texts, folder, quiet)


def _from_scratch(recipe: Recipe, texts: Sequence[str], folder: Path, quiet: bool) -> tuple[Any, Any]:
    """A small LLM that has read the items' texts."""

    own, place = recipe.llm, folder / "tokenizer"
    if not place.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        words = chain(texts, plain_text.read(own.text.files))
        made = tokenizers.train_tokenizer(recipe.prompt, Catalog([], []), [], own.vocab_size, words)
        tokenizers.save_tokenizer(made, place)
    t = tokenizers.load_tokenizer(place)
    torch.manual_seed(own.seed)
    model = llm.scratch_model(own, len(t), t.bos_token_id, t.eos_token_id, t.pad_token_id)
    documents = chain((text for text in texts if text), plain_text.read(own.text.files))
    blocks = plain_text.blocks_of(documents, tokenizers.segment_tokenizer(t), t.bos_token_id, own.text.block)
    task = plain_text.TextTask(LlmReader(model, (0, 0), own.precision), blocks, own.text, own.seed)
    loop.fit(task, plain_text.schedule(own.text), folder / "llm", own.seed, quiet)
    return model, t


def text_model(recipe: Recipe, folder: Path) -> tuple[nn.Module, Any] | None:
    """The sentence encoder with the map to SAID's vectors, and its tokenizer; None where the recipe names none."""
    return sentences.text_model(recipe, folder) if recipe.crm.text.path else None


def projection(
    recipe: Recipe, data: PreparedData, texts: Sequence[str], folder: Path, quiet: bool, vectors: Vectors
) -> tuple[Vectors, Vectors]:
    """(components [w, hidden], offset [hidden]): from the sentence encoder's vectors to SAID's.

    They are fitted on training items; said/new_items.json tells how near they come, by the mean cosine of the fitted
    items and, from a map that has not seen one in ten of them, of those.
    """
    encoded = sentences.raw(recipe, data, texts, folder / FOLDER, quiet)
    items, strength = training_items(data, texts), recipe.crm.text.said.new_items
    asked = np.random.default_rng(recipe.llm.seed).random(len(items)) < HELD_OUT
    found = {}
    for name, fitted, judged in (("known", items, items), ("unknown", items[~asked], items[asked])):
        components, offset = ridge(encoded[fitted], vectors[fitted], strength)
        found[name] = mean_cosine(encoded[judged] @ components + offset, vectors[judged])
    atomic.write_file(folder / FOLDER / NEARNESS, json.dumps({"cosine": found}, indent=1).encode())
    return ridge(encoded[items], vectors[items], strength)
