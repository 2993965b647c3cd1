"""`corella-edge report`: a run's logs → one HTML page with plots."""

from __future__ import annotations

from pathlib import Path

import click

from corella_edge.cli.base import Command
from corella_edge.cli.common import need


@click.command(cls=Command)
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write RUN/report.html: losses, validation AUC, alignment distance and calibration of every stage.

    Needs no network to be read. Of an unfinished run it shows what there is so far.
    """
    need("report", "report", "matplotlib")
    from corella_edge_export.report import write_report

    click.echo(f"{write_report(run)}: written")
