"""The stages of a training run, in order: plain text, CRM warm-up, the LLM's own training, joint, continuation.

Stages 1 to 3 of CoReLLa (arXiv 2403.16378) are `crm`, `joint` and `continuation`. A stage's key is a hash of all
that decides its weights, so a finished one can be taken over from another run that differs in later stages only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from tqdm import tqdm

from corella_edge import atomic
from corella_edge.errors import ExportError, InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.prompt import PromptEncoder
from corella_edge_export.bundling import verify
from corella_edge_export.crm.fitted.schema import MEAN_RATING, check_text, rated
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.data.prepared import PreparedData, fingerprint
from corella_edge_export.evaluation.rowset import RowSet, choose_rows, history_needed
from corella_edge_export.llm import model as llm
from corella_edge_export.llm import tokenizer
from corella_edge_export.llm.to_gguf import write_vocabulary
from corella_edge_export.recipe import Recipe, StageRecipe
from corella_edge_export.training import checkpoint, loop, metrics_log
from corella_edge_export.training.run import Run, deciding, hold, load_into, read_json
from corella_edge_export.training.tasks import crm as train_crm
from corella_edge_export.training.tasks import llm as train_llm
from corella_edge_export.training.tasks import text as plain_text
from corella_edge_export.training.tasks.joint import CrmSide, JointTask
from corella_edge_runtime.llm.llama.binding import Model

CHECKED_ROWS = 200


def train(
    folder: Path, recipe: Recipe, data: PreparedData, quiet: bool = False, reuse: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Run every stage of the recipe, or what is left of them; returns (and writes) the run's summary.

    Args:
        quiet: no progress bars and no report.
        reuse: other runs, whose finished stages are taken over where they would come out the same.
    """
    loaded = check(recipe, data)
    place = joined()
    if loaded and place.is_main_process and not quiet:
        tqdm.write(loaded, file=sys.stderr)
    with hold(folder, recipe, data) if place.is_main_process else nullcontext():
        place.wait_for_everyone()
        with place.main_process_first():
            stages = Stages(Run(folder, recipe, data, llm.base_dtype(recipe.llm, place.device.type)), quiet)
        if place.is_main_process:
            check_prompts(stages.run)
        place.wait_for_everyone()
        summary = {name: stages.do(name, reuse) for name in enabled(recipe)}
        if place.is_main_process:
            atomic.write_file(folder / "summary.json", json.dumps(summary, indent=1).encode())
            if not quiet:
                _report(folder)
        place.wait_for_everyone()
    return summary


def joined() -> PartialState:
    """This process among those that share the training: on the CPU where it is told so, or several have no GPU.

    To be called before anything else asks Accelerate, which would take several processes without a GPU for one each.
    """
    alone = "LOCAL_RANK" not in os.environ or torch.cuda.is_available()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not alone)


def _report(folder: Path) -> None:
    """The run as an HTML page, where the plots' library is installed."""
    if importlib.util.find_spec("matplotlib"):
        from corella_edge_export.report import write_report

        write_report(folder)


def enabled(recipe: Recipe) -> list[str]:
    """Names of the recipe's stages, in order."""
    epochs = {
        "text": len(recipe.llm.text.files) * recipe.llm.text.epochs,
        "crm": recipe.crm.epochs,
        "llm": recipe.llm.epochs,
        "joint": recipe.joint.epochs,
        "continuation": recipe.continuation.epochs,
    }
    return [name for name, count in epochs.items() if count]


def begun_by(recipe: Recipe) -> str:
    """The stage that CoReLLa's stages have their LLM from: its own, or plain text where that is all it has read."""
    names = enabled(recipe)
    return "text" if "text" in names and "llm" not in names else "llm"


def keys(recipe: Recipe, data: PreparedData) -> dict[str, str]:
    """Stage → a hash of all that decides its weights, for the recipe's stages."""
    base: dict[str, Any] = {"data": fingerprint(data), "prompt": recipe.prompt.to_json()}
    base["checkpoint"] = llm.base_of(recipe.llm)
    base["texts"] = [plain_text.digest(file) for file in recipe.llm.text.files]
    found: dict[str, str] = {}
    begun, reader = begun_by(recipe), replace(recipe.llm, path="")  # the checkpoint is known by its hash
    own = {
        "text": (reader,),
        "crm": (recipe.crm, recipe.seed),
        "llm": (reader, "text"),
        "joint": (recipe.joint, recipe.seed, recipe.crm, "crm", reader, begun),
        "continuation": (recipe.continuation, recipe.seed, recipe.joint.rows, begun, "joint", reader),
    }
    for name in enabled(recipe):
        parts = [
            found.get(p, p) if isinstance(p, str) else p if isinstance(p, int) else deciding(asdict(p))
            for p in own[name]
        ]
        reads: dict[str, Any] = {"texts": []} if name == "crm" else {}
        text = json.dumps([name, {**base, **reads}, parts], sort_keys=True, default=dict)
        found[name] = hashlib.sha256(text.encode()).hexdigest()
    return found


