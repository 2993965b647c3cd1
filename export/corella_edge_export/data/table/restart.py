"""Whether a folder already holds what a description asks for, so that a second run costs one look at the files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge_export.data.finish import file_hash
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.data.table.description import Description

Sources = dict[str, dict[str, Any]]


def finished(description: Description, out: Path, *, seed: int, requests: int) -> dict[str, Any] | None:
    """dataset.json's content if `out` was prepared from these settings and files; None if nothing was prepared there.

    Raises:
        InputError: `out` was prepared from other settings or files (the first difference is named), or it is damaged.
    """
    path = out / "dataset.json"
    if not path.is_file():
        return None
    try:
        info = json.loads(path.read_bytes())
        before = dict(info["settings"])
        sources = dict(info["sources"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"--out {out}: holds data that were prepared otherwise; name another folder") from None
    difference = _difference(before, settings(description, seed=seed, requests=requests))
    if difference:
        raise InputError(f"--out {out}: was prepared with other settings: {difference}; {_REMEDY}")
    _check_sources(out, sources, source_paths(description))
    return PreparedData.open(out).info


_REMEDY = "remove it or name another folder"


def settings(description: Description, *, seed: int, requests: int) -> dict[str, Any]:
    """What decides what is written, beside the files' bytes, as JSON has it; files by their names in `sources`."""
    names = {path: name for name, path in source_paths(description).items()}
    tree = {**asdict(description), "seed": seed, "requests": requests}
    tree["split"]["parts"] = {
        part: [names[Path(path)] for path in paths] for part, paths in description.split.parts.items()
    }
    told: dict[str, Any] = json.loads(json.dumps(tree, default=lambda path: names[path]))
    return told


def source_paths(description: Description) -> dict[str, Path]:
    """Name → file of all that is read: names without folders, or paths below a shared one where two names are equal."""
    tables = [description.events.files, description.items.files, description.users.files if description.users else None]
    paths = list(dict.fromkeys(path for files in tables if files is not None for path in files.paths))
    if len({path.name for path in paths}) == len(paths):
        return {path.name: path for path in paths}
    parents = [os.path.abspath(path.parent) for path in paths]  # noqa: PTH100 (links are kept)
    root = os.path.commonpath(parents)
    return {os.path.relpath(os.path.abspath(path), root): path for path in paths}  # noqa: PTH100


def source_hashes(description: Description) -> Sources:
    """Name → {"sha256", "bytes"} of every file that is read."""
    return {name: file_hash(path) for name, path in source_paths(description).items()}


def _difference(before: Any, now: Any, where: str = "") -> str:
    """The first entry that differs, in words; empty where none does."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if found := _difference(before.get(key), now.get(key), f"{where}.{key}" if where else str(key)):
                return found
        return ""
    return "" if before == now else f"{where} was {before!r} and is {now!r}"


def _check_sources(out: Path, before: Mapping[str, Any], paths: Mapping[str, Path]) -> None:
    for name in dict.fromkeys([*before, *paths]):
        recorded, path = before.get(name), paths.get(name)
        # The size first: most other files differ in it, and it costs nothing.
        same = recorded and path and path.stat().st_size == recorded["bytes"] and file_hash(path) == recorded
        if not same:
            raise InputError(f"--out {out}: was prepared from other files: {name} differs; {_REMEDY}")
