"""A person's own table into the prepared folder, or a look at what would become of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from corella_edge.atomic import check_free
from corella_edge_export.data.database import MEMORY, working_database
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table import restart
from corella_edge_export.data.table.description import Description
from corella_edge_export.data.table.load import Sources, load
from corella_edge_export.data.table.samples import write

Progress = Callable[[str], None]
SUMMARY = ("name", "counts", "unseen", "notes", "ledger", "splits")


def prepare_table(
    description: Description,
    out: Path,
    *,
    seed: int = 0,
    requests: int = 1000,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write the prepared folder `out`, complete or not at all. One that was written from the same is left as it is.

    Args:
        seed: draws the requests; negatives and a random split have seeds of their own.
        memory: bytes that DuckDB may hold.

    Returns:
        out, seconds, and of dataset.json its name, counts, unseen, notes, ledger and splits.

    Raises:
        InputError: the data cannot be read or used as described (file, line, column, value), or `out` is taken.
    """
    start = time.perf_counter()
    info = restart.finished(description, out, seed=seed, requests=requests)
    if info is None:
        check_free(out)
        info = _written(description, out, seed, requests, memory, progress)
    seconds = round(time.perf_counter() - start, 2)
    return {"out": str(out), "seconds": seconds, **{key: info[key] for key in SUMMARY}}


def look_at_table(
    description: Description, *, seed: int = 0, memory: int = MEMORY, progress: Progress | None = None
) -> dict[str, Any]:
    """What `prepare_table` would return and raise; nothing is left but its answer, and TMPDIR has room for the work."""
    with tempfile.TemporaryDirectory() as place:
        found = prepare_table(description, Path(place) / "dry", seed=seed, memory=memory, progress=progress)
    return {**found, "out": ""}


def _written(
    description: Description, out: Path, seed: int, requests: int, memory: int, progress: Progress | None
) -> dict[str, Any]:
    ledger = Ledger()
    with working_database(out, memory) as db:
        sources = load(description, db, ledger, progress)
        return write(
            description,
            db,
            ledger,
            out,
            seed=seed,
            requests=requests,
            progress=progress,
            memory=memory,
            sources=_named(description, sources),
            notes=sources.notes,
            joined=sources.joined,
        )


def _named(description: Description, sources: Sources) -> dict[str, Any]:
    """The files' hashes by the names that dataset.json gives them."""
    return {name: dict(sources.files[path]) for name, path in restart.source_paths(description).items()}
