"""Another checkout at work: its packages with the benchmarks of this one, and modules that it may have elsewhere."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]


def environment(checkout: Path) -> dict[str, str]:
    """Of a process that runs a checkout's packages under this checkout's benchmarks."""
    paths = [*(checkout.resolve() / part for part in ("", "export", "runtime")), HERE / "benchmarks"]
    return {"PYTHONPATH": os.pathsep.join(map(str, paths))}


def module(*names: str) -> Any:
    """The first module of these names that there is."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    return importlib.import_module(names[-1])
