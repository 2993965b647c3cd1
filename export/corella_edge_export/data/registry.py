"""Which data sets can be prepared: what the modules of `readers` say that they read."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError, meant
from corella_edge_export.data import readers
from corella_edge_export.data.contract import RawData, Reader


@cache
def known() -> dict[str, Reader]:
    """Name → reader: the READERS of every module below `readers`."""
    modules = (importlib.import_module(found.name) for found in _modules())
    return dict(sorted(item for module in modules for item in getattr(module, "READERS", {}).items()))


def _modules() -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(readers.__path__, f"{readers.__name__}."))


def reader(name: str) -> Reader:
    """The reader of that name.

    Raises:
        InputError: no such reader; the message lists the known ones, and `table`, which is none of them.
    """
    if name not in known():
        names = [*known(), "table"]
        if Path(name).exists():
            raise InputError(f"{name} is no reader; for files of your own begin with `corella-edge init {name}`")
        raise InputError(f"unknown reader {name!r}; known readers: {', '.join(names)}{meant(name, names)}")
    return known()[name]


def check(name: str, source: Path | None, options: Mapping[str, Any]) -> Reader:
    """The reader `name`, if it can be asked to read the folder `source` (None for generated data).

    Raises:
        InputError: unknown reader, a missing or needless folder, or an extra that it has not.
    """
    chosen, extra = reader(name), options.get("extra")
    if extra and extra not in chosen.extras:
        have = f"has {', '.join(chosen.extras)}" if chosen.extras else "has no such rows, leave it out"
        raise InputError(f"--extra {extra}: the reader {name} {have}")
    if source is None and chosen.needs_source:
        raise InputError(f"the reader {name!r} needs --source DIR, the folder with the publisher's files")
    if source is not None and not chosen.needs_source:
        raise InputError(f"the reader {name!r} reads no files; leave --source out")
    if source is not None and not source.is_dir():
        problem = "is a file; unpack it and name the folder" if source.exists() else "does not exist"
        raise InputError(f"--source {source}: {problem}")
    return chosen


def read(name: str, source: Path | None, options: Mapping[str, Any]) -> RawData:
    """Read the data set of a reader that has `read`. Raises InputError as `check`, or for what it finds wrong."""
    chosen = check(name, source, options)
    assert chosen.read is not None
    return chosen.read(source, options)
