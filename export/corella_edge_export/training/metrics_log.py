"""A stage's metrics.jsonl: its lines as they were logged, the file rewritten as a whole with each new one.

What is not a finite number is null there: strict JSON has no other, and rows of one label have no AUC.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from corella_edge import atomic
from corella_edge.errors import InputError

NAME = "metrics.jsonl"
Line = dict[str, Any]


def read(folder: Path) -> list[Line]:
    """The lines in order, without a damaged last one, which a crash of the machine may leave.

    Raises:
        InputError: a damaged line that others follow.
    """
    path = folder / NAME
    rows = path.read_bytes().split(b"\n") if path.exists() else []
    lines = []
    for place, row in enumerate(rows, 1):
        line = _line(row)
        if line is not None:
            lines.append(line)
        elif any(rows[place:]):
            raise InputError(f"{path}, line {place}: is no line of a log; remove {folder} to train the stage again")
    return lines


def write(folder: Path, lines: list[Line]) -> None:
    atomic.write_file(
        folder / NAME, "".join(f"{json.dumps(_finite(line), allow_nan=False)}\n" for line in lines).encode()
    )


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mend(folder: Path) -> None:
    """Cut off a damaged last line. Raises InputError as `read`."""
    path = folder / NAME
    if not path.exists():
        return
    kept = read(folder)
    if len(kept) < len(path.read_bytes().splitlines()):
        write(folder, kept)


def _line(row: bytes) -> Line | None:
    """The line, None if it is none."""
    try:
        line = json.loads(row, parse_constant=lambda name: None)  # earlier versions wrote NaN
    except (ValueError, RecursionError):
        return None
    whole = isinstance(line, dict) and line.get("kind") in ("train", "valid") and type(line.get("step")) is int
    return line if whole else None
