"""A training run on disk: what it was started with, its schema and tokenizer, and the weights of every stage.

run.json              recipe, fingerprints of data, checkpoint and plain text: a run goes on only with the same ones
schema.json  vocab/   fitted on the training rows
catalog.jsonl
text.safetensors      the items' text vectors, where the recipe has them (`text.vectors`)
codes.json            the items' codes, where the recipe has them (`llm.codes`); made when stage 1 is done
tokenizer/            of a model from scratch
text/ crm/ llm/ joint/ continuation/
                      one folder a stage: metrics.jsonl  best.safetensors  checkpoint.json  stage.json
summary.json          written last: a run without it is unfinished
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from corella_edge import atomic
from corella_edge.bundle import schema_files
from corella_edge.catalog import Catalog
from corella_edge.errors import BundleError, CorellaError, InputError, InterruptedRunError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.features.schema import Schema
from corella_edge.features.vectors import as_float16
from corella_edge.formats.arrays import Array
from corella_edge.prompt import PromptEncoder
from corella_edge.request import User
from corella_edge_export.crm.base import CrmModel
from corella_edge_export.crm.ensemble import catalogue_vectors, new_crm
from corella_edge_export.crm.fitted.items import folds
from corella_edge_export.crm.fitted.schema import apart, catalog_of, events_schema, fit_schema
from corella_edge_export.crm.recipe import NumberRecipe, flat, nested
from corella_edge_export.crm.text_recipe import TextVectorsRecipe
from corella_edge_export.data.prepared import PreparedData, fingerprint
from corella_edge_export.llm import codes, tokenizer
from corella_edge_export.llm import model as llm
from corella_edge_export.llm.recipe import CodesRecipe, Precision
from corella_edge_export.llm.sequences import SequenceBuilder
from corella_edge_export.recipe import Recipe, at_checkpoint, recipe_of_run, table_of
from corella_edge_export.text import vectors as text_vectors
from corella_edge_export.training import checkpoint
from corella_edge_export.training.align import Alignment, pairs_for
from corella_edge_export.training.stage import STAGES, last_of, named
from corella_edge_export.training.tasks import text as plain_text
from corella_edge_export.training.tasks.llm import LlmReader

TOKENIZER_USERS = 2000
CODES = "codes.json"
# Keys that recipes have got since runs were first kept, with their defaults: one that has its default is none.
LATER: dict[str, Any] = {
    "kind": "dcnv2", "item_quality": False, "item_text": [], "item_vectors": 0, "user_level": False,
    "user_leaning": False, "history_pace": False, "embedding_std": 0.05, "members": 1, "fusion": "replace",
    "blocks": 0, "item_number": asdict(NumberRecipe()), "text_words": 32, "text_buckets": 4096, "sequence_length": 16,
    "unknown": {}, "text": json.loads(json.dumps(asdict(TextVectorsRecipe()))), "history_block": 1, "user_ids": True,
    "in_order": False, "event_attributes": False, "map_start": "random", "map_rate": 1.0, "new_bonus": 0.0,
    "form": "values", "ranking_weight": 0.0, "layers": 0, "start_share": 0.0, "block": "transformer",
    "codes": asdict(CodesRecipe()),
}  # fmt: skip


class Run:
    """One training run's folder."""

    def __init__(
        self, folder: Path, recipe: Recipe, data: PreparedData, base_dtype: torch.dtype = torch.float32
    ) -> None:
        """`base_dtype` is what a checkpoint's own weights are held in."""
        self.folder, self.recipe, self.data, self.base_dtype = folder, recipe, data, base_dtype

    @classmethod
    def start(cls, folder: Path, recipe: Recipe, data: PreparedData) -> Run:
        """A new run, or the unfinished one that stands in `folder`.

        Raises:
            InputError: the folder holds something else, or a run of another recipe, checkpoint or other data.
        """
        with hold(folder, recipe, data):
            return cls(folder, recipe, data)

    @classmethod
    def open(cls, folder: Path, data: PreparedData, checkpoint: Path | None = None) -> Run:
        """A finished run, for export; `checkpoint` is where the LLM's own weights are now.

        Raises:
            InputError: not a run, not finished, or trained on other data or another checkpoint.
        """
        if not (folder / "run.json").is_file():
            raise InputError(f"{folder}: not a training run (run.json is missing); `corella-edge train` makes one")
        if not (folder / "summary.json").is_file():
            raise InputError(f"{folder}: the training is not finished; run the same `corella-edge train` again")
        about = read_json(folder / "run.json")
        if about["data"] != fingerprint(data):
            raise InputError(f"{folder}: was trained on other data than {data.root}")
        recipe = at_checkpoint(recipe_of_run(about["recipe"], str(folder)), checkpoint)
        if about.get("vectors", "") != text_vectors.identity(recipe):
            raise InputError(f"{recipe.crm.text.path}: is not what the vectors of {folder} were made by")
        if about.get("checkpoint", "") != llm.base_of(recipe.llm):
            raise InputError(f"{recipe.llm.path}: is not the checkpoint that {folder} was trained on")
        return cls(folder, recipe, data)

    def fit_inputs(self) -> tuple[Schema, Catalog]:
        """Schema and catalogue, fitted once and then read from the run. Raises InputError if they are damaged.

        Where the recipe has codes, the catalogue has them once stage 1 is done.
        """
        schema, catalog = self._uncoded()
        if self.recipe.llm.codes.bits and checkpoint.finished(self.folder / "crm"):
            catalog = codes.with_codes(catalog, self._codes())
        return schema, catalog

    def _codes(self) -> codes.Codes:
        """Each item's code by the CRM of stage 1, made once."""
        path = self.folder / CODES
        if not path.exists():
            schema, catalog = self._uncoded()
            known = np.isin(np.arange(len(catalog)), self.data.split("train").items)
            vectors = catalogue_vectors(self.crm("crm"), FeatureEncoder(schema, catalog))
            found = codes.item_codes(vectors, known, self.recipe.llm.codes.bits, bool(schema.of("vector")))
            atomic.write_file(path, json.dumps(found).encode())
        try:
            kept: codes.Codes = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: cannot be read ({error}); remove it, the same command then makes it again"
            ) from None
        return kept

    def _uncoded(self) -> tuple[Schema, Catalog]:
        path = self.folder / "schema.json"
        if not path.exists():
            schema_files.write_schema(self.folder, *self._fitted())
        try:
            schema, catalog = schema_files.read_schema(self.folder)
        except BundleError as error:
            raise InputError(f"{self.folder}: {error}; remove {path}, the same command then fits it again") from None
        if self._tuned:
            catalog.vectors = as_float16(self.best("encoder")["vectors"].numpy())
        return schema, catalog

    def _fitted(self) -> tuple[Schema, Catalog]:
        features = self.recipe.crm.features
        fit = fit_schema if self.recipe.crm.knows_ids else events_schema
        schema, catalog = fit(self.data, features), catalog_of(self.data, features)
        schema = apart(schema) if self.recipe.crm.family.multiplies else schema
        if self.recipe.crm.text.source:
            schema = text_vectors.with_text(schema, self.recipe, self.text_vectors().shape[1])
        return schema, catalog

    def text_vectors(self, reuse: tuple[Path, ...] = (), quiet: bool = False) -> Array:
        """float16 [items, width], the items' text vectors before any training; see `text.vectors.item_vectors`."""
        return text_vectors.item_vectors(self.folder, self.recipe, self.data, reuse, quiet)

    @property
    def tunes_encoder(self) -> bool:
        """Whether the recipe has the stage `encoder`."""
        return named("encoder").enabled(self.recipe)

    @property
    def _tuned(self) -> bool:
        """Whether that stage is finished, so that its encoder's vectors count."""
        return self.tunes_encoder and checkpoint.finished(self.folder / "encoder")

    def parts(self) -> Iterator[tuple[npt.NDArray[np.bool_], FeatureEncoder]]:
        """Folds of users with an encoder of their training rows, whose items' numbers come from the other folds."""
        features = self.recipe.crm.features
        if not features.item_quality and not features.item_vectors:
            return
        schema, whole = self.fit_inputs()
        for users in folds(self.data):
            catalog = catalog_of(self.data, features, users)
            catalog.vectors = whole.vectors
            yield users, FeatureEncoder(schema, catalog)

    def new_crm(self) -> CrmModel:
        """The CRM before training."""
        torch.manual_seed(self.recipe.seed)
        schema, catalog = self._uncoded()
        return new_crm(schema, self.recipe.crm, catalog, np.unique(self.data.split("train").items))

    def item_vectors(self) -> Array | None:
        """float16 [items, width], the text vectors that the CRM's training begins with; None where it has none."""
        return self.fit_inputs()[1].vectors

    def served_vectors(self) -> Array | None:
        """float16 [items, width], what a bundle has: those that training began with, or what it made of them."""
        if not self.recipe.crm.text.tuned:
            return self.item_vectors()
        return as_float16(self.crm().state_dict()["text.table"].numpy())

    def text_model(self) -> tuple[nn.Module, Any] | None:
        """What makes vectors of new items, and its tokenizer; see `text.to_onnx.write`. None where nothing does."""
        if not self.recipe.crm.text.source:
            return None
        found: tuple[nn.Module, Any] | None = text_vectors.source_of(self.recipe).text_model(self.recipe, self.folder)
        if found is not None and self._tuned:
            found[0].load_state_dict(self.best("encoder", "encoder"), strict=False)
        return found

    def crm(self, stage: str | None = None) -> CrmModel:
        """The trained CRM: after the last stage of the recipe that trains it, or after the named one."""
        model = self.new_crm()
        model.load_state_dict(self.best(stage or last_of(self.recipe, "crm").name, "crm"))
        return model.eval()

    def llm(self, stage: str | None = None) -> Any:
        """The trained LLM with its adapters: after the recipe's last stage that trains it, or after the named one."""
        model = self.new_llm()
        load_into(model, self.best(stage or last_of(self.recipe, "llm").name, "llm"))
        return model.eval()

    def best(self, stage: str, model: str = "") -> dict[str, Tensor]:
        """The tensors that a stage kept; those of "crm" or "llm" alone, named as in that model."""
        kept = checkpoint.load_tensors(self.folder / stage / "best.safetensors")
        side = f"{model}." if model and len(named(stage).trains) > 1 else ""
        return {name.removeprefix(side): tensor for name, tensor in kept.items() if name.startswith(side)}

    def new_llm(self) -> Any:
        """The LLM before training: seeded random weights, or the checkpoint with fresh adapters."""
        recipe = self.recipe.llm
        torch.manual_seed(recipe.seed)
        if recipe.source == "checkpoint":
            model = llm.with_lora(llm.checkpoint_model(Path(recipe.path), self.base_dtype), recipe)
        else:
            t = self.tokenizer()
            model = llm.scratch_model(recipe, len(t), t.bos_token_id, t.eos_token_id, t.pad_token_id)
        return llm.recomputing(model) if recipe.gradient_checkpointing else model

    def tokenizer(self) -> Any:
        """The checkpoint's tokenizer, or the run's own, trained at the first call."""
        if self.recipe.llm.source == "checkpoint":
            return tokenizer.load_tokenizer(Path(self.recipe.llm.path))
        folder = self.folder / "tokenizer"
        if not folder.is_dir():
            self._train_tokenizer(folder)
        return tokenizer.load_tokenizer(folder)

    def _train_tokenizer(self, folder: Path) -> None:
        _, catalog = self.fit_prompts()
        data, recipe, names = self.data, self.recipe.llm, list(self.data.user_attributes)
        columns = list(zip(*[data.users[name][:TOKENIZER_USERS] for name in names], strict=True))
        users = [User(None, dict(zip(names, values, strict=True))) for values in columns]
        texts = plain_text.read(recipe.text.files)
        whole = self._whole_texts(catalog) if recipe.whole_items else []
        trained = tokenizer.train_tokenizer(self.recipe.prompt, catalog, users, recipe.vocab_size, texts, whole)
        tokenizer.save_tokenizer(trained, folder)

    def _whole_texts(self, catalog: Catalog) -> list[str]:
        """Questions of the items of the training rows (and of their histories, where those hold other events), and
        the tails of the ratings."""
        rows = self.data.split("train")
        items: list[int] = np.unique(rows.items).tolist()
        ratings: list[float | None] = np.unique(rows.ratings[~np.isnan(rows.ratings)]).tolist()
        if not self.data.rows_in_log:
            log = self.data.log
            seen = np.zeros(len(log.offsets) - 1, np.int64)
            np.maximum.at(seen, rows.users, rows.positions)
            place = np.arange(len(log.items)) - np.repeat(log.offsets[:-1], np.diff(log.offsets))
            before = place < np.repeat(seen, np.diff(log.offsets))  # what some training row has in its history
            items = np.union1d(rows.items, log.items[before]).tolist()
        return tokenizer.whole_texts(self.recipe.prompt, catalog, items, ratings or [None])

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

    def fit_prompts(self) -> tuple[Schema, Catalog]:
        """`fit_inputs` as it is before any training: codes of the right form stand in for those that there will be."""
        schema, catalog = self._uncoded()
        bits = self.recipe.llm.codes.bits
        return schema, codes.with_codes(catalog, codes.stand_ins(catalog.ids, bits)) if bits else catalog

    def builder(self) -> SequenceBuilder:
        """Sequences of the run's prompts; those with codes need a finished stage 1."""
        _, catalog = self.fit_inputs()
        return SequenceBuilder(self.data, self.prompt_encoder(catalog))

    def reader(self, model: Any, builder: SequenceBuilder, precision: Precision | None = None) -> LlmReader:
        """The model with the answers it is asked for, in the recipe's precision or the given one."""
        tokens = builder.encoder.tokens
        return LlmReader(model, (tokens.no, tokens.yes), precision or self.recipe.llm.precision)

    def new_alignment(self, crm: CrmModel, model: Any) -> Alignment:
        """The projections of the joint stage before training."""
        recipe, config = self.recipe.joint, llm.plain(model).config
        pairs = pairs_for(recipe.pairs, config.num_hidden_layers, self.recipe.crm.family.layers)
        torch.manual_seed(self.recipe.seed)
        return Alignment(pairs, config.hidden_size, crm.width, recipe.width, recipe.exponent)


