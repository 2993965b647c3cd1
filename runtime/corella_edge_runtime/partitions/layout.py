"""Which partitions a table has, where the answers to each go, and which of them are there already."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError, told

ENDING = ".parquet"
_MAGIC = b"PAR1"
_INPUT = "input"  # of a label: the hash of the partition's requests

Label = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Partition:
    """A file of requests, and the file of the answers to them; `name` is its path below the table."""

    name: str
    source: Path
    out: Path

    @property
    def work(self) -> Path:
        """The folder of what is finished of it, beside `out`; nobody who lists Parquet files finds it."""
        return self.out.with_name(f".{self.out.name}.partial")

    def label(self, same: Label) -> dict[str, Any]:
        """What its answers are made of: `same` of all partitions, and its own requests. Raises InputError."""
        try:
            with self.source.open("rb") as file:
                return {**same, _INPUT: hashlib.file_digest(file, "sha256").hexdigest()}
        except OSError as error:
            raise InputError(f"{self.source}: cannot be read: {told(error)}") from None


def is_table(path: Path | None) -> bool:
    """Whether a path is a folder, or a file that begins as Parquet does."""
    if path is None or path.is_dir():
        return path is not None
    if not path.is_file():  # a pipe must not be read here
        return False
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False  # told where it is read


def partitions(source: Path, out: Path) -> list[Partition]:
    """Every `*.parquet` of a folder, or of one below it, by name; a file is the one partition of its table.

    Files and folders whose names begin with `.` or `_` are skipped, as those are what writers keep for themselves.

    Raises:
        InputError: there is none; `out` cannot be written, or is the table itself.
    """
    if not source.is_dir():
        _check_file(source, out)
        return [Partition(source.name, source, out)]
    _check_folder(source, out)
    names = sorted(path.relative_to(source) for path in source.rglob(f"*{ENDING}") if path.is_file())
    found = [Partition(name.as_posix(), source / name, out / name) for name in names if not _is_hidden(name)]
    if not found:
        raise InputError(f"{source}: holds no {ENDING} files")
    return found


def _is_hidden(name: Path) -> bool:
    return any(part.startswith((".", "_")) for part in name.parts)


def _check_file(source: Path, out: Path) -> None:
    if out.is_dir() or (out.exists() and not out.is_file()):
        raise InputError(f"--out {out}: exists and is not a file; {source} is one, so name a file")
    if out.exists() and out.samefile(source):
        raise InputError(f"--out {out}: is the input itself; name another one")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist")


def _check_folder(source: Path, out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: exists and is not a folder; {source} is one, so name a folder")
    if out.resolve().is_relative_to(source.resolve()) or source.resolve().is_relative_to(out.resolve()):
        raise InputError(f"--out {out}: lies in the input, or the input in it; name another one")


def check_strays(out: Path, found: Sequence[Partition]) -> None:
    """Refuse a folder with Parquet files that no partition accounts for: who reads the folder would read them, too.

    Raises:
        InputError: names the first.
    """
    own = {partition.out for partition in found}
    for path in sorted(out.rglob(f"*{ENDING}")) if out.is_dir() else ():
        if path not in own and not _is_hidden(path.relative_to(out)):
            raise InputError(f"--out {out}: holds {path.relative_to(out)}, which no partition of the input gives; "
                             "remove it or name another folder")  # fmt: skip


def difference(label: Label | None, wanted: Label) -> str:
    """In what a file of answers differs from those that `wanted` would give, but for its input; empty: in nothing.

    Args:
        label: the file's own; None for a file that we did not write.
    """
    if label is None:
        return "was not written by `corella-edge score`"
    names = [name for name in wanted if name != _INPUT and label.get(name) != wanted[name]]
    return f"was scored with another {names[0]}" if names else ""
