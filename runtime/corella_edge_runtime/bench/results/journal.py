"""Finished slices of a benchmark, kept as they come: an interrupted run goes on where it ended.

`slices.jsonl` in the folder of the report: a line that says what is measured, a line a slice, and a last one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from corella_edge.atomic import write_file
from corella_edge.errors import InputError, told
from corella_edge_runtime.bench.results.result import FORMAT
from corella_edge_runtime.bench.results.seen import Slice

FILE = "slices.jsonl"


class _Head(msgspec.Struct, frozen=True):
    format: int
    key: str


class _End(msgspec.Struct, frozen=True):
    complete: bool


class Journal:
    """Slices so far. Without a folder they are kept in memory alone.

    Attributes:
        slices: in the order in which they were measured.
        resumed: how many of them an earlier, interrupted run of the same had measured.
        dropped: an earlier run was interrupted, but it measured something else.
    """

    def __init__(self, folder: Path | None, key: str) -> None:
        """Raises InputError: the folder cannot be written."""
        self._file = None if folder is None else folder / FILE
        self.slices, self.dropped = _read(self._file, key)
        self.resumed = len(self.slices)
        if self._file is not None:
            # Written again as a whole: the last line may have been cut off.
            lines = [msgspec.json.encode(part) + b"\n" for part in (_Head(FORMAT, key), *self.slices)]
            write_file(self._file, b"".join(lines))

    def add(self, one: Slice) -> None:
        """Keep a slice. Raises InputError: it cannot be written."""
        self.slices.append(one)
        self._write(one)

    def end(self) -> None:
        """All is measured: the next run starts from the beginning."""
        self._write(_End(True))

    def _write(self, line: Any) -> None:
        if self._file is None:
            return
        try:
            with self._file.open("ab") as file:
                file.write(msgspec.json.encode(line) + b"\n")
        except OSError as error:
            raise InputError(f"{self._file}: cannot be written: {told(error)}") from None


def _read(file: Path | None, key: str) -> tuple[list[Slice], bool]:
    """Slices of an interrupted run of the same, and whether there was one of something else."""
    if file is None or not file.is_file():
        return [], False
    lines = file.read_bytes().split(b"\n")
    try:
        head = msgspec.json.decode(lines[0], type=_Head)
    except msgspec.DecodeError:
        return [], False
    slices, complete = _slices(lines[1:])
    same = head == _Head(FORMAT, key)
    return (slices if same and not complete else []), bool(slices) and not complete and not same


def _slices(lines: list[bytes]) -> tuple[list[Slice], bool]:
    """The slices before the first line that does not hold one, and whether that is the last one of a whole run."""
    found: list[Slice] = []
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Slice))
        except msgspec.DecodeError:
            return found, line.startswith(b'{"complete":true')
    return found, False


def key(*parts: Any) -> str:
    """What tells one measurement from another: of plain values."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()
