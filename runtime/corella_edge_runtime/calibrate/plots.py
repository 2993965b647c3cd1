"""The calibration report's plots as SVG: quality by share and by LLM time, gain by decile of the measure.

Lines differ in colour (Okabe and Ito, apart for the colour-blind), in dashes and in their marks, so that a copy in
shades of grey can be read, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from xml.sax.saxutils import escape

from corella_edge.routing.decision_curve import ALL, OPEN
from corella_edge_runtime.drawing import FONT, GREY, GRID, INK, linear_ticks, spread, stroke, text

Json = dict[str, Any]
WIDTH, HEIGHT = 560, 360
LEFT, RIGHT, TOP, BOTTOM = 64, 96, 40, 52
POLICY, ORACLE, RANDOM, LLM = "#0072b2", "#cc79a7", "#7f7f7f", "#d55e00"
WAYS = {ALL: ("all routed", RANDOM, "7 4", "square"), OPEN: ("can change", POLICY, "none", "circle")}
SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
NAMES = {"auc": "AUC", "logloss": "log-loss", "accuracy": "accuracy", "ece": "ECE", "uauc": "within-user AUC",
         "ndcg@10": "NDCG@10"}  # fmt: skip


@dataclass(frozen=True)
class PlotLine:
    """A named line of (x, y); `low` and `high`, if given, are the ends of its band."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    dash: str = "none"
    mark: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()


@dataclass(frozen=True)
class Frame:
    """From values to places on the paper."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float
    scale: Callable[[float], float] = float

    def x(self, value: float) -> float:
        """Across; the scale is applied to both ends, too."""
        low, high = self.scale(self.low_x), self.scale(self.high_x)
        return LEFT + (WIDTH - LEFT - RIGHT) * (self.scale(value) - low) / ((high - low) or 1.0)

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1.0 - (value - self.low_y) / ((self.high_y - self.low_y) or 1.0))


def quality(result: Json, metric: str) -> str:
    """A metric against the realised share, on a root axis: small shares are where routing is used."""
    points = [row for row in result["curve"] if row[metric]["value"] is not None]
    shares = [row["share"]["value"] for row in points]
    frame = Frame(0.0, 1.0, *_range(points, metric), math.sqrt)
    ticks = [(share, f"{100 * share:g} %") for share in SHARES]
    return _lines(_three(points, metric, shares), frame, ticks, f"{NAMES[metric]} by routed share",
                  "share of the candidates that the LLM is asked about", NAMES[metric],
                  _own(result, metric, "share"))  # fmt: skip


def cost(result: Json, metric: str) -> str:
    """A metric against the LLM's milliseconds a request."""
    points = [row for row in result["curve"] if row[metric]["value"] is not None]
    times = [row["llm_ms"] for row in points]
    ticks = linear_ticks(0.0, max(times))
    frame = Frame(0.0, ticks[-1], *_range(points, metric))
    # At random, as many candidates touch more requests: that line would have other times.
    return _lines(_three(points, metric, times)[-1:], frame, [(tick, f"{tick:g}") for tick in ticks],
                  f"{NAMES[metric]} by what the LLM costs", "milliseconds of the LLM a request, in the mean",
                  NAMES[metric], _own(result, metric, "ms"))  # fmt: skip


def top(found: Json) -> str:
    """NDCG of the best against the LLM's milliseconds a request (where that is not known, against the candidates that
    are asked about): if all routed candidates are, and if those are that can change the top."""
    timed = found["points"][-1]["llm_ms"] is not None
    lines = [_way(found, way, timed, *style) for way, style in WAYS.items()]
    ends = [y for line in lines for y in (*line.low, *line.high)]
    ticks = linear_ticks(0.0, max(max(line.x) for line in lines))
    frame = Frame(0.0, ticks[-1], min(ends), max(ends))
    x_name = "milliseconds of the LLM a request, in the mean" if timed else "candidates asked about in a request"
    return _lines(lines, frame, [(tick, f"{tick:g}") for tick in ticks], f"NDCG@{found['k']} by what the LLM costs",
                  x_name, f"NDCG@{found['k']}", None)  # fmt: skip


