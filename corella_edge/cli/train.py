"""`corella-edge train`: a recipe and prepared data → a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import (
    checkpoint_option,
    figure,
    need_export,
    note_precision,
    recipe_argument,
    reuse_option,
    with_checkpoint,
)

if TYPE_CHECKING:
    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.recipe import Recipe


@click.command(cls=Command)
@recipe_argument
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder written by `prepare`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; an unfinished one goes on.")
@click.option("--seed", type=click.IntRange(min=0), help="Overrides the recipe's seed.")
@reuse_option
@checkpoint_option
def train(
    recipe: str, data: Path, out: Path, seed: int | None, reuse: tuple[Path, ...], checkpoint: Path | None
) -> None:
    """Train the base model (CRM) and the LLM of RECIPE: a name that `recipe list` shows, or a TOML file.

    After Ctrl-C or a kill the same command resumes from the last checkpoint (every half minute).
    """
    need_export("train")
    from dataclasses import replace

    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.generic.recipe import explained
    from corella_edge_export.report import report_if_possible
    from corella_edge_export.training import stages

    prepared = PreparedData.open(data)
    found, why = explained(recipe, prepared)
    chosen = with_checkpoint(found, checkpoint)
    chosen = chosen if seed is None else replace(chosen, seed=seed)
    if stages.joined().is_main_process and not talk.quiet():
        if reason := why.get(("crm", "kind")):
            talk.say(f'base model: kind = "{chosen.crm.kind}" ({reason})')
        note_precision(chosen)
        _expect(chosen, prepared)
    summary = stages.train(out, chosen, prepared, talk.quiet(), reuse)
    if stages.joined().is_main_process:
        report_if_possible(out)
    for name, line in summary.items():
        click.echo(f"{name}: validation {_quality(line)} after {line['seconds']:.0f} s")
    _compare(prepared, summary)
    click.echo(f"{out}: finished")
    if stages.joined().is_main_process:
        talk.then("export", out, "--out", Path("bundles", out.name))


def _expect(recipe: Recipe, data: PreparedData) -> None:
    """How long it will take, where that can be told."""
    from corella_edge_export.training import expected

    seconds = expected.here(recipe, data)
    if seconds is not None:
        rows = data.info["counts"]["train"]
        words = ", after the vectors of the items' words" if recipe.crm.text.source else ""
        talk.say(f"{rows:,} training rows: {expected.told(seconds)} on this CPU, if it does nothing else{words}")


def _compare(data: PreparedData, summary: dict[str, Any]) -> None:
    """What a ranking reaches that learns nothing, and what to know of so few rows."""
    from corella_edge.metrics import auc
    from corella_edge_export.evaluation.baseline import no_learning
    from corella_edge_export.evaluation.scored import doubts

    rows = data.split("valid")
    plain = no_learning(data.split("train"), rows)
    for name in ("valid", "test"):
        for doubt in doubts(data.split(name).labels, {"valid": "validation rows", "test": "test rows"}[name]):
            talk.note(doubt)
    line = summary.get("joint") or summary.get("crm")
    if plain is None or line is None or not 0 < rows.labels.mean() < 1:
        return
    without = auc(plain, rows.labels)
    reached = line.get("crm_auc", line["auc"])
    click.echo(f"without learning: validation AUC {without:.4f} by like rates of item and user")
    if reached <= without:
        talk.warn(
            f"the base model's validation AUC, {reached:.4f}, is not above that; more rows or attributes may help"
        )


def _quality(line: dict[str, Any]) -> str:
    """The figures of a stage's kept weights; where it ranks, what decided first, and no AUC of rows of one label."""
    names = {"ndcg": "NDCG@10", "auc": "AUC", "crm_auc": "CRM's", "llm_auc": "LLM's", "logloss": "log-loss",
             "perplexity": "perplexity"}  # fmt: skip
    told = [name for name in names if name in line and not ("ndcg" in line and name == "auc" and line[name] is None)]
    return ", ".join(f"{names[name]} {figure(line[name])}" for name in told)
