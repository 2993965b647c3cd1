"""`corella-edge evaluate`: quality of a bundle on prepared data, by routed share."""

from __future__ import annotations

import time
from pathlib import Path

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import Ratios, ThreadCount, json_option, need, open_engine, tell_threshold
from corella_edge.cli.evaluate_log import evaluate_log
from corella_edge.cli.logs import CLIP, LABELS, WINDOW
from corella_edge.cli.talk import Progress
from corella_edge.routing.policy import RATIOS

ROWS_RANKED = 3000  # of the whole catalogue each


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Folder written by `prepare`.")
@click.option("--log", type=click.Path(path_type=Path), metavar="LOG",
              help="Instead of --data: decisions of `serve --log`, or a table of labelled rows.")  # fmt: skip
@LABELS
@WINDOW
@CLIP
@click.option("--split", type=click.Choice(["train", "valid", "test"]), default="test", show_default=True,
              help="Which rows of the data.")  # fmt: skip
@click.option("--rows", type=click.IntRange(0), show_default=f"0, with --ranking {ROWS_RANKED:,}",
              help="About this many rows, of whole users, drawn by --seed; 0 takes all.")  # fmt: skip
@click.option("--ranking", is_flag=True,
              help="Rank the whole catalogue by the base model for each liked row: HR@10, NDCG@10, MRR.")  # fmt: skip
@click.option("--keep-history", is_flag=True,
              help="With --ranking: items of the user's history stay among those ranked.")  # fmt: skip
@click.option("--ratios", type=Ratios(), default=",".join(f"{r:g}" for r in RATIOS), show_default=True,
              help="Shares of rows that the LLM is asked about, separated by commas.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed for drawing --rows.")
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for results; default: evaluation-BUNDLE-SPLIT, or ranking-BUNDLE-SPLIT. With --log: file "
              "for the labelled rows (.parquet or .jsonl); default: none.")  # fmt: skip
@click.option("--labelled", type=click.Path(path_type=Path), metavar="FILE", help="Also write both models' scores as "
              "labelled rows for `calibrate --log`: Parquet if FILE ends in .parquet, else JSON lines.")  # fmt: skip
@click.option("--llm/--no-llm", default=True, show_default=True, help="Whether to load the LLM.")
@click.option("--llm-threads", type=ThreadCount(), help="Threads of the LLM. Default: all cores but one.")
@json_option
def evaluate(
    bundle: Path, data: Path | None, log: Path | None, labels: Path | None, window_hours: float, clip: float,
    json: bool, split: str, rows: int | None, ranking: bool, keep_history: bool, ratios: list[float],
    seed: int, out: Path | None, labelled: Path | None, llm: bool, llm_threads: int | None,
) -> None:  # fmt: skip
    """Measure AUC, log-loss, accuracy and ECE of BUNDLE on prepared data, by the share that the LLM is asked about.

    Share 0 is the base model (CRM) alone, share 1 asks the LLM about every row. Each row is scored once by each model;
    thresholds are the bundle's own, fixed on validation rows. Beside that stand routing by blended scores, at random
    and by an oracle, both models in thirds by the base model's confidence, and plots.

    With --ranking, the base model alone ranks the whole catalogue for each liked row, whose item is the one to be
    found: HR@10, NDCG@10 and MRR, beside rankings that learn nothing, by popularity, new items and new users.

    With --log, no model is run: the curve that one would have had on the decisions of a log, whose outcomes --labels
    tells. Rows that were asked at random (`serve --explore`, `serve --shadow`) stand for those that were not: by
    inverse propensity, and doubly robust. Whatever the LLM was not asked about with any chance is not guessed.
    """
    if log is not None:
        if data is not None or ranking:
            raise click.UsageError("--log excludes --data and --ranking")
        evaluate_log(bundle, log, labels, window_hours, clip, ratios, out, json)
        return
    if data is None:
        raise click.UsageError("Missing option '--data', or '--log'.")
    if labels is not None or json:
        raise click.UsageError("--labels and --json belong to --log.")
    if keep_history and not ranking:
        raise click.UsageError("--keep-history belongs to --ranking.")
    if labelled is not None and (ranking or not llm):
        raise click.UsageError("--labelled takes both models' scores; leave --ranking and --no-llm out.")
    need("evaluate", "report", "polars")
    need("evaluate", "cpu", "onnxruntime")
    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.evaluation.evaluate import evaluate as run
    from corella_edge_export.evaluation.evaluate import markdown
    from corella_edge_export.evaluation.labelled import labelled as as_rows
    from corella_edge_runtime.calibrate.log import write

    if ranking:
        _ranking(bundle, data, split, ROWS_RANKED if rows is None else rows, seed, out, keep_history)
        return
    folder = out or Path(f"evaluation-{bundle.name}-{split}")
    show = Show()
    with open_engine(bundle, llm="thread" if llm else None, llm_threads=llm_threads, tuned=False) as engine:
        tell_threshold(engine)
        prepared = PreparedData.open(data)
        result = run(engine, prepared, split, folder, rows or 0, seed, show, tuple(ratios))
        if labelled is not None:
            write(as_rows(engine, prepared, split, folder, rows or 0, seed, show), labelled)
    show.line.done()
    click.echo(markdown(result))
    click.echo(f"{folder}: evaluation.json, evaluation.md and plots")


def _ranking(bundle: Path, data: Path, split: str, rows: int, seed: int, out: Path | None, keep_history: bool) -> None:
    from corella_edge_export.data.prepared import PreparedData
    from corella_edge_export.evaluation import ranking

    folder = out or Path(f"ranking-{bundle.name}-{split}")
    show = Show()
    with open_engine(bundle, llm=None, tuned=False) as engine:
        prepared = PreparedData.open(data)
        result = ranking.evaluate_ranking(engine, prepared, split, folder, rows, seed, keep_history, show)
    show.line.done()
    click.echo(ranking.markdown(result))
    click.echo(f"{folder}: ranking.json and ranking.md")


class Show:
    """Progress of each step, with an estimate by the pace of this run."""

    def __init__(self) -> None:
        self.line = Progress()
        self._what, self._begun, self._from = "", 0.0, 0

    def __call__(self, what: str, done: int, of: int) -> None:
        if what != self._what:
            self._what, self._begun, self._from = what, time.monotonic(), done
        left = talk.left(of - done, done - self._from, time.monotonic() - self._begun)
        self.line.show(f"{what}: {done:,} of {of:,}{left}")
