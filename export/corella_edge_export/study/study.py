"""The whole study of a recipe: every variant trained with every seed, scored, and judged; resumable."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState

from corella_edge import atomic
from corella_edge.errors import InputError
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.evaluation import plots, tables
from corella_edge_export.evaluation.baseline import no_learning, without_learning
from corella_edge_export.evaluation.boundary import boundary
from corella_edge_export.evaluation.scored import Json, ScoredSplits
from corella_edge_export.llm import precision
from corella_edge_export.recipe import Recipe, table_of
from corella_edge_export.report import report_if_possible
from corella_edge_export.study import base_model
from corella_edge_export.study.analysis import DRAWS, ablation, against, analyse, by_variant, combine, combine_ablations
from corella_edge_export.study.predictions import Predictions, folder_of
from corella_edge_export.training import stages
from corella_edge_export.training.checks import check
from corella_edge_export.training.run import Run, hold
from corella_edge_export.training.stage import enabled
from corella_edge_runtime.bench.measure.machine import machine, versions

FULL = "full"
HEAVY = ("torch", "transformers", "accelerate")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class StudySettings:
    """What the user chose for one study.

    Attributes:
        seeds: of the recipe; the LLM's own training has its own seed and is shared, as a checkpoint would be.
        ablations: also train without each stage.
        valid_rows: validation rows the LLM scores, drawn as whole users; 0 = all.
        ranking_rows: liked test rows for which both CRMs rank the whole catalogue; 0 = none.
        reuse: runs whose finished stages are taken over where they would come out the same.
    """

    seeds: tuple[int, ...] = (1, 2, 3)
    ablations: bool = True
    draws: int = DRAWS
    valid_rows: int = 0
    reuse: tuple[Path, ...] = ()
    ranking_rows: int = 3000


def variants(recipe: Recipe) -> dict[str, Recipe]:
    """The full recipe, without each of the stages that it has, and with stage 2 but nothing that aligns.

    Without stage 1 the CRM learns in stage 2 at the rate it would have had: a fresh model at the rate of one that is
    only touched up would show the rate, not the stage.
    """
    found = {FULL: recipe}
    if recipe.crm.epochs and recipe.joint.epochs:
        found["without stage 1"] = replace(
            recipe, crm=replace(recipe.crm, epochs=0),
            joint=replace(recipe.joint, crm_learning_rate=recipe.crm.learning_rate),
        )  # fmt: skip
    if recipe.joint.epochs and recipe.crm.epochs and (recipe.llm.epochs or recipe.continuation.epochs):
        found["without stage 2"] = replace(recipe, joint=replace(recipe.joint, epochs=0))
    if recipe.joint.epochs and recipe.joint.align_weight:
        found["without alignment"] = replace(recipe, joint=replace(recipe.joint, align_weight=0.0))
    if recipe.continuation.epochs and (recipe.joint.epochs or recipe.llm.epochs):
        found["without stage 3"] = replace(recipe, continuation=replace(recipe.continuation, epochs=0))
    return found


def study(
    recipe: Recipe, data: PreparedData, out: Path, settings: StudySettings, say: Say, quiet: bool = False
) -> Json:
    """Train (or go on), score and judge; writes `out`/study.json, study.md and one SVG a plot.

    Raises:
        InputError: `out` holds a study of another recipe, other data, another checkpoint or other plain text, the
            recipe has no CRM warm-up or names a file that cannot be read, the seeds are no different numbers, or
            several processes were launched.
    """
    _check(recipe, settings.seeds)
    check(recipe, data)
    chosen = variants(recipe) if settings.ablations else {FULL: recipe}
    with hold(out, replace(recipe, seed=0), data, "about.json"):
        found = [_seed(chosen, seed, data, out, settings, say, quiet) for seed in settings.seeds]
        result = {**_about(recipe, data, settings), **_together(found, settings)}
        _write(out, result)
    return result


def _check(recipe: Recipe, seeds: Sequence[int]) -> None:
    if not recipe.crm.epochs:
        raise InputError("the study holds everything against the CRM after stage 1; crm.epochs must be above 0")
    if not seeds or len(set(seeds)) < len(seeds) or not all(0 <= seed < 2**32 for seed in seeds):
        text = ", ".join(map(str, seeds)) or "none"
        raise InputError(f"seeds: different whole numbers from 0 to 2^32 - 1 are needed, not {text}")
    if stages.joined().num_processes > 1:
        raise InputError("a study is one process; let several `train` the recipe, and take the run over with --reuse")


def _seed(
    chosen: dict[str, Recipe], seed: int, data: PreparedData, out: Path, settings: StudySettings, say: Say, quiet: bool
) -> tuple[Json, list[Json]]:
    """(analysis of the full system, ablation table) of one training seed."""
    pairs: dict[str, ScoredSplits] = {}
    ranked: Json = {}
    full = folder_of(out, seed, FULL)
    for name, recipe in chosen.items():
        folder, seeded = folder_of(out, seed, name), replace(recipe, seed=seed)
        folder.parent.mkdir(parents=True, exist_ok=True)
        say(f"seed {seed}, {name}")
        shared = (*settings.reuse, *(folder_of(out, first, FULL) for first in settings.seeds), full)
        stages.train(folder, seeded, data, quiet, reuse=tuple(path for path in shared if path != folder))
        if not quiet:
            report_if_possible(folder)
        dtype = precision.base_dtype(recipe.llm, PartialState().device.type)
        base = Run(full, replace(chosen[FULL], seed=seed), data, dtype)
        predictions = Predictions(Run(folder, seeded, data, dtype), base, say)
        if not recipe.trains_llm:
            return _alone(predictions, data, settings), []
        pairs[name] = predictions.pair(settings.valid_rows)
        if name == FULL and settings.ranking_rows:
            ranked = {"ranking": predictions.ranking(settings.ranking_rows)}
    say(f"seed {seed}: {settings.draws:,} draws of users")
    analysis = {**analyse(pairs[FULL], FULL, settings.draws), **ranked}
    shifts = {name: boundary(pair, draws=settings.draws, on=pairs[FULL]) for name, pair in pairs.items()}
    analysis["boundary_by_variant"] = shifts
    analysis["models_by_variant"] = by_variant(pairs, settings.draws)
    rates = no_learning(data.split("train"), data.split("test"))
    if rates is not None:
        analysis["baseline"] = against(pairs[FULL], rates, settings.draws)
    return analysis, ablation(pairs, settings.draws)


def _alone(predictions: Predictions, data: PreparedData, settings: StudySettings) -> Json:
    """The analysis of a recipe without an LLM."""
    rows = settings.ranking_rows
    ranked = {"ranking": predictions.ranking(rows)} if rows else {}
    plain = without_learning(data.split("train"), data.split("test"))
    return {**base_model.analyse(predictions.alone(), FULL, plain, settings.draws), **ranked}


def _together(found: Sequence[tuple[Json, list[Json]]], settings: StudySettings) -> Json:
    by_seed = {str(seed): analysis for seed, (analysis, _) in zip(settings.seeds, found, strict=True)}
    return {
        "analysis": combine(by_seed) if "claim" in found[0][0] else base_model.combine(by_seed),
        "ablation": combine_ablations([table for _, table in found]),
        "by_seed": by_seed,
        "ablation_by_seed": {str(seed): table for seed, (_, table) in zip(settings.seeds, found, strict=True)},
    }


def _about(recipe: Recipe, data: PreparedData, settings: StudySettings) -> Json:
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    table = table_of(recipe)
    for section in (table["llm"], table["crm"]["text"]):
        section["path"] = Path(section["path"]).name  # folders are the machine's own business
    return {
        "what": "study", "recipe": table, "name": recipe.name,
        "data": data.info["name"], "notes": [*data.info.get("notes", []), *shared_by_seeds(recipe), *_parts(data)],
        "seeds": list(settings.seeds), "draws": settings.draws, "valid_rows": settings.valid_rows,
        "ranking_rows": settings.ranking_rows,
        "machine": {**machine(), **gpu}, "versions": versions({name: name for name in HEAVY}),
    }  # fmt: skip


def shared_by_seeds(recipe: Recipe) -> list[str]:
    """What the training seeds have in common."""
    shared = [stage for stage in enabled(recipe) if "seed" not in stage.needs]
    if not shared:
        return []
    own = {"text": "The LLM's reading of plain text", "llm": "The LLM's own training"}
    text = f"{own[shared[-1].name]} has one seed ({recipe.llm.seed}), as a downloaded checkpoint would: training seeds"
    return [f"{text} differ in the CRM, in stages 2 and 3 and in their rows, so ± is not the LLM's whole variance."]


def _parts(data: PreparedData) -> list[str]:
    """What seen and unseen mean, where it is not the user alone."""
    if data.history_events == "all":
        return []
    return ["Seen rows are warm ones: their user and their item both have training rows. All others are unseen."]


def _write(out: Path, result: Json) -> None:
    atomic.write_file(out / "study.json", (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    atomic.write_file(
        out / "study.md", tables.markdown(result["analysis"], result["ablation"], result["notes"]).encode()
    )
    if "curve" in result["analysis"]:
        plots.write(result["analysis"], out)
