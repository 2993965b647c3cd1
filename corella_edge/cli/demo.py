"""`corella-edge demo`: from nothing to a bundle that can be served, on generated data."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import columns, need_export
from corella_edge.cli.talk import Progress


@click.command(cls=Command)
@click.option("--out", type=click.Path(path_type=Path), default="runs/demo", show_default=True,
              help="Folder for data, run, bundle and reports; an unfinished demo goes on.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True,
              help="Seed of the data and of the training.")  # fmt: skip
def demo(out: Path, seed: int) -> None:
    """Prepare synthetic data, train both models, export, verify, score and measure; minutes on two cores.

    Both models are the base model (CRM), which scores every candidate, and the LLM, which is asked about the unsure
    ones. Ends with a table of what that gains and costs, and with the commands that serve the bundle and call it.
    """
    need_export("demo", "F16", "Q8_0")
    from corella_edge_export.demo import demo as run
    from corella_edge_export.report import report_if_possible

    started, line = time.monotonic(), Progress()

    def say(message: str) -> None:
        line.done()
        talk.say(f"[{time.monotonic() - started:4.0f} s] {message}")

    def show(what: str, done: int, of: int) -> None:
        line.show(f"{what}: {done:,} of {of:,}")

    result = run(out, seed, say, show, talk.quiet())
    line.done()
    report_if_possible(out / "run")
    click.echo("\n".join([*_table(result), "", *_files(out), "", *_commands(out)]))


def _program() -> str:
    """How this very command was started: on the path, or by its file."""
    if shutil.which("corella-edge"):
        return "corella-edge"
    started = Path(sys.argv[0])
    return f"{sys.executable} -m corella_edge" if started.name == "__main__.py" else str(started)


def _table(result: dict[str, Any]) -> Iterator[str]:
    """Quality and latency by the share that the LLM is asked about."""
    from corella_edge_runtime.bench.reports.shown import state

    quality = {row["ratio"]: row for row in result["evaluation"]["groups"]["all"]["at"]}
    rows = [["share asked", "AUC", "gain over the base model [95 %]", "p50 ms", "p99 ms"]]
    for point in result["benchmark"].points:
        at, ms = quality[point.ratio], (point.latency.p50.value, point.latency.p99.value)
        gain = "{value:+.4f} [{low:+.4f}, {high:+.4f}]".format_map(at["gain"])
        rows.append([f"{point.ratio:g}", f"{at['auc']['value']:.4f}", gain, *(f"{one:.2f}" for one in ms)])
    rows[1][0], rows[-1][0] = "0 (base model)", "1 (every one)"
    group = result["evaluation"]["groups"]["all"]
    yield f"{group['rows']:,} test rows of {group['users']:,} users; requests of 20 candidates; all data are synthetic."
    yield from columns(rows, right=True)
    kind, words, reasons = state(result["benchmark"])
    if kind != "quiet":
        yield f"{words}. {' '.join(reasons)}"


def _files(out: Path) -> Iterator[str]:
    files = {
        "bundle": "the bundle, verified",
        "run/report.html": "how the training went",
        "evaluation/evaluation.md": "all figures of quality, with plots beside it",
        "benchmark/benchmark.md": "all figures of latency",
        "answers.jsonl": f"answers to the requests of {out / 'data' / 'requests.jsonl'}",
    }
    yield from columns([[str(out / name), what] for name, what in files.items() if (out / name).exists()])


def _commands(out: Path) -> list[str]:
    """What to type next."""
    return [
        "Serve the bundle, and in another terminal call it (or open http://127.0.0.1:8000 in a browser):",
        "",
        f"  {_program()} serve {out / 'bundle'} --threshold ratio:0.3",
        f"  head -n 1 {out / 'data' / 'requests.jsonl'} | \\",
        "    curl -s http://127.0.0.1:8000/v1/rank -H 'Content-Type: application/json' -d @-",
    ]
