"""`corella-edge prepare`: a publisher's files, or generated data, into the folder that training reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.prepare_log import log
from corella_edge.errors import MissingExtraError


def _reader_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For tab completion."""
    try:
        from corella_edge_export.data.registry import known
    except ModuleNotFoundError:  # without the extra [export]; a message would land in the line that is typed
        return []
    return [name for name in known() if name.startswith(incomplete)]


class Prepare(Command):
    """`prepare READER`; what is called `log` is a command of its own, with other options."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        if args[:1] == [log.name]:
            return log.make_context(f"{info_name} {log.name}", args[1:], parent, **extra)
        return super().make_context(info_name, args, parent, **extra)


@click.command(cls=Prepare)
@click.argument("reader", metavar="READER", shell_complete=_reader_names)
@click.option("--source", type=click.Path(path_type=Path), help="Folder with the publisher's files.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must be new.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True,
              help="Draws the requests, and the data themselves where they are generated.")  # fmt: skip
@click.option(
    "--extra",
    metavar="KIND",
    help="Further rows of a reader that has such (docs/data.md); noted as extra data.",
)
def prepare(reader: str, source: Path | None, out: Path, seed: int, extra: str | None) -> None:
    """Turn the data set READER into training data (docs/data.md lists the readers; so does an unknown name).

    `prepare log` joins a log of decisions and its clicks to a table, with options of its own (`prepare log --help`).

    A reader of published files reads those in --source; `synthetic` generates its data from --seed. The folder
    --out appears complete or not at all.
    """
    try:
        from corella_edge_export.data.prepare import prepare as run
    except ModuleNotFoundError as error:
        if error.name not in ("polars", "numpy"):
            raise
        raise MissingExtraError("prepare", "export") from None
    options = {"extra": extra} if extra else None
    summary = run(reader, source, out, seed=seed, options=options, progress=_say)
    click.echo(_report(summary))


def _say(message: str) -> None:
    talk.say(f"{message} …")


def _report(summary: dict[str, Any]) -> str:
    counts, unseen = summary["counts"], summary["unseen"]
    lines = [
        f"{summary['name']}: {counts['interactions']:,} interactions of {counts['users']:,} users "
        f"with {counts['items']:,} items; {counts['dropped']:,} rows only serve as history",
        "",
        f"{'split':<6} {'rows':>9}   of them of users / items absent from train",
    ]
    for split in ("train", "valid", "test"):
        line = f"{split:<6} {counts[split]:>9,}"
        if split in unseen:
            line += f"   {unseen[split]['user_rows']:.1%} / {unseen[split]['item_rows']:.1%}"
        lines.append(line)
    lines += ["", *(f"note: {note}" for note in summary["notes"])]
    return "\n".join([*lines, f"{summary['out']}: written in {summary['seconds']} s"])
