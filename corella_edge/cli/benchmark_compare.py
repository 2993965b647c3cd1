"""`corella-edge benchmark --compare`: reports side by side, or a fleet's on one page, and an exit status for CI."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from corella_edge.cli.common import echo_json
from corella_edge.errors import InputError

OF_ENGINE = ("llm", "llm_backend", "require_llm", "crm_threads", "llm_threads", "crm_memory_mib", "plan", "no_plan")
ONLY, BOTH = ("compare", "max_slowdown"), ("out", "json", "verbose", "quiet")
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*%")


class Percent(click.ParamType[float]):
    """A part of a time, written in per cent: 5% is 0.05."""

    name = "percent"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = _PERCENT.fullmatch(str(value).strip())
        if found is None:
            self.fail(f"{value!r} is not a number of per cent, such as 5%", param, ctx)
        return float(found[1]) / 100.0


def _given(ctx: click.Context) -> dict[str, str]:
    """The options on the command line, by name."""
    from click.core import ParameterSource

    options = {one.name: one.opts[0] for one in ctx.command.params if isinstance(one, click.Option) and one.name}
    return {name: option for name, option in options.items()
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}  # fmt: skip


def check_url(ctx: click.Context) -> None:
    """Raises UsageError for options of an engine in this process: with --url a server has opened its own."""
    wrong = [option for name, option in _given(ctx).items() if name in OF_ENGINE]
    if wrong:
        raise click.UsageError(f"{wrong[0]} is for this process, and --url measures a server; give it to `serve`")


def check_requests(ctx: click.Context) -> None:
    """Raises UsageError for options about requests that are made, beside requests that are given."""
    given = _given(ctx)
    wrong = [option for name, option in given.items() if name in ("made_up", "candidates")]
    if "requests" in given and wrong:
        raise click.UsageError(f"--requests and {wrong[0]} exclude each other: those of a file are sent as they are")


def check_options(ctx: click.Context, compare: bool) -> None:
    """Raises UsageError for options that only the other use of the command has."""
    wrong = [option for name, option in _given(ctx).items() if (name in ONLY) != compare and name not in BOTH]
    if wrong and compare:
        raise click.UsageError(f"{wrong[0]} is for a measurement, and --compare measures nothing")
    if wrong:
        raise click.UsageError(f"{wrong[0]} is for --compare")


def compare_reports(paths: Sequence[Path], most: float, out: Path | None, json: bool) -> None:
    """Two or more reports against the first of them; or all reports below one folder.

    Raises:
        InputError: a report cannot be read, or it is not clear what to compare. RegressionError, VoidError: as judged.
    """
    from corella_edge_runtime.bench.results.result import FILE

    if len(paths) == 1 and not (paths[0].is_dir() and not (paths[0] / FILE).exists()):
        raise InputError(f"--compare {paths[0]}: give two reports or more, or one folder with folders of reports")
    if len(paths) == 1:
        _fleet(paths[0], out, json)
    else:
        _side_by_side(paths, most, out, json)


def _fleet(folder: Path, out: Path | None, json: bool) -> None:
    from corella_edge_runtime.bench.comparing import fleet
    from corella_edge_runtime.bench.reports import report

    found, damaged = fleet.find(folder)
    names = tuple(damaged)
    if out is not None:
        report.check_folder(out, fleet.FILES)
        fleet.write(found, out, names)
    if json:
        echo_json(fleet.as_json(found, names))
    else:
        click.echo("\n".join([fleet.text(found, names), *_where(out, fleet.FILES)]))
    if damaged:
        raise InputError(f"left out: {'; '.join(damaged.values())}")


def _side_by_side(paths: Sequence[Path], most: float, out: Path | None, json: bool) -> None:
    from corella_edge_runtime.bench.comparing import compare_report
    from corella_edge_runtime.bench.comparing.compare import compare
    from corella_edge_runtime.bench.reports import report
    from corella_edge_runtime.bench.results.result import read

    results = [read(path) for path in paths]
    found = compare(compare_report.named(paths, results), results, most)
    if out is not None:
        report.check_folder(out, compare_report.FILES)
        compare_report.write(found, out)
    if json:
        echo_json(compare_report.as_json(found))
    else:
        click.echo("\n".join([compare_report.text(found), *_where(out, compare_report.FILES)]))
    compare_report.judge(found)


def _where(out: Path | None, files: dict[str, str]) -> list[str]:
    """Where the files are."""
    if out is None:
        return ["", "--out DIR keeps every figure, as a page with plots and as text; --json prints them."]
    return ["", *(f"{out / name}: {what}" for name, what in files.items())]
