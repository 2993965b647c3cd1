"""Targets: what a figure is held against, in the form of `scoring.report.targets_table`."""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]


def at_most(name: str, figure: Row, limit: float, void: bool) -> Row:
    """Met when the upper end of the interval is."""
    return _line(name, figure, "<=", limit, figure["high"] <= limit, void)


def at_least(name: str, figure: Row, limit: float, void: bool) -> Row:
    """Met when the lower end of the interval is."""
    return _line(name, figure, ">=", limit, figure["low"] >= limit, void)


def none_of(name: str, count: int, void: bool) -> Row:
    """Met by zero. Load from elsewhere makes no failure of the server's undone."""
    return {"target": name, "value": count, "sign": "<=", "limit": 0, "met": count == 0, "void": void and count == 0}


def _line(name: str, figure: Row, sign: str, limit: float, met: bool, void: bool) -> Row:
    return {"target": name, "value": figure["median"], **{key: figure[key] for key in ("low", "high", "pairs")},
            "sign": sign, "limit": limit, "met": bool(met), "void": void}  # fmt: skip
