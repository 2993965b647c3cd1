"""Which data sets can be prepared: a name → one module, imported only when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from corella_edge.errors import InputError, meant

if TYPE_CHECKING:
    from corella_edge_export.data.contract import RawData


@dataclass(frozen=True)
class Reader:
    """A data set: its module has `read(source: Path | None, options: Mapping[str, Any]) -> RawData`.

    `options` holds at least `seed`; a reader of published files ignores what it does not know.
    """

    module: str
    needs_source: bool
    summary: str

    def read(self, source: Path | None, options: Mapping[str, Any]) -> RawData:
        """Import the module and read. Raises InputError for bad input, as each reader says."""
        return cast("RawData", importlib.import_module(self.module).read(source, options))


READERS: dict[str, Reader] = {
    "collm-ml-1m": Reader(
        "corella_edge_export.data.readers.collm", True, "CoLLM's split of MovieLens-1M: train, valid, test.parquet"
    ),
    "ml-1m": Reader(
        "corella_edge_export.data.readers.movielens", True, "MovieLens-1M: ratings.dat, users.dat, movies.dat"
    ),
    "synthetic": Reader("corella_edge_export.data.readers.synthetic", False, "generated from --seed, no files needed"),
}


def reader(name: str) -> Reader:
    """The reader of that name.

    Raises:
        InputError: no such reader; the message lists the known ones.
    """
    if name not in READERS:
        raise InputError(f"unknown reader {name!r}; known readers: {', '.join(READERS)}{meant(name, READERS)}")
    return READERS[name]


def read(name: str, source: Path | None, options: Mapping[str, Any]) -> RawData:
    """Read the data set `name` from the folder `source` (None for generated data).

    Raises:
        InputError: unknown reader, a missing or needless folder, or whatever the reader finds wrong.
    """
    chosen = reader(name)
    if source is None and chosen.needs_source:
        raise InputError(f"the reader {name!r} needs --source DIR, the folder with the publisher's files")
    if source is not None and not chosen.needs_source:
        raise InputError(f"the reader {name!r} reads no files; leave --source out")
    if source is not None and not source.is_dir():
        problem = "is a file; unpack it and name the folder" if source.exists() else "does not exist"
        raise InputError(f"--source {source}: {problem}")
    return chosen.read(source, options)
