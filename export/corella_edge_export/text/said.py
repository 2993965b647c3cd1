"""SAID (doi 10.1145/3589335.3648307, stage 1): a vector per item that makes a frozen LLM write the item's text.

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
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from corella_edge import atomic
from corella_edge.catalog import Catalog
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.llm import model as llm
from corella_edge_export.llm import tokenizer as tokenizers
from corella_edge_export.recipe import Recipe
from corella_edge_export.text import sentences
from corella_edge_export.text.vectors import training_items

FOLDER, NEARNESS = "said", "new_items.json"
HELD_OUT = 0.1  # share of the items that a second map does not see
Indices = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


class ItemWriter(nn.Module):
    """A frozen causal LM that reads an item's vector, through a projector, where a text's begin token would stand.

    The loss is -sum_t log P(text_t | vector, text_<t) over all tokens of a batch, divided by their number. The paper
    leaves the projector open: here it is one linear map, which begins as one that changes no direction.

    Attributes:
        vectors: float32 [items, hidden], which training changes.
        projector: vectors → the LM's input embeddings.
    """

    def __init__(
        self, model: Any, texts: Sequence[Sequence[int]], start: Literal["random", "words"], begin: int
    ) -> None:
        """`texts` are the items' token ids, empty for an item without words; `begin` is the begin token's id."""
        super().__init__()
        self.llm = llm.merged(model).requires_grad_(False)
        self.texts = [np.asarray(text, dtype=np.int64) for text in texts]
        table = self._table
        width = table.shape[1]
        self.vectors = nn.Parameter(
            _mean_words(table, self.texts) if start == "words" else torch.randn(len(texts), width)
        )
        self.projector = nn.Linear(width, width)
        with torch.no_grad():
            self.projector.weight.copy_(torch.eye(width) * table.std())
            self.projector.bias.copy_(table[begin])

    def log_loss(self, items: Indices) -> Tensor:
        """Mean of -log P over the tokens of the given items' texts; each has at least one."""
        tokens, there = self._padded(items)
        words = self._table[tokens[:, :-1]]
        chosen = torch.from_numpy(items).to(self.vectors.device)
        first = self.projector(self.vectors[chosen]).unsqueeze(1)
        hidden = self.llm.model(inputs_embeds=torch.cat([first, words], dim=1), use_cache=False).last_hidden_state
        logits = self.llm.lm_head(hidden[there])  # texts are padded on the right, where causal attention never looks
        return functional.cross_entropy(logits, tokens[there])

    def item_vectors(self) -> Vectors:
        """float32 [items, hidden], each of length 1; zeros for an item without words."""
        named = torch.tensor([len(text) > 0 for text in self.texts], device=self.vectors.device)
        found = functional.normalize(self.vectors.detach(), dim=1) * named.unsqueeze(1)
        return found.cpu().numpy()

    @property
    def _table(self) -> Tensor:
        found: Tensor = self.llm.get_input_embeddings().weight
        return found

    def _padded(self, items: Indices) -> tuple[Tensor, Tensor]:
        """Tokens int64 [b, longest], zeros on the right, and where there is one."""
        texts = [self.texts[item] for item in items]
        tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            row[: len(text)] = torch.from_numpy(text)
        counts = torch.tensor([len(text) for text in texts])
        there = torch.arange(tokens.shape[1]) < counts.unsqueeze(1)
        return tokens.to(self.vectors.device), there.to(self.vectors.device)


def identity(recipe: Recipe) -> str:
    """A hash of the LLM and of how it and the vectors are trained; of the encoder too, which serves new items."""
    from corella_edge_export.training.tasks import text as plain_text

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
    from corella_edge_export.training import loop
    from corella_edge_export.training.tasks.said import SaidTask

    own = recipe.crm.text.said
    model, tokenizer = _reader(recipe, texts, folder / FOLDER, quiet)
    spell = tokenizers.speller(tokenizer)
    tokens = [spell(text)[: recipe.crm.text.tokens] for text in texts]
    torch.manual_seed(recipe.llm.seed)
    task = SaidTask(ItemWriter(model, tokens, own.start, tokenizer.bos_token_id), own, recipe.llm.seed)
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
    from corella_edge_export.training import loop
    from corella_edge_export.training.tasks import text as plain_text
    from corella_edge_export.training.tasks.llm import LlmReader

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


def _mean_words(table: Tensor, texts: Sequence[Indices]) -> Tensor:
    """float32 [items, width]: the mean of the words' embeddings, scaled to a mean square of 1 over all items."""
    means = table.new_zeros(len(texts), table.shape[1])
    for row, text in zip(means, texts, strict=True):
        if len(text):
            row.copy_(table[torch.from_numpy(text)].mean(dim=0))
    return means / means.square().mean().sqrt().clamp(min=1e-12)


def text_model(recipe: Recipe, folder: Path) -> tuple[nn.Module, Any] | None:
    """The sentence encoder with the map to SAID's vectors, and its tokenizer; None where the recipe names none."""
    return sentences.text_model(recipe, folder) if recipe.crm.text.path else None


def projection(
    recipe: Recipe, data: PreparedData, texts: Sequence[str], folder: Path, quiet: bool, vectors: Vectors
) -> tuple[Vectors, Vectors]:
    """(mean [w], components [w, hidden]) that take the sentence encoder's vectors to SAID's, for items that come later.

    They are fitted on training items; said/new_items.json tells how near they come, by the mean cosine of the fitted
    items and, from a map that has not seen one in ten of them, of those.
    """
    encoded = sentences.raw(recipe, data, texts, folder / FOLDER, quiet)
    items, strength = training_items(data, texts), recipe.crm.text.said.new_items
    asked = np.random.default_rng(recipe.llm.seed).random(len(items)) < HELD_OUT
    found = {}
    for name, fitted, judged in (("known", items, items), ("unknown", items[~asked], items[asked])):
        mean, components = ridge(encoded[fitted], vectors[fitted], strength)
        found[name] = _mean_cosine((encoded[judged] - mean) @ components, vectors[judged])
    atomic.write_file(folder / FOLDER / NEARNESS, json.dumps({"cosine": found}, indent=1).encode())
    return ridge(encoded[items], vectors[items], strength)


def ridge(inputs: Vectors, targets: Vectors, strength: float) -> tuple[Vectors, Vectors]:
    """(mean [a], components [a, b]) with targets [n, b] = (inputs [n, a] - mean) components in least squares.

    `strength` times the mean variance of an input goes onto the diagonal of the normal equations.
    """
    x, y = inputs.astype(np.float64), targets.astype(np.float64)
    middle, aim = x.mean(axis=0), y.mean(axis=0)
    square = (x - middle).T @ (x - middle)
    square[np.diag_indices_from(square)] += strength * np.trace(square) / len(square)
    components = np.linalg.solve(square, (x - middle).T @ (y - aim))
    # The targets' mean as a place among the inputs: the map has one constant, not two.
    mean = middle - np.linalg.lstsq(components.T, aim, rcond=None)[0]
    return mean.astype(np.float32), components.astype(np.float32)


def _mean_cosine(found: npt.NDArray[np.floating[Any]], wanted: Vectors) -> float:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    return float(((found * wanted).sum(axis=1) / np.maximum(lengths, 1e-12)).mean()) if len(found) else 0.0
