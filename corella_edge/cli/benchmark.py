"""`corella-edge benchmark`: what each routed share costs and gains on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.benchmark_compare import Percent, check_options, check_requests, check_url, compare_reports
from corella_edge.cli.common import (
    Duration,
    TextFileType,
    engine_options,
    json_option,
    open_engine,
    tell_threshold,
)
from corella_edge.cli.talk import Progress
from corella_edge.errors import BundleError, InputError, InterruptedRunError
from corella_edge.stopping import stop_on_sigint

if TYPE_CHECKING:
    from corella_edge.formats.text_files import TextFile
    from corella_edge_runtime.bench.measure.opened import Opened
    from corella_edge_runtime.bench.results.result import Result
    from corella_edge_runtime.bench.settings import BenchSettings

RATIOS = "0,1%,2%,5%,10%,20%,50%,100%"
SCENARIOS = ("single", "server", "offline")
USERS = ("new", "returning")


class Words(click.ParamType[tuple[str, ...]]):
    """Some of a few words, separated by commas; in the order in which they are known."""

    name = "words"

    def __init__(self, known: tuple[str, ...]) -> None:
        self.known = known

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        given = {word.strip() for word in str(value).split(",")}
        if not given <= set(self.known):
            self.fail(f"{str(value)[:60]!r} has words other than {', '.join(self.known)}", param, ctx)
        return tuple(word for word in self.known if word in given)


class Thresholds(click.ParamType[tuple[str, ...]]):
    """Shares and other thresholds, separated by commas."""

    name = "thresholds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        from corella_edge_runtime.bench.settings import as_thresholds

        if isinstance(value, tuple):
            return value
        try:
            return as_thresholds(str(value))
        except InputError as error:
            self.fail(str(error), param, ctx)


@click.command(cls=Command)
@click.argument("paths", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="BUNDLE")
@click.option("--url", metavar="URL",
              help="Measure the server at http://HOST:PORT, which serves BUNDLE, instead of this process.")  # fmt: skip
@click.option("--scenario", type=Words(SCENARIOS), default=",".join(SCENARIOS), show_default=True,
              help="How requests come: single, one when the one before is answered; server, at random moments; "
              "offline, all at once.")  # fmt: skip
@click.option("--ratios", type=Thresholds(), default=RATIOS, show_default=True,
              help="Shares of the candidates that the LLM is asked about, separated by commas: 0.05, 5%, or any "
              "threshold that `serve` takes.")  # fmt: skip
@click.option("--users", type=Words(USERS), default=",".join(USERS), show_default=True,
              help="Whose requests: new, of users whose history the LLM has not read; returning, of those it has.",
              )  # fmt: skip
@click.option("--slo", metavar="QUANTILE=TIME",
              help="Latency objective, such as p99=30ms: the largest rate that keeps it is looked for, and what misses "
              "it is counted.")  # fmt: skip
@click.option("--budget", type=Duration(1.0, 86_400.0), default="5m", show_default=True,
              help="Time for all that is measured, such as 90s or 1h. It decides how many requests a figure rests on.",
              )  # fmt: skip
@click.option("--repeats", default=12, show_default=True, type=click.IntRange(1, 100),
              help="Rounds over everything, by which the intervals are made. Where the budget is short, a point is "
              "measured in fewer of them.")  # fmt: skip
@click.option("--candidates", default=20, show_default=True, type=click.IntRange(1, 10_000),
              help="Candidates in each request that is made; not with --requests.")  # fmt: skip
@click.option("--requests", type=TextFileType(),
              help="File of requests to send as they are. Default: made from the bundle's sample.")  # fmt: skip
@click.option("--made-up", is_flag=True, help="Make users up, even where the bundle has a sample.")
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for the report, which replaces an earlier one; it may hold nothing else. An interrupted "
              "benchmark goes on there.")  # fmt: skip
@click.option("--compare", is_flag=True,
              help="Measure nothing: name reports (folders or benchmark.json) instead of BUNDLE, and each is held "
              "against the first; or one folder with reports below it, for a page of them all. Exit code 8 is a "
              "regression, 9 that nothing may be concluded.")  # fmt: skip
@click.option("--max-slowdown", default="5%", show_default=True, type=Percent(),
              help="With --compare: the slowdown that is no regression yet.")  # fmt: skip
@click.option("--max-labelled", default=2000, show_default=True, type=click.IntRange(0),
              help="Labelled rows to score for quality; 0 leaves it out.")  # fmt: skip
@engine_options("thread")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0),
              help="Seed for drawing users, items and moments, and for their order.")  # fmt: skip
@json_option
def benchmark(
    paths: tuple[Path, ...], compare: bool, max_slowdown: float, url: str | None,
    requests: TextFile | None, out: Path | None, engine: dict[str, Any], json: bool, **asked: Any,
) -> None:  # fmt: skip
    """Measure latency, throughput and quality of BUNDLE on this machine, by the share of candidates the LLM is asked
    about.

    Share 0 is the base model (CRM) alone. The reference scores of BUNDLE are checked first. Prints a short table;
    --out DIR keeps the report, all figures and every measured request.
    """
    check_options(click.get_current_context(), compare)
    if compare:
        compare_reports(paths, max_slowdown, out, json)
        return
    if len(paths) > 1:
        raise click.UsageError("name one BUNDLE; several reports are for --compare")
    check_requests(click.get_current_context())
    if url is not None:
        check_url(click.get_current_context())
    _measure(paths[0], url, requests, out, engine, json, asked)


def _measure(
    bundle: Path, url: str | None, requests: TextFile | None, out: Path | None, engine: dict[str, Any], json: bool,
    asked: dict[str, Any],
) -> None:  # fmt: skip
    from corella_edge_runtime.bench.reports import report
    from corella_edge_runtime.bench.run import run

    settings = _settings(asked, 1 if url else 0)
    if out is not None:
        report.check_folder(out)
    line = Progress()
    with _opened(bundle, url, engine) as opened, stop_on_sigint() as stop:
        result = run(opened, requests, settings, lambda what, done, of: line.show(f"{done:,} of {of:,}: {what}"), out,
                     talk.say, stop.is_set)  # fmt: skip
    line.done()
    if out is not None:
        report.write(result, out)
    if result.void:
        raise BundleError(f"{bundle}: {result.void}; nothing was measured")
    if not result.complete:
        _interrupted(result, out, json)
    _show(result, out, json)


def _interrupted(result: Result, out: Path | None, json: bool) -> NoReturn:
    """Without a folder, what is finished is shown, because nothing keeps it. Raises InterruptedRunError."""
    count = f"{len(result.points)} of {result.planned} points"
    if out is not None:
        raise InterruptedRunError(f"interrupted; {count} are in {out}; the same command goes on")
    if result.points:
        _show(result, out, json)
    raise InterruptedRunError(f"interrupted; {count} are measured, and nothing is kept of them without --out")


def _settings(asked: dict[str, Any], cores: int) -> BenchSettings:
    """`cores`: processes of an Offline run; 0 = one on each core."""
    import os

    from corella_edge_runtime.bench.settings import BenchSettings

    settings = BenchSettings(
        thresholds=asked["ratios"], scenarios=asked["scenario"], users=asked["users"], candidates=asked["candidates"],
        slo=asked["slo"], budget=asked["budget"], repeats=asked["repeats"], max_labelled=asked["max_labelled"],
        made_up=asked["made_up"], seed=asked["seed"], cores=cores or len(os.sched_getaffinity(0)),
    )  # fmt: skip
    _ = settings.objective  # a mistake is told before anything is opened
    return settings


@contextmanager
def _opened(bundle: Path, url: str | None, engine: dict[str, Any]) -> Iterator[Opened]:
    from corella_edge_runtime.bench.measure.opened import Opened

    if url is not None:
        opened = Opened.at(url, bundle)
        with closing(opened.target):
            yield opened
        return
    with open_engine(bundle, **engine) as own:
        tell_threshold(own)
        yield Opened.here(own)


def _show(result: Result, out: Path | None, json: bool) -> None:
    from corella_edge_runtime.bench.reports import report
    from corella_edge_runtime.bench.results.result import encode

    click.echo(encode(result).decode().rstrip() if json else report.text(result, out))