class Stages:
    """One run's stages, with what they share made once."""

    def __init__(self, run: Run, quiet: bool = False) -> None:
        self.run, self.quiet = run, quiet
        self.schema, self.catalog = run.fit_inputs()
        self.builder = run.builder()
        self.keys = keys(run.recipe, run.data)
        self._rows: dict[str, EncodedRows] = {}

    def do(self, name: str, reuse: tuple[Path, ...]) -> loop.Metrics:
        """Train the stage, or what is left of it; its best validation line."""
        folder = self.run.folder / name
        if PartialState().is_main_process:
            self._take_over(name, reuse)
            metrics_log.mend(folder)
        PartialState().wait_for_everyone()
        if checkpoint.finished(folder):
            checkpoint.check_tensors(folder / loop.BEST)
            return loop.best_line(folder)
        task, schedule = self.task(name)
        recipe = self.run.recipe
        seed = recipe.llm.seed if name in ("text", "llm") else recipe.seed
        return loop.fit(task, schedule, folder, seed, self.quiet)

    def task(self, name: str) -> tuple[loop.Task, loop.Schedule]:
        """What the stage trains, as the stages before it left that, and how."""
        make: dict[str, Callable[[], tuple[loop.Task, loop.Schedule]]] = {
            "text": self._text, "crm": self._crm, "llm": self._llm, "joint": self._joint,
            "continuation": self._continuation,
        }  # fmt: skip
        return make[name]()

    def _take_over(self, name: str, reuse: tuple[Path, ...]) -> None:
        """The stage's folder, with its key; a finished one of another run is copied."""
        folder, key = self.run.folder / name, {"key": self.keys[name]}
        for other in reuse:
            if folder.exists():
                return
            if _key_of(other / name) == self.keys[name] and checkpoint.finished(other / name):
                checkpoint.check_tensors(other / name / loop.BEST)
                _copy(other / name, folder)
        folder.mkdir(exist_ok=True)
        atomic.write_file(folder / "stage.json", json.dumps(key).encode())

    def _text(self) -> tuple[loop.Task, loop.Schedule]:
        recipe, t = self.run.recipe.llm, self.run.tokenizer()
        documents = plain_text.read(recipe.text.files)
        blocks = plain_text.blocks_of(documents, tokenizer.segment_tokenizer(t), t.bos_token_id, recipe.text.block)
        reader = self.run.reader(self.run.new_llm(), self.builder)
        r = recipe.text
        schedule = loop.Schedule(r.learning_rate, r.weight_decay, r.epochs, r.evaluations, r.patience, r.warmup)
        return plain_text.TextTask(reader, blocks, recipe.text, recipe.seed), schedule

    def _crm(self) -> tuple[loop.Task, loop.Schedule]:
        recipe = self.run.recipe
        task = train_crm.CrmTask(self.run.new_crm(), self.rows("train"), self.rows("valid"), recipe.crm, recipe.seed)
        return task, train_crm.schedule(recipe.crm)

    def _llm(self) -> tuple[loop.Task, loop.Schedule]:
        recipe = self.run.recipe.llm
        return self._llm_task(self._read(), recipe, recipe.seed, None, "llm"), train_llm.schedule(recipe)

    def _read(self) -> Any:
        """The LLM before any answer: a new one, or one that has read plain text."""
        model = self.run.new_llm()
        if "text" in self.keys:
            load_into(model, self.run.best("text"))
            plain_text.seed_whole_tokens(model, self.run.tokenizer(), tokenizer.speller(self.run.tokenizer()))
        return model

    def _begun(self) -> Any:
        """The LLM that CoReLLa's stages begin with."""
        return self.run.llm("llm") if "llm" in self.keys else self._read()

    def _joint(self) -> tuple[loop.Task, loop.Schedule]:
        recipe = self.run.recipe
        model = self._begun()
        crm = self.run.crm("crm") if recipe.crm.epochs else self.run.new_crm()
        side = CrmSide(crm, self.rows("train"), self.rows("valid"), recipe.crm.oov_rate, recipe.seed)
        reader, align = self.run.reader(model, self.builder), self.run.new_alignment(crm, model)
        task = JointTask(side, reader, align, self._corpus(recipe.joint, recipe.seed, 0), self._valid(), recipe.joint)
        return task, train_llm.schedule(recipe.joint)

    def _continuation(self) -> tuple[loop.Task, loop.Schedule]:
        """The LLM goes on with other rows than the joint stage's, also in a run that leaves that stage out."""
        recipe = self.run.recipe
        model = self.run.llm("joint") if recipe.joint.epochs else self._begun()
        task = self._llm_task(model, recipe.continuation, recipe.seed, recipe.joint.rows, "continuation")
        return task, train_llm.schedule(recipe.continuation)

    def _llm_task(self, model: Any, settings: StageRecipe, seed: int, skip: int | None, name: str) -> train_llm.LlmTask:
        reader, weight = self.run.reader(model, self.builder), self.run.recipe.llm.text_weight
        return train_llm.LlmTask(reader, self._corpus(settings, seed, skip), self._valid(), weight, name)

    def _corpus(self, settings: StageRecipe, seed: int, skip: int | None) -> train_llm.Corpus:
        recipe, split = self.run.recipe.llm, self.run.data.split("train")
        spell = tokenizer.speller(self.run.tokenizer()) if recipe.whole_items else None
        return train_llm.Corpus(self.builder, split, settings, seed, spell, recipe.spell_rate, skip)

    def _valid(self) -> list[Any]:
        return train_llm.valid_sequences(self.builder, self.run.data.split("valid"), self.run.recipe.llm)

    def rows(self, split: str) -> EncodedRows:
        """A split's rows as the CRM's inputs, encoded once."""
        if split not in self._rows:
            encoder = FeatureEncoder(self.schema, self.catalog)
            parts = self.run.parts() if split == "train" else ()
            crm, training = self.run.recipe.crm, split == "train"
            levels, leanings = training and crm.user_level, training and crm.user_leaning
            data = self.run.data
            self._rows[split] = EncodedRows(data, split, encoder, parts=parts, levels=levels, leanings=leanings)
        return self._rows[split]


