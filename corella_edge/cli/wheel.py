"""`corella-edge wheel`."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType

import click

from corella_edge.cli import talk
from corella_edge.cli.base import Command
from corella_edge.cli.talk import Progress


@click.command(cls=Command)
@click.option("--target", metavar="ARCHITECTURE", help="x86_64 or aarch64. Default: this machine's.")
@click.option("--out", default="wheels", show_default=True, type=click.Path(path_type=Path),
              help="Folder that the wheel is put into.")  # fmt: skip
def wheel(target: str | None, out: Path) -> None:
    """Build llama-cpp-python as one wheel for all boxes of an architecture, whatever their age.

    The wheel holds kernels for each kind of CPU, and the best are chosen where it runs. The extra [build] brings the
    compiler (zig); no compiler, cmake or ninja of the system's is needed. Takes 10 to 20 minutes on 2 cores the first
    time; then the finished wheel is taken from the user's cache.
    """
    from corella_edge_runtime.machine.wheel import build, recipe, stopped_by

    steps = _Steps()
    with stopped_by(_stop):
        path = build(recipe(target), out, steps.say, steps.show)
    click.echo(str(path))


class _Steps:
    """A line that is rewritten on a terminal; a line at each quarter where the output is a file."""

    def __init__(self) -> None:
        self._line, self._quarter = Progress(), 0

    def say(self, text: str) -> None:
        self._line.done()
        talk.say(text)

    def show(self, done: int, of: int) -> None:
        self._line.show(f"compiling: {done} of {of} files")
        if 4 * done // of > self._quarter:
            self._quarter = 4 * done // of
            self.say(f"compiled: {done} of {of} files")


def _stop(number: int, frame: FrameType | None) -> None:
    """Ctrl-C and SIGTERM become an exception: compilers are ended and files removed."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # what is begun is removed once, and wholly
    raise KeyboardInterrupt
