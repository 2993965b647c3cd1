"""`corella-edge init`: a person's files, looked at, into a description that `prepare table` reads."""

from __future__ import annotations

from pathlib import Path

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.errors import MissingExtraError


@click.command(cls=Command)
@click.argument("files", metavar="FILE…", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("data.toml"), show_default=True,
              help="File to write; must be new.")  # fmt: skip
def init(files: tuple[Path, ...], out: Path) -> None:
    """Look at FILE… (CSV, JSON lines, Parquet; plain, gzip or zstd) and describe them in a data.toml.

    Name the file of the events and, where there are such, those of the items and of the users; a folder stands for
    its files. What the files leave open is written as "CHOOSE: …", for you to decide.
    """
    try:
        from corella_edge_export.data.table.propose.proposal import propose
    except ModuleNotFoundError as error:
        if error.name not in ("polars", "numpy", "duckdb", "zstandard"):
            raise
        raise MissingExtraError("init", "export") from None
    found = propose(files, out, lambda message: talk.say(f"{message} …"))
    lines = ["The first events:", "", *(f"  {row}" for row in found.rows), ""]
    lines += [f"note: {note}" for note in found.notes]
    lines += [f"{out}: written"]
    if found.questions:
        lines += ["", f"To decide in {out}:", *(f"  {question}" for question in found.questions)]
    click.echo("\n".join([*lines, "", "Then type:", f"  {found.next}"]))
