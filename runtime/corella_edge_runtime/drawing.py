"""Pieces of an SVG in the one style of our plots: lines, texts, round numbers for axes. No dependencies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

FONT = "Helvetica, Arial, DejaVu Sans, sans-serif"
INK, GREY, GRID = "#1f2933", "#616e7c", "#e4e7eb"
STEPS = (1, 2, 5)


def line(points: Sequence[tuple[float, float]], colour: str) -> list[str]:
    """A line through the points, with a dot at each."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in points]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]


def stroke(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1.0, dash: str = "none") -> str:
    """A straight line."""
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
            f'stroke-width="{width:g}" stroke-dasharray="{dash}"/>')  # fmt: skip


def text(
    x: float, y: float, words: str, anchor: str = "start", fill: str = INK, size: int = 12, weight: str = "normal"
) -> str:
    """A text, escaped."""
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}" '
            f'font-weight="{weight}">{escape(words)}</text>')  # fmt: skip


def log_ticks(low: float, high: float) -> list[float]:
    """1-2-5 steps from the last at or below `low` to the first at or above `high`; decades if those are many."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    # A decade more at both ends: beside a power of ten the logarithm is rounded onto it.
    steps = STEPS if last - first <= 4 else (1,)
    every = [step * 10.0**power for power in range(first - 1, last + 2) for step in steps]
    below, above = [t for t in every if t <= low], [t for t in every if t >= high]
    start, end = below[-1], above[0]
    return [t for t in every if start <= t <= end] if start < end else [start, start * 10]


def linear_ticks(low: float, high: float) -> list[float]:
    """About five round values that enclose the range."""
    raw = max(high - low, 1e-3) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (*STEPS, 10) if s * power >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def spread(places: Sequence[float], room: float) -> list[float]:
    """The places, pushed down where needed so that ascending neighbours are `room` apart."""
    result: list[float] = []
    for place in places:
        result.append(place if not result else max(place, result[-1] + room))
    return result
