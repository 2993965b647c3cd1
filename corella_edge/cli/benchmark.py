"""`corella-edge benchmark`: what each routed share costs and gains on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli.base import Command
from corella_edge.cli.common import (
    Finite,
    Ratios,
    TextFileType,
    echo_json,
    engine_options,
    json_option,
    open_engine,
    tell_threshold,
)
from corella_edge.cli.talk import Progress
from corella_edge.routing.policy import RATIOS

if TYPE_CHECKING:
    from corella_edge.formats.text_files import TextFile


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--ratios", type=Ratios(), default=",".join(f"{r:g}" for r in RATIOS), show_default=True,
              help="Shares of candidates that the LLM is asked about, separated by commas.")  # fmt: skip
@click.option("--candidates", default=20, show_default=True, type=click.IntRange(1, 10_000),
              help="Candidates in each request that is made from the sample.")  # fmt: skip
@click.option("--requests", type=TextFileType(),
              help="File of requests to time as they are. Default: requests made from the sample.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for benchmark.json, .md and .svg, which replace earlier ones; it may hold nothing else.",
              )  # fmt: skip
@click.option("--max-requests", default=200, show_default=True, type=click.IntRange(1), help="Requests to time.")
@click.option("--repeat", default=1, show_default=True, type=click.IntRange(1), help="Passes over the requests.")
@click.option("--seconds", default=120.0, show_default=True, type=Finite(0.0),
              help="Stop timing after this many seconds.")  # fmt: skip
@click.option("--max-labelled", default=2000, show_default=True, type=click.IntRange(0),
              help="Labelled rows to score for the AUC; 0 leaves it out.")  # fmt: skip
@engine_options("thread")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0),
              help="Seed for drawing users and items, and for their order.")  # fmt: skip
@json_option
def benchmark(
    bundle: Path, ratios: list[float], candidates: int, requests: TextFile | None, out: Path | None, max_requests: int,
    repeat: int, seconds: float, max_labelled: int, engine: dict[str, Any], seed: int, json: bool,
) -> None:  # fmt: skip
    """Measure latency, throughput and AUC of BUNDLE on this machine, by the share of candidates the LLM is asked about.

    Share 0 is the base model (CRM) alone. Prints what the models alone cost and a short table; --out DIR keeps all
    figures, the notes on how they were measured, and a plot.
    """
    from corella_edge_runtime.bench import report
    from corella_edge_runtime.bench.run import BenchSettings, run

    if out is not None:
        report.check_folder(out)
    line = Progress()
    with open_engine(bundle, **engine) as opened:
        tell_threshold(opened)
        threads = (opened.setup.crm_threads, opened.setup.llm.threads) if opened.setup else (1, 1)
        settings = BenchSettings(tuple(ratios), candidates, max_requests, max_labelled, repeat, seconds, seed, *threads)
        result = run(opened, requests, settings, lambda what, done, of: line.show(f"{what}: {done:,} of {of:,}"))
    line.done()
    if out is not None:
        report.write(result, out)
    if json:
        echo_json(result)
    else:
        click.echo(report.text(result, out))
