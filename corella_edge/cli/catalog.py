"""`corella-edge catalog`: a bundle's items, without a new export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Group
from corella_edge.cli.common import TextFileType

if TYPE_CHECKING:
    from corella_edge.formats.text_files import TextFile
    from corella_edge_runtime.site.catalog_change import CatalogChange


OPTIONS = (
    click.argument("bundle", type=click.Path(path_type=Path)),
    click.argument("items", type=TextFileType()),
    click.option("--out", type=click.Path(path_type=Path), required=True, metavar="NEW",
                 help="The new bundle's folder."),
    click.option("--extra", multiple=True, metavar="NAME",
                 help="An attribute that may stand in ITEMS although no model reads it. May be given again."),
    click.option("--verify/--no-verify", default=True, show_default=True,
                 help="Whether to repeat the reference rows before NEW appears."),
)  # fmt: skip


@click.group(cls=Group)
def catalog() -> None:
    """Add, change or replace a bundle's items without a new export."""


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """What both ways to a new catalogue take."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@catalog.command(short_help="Write a new bundle with items added or changed.")
@_options
def update(bundle: Path, items: TextFile, out: Path, extra: tuple[str, ...], verify: bool) -> None:
    """Write NEW: BUNDLE with the items of ITEMS, one JSON object a line: {"item": id, "title": …, attributes}.

    Of an item that BUNDLE knows, the attributes given replace the old ones, null takes one away, all others stay.
    ITEMS may be compressed with gzip, or a pipe; - is standard input.
    The models and their vocabularies are not touched; unchanged files are hard-linked.
    """
    from corella_edge_runtime.site.catalog_update import Update

    _write(Update, bundle, items, out, extra, verify)


@catalog.command(short_help="Write a new bundle with other items in place of all.")
@_options
def replace(bundle: Path, items: TextFile, out: Path, extra: tuple[str, ...], verify: bool) -> None:
    """Write NEW: BUNDLE with the items of ITEMS and no others, one JSON object a line: {"item": id, "title": …, …}.

    For a base model that knows items by their words (kind text-sequence): to others a new id is an unknown one.
    BUNDLE's sample of requests stays behind. Where no reference row, or none of an adapter, names items of NEW alone,
    this machine scores rows of NEW's items beside those that do. Routing thresholds stay those of the old catalogue;
    `inspect` and `serve` say so.
    """
    from corella_edge_runtime.site.catalog_replace import Replacement

    _write(Replacement, bundle, items, out, extra, verify)


def _write(
    kind: type[CatalogChange], bundle: Path, items: TextFile, out: Path, extra: tuple[str, ...], verify: bool
) -> None:
    """Make NEW, and say what became of items and reference rows."""
    from corella_edge.cli.checking import reference_check
    from corella_edge_runtime.site.catalog_change import change

    progress = talk.Progress()

    def told(made: int, wanted: int) -> None:
        progress.show(f"{made:,} of {wanted:,} text vectors")

    done = change(kind, bundle, items, out, extra, reference_check(verify), told)
    progress.done()
    for text in done.notes:
        talk.note(text)
    removed = f", {done.removed:,} removed" if done.removed else ""
    same = f", {done.same:,} as before" if done.same else ""
    click.echo(f"{done.label}: {done.added:,} added, {done.changed:,} changed{same}{removed}")
    dropped = f", {done.dropped:,} dropped, which rested on what was changed" if done.dropped else ""
    click.echo(f"{done.rows:,} reference rows kept{dropped}")
    click.echo(str(out))