def _way(found: Json, way: str, timed: bool, name: str, colour: str, dash: str, mark: str) -> PlotLine:
    rows = [row for row in found["points"] if row["way"] == way]
    y, low, high = ([row["ndcg"][end] for row in rows] for end in ("value", "low", "high"))
    return PlotLine(name, colour, [row["llm_ms" if timed else "asked"] for row in rows], y, dash, mark, low, high)


def _three(points: Sequence[Json], metric: str, x: Sequence[float]) -> list[PlotLine]:
    known = [(at, row) for at, row in zip(x, points, strict=True) if row["random"][metric] is not None]
    xs, rows = [at for at, _ in known], [row for _, row in known]
    own = [row[metric] for row in points]
    return [
        PlotLine("oracle", ORACLE, xs, [row["oracle"][metric] for row in rows], "2 4", "diamond"),
        PlotLine("random", RANDOM, xs, [row["random"][metric] for row in rows], "7 4", "square"),
        PlotLine("policy", POLICY, x, [one["value"] for one in own], "none", "circle",
             [one["low"] for one in own], [one["high"] for one in own]),
    ]  # fmt: skip


def _own(result: Json, metric: str, axis: str) -> tuple[float, float] | None:
    """The place of the policy that was fitted."""
    found = result["policy"]
    x = found["share"]["value"] if axis == "share" else found["llm_ms"]
    return None if x is None or found[metric]["value"] is None else (x, found[metric]["value"])


def _range(points: Sequence[Json], metric: str) -> tuple[float, float]:
    """Of the policy's band and the random line; the oracle may leave the picture."""
    ends = [row[metric][end] for row in points for end in ("low", "high", "value")]
    ends += [row["random"][metric] for row in points]
    known = [end for end in ends if end is not None]
    return min(known), max(known)


def _lines(
    lines: Sequence[PlotLine], frame: Frame, ticks: Sequence[tuple[float, str]], title: str, x_name: str, y_name: str,
    own: tuple[float, float] | None,
) -> str:  # fmt: skip
    levels = linear_ticks(frame.low_y, frame.high_y)
    frame = replace(frame, low_y=levels[0], high_y=levels[-1])
    parts = [*_axes(frame, levels, ticks, title, x_name, y_name), *_clip(title)]
    parts += [_band(line, frame) for line in lines if line.low]
    for line in lines:
        parts += _path(line, frame)
    if own is not None:
        x, y = frame.x(own[0]), frame.y(own[1])
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{INK}" stroke-width="2"/>')
    parts.append("</g>")
    return _picture([*parts, *_names(lines, frame)], title)


def _clip(title: str) -> tuple[str, str]:
    """What keeps lines inside the axes, and the group that it is for; plots of one page have names of their own."""
    name = "inside-" + "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    inside = f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM}"/>'
    return f'<clipPath id="{name}">{inside}</clipPath>', f'<g clip-path="url(#{name})">'


def _band(line: PlotLine, frame: Frame) -> str:
    upper = [f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in zip(line.x, line.high, strict=True)]
    lower = [f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in zip(line.x, line.low, strict=True)]
    return f'<polygon points="{" ".join([*upper, *lower[::-1]])}" fill="{line.colour}" fill-opacity="0.15"/>'


