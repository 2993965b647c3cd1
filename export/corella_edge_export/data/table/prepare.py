"""A person's own table into the prepared folder, or a look at what would become of it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from corella_edge.atomic import check_free, new_folder
from corella_edge.errors import InputError
from corella_edge_export.data.contract import Work
from corella_edge_export.data.database import MEMORY, working_database
from corella_edge_export.data.ledger import Ledger
from corella_edge_export.data.table import restart
from corella_edge_export.data.table.description import Description, Negatives
from corella_edge_export.data.table.leakage import check_names
from corella_edge_export.data.table.load import Sources, load
from corella_edge_export.data.table.parse import parse_description
from corella_edge_export.data.table.samples import write

Progress = Callable[[str], None]
SUMMARY = ("name", "counts", "unseen", "notes", "ledger", "splits", "joined")


def prepare_table(
    description: Description,
    out: Path,
    *,
    seed: int = 0,
    requests: int = 1000,
    memory: int = MEMORY,
    progress: Progress | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write the prepared folder `out`, complete or not at all. One that was written from the same is left as it is.

    Args:
        seed: draws the requests; negatives and a random split have seeds of their own.
        memory: bytes that DuckDB may hold. notes: what dataset.json notes beside what is found.

    Returns:
        out, seconds, already (nothing was left to do), and of dataset.json its name, counts, unseen, notes, ledger and
        splits.

    Raises:
        InputError: the data cannot be read or used as described (file, line, column, value), or `out` is taken.
    """
    start = time.perf_counter()
    before = restart.finished(description, out, seed=seed, requests=requests)
    if before is None:
        check_free(out)
    info = before or _written(description, out, seed, requests, memory, progress, notes)
    seconds = round(time.perf_counter() - start, 2)
    told = {key: info[key] for key in SUMMARY}
    return {"out": str(out), "seconds": seconds, "already": before is not None, **told}


def changed(description: Description, negatives: int | None, hide_items: float | None) -> Description:
    """The description with other choices than its own; None leaves it its own.

    Args:
        negatives: how many are drawn for each positive; 0 = none, every row is a positive one.
        hide_items: the share of items without training rows; 0 = none.

    Raises:
        InputError: negatives for data that have dislikes of their own.
    """
    if hide_items is not None:
        description = replace(description, split=replace(description.split, hide_items=hide_items or None))
    if negatives is None:
        return description
    if not description.label.positives_only:
        raise InputError(f"--negatives {negatives}: these data have dislikes of their own; leave it out")
    plan = replace(description.negatives or Negatives(), per_positive=negatives) if negatives else None
    return replace(description, negatives=plan)


def look_at_table(description: Description, **settings: Any) -> dict[str, Any]:
    """What `prepare_table` would return and raise; nothing is left but its answer, and TMPDIR has room for the work."""
    with tempfile.TemporaryDirectory() as place:
        found = prepare_table(description, Path(place) / "dry", **settings)
    return {**found, "out": ""}


def prepare_described(
    name: str,
    describe: Callable[[Path, Work], str],
    source: Path,
    out: Path | None,
    *,
    negatives: int | None = None,
    hide_items: float | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """A publisher's files by the description that the reader `name` writes of them. `out` None: a look at them.

    Args:
        negatives, hide_items: as `changed` has them. settings: as `prepare_table` has them.

    Raises:
        InputError: as `prepare_table`, or files that the reader looks for are missing or malformed.
    """
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=out and out.parent) as place:
        work = Work(Path(place))
        # Its paths are those of `source` and of `place`, which start where the command was typed.
        told = parse_description(describe(source, work), Path(), f"the description of {name}")
        description = changed(told, negatives, hide_items)
        try:
            if out is None:
                return look_at_table(description, notes=work.notes, **settings)
            return prepare_table(description, out, notes=work.notes, **settings)
        except InputError as error:
            if " under [" not in str(error):  # of no key that a person would have to write
                raise
            command = f"corella-edge data describe {name} --source {source} --out DIR"
            raise InputError(f"{error} of the data.toml that `{command}` writes") from None


def write_description(name: str, describe: Callable[[Path, Work], str], source: Path, out: Path) -> Path:
    """The description that the reader `name` writes of a publisher's files, as `data.toml` in the new folder `out`.

    Files that had to be rewritten first lie beside it. Raises InputError as `prepare_described`.
    """
    with new_folder(out) as folder:
        work = Work(folder)
        text = describe(source.absolute(), work).replace(f"{folder}/", "")
        lines = [f"# {note}" for note in work.notes]
        (folder / "data.toml").write_text("\n".join([f"# As the reader {name} describes {source}.", *lines, text]))
    return out / "data.toml"


def _written(
    description: Description,
    out: Path,
    seed: int,
    requests: int,
    memory: int,
    progress: Progress | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    check_names(description)
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
            notes=[*notes, *sources.notes],
            joined=sources.joined,
            settle=sources.settle,
        )


def _named(description: Description, sources: Sources) -> dict[str, Any]:
    """The files' hashes by the names that dataset.json gives them."""
    return {name: dict(sources.files[path]) for name, path in restart.source_paths(description).items()}
