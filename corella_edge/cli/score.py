"""`corella-edge score`: a file of requests → a file of answers."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.common import LOG, LOG_MIB, TextInput, engine_options, nats, open_engine, open_log
from corella_edge.cli.talk import Progress
from corella_edge.routing.policy import HELP

if TYPE_CHECKING:
    from corella_edge.formats.text_files import TextFile
    from corella_edge_runtime.batch import Tally
    from corella_edge_runtime.engine import Engine


@click.command(cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("source", metavar="IN", type=TextInput())
@click.option("--out", type=click.Path(path_type=Path, allow_dash=True),
              help="File to write, one answer a line; - is stdout, the default where IN is -.")  # fmt: skip
@click.option("--threshold", help=f"{HELP} Default: the bundle's own.")
@engine_options("thread")
@click.option("--deterministic", is_flag=True,
              help="LLM scores bit-equal on repeat: one prompt at a time; slower. Not for a server's LLM.")  # fmt: skip
@LOG
@LOG_MIB
@click.option("--force", is_flag=True, help="Replace an existing --out.")
def score(
    bundle: Path, source: TextFile, out: Path | None, threshold: str | None, engine: dict[str, Any],
    deterministic: bool, log: Path | None, log_mib: float, force: bool,
) -> None:  # fmt: skip
    """Score the requests in IN, one JSON object a line, with BUNDLE.

    IN may be compressed with gzip, or a pipe; - is standard input, whose answers go to standard output unless --out
    names a file. All lines are checked before the first is scored, and --out appears complete or not at all. After an
    interruption the same command resumes where it stopped (OUT.partial).
    """
    from corella_edge_runtime import batch

    to = _file(out, source)
    if to is not None:
        batch.check_out(to, source, force)
    tally = batch.check_requests(source)
    with ExitStack() as stack:
        decisions = stack.enter_context(open_log(log, log_mib)) if log else None
        opened = stack.enter_context(open_engine(bundle, **engine, threshold=threshold, deterministic=deterministic))
        if tally.strict or opened.refuses:
            batch.check_all(opened.check, source)
        show = _Show(opened)
        if to is None:
            batch.score_stream(opened, source, sys.stdout.buffer, tally, show, decisions)
        else:
            options = {"nats": str(opened.threshold), "llm": opened.llm is not None, "deterministic": deterministic}
            batch.score_file(opened, source, to, tally, batch.identity(bundle, source, options), show, decisions)
        show.finish(tally)


def _file(out: Path | None, source: TextFile) -> Path | None:
    """Where answers go; None is standard output."""
    if out is None and source.path is not None:
        raise click.UsageError(
            "Missing option '--out': add --out FILE, or pass - as IN to read standard input and print the answers."
        )
    return None if out is None or str(out) == "-" else out


class _Show:
    """Progress while scoring, and one line at the end."""

    def __init__(self, engine: Engine) -> None:
        self._line, self._nats = Progress(), nats(engine.threshold.nats)

    def __call__(self, tally: Tally) -> None:
        rate = tally.requests / tally.seconds
        self._line.show(f"{tally.kept + tally.requests:,} of {tally.total:,} requests, {rate:,.1f} a second")

    def finish(self, tally: Tally) -> None:
        self._line.done()
        seconds = max(tally.seconds, 1e-9)
        parts = [f"scored {tally.requests:,} requests, {tally.candidates:,} candidates in {seconds:.1f} s "
                 f"({tally.candidates / seconds:,.0f} candidates/s)"]  # fmt: skip
        parts += [f"{tally.kept:,} were there already"] if tally.kept else []
        parts += (
            [f"routed share {tally.routed / tally.candidates:.4f}, threshold {self._nats}"] if tally.candidates else []
        )
        parts += [f"{tally.unanswered:,} wanted the LLM and have no answer of it"] if tally.unanswered else []
        talk.say("; ".join(parts))
        if tally.unknown:
            rates = [f"{name} {n / tally.candidates:.2%}" for name, n in tally.unknown.most_common()]
            talk.say(f"candidates with a value the base model has never seen: {', '.join(rates)}")
