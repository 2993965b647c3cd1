"""Plain text for language modelling: files → documents → blocks of tokens, and the stage that reads them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge.errors import InputError
from corella_edge.formats.text_files import TextFile
from corella_edge.json_lines import read_lines
from corella_edge.prompt import Tokenize
from corella_edge_export.llm import model as llm
from corella_edge_export.llm.recipe import PlainTextRecipe
from corella_edge_export.llm.tokenizer import segment_tokenizer
from corella_edge_export.training.loop import Metrics, Part, Schedule, whole
from corella_edge_export.training.tasks.crm import device_of
from corella_edge_export.training.tasks.llm import LlmReader

if TYPE_CHECKING:
    from corella_edge_export.training.stages import Stages

COLUMNS = ("text", "abstract")
# One block in so many is kept for validation.
HELD_OUT = 50
Indices = npt.NDArray[np.int64]


def read(files: Sequence[str]) -> Iterator[str]:
    """The documents of .txt (one a file), .jsonl and .parquet files (a column `text` or `abstract`).

    Raises:
        InputError: a file that is missing, of another kind, or has no such column.
    """
    for name in files:
        path = _file(name)
        yield from _KINDS.get(path.suffix, _unknown)(path)


def check(files: Sequence[str], where: str) -> None:
    """Raises InputError, which begins with `where`, for a file whose first document cannot be read."""
    for name in files:
        try:
            next(read([name]), None)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None


def digest(name: str) -> str:
    """A hash of a file's content. Raises InputError if there is none."""
    with _file(name).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise InputError(f"{name} is no file (seen from {Path.cwd()}); put it there, or let the recipe name another")
    return path


def _unknown(path: Path) -> Iterator[str]:
    raise InputError(f"{path} is none of {', '.join(_KINDS)}")


def _txt(path: Path) -> Iterator[str]:
    yield TextFile(path).read()


def _jsonl(path: Path) -> Iterator[str]:
    yield from read_lines(path, _text_of)


def _text_of(value: Any) -> str:
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise InputError("expected an object with a `text`")
    return text


def _parquet(path: Path) -> Iterator[str]:
    import polars as pl

    try:
        with path.open("rb") as file:  # of a path polars would take brackets for a pattern
            columns = pl.read_parquet_schema(file)
        name = next((name for name in COLUMNS if columns.get(name) == pl.String), None)
        if name is None:
            raise InputError(f"{path}: has no text column {' or '.join(COLUMNS)}; it has {', '.join(columns)}")
        with path.open("rb") as file:
            texts = pl.read_parquet(file, columns=[name])[name].drop_nulls()
        yield from texts.to_list()
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None


_KINDS = {".txt": _txt, ".jsonl": _jsonl, ".parquet": _parquet}


def blocks_of(documents: Iterator[str], tokenize: Tokenize, begin: int, size: int) -> npt.NDArray[np.int32]:
    """int32 [n, size]: the documents one after the other, each after a begin token; the last cut is left out."""
    ids: list[int] = []
    for document in documents:
        ids.append(begin)
        ids += tokenize(document)
    count = len(ids) // size
    return np.asarray(ids[: count * size], dtype=np.int32).reshape(count, size)


class TextTask:
    """Next-token prediction on blocks of plain text (`loop.Task`); the least perplexity decides."""

    name = "text"

    def __init__(self, reader: LlmReader, blocks: npt.NDArray[np.int32], recipe: PlainTextRecipe, seed: int) -> None:
        if len(blocks) < HELD_OUT:
            raise InputError(f"recipe, llm.text: {blocks.size} tokens are too few, {HELD_OUT} blocks are needed")
        self.reader, self.recipe, self.seed = reader, recipe, seed
        self.model: nn.Module = reader.model
        self.valid, others = blocks[::HELD_OUT], np.delete(blocks, np.s_[::HELD_OUT], axis=0)
        order = np.random.default_rng([seed, 43]).permutation(len(others))
        self.train = others[np.sort(order[: recipe.blocks])] if recipe.blocks else others

    def batches(self, epoch: int) -> list[Indices]:
        order = np.random.default_rng([self.seed, 41, epoch]).permutation(len(self.train))
        size = max(1, self.recipe.batch_tokens // self.train.shape[1])
        return [order[i : i + size] for i in range(0, len(order), size)]

    def losses(self, batch: Indices, epoch: int, index: int, part: Part) -> dict[str, Tensor]:
        mine = batch[part.cut]
        if not len(mine):
            return {}
        loss = self._loss(self.train[mine]) * (len(mine) / len(batch))
        return {"loss": loss, "tokens": torch.tensor(self.train[mine].size)}

    def _loss(self, blocks: npt.NDArray[np.int32]) -> Tensor:
        tokens = torch.from_numpy(blocks.astype(np.int64)).to(device_of(self.model))
        with self.reader.cast():
            hidden, _ = llm.hidden_states(self.model, tokens)
            logits: Tensor = llm.plain(self.model).lm_head(hidden[:, :-1])
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())

    def evaluate(self) -> Metrics:
        size = max(1, self.recipe.batch_tokens // self.valid.shape[1])
        parts = [self.valid[i : i + size] for i in range(0, len(self.valid), size)]
        total = sum(float(self._loss(part)) * len(part) for part in parts)
        return {"perplexity": math.exp(total / len(self.valid))}

    def trainable(self) -> dict[str, Tensor]:
        return llm.trained_tensors(self.model)

    def groups(self) -> list[tuple[list[nn.Parameter], float]]:
        return whole(self.model)


def stage(stages: Stages) -> tuple[TextTask, Schedule]:
    """The stage `text`: a new LLM."""
    run, r = stages.run, stages.run.recipe.llm.text
    t = run.tokenizer()
    blocks = blocks_of(read(r.files), segment_tokenizer(t), t.bos_token_id, r.block)
    task = TextTask(run.reader(run.new_llm(), stages.builder), blocks, r, run.recipe.llm.seed)
    return task, schedule(r)


def schedule(r: PlainTextRecipe) -> Schedule:
    """The recipe's schedule for `loop.fit`."""
    return Schedule(r.learning_rate, r.weight_decay, r.epochs, r.evaluations, r.patience, r.warmup)


def seed_whole_tokens(model: Any, tokenizer: Any, spell: Tokenize) -> None:
    """A text with a token of its own starts from the mean of its words: what they learnt from plain text."""
    table: Tensor = llm.plain(model).get_input_embeddings().weight.data
    for text, index in tokenizer.get_added_vocab().items():
        if text not in tokenizer.all_special_tokens:
            table[index] = table[spell(text)].mean(dim=0)
