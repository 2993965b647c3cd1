"""`corella-edge prepare`: a person's own table, a publisher's files or generated data into what training reads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from corella_edge.cli import prepared, talk
from corella_edge.cli.base import Command
from corella_edge.cli.prepare_log import log
from corella_edge.errors import InputError, MissingExtraError

TABLE = "table"  # the reader of a person's own files


def _reader_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For tab completion."""
    try:
        from corella_edge_export.data.registry import known
    except ModuleNotFoundError:  # without the extra [export]; a message would land in the line that is typed
        return []
    return [name for name in (*known(), TABLE) if name.startswith(incomplete)]


class Size(click.ParamType[int]):
    """A size such as 512MiB or 4GiB, as bytes."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([MG])(iB|B)?", str(value), re.IGNORECASE)
        if found is None:
            self.fail(f"{value!r} is no size, such as 512MiB or 4GiB", param, ctx)
        unit = 1000 if found[3] and found[3].lower() == "b" else 1024
        return int(float(found[1]) * unit ** (2 if found[2] in "mM" else 3))


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
@click.option("--config", type=click.Path(path_type=Path), help="data.toml that describes the files; for READER table.")
@click.option("--source", type=click.Path(path_type=Path), help="Folder with the publisher's files.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder to write; must be new.")
@click.option(
    "--dry",
    is_flag=True,
    help="Show what would become of every row, and write nothing.",
)
@click.option(
    "--memory",
    type=Size(),
    metavar="SIZE",
    default="1GiB",
    show_default=True,
    help="What DuckDB may hold in memory; the rest is spilled to a folder beside --out.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Draws the requests, and the data themselves where they are generated.",
)
@click.option("--negatives", type=click.IntRange(min=0),
              help="Rows with label 0 drawn for each positive row, where every event is a like.")  # fmt: skip
@click.option("--hide-items", type=click.FloatRange(0, 1, max_open=True), metavar="SHARE",
              help="Share of items, drawn by seed, that get no training row: new items to test with.")  # fmt: skip
@click.option("--extra", metavar="KIND",
              help="Further rows of a reader that has such (docs/data.md); noted as extra data.")  # fmt: skip
def prepare(
    reader: str,
    config: Path | None,
    source: Path | None,
    out: Path | None,
    dry: bool,
    memory: int,
    seed: int,
    negatives: int | None,
    hide_items: float | None,
    extra: str | None,
) -> None:
    """Turn the data set READER into training data (docs/data.md lists the readers; so does an unknown name).

    `table` reads files of your own, as --config describes them; `init` writes such a description. Another reader reads
    a publisher's files in --source; `synthetic` generates its data from --seed. The folder --out appears complete or
    not at all.

    `prepare log` joins a log of decisions and its clicks to a table, with options of its own (`prepare log --help`).
    """
    if out is None and not dry:
        raise click.UsageError("Missing option '--out'.")
    choices = {"negatives": negatives, "hide_items": hide_items}
    settings: dict[str, Any] = {"seed": seed, "memory": memory, "progress": _say, **choices}
    try:
        if reader == TABLE:
            summary = _table(config, source, extra, None if dry else out, settings)
        else:
            summary = _publisher(reader, config, source, extra, None if dry else out, settings)
    except ModuleNotFoundError as error:
        if error.name not in ("polars", "numpy", "duckdb", "zstandard"):
            raise
        raise MissingExtraError("prepare", "export") from None
    click.echo(_report(summary))
    options = {"--config": config, "--source": source, "--extra": extra, "--negatives": negatives,
               "--hide-items": hide_items}  # fmt: skip
    talk.then(*_next(summary, reader, options))


def _next(summary: dict[str, Any], reader: str, options: Mapping[str, object]) -> Iterator[object]:
    """The same command without --dry, or the training of what was written.

    The recipe `generic` takes whatever was prepared: from likes alone it learns which item comes next.
    """
    if summary["out"]:
        yield from ("train", "generic", "--data", summary["out"], "--out", Path("runs", Path(summary["out"]).name))
        return
    yield from ("prepare", reader)
    for option, value in options.items():
        yield from (option, value) if value is not None else ()
    yield from ("--out", new_folder(re.sub(r"[^\w.+-]+", "-", summary["name"])))


def new_folder(name: str) -> Path:
    """Where the data set of that name may be prepared, as a proposal: the publisher's files may stand in data/."""
    return Path("prepared" if Path("data", name).exists() else "data", name)


def _table(
    config: Path | None, source: Path | None, extra: str | None, out: Path | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    if config is None:
        raise InputError(
            "prepare table needs --config data.toml; `corella-edge init FILE... --out data.toml` writes one"
        )
    if source is not None or extra is not None:
        raise InputError("prepare table takes its files from --config; leave out --source and --extra")
    from corella_edge_export.data.table.parse import read_description
    from corella_edge_export.data.table.prepare import changed, look_at_table, prepare_table

    further = dict(settings)
    description = changed(read_description(config), further.pop("negatives"), further.pop("hide_items"))
    return look_at_table(description, **further) if out is None else prepare_table(description, out, **further)


def _publisher(
    reader: str,
    config: Path | None,
    source: Path | None,
    extra: str | None,
    out: Path | None,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    if config is not None:
        raise InputError(f"--config belongs to `prepare {TABLE}`; the reader is {reader!r}")
    from corella_edge_export.data.prepare import look
    from corella_edge_export.data.prepare import prepare as run

    if out is None:
        return look(reader, source, **settings)
    return run(reader, source, out, options={"extra": extra} if extra else None, **settings)


def _say(message: str) -> None:
    talk.say(f"{message} …")


def _report(summary: dict[str, Any]) -> str:
    return "\n".join([*prepared.page(summary), _end(summary)])


def _end(summary: dict[str, Any]) -> str:
    if not summary["out"]:
        return "nothing was written (--dry)"
    if summary.get("already"):
        return f"{summary['out']}: already prepared from these files and settings; left as it is"
    return f"{summary['out']}: written in {summary['seconds']} s"
