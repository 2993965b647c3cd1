"""Targets: what a figure is held against, in the form of `harness.report.targets_table`."""

from __future__ import annotations

from typing import Any

from harness.report import judged

Row = dict[str, Any]


def at_most(name: str, figure: Row, limit: float, void: bool) -> Row:
    """Met when the upper end of the interval is."""
    return judged(name, figure, "<=", limit, void)


def at_least(name: str, figure: Row, limit: float, void: bool) -> Row:
    """Met when the lower end of the interval is."""
    return judged(name, figure, ">=", limit, void)


def none_of(name: str, count: int, void: bool) -> Row:
    """Met by zero. Load from elsewhere makes no failure of the server's undone."""
    return {"target": name, "value": count, "sign": "<=", "limit": 0, "met": count == 0, "void": void and count == 0}
