"""`corella-edge score`: a file of requests → a file of answers, or a table in partitions → another."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from corella_edge.cli.base import Command
from corella_edge.cli.common import LOG, LOG_MIB, TextFileType, engine_options, open_engine, open_log, tell_threshold
from corella_edge.cli.score_table import Cluster, ScoreProgress, cluster_options, score_table
from corella_edge.routing.forms import HELP

if TYPE_CHECKING:
    from corella_edge.formats.text_files import TextFile


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source", metavar="IN", type=TextFileType())
@click.option("--out", type=click.Path(path_type=Path, allow_dash=True),
              help="File to write, or folder where IN is one; - is stdout, the default where IN is -.")  # fmt: skip
@click.option("--threshold", help=f"{HELP} Default: the bundle's own.")
@cluster_options
@engine_options("thread")
@click.option("--deterministic", is_flag=True,
              help="LLM scores bit-equal on repeat: one prompt at a time; slower. Not for a server's LLM.")  # fmt: skip
@LOG
@LOG_MIB
@click.option("--force", is_flag=True, help="Replace an existing --out.")
def score(
    bundle: Path, source: TextFile, out: Path | None, threshold: str | None, engine: dict[str, Any],
    deterministic: bool, log: Path | None, log_mib: float, force: bool, cluster: Cluster | None,
) -> None:  # fmt: skip
    """Score the requests in IN, one JSON object a line or one row of Parquet each, with BUNDLE.

    JSON lines may be compressed with gzip, or a pipe; - is standard input, whose answers go to standard output unless
    --out names a file. All lines are checked before the first is scored, and --out appears complete or not at all.

    A Parquet file is answered by one, a folder of them by a folder with a file of the same name for each, a row a
    candidate. Each file appears complete or not at all, and its rows are checked before the first is scored. Files
    that are there already, of the same bundle, settings and input, are kept. --engine ray has the workers of a Ray
    cluster score them.

    After an interruption the same command resumes where it stopped.
    """
    from corella_edge_runtime import batch
    from corella_edge_runtime.partitions import layout

    to = _file(out, source)
    if layout.is_table(source.path):
        if log is not None:
            raise click.UsageError("--log keeps decisions on JSON lines; a table of answers holds all of them already")
        score_table(bundle, cast(Path, source.path), to, threshold, {**engine, "deterministic": deterministic}, force,
                    cluster)  # fmt: skip
        return
    if cluster is not None:
        raise click.UsageError(f"--engine ray scores Parquet, a file or a folder of files; {source} is none")
    if to is not None:
        batch.check_out(to, source, force)
    tally = batch.check_requests(source)
    with ExitStack() as stack:
        decisions = stack.enter_context(open_log(log, log_mib)) if log else None
        opened = stack.enter_context(open_engine(bundle, **engine, threshold=threshold, deterministic=deterministic))
        if tally.strict or opened.refuses:
            batch.check_all(opened.check, source)
        tell_threshold(opened)
        show = ScoreProgress(opened.policy)
        if to is None:
            batch.score_stream(opened, source, sys.stdout.buffer, tally, show, decisions)
        else:
            options = {"policy": opened.policy.key, "llm": opened.llm is not None, "deterministic": deterministic}
            batch.score_file(opened, source, to, tally, batch.identity(bundle, source, options), show, decisions)
        show.finish(tally)


def _file(out: Path | None, source: TextFile) -> Path | None:
    """Where answers go; None is standard output."""
    if out is None and source.path is not None:
        raise click.UsageError(
            "Missing option '--out': add --out FILE, or pass - as IN to read standard input and print the answers."
        )
    return None if out is None or str(out) == "-" else out
