"""Results: printed, and kept with machine, versions and commit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from corella_edge.errors import CorellaError
from corella_edge_runtime.bench.measure.machine import machine, versions

HEAVY = ("torch", "transformers", "polars", "gguf", "onnx")


def ended(name: str, measure: Callable[[], dict[str, Any]], out: Path | None) -> int:
    """Measure, print the figures and keep them in `out`: the exit code of the benchmark `name`.

    What cannot be measured is one line on standard error.
    """
    try:
        figures = measure()
    except CorellaError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
    print(json.dumps(figures))
    if out:
        write(out, figures)
    return 0


def write(path: Path, figures: dict[str, Any]) -> None:
    """One JSON file with the figures and where they come from."""
    made = {**stamp(), "machine": machine(), "versions": versions({name: name for name in HEAVY})}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**made, **figures}, indent=1) + "\n", "utf-8")


def stamp() -> dict[str, str]:
    """When, and of which commit."""
    return {"made": datetime.now(UTC).isoformat(timespec="seconds"), "commit": commit()}


def commit() -> str:
    """The checkout's commit, marked when files differ from it."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(asked, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"
