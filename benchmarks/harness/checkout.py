"""Modules of the checkout at work, which may be older than this one and have them elsewhere."""

from __future__ import annotations

import importlib
from typing import Any


def module(*names: str) -> Any:
    """The first module of these names that there is."""
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    return importlib.import_module(names[-1])
