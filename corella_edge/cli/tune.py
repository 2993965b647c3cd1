"""`corella-edge tune`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import Finite
from corella_edge.cli.talk import Progress
from corella_edge.errors import InputError

if TYPE_CHECKING:
    from corella_edge_runtime.machine.plan import Plan

_BAR = 20


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--plan", type=click.Path(path_type=Path),
              help="Where to write the plan. Default: the user's state folder, where other commands look for it.",
              )  # fmt: skip
@click.option("--seconds", default=120.0, show_default=True, type=Finite(0.0),
              help="Measure for about this many seconds; every comparison gets at least five turns.")  # fmt: skip
def tune(bundle: Path, plan: Path | None, seconds: float) -> None:
    """Measure which files and settings of BUNDLE are fastest on this machine, and write its plan.

    Variants that lose accuracy (by the bundle's own figures) are not tried; what is not clearly faster does not
    replace the default. An LLM with adapters is measured with those that answer where a request names none. BUNDLE
    itself is never changed; Ctrl-C leaves an earlier plan as it was. With -q only the plan's path is printed.
    """
    from corella_edge_runtime.machine import plan as plans
    from corella_edge_runtime.tune.run import tune as run

    path = plan or plans.default_path(plans.bundle_key(bundle))
    _check_place(path, bundle)
    line = Progress()
    best, notes = run(bundle, seconds, lambda done, of, what: line.show(_bar(done, of, what)))
    line.done()
    best = _with_cost(best, bundle)
    plans.write(best, path)
    for text in notes:
        talk.warn(text)
    for text in () if talk.quiet() else _lines(best):
        click.echo(text)
    click.echo(str(path))


def _with_cost(best: Plan, bundle: Path) -> Plan:
    """The plan with what asking the LLM costs by it; as it is where that cannot be measured."""
    from msgspec.structs import replace

    from corella_edge_runtime.calibrate.run import cost_here
    from corella_edge_runtime.machine import plan as plans

    if best.llm is None:
        return best
    with TemporaryDirectory() as folder:
        plans.write(best, Path(folder, "plan.json"))
        cost, why = cost_here(bundle, Path(folder, "plan.json"))
    if cost is None:
        talk.warn(f"what asking the LLM costs is not in the plan: {why}")
        return best
    return replace(best, llm=replace(best.llm, ask_ms=(round(cost.first, 3), round(cost.further, 3))))


def _check_place(path: Path, bundle: Path) -> None:
    if path.resolve().is_relative_to(bundle.resolve()):
        raise InputError(f"--plan {path}: is inside the bundle, which is never changed; name a file elsewhere")
    if path.is_dir():
        raise InputError(f"--plan {path}: is a folder; name a file")


def _bar(done: int, of: int, what: str) -> str:
    full = _BAR * done // max(1, of)
    return f"[{'#' * full}{'.' * (_BAR - full)}] {done} of {of}: {what}"


def _lines(plan: Plan) -> Iterator[str]:
    """The table, and what was chosen."""
    for row in plan.table:
        yield from _row(row)
    yield f"CRM: {plan.crm.file}, {plan.crm.threads} thread(s){_cores(plan.crm.cores)}"
    if plan.llm is not None:
        settings = plan.llm.settings
        cores = _cores(tuple(settings["cores"]))
        yield f"LLM: {plan.llm.file}, {settings['threads']} thread(s){cores}, batch {settings['batch']}"
        if plan.llm.adapters:
            shown = ", ".join(f"{name} ({weight:g})" for name, weight in plan.llm.adapters.items())
            yield f"measured with the adapters that answer where a request names none: {shown}"
        if plan.llm.ask_ms is not None:
            yield "asking it: {:.1f} ms for a request's first candidate, {:.1f} ms for each further one".format(
                *plan.llm.ask_ms
            )


def _row(row: Mapping[str, Any]) -> Iterator[str]:
    verdict = "taken" if row["won"] else "not taken"
    figures = f"ratio {row['ratio']:.3f}, at most {row['ratio_upper']:.3f}" if row["turns"] else row["note"]
    yield f"{row['challenger']} against {row['incumbent']}: {verdict} ({figures}; {row['turns']} turns)"
    for name, (mine, other) in row["ms"].items():
        yield f"  {name:<15} {mine:9.3f} ms against {other:9.3f} ms"


def _cores(cores: tuple[int, ...]) -> str:
    return f" on core(s) {', '.join(map(str, cores))}" if cores else ""
