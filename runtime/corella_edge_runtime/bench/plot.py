"""The benchmark as one SVG: latency per ratio on a logarithmic axis, and AUC per ratio below. No dependencies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

from corella_edge_runtime.drawing import FONT, GREY, GRID, INK, line, linear_ticks, log_ticks, spread, stroke, text

Result = dict[str, Any]
WIDTH, LEFT, RIGHT = 760, 84, 110
TOP, PANEL, GAP, BOTTOM = 64, 250, 46, 60
SERIES = (("p99", "#9fb3c8"), ("p90", "#4098d7"), ("p50", "#0b4f8a"))
AUC = "#b44d12"


@dataclass(frozen=True, slots=True)
class Panel:
    """A drawing area: x by the ratio's place, y by a value between low and high."""

    top: float
    low: float
    high: float
    count: int
    log: bool

    def x(self, place: int) -> float:
        width = WIDTH - LEFT - RIGHT
        return LEFT + width * (place + 0.5) / self.count

    def y(self, value: float) -> float:
        scale: Callable[[float], float] = math.log10 if self.log else float
        share = (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))
        return self.top + PANEL * (1.0 - share)


def svg(result: Result) -> str:
    """The whole picture; without labels the latency panel alone."""
    rows = result["ratios"]
    scored = [row for row in rows if _has_auc(row)]
    height = TOP + PANEL + BOTTOM + ((PANEL + GAP) if scored else 0)
    parts = [*_head(result, height), *_latency(rows)]
    parts += _quality(rows) if scored else []
    parts += _ratio_labels(rows, height)
    return "\n".join([*parts, "</svg>", ""])


def _has_auc(row: Result) -> bool:
    return bool(row.get("quality")) and None not in row["quality"]["auc"].values()


def _head(result: Result, height: int) -> list[str]:
    box = result["machine"]
    counts = {round(row["candidates"] / row["requests"]) for row in result["ratios"]}
    many = f"{counts.pop()} candidates a request" if len(counts) == 1 else "requests as given"
    kind = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
            f'height="{height}" font-family="{FONT}" font-size="12" fill="{INK}">')  # fmt: skip
    title = f"{result['bundle']['label']}: latency and AUC per routed share"
    return [kind, f"<title>{escape(title)}</title>", f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            text(LEFT, 26, title, size=16, weight="bold"),
            text(LEFT, 45, f"{many}; {box['cpu']}, {box['cores']} cores", fill=GREY)]  # fmt: skip


def _latency(rows: Sequence[Result]) -> list[str]:
    values = [row["request_ms"][name] for row in rows for name, _ in SERIES]
    ticks = log_ticks(min(values), max(values))
    panel = Panel(TOP, ticks[0], ticks[-1], len(rows), log=True)
    parts = _axes(panel, ticks, "ms a request (log)")
    for name, colour in SERIES:
        points = [(panel.x(i), panel.y(row["request_ms"][name])) for i, row in enumerate(rows)]
        parts += line(points, colour)
    ends = [panel.y(rows[-1]["request_ms"][name]) for name, _ in SERIES]
    for (name, colour), y in zip(SERIES, spread(ends, 14), strict=True):
        parts.append(text(WIDTH - RIGHT + 8, y + 4, name, fill=colour, weight="bold"))
    return parts


def _quality(rows: Sequence[Result]) -> list[str]:
    found = [(i, row["quality"]["auc"]) for i, row in enumerate(rows) if _has_auc(row)]
    ticks = linear_ticks(min(auc["low"] for _, auc in found), max(auc["high"] for _, auc in found))
    panel = Panel(TOP + PANEL + GAP, ticks[0], ticks[-1], len(rows), log=False)
    parts = _axes(panel, ticks, "AUC")
    alone = panel.y(found[0][1]["value"] - rows[found[0][0]]["quality"]["gain"]["value"])
    parts.append(stroke(LEFT, alone, WIDTH - RIGHT, alone, GREY, 1.0, dash="5 4"))
    for i, auc in found:
        x, low, high = panel.x(i), panel.y(auc["low"]), panel.y(auc["high"])
        parts += [stroke(x, low, x, high, AUC, 1.5)]
        parts += [stroke(x - 5, end, x + 5, end, AUC, 1.5) for end in (low, high)]
    points = [(panel.x(i), panel.y(auc["value"])) for i, auc in found]
    parts += line(points, AUC)
    places = spread(sorted((points[-1][1], alone)), 14)
    names = [("routed, 95 %", AUC), ("CRM alone", GREY)]
    for (name, colour), y in zip(names if points[-1][1] <= alone else names[::-1], places, strict=True):
        parts.append(text(WIDTH - RIGHT + 8, y + 4, name, fill=colour, weight="bold"))
    return parts


def _axes(panel: Panel, ticks: Sequence[float], title: str) -> list[str]:
    right, middle = WIDTH - RIGHT, panel.top + PANEL / 2
    parts = []
    for tick in ticks:
        y = panel.y(tick)
        parts += [stroke(LEFT, y, right, y, GRID), text(LEFT - 8, y + 4, f"{tick:g}", anchor="end", fill=GREY)]
    parts += [stroke(LEFT, panel.top, LEFT, panel.top + PANEL, GREY),
              stroke(LEFT, panel.top + PANEL, right, panel.top + PANEL, GREY)]  # fmt: skip
    turned = f'<g transform="rotate(-90 22 {middle:.1f})">{text(22, middle, title, anchor="middle")}</g>'
    return [*parts, turned]


def _ratio_labels(rows: Sequence[Result], height: int) -> list[str]:
    panel = Panel(0, 0, 1, len(rows), log=False)
    base = height - BOTTOM
    labels = [text(panel.x(i), base + 18, f"{row['ratio']:g}", anchor="middle") for i, row in enumerate(rows)]
    shares = [text(panel.x(i), base + 33, f"({row['share']:.3f})", anchor="middle", fill=GREY)
              for i, row in enumerate(rows)]  # fmt: skip
    title = "routed share asked for (and of the timed candidates)"
    return [*labels, *shares, text((LEFT + WIDTH - RIGHT) / 2, base + 52, title, anchor="middle")]