def load_into(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy trained tensors into a model's trainable parameters."""
    own = llm.trained_tensors(model)
    for name, tensor in weights.items():
        own[name].copy_(tensor)


@contextmanager
def hold(folder: Path, recipe: Recipe, data: PreparedData, label: str = "run.json") -> Iterator[None]:
    """The folder of a run (or of many), locked, and begun with this recipe, data, checkpoint and plain text.

    What begins here and is refused before anything was trained leaves nothing there, and a corrected recipe may begin.
    """
    fresh = not (folder / label).exists()
    settings = deciding(table_of(recipe))
    later = {
        "checkpoint": llm.base_of(recipe.llm), "texts": [plain_text.digest(file) for file in recipe.llm.text.files],
        "vectors": text_vectors.identity(recipe),
    }  # fmt: skip
    same, notes = {"recipe": settings, "data": fingerprint(data), **later}, {"data_folder": str(data.root.resolve())}
    with atomic.resumable_folder(folder, label, same, notes, lambda about: settled({**later, **about})):
        try:
            yield
        except InterruptedRunError:
            raise
        except CorellaError:
            if fresh and not any(folder.rglob(checkpoint.NAME)):
                _clear(folder, label)
            raise


def _clear(folder: Path, label: str) -> None:
    """Remove what a run writes before anything is trained, and the folder where nothing else is in it."""
    for name in ("vocab", "tokenizer", *(stage.name for stage in STAGES)):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("schema.json", "catalog.jsonl", CODES, *text_vectors.FILES, label):
        (folder / name).unlink(missing_ok=True)
    for place in (*(path for path in folder.iterdir() if path.is_dir()), folder):
        if not any(place.iterdir()):
            with suppress(OSError):  # a file system's root stays
                place.rmdir()


def settled(about: dict[str, Any]) -> dict[str, Any]:
    """What was begun, without what decides no weights: the export, and the place of a checkpoint known by its hash."""
    recipe = {name: value for name, value in about["recipe"].items() if name != "export"}
    place = {name: value for name, value in recipe["llm"].items() if name != "path"}
    crm = flat(nested(recipe.get("crm", {})))
    if "text" in crm:
        crm["text"] = {name: value for name, value in crm["text"].items() if name != "path"}
    return {**about, "recipe": {**recipe, "llm": place, "crm": crm}}


def deciding(settings: Any) -> Any:
    """A recipe's table without what changes the cost of a training, not its weights, and without later keys."""
    if not isinstance(settings, dict):
        return settings
    kept = {name: value for name, value in settings.items() if name != "gradient_checkpointing"}
    return {name: deciding(value) for name, value in kept.items() if not _is_later(name, value)}


def _is_later(name: str, value: Any) -> bool:
    """Whether a key is one of LATER that has its default."""
    return name in LATER and json.loads(json.dumps(value, default=dict)) == LATER[name]


def data_of(folder: Path, data: Path | None) -> PreparedData:
    """The data a run was trained on: the given folder, or the one it was started with."""
    if data is None:
        if not (folder / "run.json").is_file():
            raise InputError(f"{folder}: not a training run (run.json is missing); `corella-edge train` makes one")
        data = Path(str(read_json(folder / "run.json").get("data_folder", "")))
        if not data.is_dir():
            raise InputError(
                f"{folder}: the data it was trained on is no longer at {data}; name its folder with --data"
            )
    return PreparedData.open(data)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of ours; damage is an `InputError` naming it."""
    try:
        value: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error})") from None
    return value
