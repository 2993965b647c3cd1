"""`corella-edge catalog`: a bundle's items, without a new export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Group
from corella_edge.cli.common import TextInput

if TYPE_CHECKING:
    from corella_edge.formats.text_files import TextFile


@click.group(cls=Group)
def catalog() -> None:
    """Add or change a bundle's items without a new export."""


@catalog.command(short_help="Write a new bundle with items added or changed.")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("items", type=TextInput())
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="NEW", help="The new bundle's folder.")
@click.option("--extra", multiple=True, metavar="NAME",
              help="An attribute that may stand in ITEMS although no model reads it. May be given again.")  # fmt: skip
@click.option("--verify/--no-verify", default=True, show_default=True,
              help="Whether to repeat the reference rows before NEW appears.")  # fmt: skip
def update(bundle: Path, items: TextFile, out: Path, extra: tuple[str, ...], verify: bool) -> None:
    """Write NEW: BUNDLE with the items of ITEMS, one JSON object a line: {"item": id, "title": …, attributes}.

    Of an item that BUNDLE knows, the attributes given replace the old ones, null takes one away, all others stay.
    ITEMS may be compressed with gzip, or a pipe; - is standard input.
    The models and their vocabularies are not touched; unchanged files are hard-linked.
    """
    from corella_edge.cli.checking import reference_check
    from corella_edge_runtime.site import catalog_update

    progress = talk.Progress()

    def told(made: int, wanted: int) -> None:
        progress.show(f"{made:,} of {wanted:,} text vectors")

    done = catalog_update.update(bundle, items, out, extra, reference_check(verify), told)
    progress.done()
    for text in done.notes:
        talk.note(text)
    same = f", {done.same:,} as before" if done.same else ""
    click.echo(f"{done.label}: {done.added:,} added, {done.changed:,} changed{same}")
    dropped = f", {done.dropped:,} dropped, which rested on what was changed" if done.dropped else ""
    click.echo(f"{done.rows:,} reference rows kept{dropped}")
    click.echo(str(out))