def _path(line: PlotLine, frame: Frame) -> list[str]:
    places = [(frame.x(x), frame.y(y)) for x, y in zip(line.x, line.y, strict=True)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    made = f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"'
    return [f'{made} stroke-dasharray="{line.dash}"/>', *(_mark(line.mark, x, y, line.colour) for x, y in places)]


def _mark(kind: str, x: float, y: float, colour: str) -> str:
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if kind == "diamond" else ""
    return f'<rect x="{x - 3:.1f}" y="{y - 3:.1f}" width="6" height="6" fill="{colour}"{turn}/>'


def _names(lines: Sequence[PlotLine], frame: Frame) -> list[str]:
    """Each line's name beside its last place, none above another; lines that end alike share a place's row."""
    ends = sorted(((min(max(frame.y(line.y[-1]), TOP), HEIGHT - BOTTOM), line) for line in lines), key=lambda e: e[0])
    places = spread([y for y, _ in ends], 15)
    return [text(WIDTH - RIGHT + 10, y + 4, line.name, fill=line.colour, weight="bold")
            for y, (_, line) in zip(places, ends, strict=True)]  # fmt: skip


def deciles(found: Json, title: str, y_name: str) -> str:
    """Means by part of the measure, lowest first, as bars with their 95 % intervals."""
    parts = found["deciles"]
    ends = [one[end] for one in parts for end in ("value", "low", "high") if one[end] is not None]
    ticks = linear_ticks(min(0.0, *ends), max(0.0, *ends))
    frame = Frame(0.5, len(parts) + 0.5, ticks[0], ticks[-1])
    labels = [(place, str(place)) for place in range(1, len(parts) + 1)]
    drawn = _axes(frame, ticks, [(float(x), name) for x, name in labels], title,
                  "part of the rows by the measure, from least to most unsure", y_name)  # fmt: skip
    half = 0.32 * (frame.x(2.0) - frame.x(1.0)) if len(parts) > 1 else 20.0
    for place, one in enumerate(parts, 1):
        drawn += _bar(frame, place, one, half, POLICY if one["value"] >= 0 else LLM)
    drawn.append(stroke(LEFT, frame.y(0.0), WIDTH - RIGHT, frame.y(0.0), INK))
    return _picture(drawn, title)


def _bar(frame: Frame, place: int, one: Json, half: float, colour: str) -> list[str]:
    x, top, zero = frame.x(place), frame.y(max(0.0, one["value"])), frame.y(min(0.0, one["value"]))
    bar = (f'<rect x="{x - half:.1f}" y="{top:.1f}" width="{2 * half:.1f}" height="{zero - top:.1f}" fill="{colour}" '
           'fill-opacity="0.75"/>')  # fmt: skip
    if one["low"] is None:
        return [bar]
    low, high = frame.y(one["low"]), frame.y(one["high"])
    return [bar, stroke(x, low, x, high, INK, 1.5), *(stroke(x - 5, y, x + 5, y, INK, 1.5) for y in (low, high))]


def _axes(
    frame: Frame, y_ticks: Sequence[float], x_ticks: Sequence[tuple[float, str]], title: str, x_name: str, y_name: str
) -> list[str]:
    right, base, middle = WIDTH - RIGHT, HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    parts = [text(LEFT, 24, title, size=14, weight="bold")]
    for tick in y_ticks:
        y = frame.y(tick)
        parts += [stroke(LEFT, y, right, y, GRID), text(LEFT - 8, y + 4, f"{tick:g}", anchor="end", fill=GREY)]
    for value, name in x_ticks:
        x = frame.x(value)
        parts += [stroke(x, base, x, base + 4, GREY), text(x, base + 18, name, anchor="middle", fill=GREY)]
    parts += [stroke(LEFT, TOP, LEFT, base, GREY), stroke(LEFT, base, right, base, GREY)]
    turned = f'<g transform="rotate(-90 16 {middle:.1f})">{text(16, middle, y_name, anchor="middle")}</g>'
    return [*parts, turned, text((LEFT + right) / 2, HEIGHT - 12, x_name, anchor="middle")]


def _picture(parts: Sequence[str], title: str) -> str:
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
            f'font-family="{FONT}" font-size="12" fill="{INK}" role="img">')  # fmt: skip
    paper = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
    return "\n".join([head, f"<title>{escape(title)}</title>", paper, *parts, "</svg>", ""])
