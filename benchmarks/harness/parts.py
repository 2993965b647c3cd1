"""The result file, which grows by parts: one a scenario, each with when and of which commit it was made."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corella_edge_runtime.bench.measure.machine import machine
from harness.results import stamp

Row = dict[str, Any]


def stamped(part: Row) -> Row:
    """The part with time, commit and machine: parts of a file may be measured on different days and machines."""
    return {**part, **stamp(), "machine": machine()}


def merged(path: Path, name: str, part: Row, what: str = "serving") -> Row:
    """The file's parts with this one new or in place of the old one."""
    old = json.loads(path.read_text("utf-8"))["parts"] if path.exists() else {}
    parts = {**old, name: part}
    return {"what": what, "parts": parts, "targets": list(_targets(parts))}


def _targets(parts: Mapping[str, Row]) -> Iterator[Row]:
    for name, part in sorted(parts.items()):
        yield from ({"part": name, **target} for target in part["targets"])