def _copy(source: Path, folder: Path) -> None:
    """A stage's folder, complete or not at all. Raises InputError."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial)
        partial.rename(folder)
    except OSError as error:  # copytree tells of many files at once
        shutil.rmtree(partial, ignore_errors=True)
        why = error.args[0][0][2] if isinstance(error, shutil.Error) else error
        raise InputError(
            f"{folder}: can not be copied from {source}: {why}; make room there, or train it anew without the other run"
        ) from error


def _key_of(folder: Path) -> str:
    path = folder / "stage.json"
    return str(read_json(path).get("key", "")) if path.exists() else ""


def check(recipe: Recipe, data: PreparedData) -> str:
    """What can be found wrong before a folder is begun. Raises InputError.

    Returns:
        what a checkpoint's weights are, in one line; empty for a model from scratch.
    """
    plain_text.check(recipe.llm.text.files, f"recipe {recipe.name}, llm.text.files")
    checkpoint = recipe.llm.source == "checkpoint"
    if checkpoint:
        llm.checkpoint_config(Path(recipe.llm.path))  # at once; to look at the weights takes longer than all the rest
    check_attributes(recipe, data)
    check_rows(recipe, data)
    loaded = llm.check_checkpoint(recipe.llm) if checkpoint else ""
    check_pairs(recipe)
    return loaded


def check_attributes(recipe: Recipe, data: PreparedData) -> None:
    """Raises InputError if the recipe names an attribute that the data have not: a prompt would be without it."""
    check_text(data, recipe.crm, f"recipe {recipe.name}")
    items, users = ["title", *data.item_attributes], list(data.user_attributes)
    if MEAN_RATING in recipe.prompt.item_fields and rated(data):
        items.append(MEAN_RATING)
    asked = [("prompt.item", "an item", recipe.prompt.item_fields, items)]
    asked.append(("prompt.profile", "a user", list(recipe.prompt.profile), users))
    for where, whose, names, known in asked:
        for name in names:
            if name not in known:
                raise InputError(
                    f"recipe {recipe.name}, {where}: {data.root} has no attribute {name!r} of {whose}, only "
                    f"{', '.join(known) or 'none'}; correct it or leave it out"
                )


def check_pairs(recipe: Recipe) -> None:
    """Raises InputError if the joint stage is to align a block that the LLM has not."""
    highest = max((block for block, _ in recipe.joint.pairs), default=0)
    if not recipe.joint.epochs or not highest:
        return
    scratch = recipe.llm.source == "scratch"
    count = recipe.llm.layers if scratch else llm.checkpoint_config(Path(recipe.llm.path)).num_hidden_layers
    if highest > count:
        raise InputError(f"recipe {recipe.name}, joint, pairs: there is no block {highest}, the LLM has {count}")


def check_rows(recipe: Recipe, data: PreparedData) -> None:
    """Raises InputError if the joint stage leaves fewer rows than the continuation wants."""
    count = len(data.split("train").users)
    if recipe.continuation.epochs and recipe.joint.rows + max(1, recipe.continuation.rows) > count:
        raise InputError(
            f"recipe {recipe.name}: joint.rows and continuation.rows are together more than the {count} training rows; "
            "the continuation leaves out joint.rows rows even where the joint stage is off: lower them"
        )


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
    limit = min(run.llm_config().max_position_embeddings, run.recipe.llm.context)  # a checkpoint may read more
    questions = [prompts.item(row) for row in range(len(prompts.catalog))]
    longest = max((len(question) for question in questions if question is not None), default=0)
    for request in rows.requests():
        length = len(prompts.prefix(request.user)) + longest
        if length > limit:
            raise ExportError(
                f"a prompt may have {length} tokens, the LLM reads {limit}: lower prompt.history_lines or block, "
                "or raise llm.context"
            )
