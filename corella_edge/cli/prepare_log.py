"""`corella-edge prepare log`: decisions and clicks → the next table of events."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import Finite

_PATH = click.Path(path_type=Path)


@click.command("log", cls=Command, short_help="Join a log of decisions and its clicks to a table of events.")
@click.option("--decisions", type=_PATH, required=True, help="Folder that `serve --log` or `score --log` wrote, or one "
              "file of it.")  # fmt: skip
@click.option("--clicks", type=_PATH, required=True, help="JSON lines or CSV: request, item, time (Unix seconds), and "
              "if known event and quantity.")  # fmt: skip
@click.option("--items", type=_PATH, required=True, help="The bundle that was served, or a file of items, one JSON "
              "object a line.")  # fmt: skip
@click.option("--out", type=_PATH, required=True, help="Folder to write; must be new.")
@click.option("--window-hours", default=24.0, show_default=True, type=Finite(0, min_open=True),
              help="A click counts so long after its decision.")  # fmt: skip
@click.option("--event", multiple=True, metavar="NAME",
              help="A kind of click that counts. May be given again. Default: every kind does.")  # fmt: skip
@click.option("--shown", type=click.IntRange(1), metavar="N",
              help="Somebody saw the first N ranks alone. Default: all that was answered.")  # fmt: skip
def log(
    decisions: Path, clicks: Path, items: Path, out: Path, window_hours: float, event: tuple[str, ...],
    shown: int | None,
) -> None:  # fmt: skip
    """Write the folder OUT: one row an item that was shown, label 1 if it was chosen in time.

    OUT/data.toml describes it for `corella-edge prepare table --config OUT/data.toml`. Every item shown and every
    click is in the ledger: kept, or dropped for a reason that is counted.
    """
    from corella_edge_export.data.clicks.join import HOUR, JoinPlan, prepare_log

    plan = JoinPlan(window_hours * HOUR, event, shown)
    told = prepare_log(decisions, clicks, items, out, plan, lambda message: talk.say(f"{message} …"))
    click.echo("\n".join(_report(told)))
    click.echo(f"{out}: written")
    talk.then("prepare", "table", "--config", out / "data.toml", "--dry")


def _report(told: dict[str, Any]) -> list[str]:
    rows, clicks = told["rows"], told["clicks"]
    share = told["positives"] / rows["kept"]
    lines = [f"{told['decisions']:,} decisions; {rows['read']:,} items shown, {rows['kept']:,} rows kept, "
             f"{told['positives']:,} of them chosen ({share:.2%})"]  # fmt: skip
    lines += [f"  {number:,} dropped: {reason}" for reason, number in rows["dropped"].items()]
    lines += [f"{clicks['read']:,} clicks, {clicks['kept']:,} joined"]
    lines += [f"  {number:,} dropped: {reason}" for reason, number in clicks["dropped"].items()]
    lines += [f"{told['torn_lines']} files end with a line that was cut off"] if told["torn_lines"] else []
    unknown = f"{told['untitled']:,} items of rows are not in --items: they are known by their id alone"
    return lines + ([unknown] if told["untitled"] else [])
