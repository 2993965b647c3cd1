"""What of many cases a usual run takes: the others are slow, and so of `make test-slow`."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

import pytest


def others_slow(cases: Iterable[Any], quick: Container[Any]) -> list[Any]:
    """The cases as parameters, slow where they are not among `quick`."""
    return [case if case in quick else pytest.param(case, marks=pytest.mark.slow, id=str(case)) for case in cases]
