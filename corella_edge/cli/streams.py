"""The standard streams of a command: there at any moment, and what goes wrong with them is told once or not at all."""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from corella_edge.errors import OutputError, ReaderGoneError

_PATHS = "corella_edge.paths"


def occupy() -> None:
    """Give closed descriptors 0, 1 and 2 to /dev/null, before a file of ours gets such a number.

    Reading 0 or writing 1 still fails, as it would on a closed one: data are not lost without a word. Messages to a
    closed 2 are.
    """
    for number, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_RDWR)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # takes the lowest number that is free


@contextmanager
def guarded() -> Iterator[None]:
    """Writing to stdout raises OutputError at the first failure, later output is dropped; stderr never fails.

    Streams that something else has put in their place, as tests do, stay.
    """
    codecs.register_error(_PATHS, _as_it_is)
    before = sys.stdout, sys.stderr
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(1, sys.__stdout__, _PATHS, told=True)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(2, sys.__stderr__, _PATHS, told=False)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _text(number: int, old: TextIO | None, errors: str, told: bool) -> TextIO:
    encoding = old.encoding if old else "utf-8"
    if codecs.lookup(encoding).name == "ascii":
        encoding = "utf-8"  # the C locale's guess
    raw = io.BufferedWriter(_Descriptor(number, told))
    return io.TextIOWrapper(raw, encoding, errors, line_buffering=os.isatty(number))


def _as_it_is(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a path that are no UTF-8 as they are, letters that the stream's encoding has not as escapes."""
    for way in ("surrogateescape", "backslashreplace"):
        try:
            return codecs.lookup_error(way)(error)
        except UnicodeError:
            continue
    raise error


class _Descriptor(io.FileIO):
    """Descriptor 1 or 2, for writing; `told`: whether the first failure is an error."""

    def __init__(self, number: int, told: bool) -> None:
        super().__init__(number, "w", closefd=False)
        self._told, self._failed = told, False

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            while not self._failed and (written := super().write(data)) is None:  # type: ignore[arg-type]
                select.select([], [self], [])  # a pipe that another program has made non-blocking
        except OSError as error:
            self._failed = True
            if self._told:
                raise _output_error(error) from None
        return size if self._failed else written


def _output_error(error: OSError) -> OutputError:
    if error.errno == errno.EPIPE:
        return ReaderGoneError("standard output: nobody reads it any more")
    reason = "it is closed" if error.errno == errno.EBADF else error.strerror
    return OutputError(f"standard output: cannot be written: {reason}")
