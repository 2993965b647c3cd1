"""DuckDB for tables that may be larger than memory: it sorts, joins and counts within a limit and spills to disk."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from corella_edge.atomic import working_folder
from corella_edge.errors import InputError

MEMORY = 1 << 30  # bytes, unless the user says otherwise
LEAST_MEMORY = 128 << 20
# What DuckDB says where the system refuses to write → the error's number, and the problem in words.
_REFUSALS = {
    "No space left": (errno.ENOSPC, "no space left on the device"),
    "File too large": (errno.EFBIG, "the system allows no file of this size (ulimit -f)"),
    "quota exceeded": (errno.EDQUOT, "the disk quota is used up"),
}


@contextmanager
def working_database(
    out: Path, memory: int = MEMORY, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An empty database in a folder beside `out`, deleted at the end.

    Args:
        memory: bytes that DuckDB may hold; the process itself needs about 200 MB more. What does not fit is spilled
            to the folder. threads: None = one for every core.

    Raises:
        InputError: another run is making `out`, the limit is below LEAST_MEMORY or too low for a step, or the disk is
            full.
    """
    if memory < LEAST_MEMORY:
        raise InputError(f"--memory: {memory >> 20} MiB is too little; give at least {LEAST_MEMORY >> 20} MiB")
    place = str(out.absolute())
    if "?" in place or not place.isprintable():  # what follows a question mark DuckDB takes for options of a URL
        raise InputError(f"--out {place!r}: DuckDB cannot work below such a path; name a folder without odd letters")
    with working_folder(out) as folder, plain_path(folder) as plain, readable_errors(folder):
        db = connect(plain / "tables.duckdb", memory, threads)
        try:
            yield db
        finally:
            db.close()


def connect(path: Path | None = None, memory: int = MEMORY, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """A connection with its limits set, to the database `path` or, if None, to one in memory.

    The order of rows is kept from table to table and to files; the network and the user's home are never touched.
    """
    db = duckdb.connect(":memory:" if path is None else str(path))
    db.execute(f"SET memory_limit = '{memory} B'")
    db.execute("SET preserve_insertion_order = true")
    db.execute("SET autoinstall_known_extensions = false")
    db.execute("SET enable_progress_bar = false")  # it would be drawn on standard output
    if path is not None:
        # Choosing the smallest form of each column costs three times as much as writing them all in this one.
        db.execute("SET force_compression = 'zstd'")
        db.execute(f"SET temp_directory = {literal(str(path.with_suffix('.spilled')))}")
    if threads is not None:
        db.execute(f"SET threads = {threads}")
    return db


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """Another path to `folder`: in names of files DuckDB takes brackets for a pattern, and no bytes but UTF-8."""
    with tempfile.TemporaryDirectory() as place:
        link = Path(place) / "folder"
        link.symlink_to(folder.absolute(), target_is_directory=True)
        yield link


@contextmanager
def readable_errors(folder: Path | None = None) -> Iterator[None]:
    """DuckDB's refusals for want of memory or disk as errors that say what to do.

    Raises:
        InputError: the memory limit is too low. OSError: the disk is full, or the system allows no more.
    """
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"the memory limit is too low ({reason}); raise --memory, or use fewer threads") from error
    except duckdb.Error as error:  # a refused write is an IOException, or what a commit makes of it
        for told, (number, problem) in _REFUSALS.items():
            if told in str(error):
                raise OSError(number, problem, str(folder or "")) from error
        raise


def literal(text: str) -> str:
    """A text as SQL writes it."""
    return "'" + text.replace("'", "''") + "'"


def name(column: str) -> str:
    """A column's name as SQL writes it."""
    return '"' + column.replace('"', '""') + '"'


def one(db: duckdb.DuckDBPyConnection, query: str, *values: object) -> tuple[Any, ...]:
    """The only row of a query's answer."""
    row = db.execute(query, list(values)).fetchone()
    assert row is not None
    return row
