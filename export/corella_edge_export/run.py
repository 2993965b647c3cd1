"""A training run on disk: what it was started with, its schema and tokenizer, and both models' weights.

run.json              recipe, data fingerprint, versions: a run goes on only with the same ones
schema.json  vocab/   fitted on the training rows
catalog.jsonl
crm/                  metrics.jsonl  best.safetensors  checkpoint.pt
llm/                  the same, and tokenizer/ for a model from scratch
summary.json          written last: a run without it is unfinished
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from corella_edge import atomic, bundle
from corella_edge.catalog import Catalog
from corella_edge.errors import ExportError, InputError
from corella_edge.prompt import PromptEncoder
from corella_edge.request import User
from corella_edge.schema import FeatureEncoder, Schema
from corella_edge_export import llm, loop, tokenizer, train_crm, train_llm, verify
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.dcn import DCNv2
from corella_edge_export.fit import catalog_of, fit_schema
from corella_edge_export.recipe import Recipe, recipe_from
from corella_edge_export.rows import EncodedRows
from corella_edge_export.rowset import RowSet, choose_rows, history_needed
from corella_edge_export.sequences import SequenceBuilder
from corella_edge_export.to_gguf import write_vocabulary
from corella_edge_runtime.llm.binding import Model

TOKENIZER_USERS = 2000
CHECKED_ROWS = 200


class Run:
    """One training run's folder."""

    def __init__(self, folder: Path, recipe: Recipe, data: PreparedData) -> None:
        self.folder, self.recipe, self.data = folder, recipe, data

    @classmethod
    def start(cls, folder: Path, recipe: Recipe, data: PreparedData) -> Run:
        """A new run, or the unfinished one that stands in `folder`.

        Raises:
            InputError: the folder holds something else, or a run of another recipe, checkpoint or other data.
        """
        with _hold(folder, recipe, data):
            return cls(folder, recipe, data)

    @classmethod
    def open(cls, folder: Path, data: PreparedData) -> Run:
        """A finished run, for export.

        Raises:
            InputError: not a run, not finished, or trained on other data or another checkpoint.
        """
        if not (folder / "run.json").is_file():
            raise InputError(f"{folder}: not a training run (run.json is missing)")
        if not (folder / "summary.json").is_file():
            raise InputError(f"{folder}: the training is not finished; run the same `corella-edge train` again")
        about = read_json(folder / "run.json")
        if about["data"] != fingerprint(data):
            raise InputError(f"{folder}: was trained on other data than {data.root}")
        recipe = recipe_from(about["recipe"], str(folder))
        if about.get("checkpoint", "") != llm.base_of(recipe.llm):
            raise InputError(f"{recipe.llm.path}: is not the checkpoint that {folder} was trained on")
        return cls(folder, recipe, data)

    def fit_inputs(self) -> tuple[Schema, Catalog]:
        """Schema and catalogue, fitted once and then read from the run."""
        if not (self.folder / "schema.json").exists():
            bundle.write_schema(self.folder, fit_schema(self.data, self.recipe.crm), catalog_of(self.data))
        return bundle.read_schema(self.folder)

    def crm(self) -> DCNv2:
        """The trained DCNv2."""
        schema, _ = self.fit_inputs()
        model = DCNv2(schema, self.recipe.crm)
        model.load_state_dict(load_file(self.folder / "crm" / "best.safetensors"))
        return model.eval()

    def llm(self) -> Any:
        """The trained LLM with its adapters."""
        model = self.new_llm()
        own = {name: p.data for name, p in model.named_parameters() if p.requires_grad}
        for name, tensor in load_file(self.folder / "llm" / "best.safetensors").items():
            own[name].copy_(tensor)
        return model.eval()

    def new_llm(self) -> Any:
        """The LLM before training: seeded random weights, or the checkpoint with fresh adapters."""
        recipe = self.recipe.llm
        torch.manual_seed(self.recipe.seed)
        if recipe.source == "checkpoint":
            return llm.with_lora(llm.checkpoint_model(Path(recipe.path)), recipe)
        t = self.tokenizer()
        return llm.scratch_model(recipe, len(t), t.bos_token_id, t.eos_token_id, t.pad_token_id)

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, or the run's own, trained at the first call."""
        if self.recipe.llm.source == "checkpoint":
            return tokenizer.load_tokenizer(Path(self.recipe.llm.path))
        folder = self.folder / "llm" / "tokenizer"
        if not folder.is_dir():
            self._train_tokenizer(folder)
        return tokenizer.load_tokenizer(folder)

    def _train_tokenizer(self, folder: Path) -> None:
        _, catalog = self.fit_inputs()
        data, names = self.data, list(self.data.user_attributes)
        columns = list(zip(*[data.users[name][:TOKENIZER_USERS] for name in names], strict=True))
        users = [User(None, dict(zip(names, values, strict=True))) for values in columns]
        trained = tokenizer.train_tokenizer(self.recipe.prompt, catalog, users, self.recipe.llm.vocab_size)
        tokenizer.save_tokenizer(trained, folder)

    def llm_config(self) -> Any:
        """The LLM's sizes, as transformers holds them."""
        recipe = self.recipe.llm
        return llm.checkpoint_config(Path(recipe.path)) if recipe.source == "checkpoint" else self.new_llm().config

    def spm(self) -> Path | None:
        """The checkpoint's SentencePiece file, if it has one."""
        recipe = self.recipe.llm
        path = Path(recipe.path) / "tokenizer.model"
        return path if recipe.source == "checkpoint" and path.is_file() else None

    def prompt_encoder(self, catalog: Catalog) -> PromptEncoder:
        """Prompts in the trained tokenizer's ids."""
        t = self.tokenizer()
        tokenize = tokenizer.segment_tokenizer(t)
        tokens = tokenizer.resolve_answers(tokenize, self.recipe.prompt, t.bos_token_id)
        return PromptEncoder(self.recipe.prompt, catalog, tokenize, tokens)

    def llm_task(self, model: Any) -> train_llm.LlmTask:
        """The LLM with its training and validation rows."""
        _, catalog = self.fit_inputs()
        builder = SequenceBuilder(self.data, self.prompt_encoder(catalog))
        split = self.data.split
        return train_llm.LlmTask(model, builder, split("train"), split("valid"), self.recipe.llm, self.recipe.seed)


