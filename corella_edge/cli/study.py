"""`corella-edge study`: every variant of a recipe trained with several seeds, and the tables of the paper."""

from __future__ import annotations

from pathlib import Path

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import (
    checkpoint_option,
    need_export,
    note_precision,
    recipe_argument,
    reuse_option,
    with_checkpoint,
)


@click.command(cls=Command)
@recipe_argument
@click.option("--data", type=click.Path(path_type=Path), required=True, help="Folder written by `prepare`.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of runs and results Default: runs/study-RECIPE.")
@click.option("--seeds", default="1,2,3", show_default=True, help="Training seeds, separated by commas.")
@click.option("--ablations/--no-ablations", default=True, show_default=True, help="Also train without each stage.")
@click.option("--draws", type=click.IntRange(min=10), default=2000, show_default=True, help="Bootstrap draws of users.")
@click.option(
    "--valid-rows", type=click.IntRange(min=0), default=0, show_default=True,
    help="Validation rows the LLM scores, as whole users; 0 = all.",
)  # fmt: skip
@click.option(
    "--ranking-rows", type=click.IntRange(min=0), default=3000, show_default=True,
    help="Liked test rows, as whole users, for which the whole catalogue is ranked; 0 leaves that out.",
)  # fmt: skip
@reuse_option
@checkpoint_option
def study(
    recipe: str, data: Path, out: Path | None, seeds: str, ablations: bool, draws: int, valid_rows: int,
    ranking_rows: int, reuse: tuple[Path, ...], checkpoint: Path | None,
) -> None:  # fmt: skip
    """Repeat the study of RECIPE: quality by routed share and fusion rule, groups, boundary shift, ablations; and
    how well both base models rank the whole catalogue (HR@10, NDCG@10, MRR).

    Writes study.json, study.md and plots. An interrupted study goes on where it stopped.
    """
    need_export("study")
    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.generic.recipe import recipe_for
    from corella_edge_export.study.study import StudySettings
    from corella_edge_export.study.study import study as run

    prepared = PreparedData.open(data)
    chosen = with_checkpoint(recipe_for(recipe, prepared), checkpoint)
    folder = out or Path("runs") / f"study-{chosen.name}"
    note_precision(chosen)
    settings = StudySettings(_seeds(seeds), ablations, draws, valid_rows, reuse, ranking_rows)
    run(chosen, prepared, folder, settings, talk.say, talk.quiet())
    click.echo((folder / "study.md").read_text("utf-8"))


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts) or len(set(parts)) != len(parts):
        raise click.BadParameter(f"{text!r} is no list of different whole numbers", param_hint="--seeds")
    return tuple(int(part) for part in parts)
