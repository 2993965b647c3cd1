"""`corella-edge data`: public data sets, fetched from their publishers and described."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command, Group
from corella_edge.cli.prepare import new_folder
from corella_edge.errors import InputError, MissingExtraError


@click.group(cls=Group)
def data() -> None:
    """Public data sets to try things with."""


@data.command(cls=Command)
@click.argument("name", metavar="NAME")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must be new.")
@click.option("--accept-licence", is_flag=True, help="Do not ask whether the licence is accepted.")
def download(name: str, out: Path, accept_licence: bool) -> None:
    """Fetch the data set NAME from its publisher: ml-100k, ml-1m, ml-20m, ml-25m, ml-latest-small, or a category of
    Amazon's reviews, such as amazon-2018/Gift_Cards.

    The licence is shown and must be accepted. A file is compared with the checksum that its publisher states; where
    none is stated, SOURCE.json records what came. An interrupted download goes on when the command is run again.
    """
    with _exporter("data download"):
        from corella_edge_export.data import download as downloads
    found = downloads.data_set(name)
    talk.say(f"{name}: {found.licence}")
    if not accept_licence:
        click.confirm("Do you accept this licence?", abort=True, err=True)
    hashes = downloads.download(found, out, _progress())
    for file in found.files:
        checked = "as its publisher states" if file.md5 else "its publisher states no checksum"
        talk.say(f"{file.name}: sha256 {hashes[file.name]}; {checked}")
    click.echo(f"{out}: written")
    talk.then("prepare", found.reader, "--source", out, "--out", new_folder(out.name))


@data.command(cls=Command)
@click.argument("reader", metavar="READER")
@click.option("--source", type=click.Path(path_type=Path), required=True, help="Folder with the publisher's files.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write; must be new.")
def describe(reader: str, source: Path, out: Path) -> None:
    """Write what READER knows of a publisher's files as OUT/data.toml, to change it and prepare by it.

    Files that no description can express are rewritten as JSON lines beside it.
    """
    with _exporter("data describe"):
        from corella_edge_export.data import registry
        from corella_edge_export.data.table.prepare import write_description
    found = registry.check(reader, source, {})
    if found.describe is None:
        raise InputError(f"the reader {reader!r} reads its files by rules of its own; there is no description of them")
    config = write_description(reader, found.describe, source, out)
    click.echo(f"{config}: written")
    talk.then("prepare", "table", "--config", config, "--dry")


@contextmanager
def _exporter(command: str) -> Iterator[None]:
    """What is imported within needs the extra [export]."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in ("corella_edge_export", "polars", "duckdb", "zstandard", "numpy"):
            raise
        raise MissingExtraError(command, "export") from None


def _progress() -> Callable[[int, int | None], None]:
    """Says every 50 MB how far a file is."""
    said = [0]

    def tell(done: int, size: int | None) -> None:
        if done // 50_000_000 != said[0]:
            said[0] = done // 50_000_000
            talk.say(f"{done / 1e6:,.0f} MB" + (f" of {size / 1e6:,.0f} MB" if size else ""))

    return tell
