"""Training a run: each stage of its recipe in turn, begun, resumed, or taken over from another run.

A stage's key is a hash of all that decides its weights, so a finished one can be taken over from another run that
differs in later stages only.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import shutil
import sys
from contextlib import nullcontext
from dataclasses import asdict, is_dataclass, replace
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from tqdm import tqdm

from corella_edge import atomic
from corella_edge.errors import InputError
from corella_edge.features.encoder import FeatureEncoder
from corella_edge_export.crm.recipe import CrmRecipe, flat
from corella_edge_export.crm.rows import EncodedRows
from corella_edge_export.data.prepared import PreparedData, fingerprint
from corella_edge_export.llm import model as llm
from corella_edge_export.llm import precision, tokenizer
from corella_edge_export.llm.sequences import SequenceBuilder
from corella_edge_export.recipe import Recipe
from corella_edge_export.text import vectors as text_vectors
from corella_edge_export.training import checkpoint, loop, metrics_log
from corella_edge_export.training.checks import check, check_prompts
from corella_edge_export.training.run import Run, deciding, hold, load_into, read_json
from corella_edge_export.training.stage import enabled, named, resolve
from corella_edge_export.training.tasks import text as plain_text


def train(
    folder: Path, recipe: Recipe, data: PreparedData, quiet: bool = False, reuse: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Run every stage of the recipe, or what is left of them; returns (and writes) the run's summary.

    Args:
        quiet: no progress bars.
        reuse: other runs, whose finished stages are taken over where they would come out the same.
    """
    loaded = check(recipe, data)
    place = joined()
    if loaded and place.is_main_process and not quiet:
        tqdm.write(loaded, file=sys.stderr)
    with hold(folder, recipe, data) if place.is_main_process else nullcontext():
        place.wait_for_everyone()
        with place.main_process_first():
            run = Run(folder, recipe, data, precision.base_dtype(recipe.llm, place.device.type))
            if recipe.crm.text.source:
                run.text_vectors(reuse, quiet)
            stages = Stages(run, quiet)
        if place.is_main_process and recipe.trains_llm:
            check_prompts(stages.run)
        place.wait_for_everyone()
        summary = {stage.name: stages.do(stage.name, reuse) for stage in enabled(recipe)}
        if place.is_main_process:
            atomic.write_file(folder / "summary.json", json.dumps(summary, indent=1, allow_nan=False).encode())
        place.wait_for_everyone()
    return summary


def joined() -> PartialState:
    """This process among those that share the training: on the CPU where it is told so, or several have no GPU.

    To be called before anything else asks Accelerate, which would take several processes without a GPU for one each.
    """
    alone = "LOCAL_RANK" not in os.environ or torch.cuda.is_available()
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not alone)


def keys(recipe: Recipe, data: PreparedData) -> dict[str, str]:
    """Stage → a hash of all that decides its weights, for the recipe's stages."""
    base: dict[str, Any] = {"data": fingerprint(data), "prompt": recipe.prompt.to_json()}
    base["checkpoint"] = llm.base_of(recipe.llm)
    base["texts"] = [plain_text.digest(file) for file in recipe.llm.text.files]
    if recipe.crm.text.source:
        base["vectors"] = text_vectors.identity(recipe)
    crm = replace(recipe.crm, text=replace(recipe.crm.text, path=""))
    placeless = replace(recipe, crm=crm, llm=replace(recipe.llm, path=""))  # both are known by their hashes
    found: dict[str, str] = {}
    for stage in enabled(recipe):
        parts = [_deciding(need, placeless, found) for need in stage.needs]
        reads: dict[str, Any] = {} if "llm" in stage.trains else {"texts": [], "checkpoint": ""}
        known = base if "crm" in stage.trains else {name: value for name, value in base.items() if name != "vectors"}
        if recipe.llm.codes.bits and "llm" in stage.trains:
            reads["codes"] = found.get("crm", "")
        text = json.dumps([stage.name, {**known, **reads}, parts], sort_keys=True, default=dict)
        found[stage.name] = hashlib.sha256(text.encode()).hexdigest()
    return found


def _deciding(need: str, recipe: Recipe, found: dict[str, str]) -> Any:
    """What a need adds to a stage's key: a part of the recipe, or the key of a stage before it."""
    if need.endswith("/"):
        name = resolve(need, found)
        return found[name] if name else need.removesuffix("/")
    part = attrgetter(need)(recipe)
    if isinstance(part, CrmRecipe):
        return deciding(flat(part.table()))
    return deciding(asdict(part)) if is_dataclass(part) and not isinstance(part, type) else part


class Stages:
    """One run's stages, with what they share made once."""

    def __init__(self, run: Run, quiet: bool = False) -> None:
        self.run, self.quiet = run, quiet
        self.schema, self.catalog = run.fit_inputs()
        self.keys = keys(run.recipe, run.data)
        self._rows: dict[str, EncodedRows] = {}

    @cached_property
    def builder(self) -> SequenceBuilder:
        """Sequences of the run's prompts; a run of the base model alone asks for none, and makes no tokenizer."""
        return self.run.builder()

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
        return loop.fit(task, schedule, folder, named(name).seed(self.run.recipe), self.quiet)

    def task(self, name: str) -> tuple[loop.Task, loop.Schedule]:
        """What the stage trains, as the stages before it left that, and how."""
        module, _, function = named(name).task.partition(".")
        made: tuple[loop.Task, loop.Schedule] = getattr(
            importlib.import_module(f"corella_edge_export.training.tasks.{module}"), function
        )(self)
        return made

    def llm_before(self, name: str) -> Any:
        """The LLM that a stage begins with: trained, having read plain text, or new."""
        before = [resolve(need, self.keys) for need in named(name).needs if need.endswith("/")]
        trained = [stage for stage in before if stage and "llm" in named(stage).trains]
        if not trained:
            return self.run.new_llm()
        if trained[-1] != "text":
            return self.run.llm(trained[-1])
        model = self.run.new_llm()
        load_into(model, self.run.best("text"))
        plain_text.seed_whole_tokens(model, self.run.tokenizer(), tokenizer.speller(self.run.tokenizer()))
        return model

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

    def rows(self, split: str) -> EncodedRows:
        """A split's rows as the CRM's inputs, encoded once."""
        if split not in self._rows:
            encoder = FeatureEncoder(self.schema, self.catalog)
            parts = self.run.parts() if split == "train" else ()
            features, training = self.run.recipe.crm.features, split == "train"
            levels, leanings = training and features.user_level, training and features.user_leaning
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
            f"{folder}: cannot be copied from {source}: {why}; make room there, or train without the other run"
        ) from error


def _key_of(folder: Path) -> str:
    path = folder / "stage.json"
    return str(read_json(path).get("key", "")) if path.exists() else ""
