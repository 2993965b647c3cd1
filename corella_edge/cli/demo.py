"""`corella-edge demo`: from nothing to a bundle that can be served, on generated data."""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import click

from corella_edge.cli.common import need_export
from corella_edge.cli.progress import Progress


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default="runs/demo", show_default=True,
              help="Folder for data, run, bundle and reports; an unfinished demo goes on.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the data and the training.")
def demo(out: Path, seed: int) -> None:
    """Prepare synthetic data, train both models, export, verify, score and measure; minutes on two cores.

    Ends with the commands that serve the bundle and call it.
    """
    need_export("demo", "F16", "Q8_0")
    from corella_edge_export.demo import demo as run
    from corella_edge_export.demo import text
    from corella_edge_export.report import report_if_possible

    started, line = time.monotonic(), Progress()

    def say(message: str) -> None:
        line.done()
        click.echo(f"[{time.monotonic() - started:4.0f} s] {message}", err=True)

    result = run(out, seed, say, lambda what, done, of: line.show(f"{what}: {done:,} of {of:,}"))
    line.done()
    report_if_possible(out / "run")
    click.echo(text(result))
    click.echo(_commands(out))


def _program() -> str:
    """How this very command was started: on the path, or by its file."""
    if shutil.which("corella-edge"):
        return "corella-edge"
    started = Path(sys.argv[0])
    return f"{sys.executable} -m corella_edge" if started.name == "__main__.py" else str(started)


def _commands(out: Path) -> str:
    """What to type next."""
    return "\n".join([
        "Everything above is synthetic data. Serve the bundle, and in another terminal call it:",
        "",
        f"  {_program()} serve {out / 'bundle'} --threshold ratio:0.3",
        f"  head -n 1 {out / 'data' / 'requests.jsonl'} | \\",
        "    curl -s http://127.0.0.1:8000/v1/rank -H 'Content-Type: application/json' -d @-",
    ])  # fmt: skip