def train(folder: Path, recipe: Recipe, data: PreparedData, quiet: bool = False) -> dict[str, Any]:
    """Train both models, or what is left of them; returns (and writes) the run's summary."""
    if recipe.llm.source == "checkpoint":
        llm.check_checkpoint(recipe.llm)
    with _hold(folder, recipe, data):
        run = Run(folder, recipe, data)
        check_prompts(run)
        summary = {"crm": train_crm_of(run, quiet), "llm": train_llm_of(run, quiet)}
        atomic.write_file(folder / "summary.json", json.dumps(summary, indent=1).encode())
    return summary


def _hold(folder: Path, recipe: Recipe, data: PreparedData) -> AbstractContextManager[None]:
    """The run's folder, locked, and begun with this recipe, data and checkpoint."""
    settings = json.loads(json.dumps(asdict(recipe), default=dict))
    same = {"recipe": settings, "data": fingerprint(data), "checkpoint": llm.base_of(recipe.llm)}
    return atomic.resumable_folder(folder, "run.json", same, {"data_folder": str(data.root.resolve())})


def check_prompts(run: Run) -> None:
    """What would make the export refuse the LLM is found before the training, not after.

    Raises:
        ExportError: answers that are not single tokens, or a tokenizer or model that GGUF can not hold.
    """
    schema, catalog = run.fit_inputs()
    prompts = run.prompt_encoder(catalog)
    rows = choose_rows(run.data, "valid", CHECKED_ROWS, run.recipe.seed, history_needed(schema, run.recipe.prompt))
    _check_lengths(run, prompts, rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocabulary.gguf"
        write_vocabulary(run.llm_config(), run.tokenizer(), path, run.spm())
        model = Model(path, vocabulary_only=True)
        verify.check_tokens(model, prompts, [request.user for request in rows.requests()])
        model.close()


def _check_lengths(run: Run, prompts: PromptEncoder, rows: RowSet) -> None:
    limit = run.llm_config().max_position_embeddings
    questions = [prompts.item(row) for row in range(len(prompts.catalog))]
    longest = max((len(question) for question in questions if question is not None), default=0)
    for request in rows.requests():
        length = len(prompts.prefix(request.user)) + longest
        if length > limit:
            raise ExportError(
                f"a prompt may have {length} tokens, the LLM reads {limit}: lower prompt.history_lines or block, "
                "or raise llm.context"
            )


def train_crm_of(run: Run, quiet: bool) -> dict[str, float]:
    """Stage 1; a finished one returns its figures at once."""
    schema, catalog = run.fit_inputs()
    folder = run.folder / "crm"
    if finished(folder):
        return loop.best_line(folder)
    encoder = FeatureEncoder(schema, catalog)
    torch.manual_seed(run.recipe.seed)
    model = DCNv2(schema, run.recipe.crm)
    rows = [EncodedRows(run.data, split, encoder) for split in ("train", "valid")]
    task = train_crm.CrmTask(model, rows[0], rows[1], run.recipe.crm, run.recipe.seed)
    return loop.fit(task, train_crm.schedule(run.recipe.crm), folder, run.recipe.seed, quiet)


def train_llm_of(run: Run, quiet: bool) -> dict[str, float]:
    """The LLM on its answers; a finished one returns its figures at once."""
    folder = run.folder / "llm"
    if finished(folder):
        return loop.best_line(folder)
    task = run.llm_task(run.new_llm())
    return loop.fit(task, train_llm.schedule(run.recipe.llm), folder, run.recipe.seed, quiet)


def data_of(folder: Path, data: Path | None) -> PreparedData:
    """The data a run was trained on: the given folder, or the one it was started with."""
    if data is None:
        if not (folder / "run.json").is_file():
            raise InputError(f"{folder}: not a training run (run.json is missing)")
        data = Path(str(read_json(folder / "run.json").get("data_folder", "")))
        if not data.is_dir():
            raise InputError(
                f"{folder}: the data it was trained on is no longer at {data}; name its folder with --data"
            )
    return PreparedData.open(data)


def finished(folder: Path) -> bool:
    """Whether the model trained in `folder` is done."""
    path = folder / "checkpoint.pt"
    return path.exists() and bool(torch.load(path, weights_only=True)["state"]["done"])


def fingerprint(data: PreparedData) -> str:
    """Identifies prepared data by its description, which holds the hash of every file."""
    return hashlib.sha256((data.root / "dataset.json").read_bytes()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of ours; damage is an `InputError` naming it."""
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can not be read ({error})") from None
    return value
