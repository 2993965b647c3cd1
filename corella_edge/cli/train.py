"""`corella-edge train`: a recipe and prepared data → a finished run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import checkpoint_option, need_export, recipe_argument


@click.command(cls=Command)
@recipe_argument
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder written by `prepare`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; an unfinished one goes on.")
@click.option("--seed", type=click.IntRange(min=0), help="Overrides the recipe's seed.")
@checkpoint_option
def train(recipe: str, data: Path, out: Path, seed: int | None, checkpoint: Path | None) -> None:
    """Train the base model (CRM) and the LLM of RECIPE: a name that `recipe list` shows, or a TOML file.

    After Ctrl-C or a kill the same command resumes from the last checkpoint (every half minute).
    """
    need_export("train")
    from dataclasses import replace

    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.recipe import at_checkpoint, load_recipe
    from corella_edge_export.report import report_if_possible
    from corella_edge_export.training import stages

    chosen = at_checkpoint(load_recipe(recipe), checkpoint)
    chosen = chosen if seed is None else replace(chosen, seed=seed)
    summary = stages.train(out, chosen, PreparedData.open(data), talk.quiet())
    if stages.joined().is_main_process:
        report_if_possible(out)
    for name, line in summary.items():
        click.echo(f"{name}: validation {_quality(line)} after {line['seconds']:.0f} s")
    click.echo(f"{out}: finished")


def _quality(line: dict[str, Any]) -> str:
    """The figures of a stage's kept weights."""
    names = {"auc": "AUC", "crm_auc": "CRM's", "llm_auc": "LLM's", "logloss": "log-loss", "perplexity": "perplexity"}
    return ", ".join(f"{text} {line[name]:.4f}" for name, text in names.items() if name in line)
