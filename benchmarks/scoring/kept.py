"""A result file that grows by parts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scoring.report import targets

Row = dict[str, Any]


def merged(path: Path, result: Row) -> Row:
    """The new figures, and those parts of the file at `path` that this run did not measure."""
    if not path.exists():
        return result
    old = json.loads(path.read_text("utf-8"))
    found = {**{key: old[key] for key in ("product", "start", "memory") if key in old}, **result}
    found["blocks"] = _joined(old["blocks"], result["blocks"], lambda row: (row["model"], row["shape"]))
    for part in ("ceilings", "parity"):
        found[part] = _joined(old[part], result[part], lambda row: row["model"])
    found["memory_of_files"] = _joined(
        old.get("memory_of_files", []), result["memory_of_files"], lambda row: (row["model"], row["type"])
    )
    return {**found, "targets": targets(found)}


def _joined(old: list[Row], new: list[Row], key: Callable[[Row], Any]) -> list[Row]:
    fresh = {key(row) for row in new}
    return [row for row in old if key(row) not in fresh] + new
