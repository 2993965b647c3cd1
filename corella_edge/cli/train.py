"""`corella-edge train`: a recipe and prepared data → a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from corella_edge.cli.common import need_export


@click.command()
@click.argument("recipe")
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder written by `prepare`.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Run folder; an unfinished one goes on.")
@click.option("--seed", type=click.IntRange(min=0), help="Overrides the recipe's seed.")
def train(recipe: str, data: Path, out: Path, seed: int | None) -> None:
    """Train the CRM and the LLM of RECIPE (a shipped recipe's name, or a TOML file).

    After Ctrl-C or a kill the same command goes on where the last checkpoint stands (every half minute).
    """
    need_export("train")
    from dataclasses import replace

    from corella_edge_export import run
    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.recipe import load_recipe

    chosen = load_recipe(recipe)
    chosen = chosen if seed is None else replace(chosen, seed=seed)
    summary = run.train(out, chosen, PreparedData.open(data))
    for name, line in summary.items():
        quality = f"validation AUC {line['auc']:.4f}, log-loss {line['logloss']:.4f}"
        click.echo(f"{name}: {quality} after {line['seconds']:.0f} s")
    click.echo(f"{out}: finished")
