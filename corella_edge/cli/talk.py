"""What a command says on stderr beside its result: progress, notes, warnings. -q leaves them out, -v adds to them."""

from __future__ import annotations

import logging
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import click

from corella_edge import __version__
from corella_edge.errors import as_line

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
ALL = logging.DEBUG - 1  # what llama.cpp says, too: hundreds of lines at each load
_LOG = logging.getLogger("corella_edge")
_LOGS = (_LOG, logging.getLogger("corella_edge_runtime"), logging.getLogger("corella_edge_export"))
_LLAMA = logging.getLogger("corella_edge.llama")


@contextmanager
def at(level: int) -> Iterator[None]:
    """Everything said within: at ERROR errors alone, at DEBUG our messages, at ALL llama.cpp's, at NOTSET as usual."""
    before = [log.level for log in (*_LOGS, _LLAMA)]
    debugging = level in (ALL, logging.DEBUG)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(FORMAT))
    for log in _LOGS:
        log.setLevel(level)
    _LLAMA.setLevel(logging.WARNING if level == logging.DEBUG else logging.NOTSET)
    if debugging:
        logging.getLogger().addHandler(handler)
    try:
        with _traced() if debugging else nullcontext():
            yield
    finally:
        logging.getLogger().removeHandler(handler)
        for log, old in zip((*_LOGS, _LLAMA), before, strict=True):
            log.setLevel(old)


@contextmanager
def _traced() -> Iterator[None]:
    """Debug messages at the start and the end, with the trace of an error that a person is told in one line."""
    started = time.monotonic()
    debug(f"corella-edge {__version__}, Python {platform.python_version()}, {platform.platform()}")
    try:
        yield
    except Exception as error:
        if as_line(error):
            _LOG.debug("where the error comes from", exc_info=True)
        raise
    debug(f"done in {time.monotonic() - started:.2f} s")


def quiet() -> bool:
    """Whether only errors and the result are wanted."""
    return not _LOG.isEnabledFor(logging.WARNING)


def usual() -> bool:
    """Whether neither -v nor -q was given."""
    return _LOG.level == logging.NOTSET


def debug(text: str) -> None:
    """What only -v shows."""
    _LOG.debug("%s", text)


def say(text: str) -> None:
    """A line on stderr, unless -q was given."""
    if not quiet():
        click.echo(text, err=True)


def then(*words: object) -> None:
    """The command to type next, as it can be pasted, unless -q was given."""
    say(f"next: {shlex.join(['corella-edge', *map(str, words)])}")


def note(text: str) -> None:
    """Something to know."""
    say(f"corella-edge: note: {text}")


def warn(text: str) -> None:
    """Something that is not as it should be."""
    say(f"corella-edge: warning: {text}")


def left(rest: int, done: int, seconds: float) -> str:
    """`, about 3 min left`: how long `rest` takes at the pace of the `done` in so many seconds; nothing so early on."""
    if not done or seconds < 2.0 or rest <= 0:
        return ""
    wait = rest * seconds / done
    for size, unit in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if wait >= 2 * size:
            return f", about {wait / size:.0f} {unit} left"
    return f", about {wait:.0f} s left"


class Progress:
    """One line that is rewritten on a terminal, at most twice a second, and nothing elsewhere; `done` clears it."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty() and not quiet()
        self._next = time.monotonic() + 0.5
        self._shown = False

    def show(self, text: str) -> None:
        if self._tty and time.monotonic() >= self._next:
            self._next = time.monotonic() + 0.5
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    def done(self) -> None:
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
