"""A benchmark's spreads and parts as SVG: histograms of latency by ratio, the break-down of a request, the ceilings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from corella_edge_runtime import charts
from corella_edge_runtime.bench.reports import shown
from corella_edge_runtime.bench.results.histogram import Histogram, least, most
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.charts import (
    BLACK,
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    Frame,
    area,
    mark,
)
from corella_edge_runtime.drawing import GREY, GRID, INK, stroke, text

Floats = npt.NDArray[np.float64]
ROW = 44  # pixels of a ratio's histogram
BAR = 24  # pixels of a ratio's bar
PER_DECADE = 24  # classes of latency
LEGEND = 100  # pixels of a name below a picture
# Each stage's colour, and the direction of its hatching, so that neighbours differ in grey.
PAINTS = {"wait": (NEUTRAL, "down"), "http": (YELLOW, "up"), "parse": (NEUTRAL, ""), "store": (GREEN, "up"),
          "turn": (ORANGE, "down"), "encode": (SKY, "up"), "crm": (BLUE, ""), "policy": (YELLOW, "down"),
          "prompt": (SKY, ""), "queue": (PURPLE, "up"), "prefill": (VERMILION, ""), "fuse": (GREEN, "down"),
          "serialise": (ORANGE, "up"), "other": (BLACK, "")}  # fmt: skip


def humps(found: Sequence[Point], title: str) -> str:
    """A histogram for each ratio below each other, over one logarithmic axis: requests that asked nothing, and those
    that asked the LLM. Heights are roots of the share of the requests, so that one in a thousand is still seen."""
    known = [point for point in found if point.histogram.counts]
    low = min(point.histogram.low for point in known) / 1e6
    high = max(point.histogram.high for point in known) / 1e6
    across = charts.logarithmic(low, high, "milliseconds a request (log)", room=9)
    frame = Frame(across, charts.linear(0.0, 1.0, ""), 460, 36 + ROW * len(known) + 80, right=112, bottom=74)
    edges = classes(across.low, across.high)
    parts = [*_columns(frame, title)]
    tallest = max(float(shares(point.histogram, edges).max()) for point in known)
    for place, point in enumerate(known):
        parts += _hump(point, frame, edges, tallest, frame.top + ROW * (place + 1))
    parts += _key(frame)
    said = "; ".join(f"at {shown.asked(point)} {_untouched(point)} asked nothing, p50 "
                     f"{shown.digits(point.latency.p50.value)} ms, p99 {shown.digits(point.latency.p99.value)} ms"
                     for point in known)  # fmt: skip
    return charts.picture(parts, frame.width, frame.height, title, f"Histograms by routed share: {said}.")


def _untouched(point: Point) -> str:
    return shown.per_cent(point.unrouted.count / point.histogram.count)


def classes(low: float, high: float) -> Floats:
    """Edges of equal classes on a logarithmic axis of milliseconds."""
    number = max(1, round(PER_DECADE * math.log10(high / low)))
    return np.logspace(math.log10(low), math.log10(high), number + 1)


def shares(histogram: Histogram, edges: Floats) -> Floats:
    """Share of a histogram's requests in each class, float64 [classes]; each bucket counts where its middle lies."""
    if not histogram.counts:
        return np.zeros(len(edges) - 1)
    middles = np.array([(least(at) + most(at)) / 2e6 for at in histogram.at])
    inside = np.clip(middles, edges[0], edges[-1])
    found: Floats = np.histogram(inside, edges, weights=np.asarray(histogram.counts, np.float64))[0]
    return found / histogram.count


def _columns(frame: Frame, title: str) -> list[str]:
    """Title, and upright lines at the marks."""
    parts = [text(14, 20, title, size=14, weight="bold")]
    for value, words in charts.apart(frame):
        x = frame.across(value)
        parts += [stroke(x, frame.top, x, frame.base, GRID),
                  text(x, frame.base + 16, words, anchor="middle", fill=GREY)]  # fmt: skip
    return [*parts, text((frame.left + frame.end) / 2, frame.base + 35, frame.x.name, anchor="middle")]


def _hump(point: Point, frame: Frame, edges: Floats, tallest: float, base: float) -> list[str]:
    whole = shares(point.histogram, edges)
    easy = shares(point.unrouted, edges) * point.unrouted.count / point.histogram.count
    parts = [stroke(frame.left, base, frame.end, base, GREY)]
    for part, colour, opacity in ((easy, BLUE, 0.85), (np.maximum(0.0, whole - easy), VERMILION, 0.6)):
        parts += _steps(part, frame, edges, tallest, base, colour, opacity)
    values = point.latency.p50.value, point.latency.p99.value
    for value, kind in zip(values, ("triangle", "diamond"), strict=True):
        parts += [mark(kind, frame.across(value), base + 4, INK)] if value else []
    p50, p99 = (shown.digits(value) for value in values)
    parts += [text(frame.left - 8, base - 6, shown.brief(point), anchor="end", weight="bold"),
              text(frame.end + 8, base - 19, f"p50 {p50} ms", size=11, fill=GREY),
              text(frame.end + 8, base - 5, f"p99 {p99} ms", size=11, fill=GREY)]  # fmt: skip
    return parts


def _steps(
    part: Floats, frame: Frame, edges: Floats, tallest: float, base: float, colour: str, opacity: float
) -> list[str]:
    """A histogram's outline and what is below it, piece by piece where it is empty between."""
    parts = []
    filled = np.flatnonzero(part > 0.0)
    for run in np.split(filled, np.flatnonzero(np.diff(filled) > 1) + 1) if len(filled) else []:
        upper = []
        for i in run.tolist():
            y = base - (ROW - 9) * math.sqrt(float(part[i]) / tallest)
            upper += [(frame.across(edges[i]), y), (frame.across(edges[i + 1]), y)]
        parts.append(area(upper, [(upper[0][0], base), (upper[-1][0], base)], colour, opacity))
    return parts


def _key(frame: Frame) -> list[str]:
    y = frame.height - 14
    found = [("no candidate asked", BLUE, 0.85), ("LLM asked", VERMILION, 0.6)]
    parts = []
    for place, (words, colour, opacity) in enumerate(found):
        x = 14 + 148 * place
        parts += [f'<rect x="{x}" y="{y - 9}" width="12" height="10" fill="{colour}" fill-opacity="{opacity}"/>',
                  text(x + 17, y, words, size=11)]  # fmt: skip
    for place, (words, kind) in enumerate((("p50", "triangle"), ("p99", "diamond"))):
        x = 264 + 52 * place
        parts += [mark(kind, x, y - 4, INK), text(x + 9, y, words, size=11)]
    return parts


def stages(found: Sequence[Point], title: str) -> str:
    """Where the mean request's time goes, as parts of 100 % for each ratio, with its milliseconds beside."""
    known = [point for point in found if point.stages]
    names = [name for name in shown.stages(known) if any(_ms(point, name) for point in known)]
    rows = math.ceil(len(names) / 4)
    height = 62 + (BAR + 8) * len(known) + 18 * rows + 12
    parts = [text(14, 20, title, size=14, weight="bold"), text(372, 42, "mean, ms", size=11, fill=GREY), *_hatches()]
    for place, point in enumerate(known):
        parts += _bar(point, names, 50 + (BAR + 8) * place)
    parts += _swatches(names, 72 + (BAR + 8) * len(known))
    said = "; ".join(
        f"at {shown.asked(point)} "
        + ", ".join(f"{shown.STAGES.get(name, name)} {shown.digits(_ms(point, name))} ms" for name in names)
        for point in known
    )
    return charts.picture(parts, 460, height, title, f"Mean milliseconds of a request: {said}.")


def _ms(point: Point, name: str) -> float:
    return sum(stage.ms for stage in point.stages if stage.name == name)


def _bar(point: Point, names: Sequence[str], y: float) -> list[str]:
    total = sum(_ms(point, name) for name in names)
    parts = [text(56, y + 16, shown.brief(point), anchor="end", weight="bold"),
             text(372, y + 16, shown.digits(total), weight="bold")]  # fmt: skip
    x = 64.0
    for name in names:
        width = 300.0 * _ms(point, name) / total if total else 0.0
        parts += _piece(name, x, y, width)
        x += width
    return parts


def _piece(name: str, x: float, y: float, width: float) -> list[str]:
    """A stage's part of a bar, with its name where there is room."""
    if width < 0.4:
        return []
    words = shown.STAGES.get(name, name)
    parts = _painted(name, x, y, width, BAR)
    if width > 7.5 * len(words) + 12:
        room = 6.6 * len(words) + 6
        middle = x + width / 2
        place = f'x="{middle - room / 2:.1f}" y="{y + 4:.1f}" width="{room:.1f}" height="16" rx="3"'
        parts += [f'<rect {place} fill="#ffffff"/>', text(middle, y + 16, words, anchor="middle", size=11)]  # fmt: skip
    return parts


def _painted(name: str, x: float, y: float, width: float, height: float) -> list[str]:
    colour, hatch = PAINTS.get(name, (GREY, ""))
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:g}"'
    parts = [f'<rect {place} fill="{colour}" stroke="#fff" stroke-width="1"/>']
    return [*parts, f'<rect {place} fill="url(#hatch-{hatch})"/>'] if hatch else parts


def _hatches() -> list[str]:
    lines = {"up": "M0 6L6 0", "down": "M0 0L6 6"}
    return [f'<pattern id="hatch-{name}" width="6" height="6" patternUnits="userSpaceOnUse"><path d="{path}" '
            'stroke="#fff" stroke-width="1.2"/></pattern>' for name, path in lines.items()]  # fmt: skip


def _swatches(names: Sequence[str], y: float) -> list[str]:
    parts = []
    for place, name in enumerate(names):
        x, top = 64 + LEGEND * (place % 4), y + 18 * (place // 4)
        parts += [*_painted(name, x, top - 10, 14, 12), text(x + 19, top, shown.STAGES.get(name, name), size=11)]
    return parts


def ceilings(rows: Sequence[tuple[str, float]]) -> str:
    """Bars of named shares (0 to 1) of a ceiling, with a line at 100 %."""
    top = max(1.0, *(share for _, share in rows))
    height = 66 + 26 * len(rows)
    title = "How near to the ceiling"
    parts = [text(14, 20, title, size=14, weight="bold")]
    for place, (name, share) in enumerate(rows):
        y, width = 36 + 26 * place, 220.0 * share / top
        parts += [text(150, y + 13, name, anchor="end"),
                  f'<rect x="158" y="{y}" width="{220 / top:.1f}" height="18" fill="{GRID}"/>',
                  f'<rect x="158" y="{y}" width="{width:.1f}" height="18" fill="{BLUE}"/>',
                  text(386, y + 13, shown.per_cent(share), weight="bold")]  # fmt: skip
    end = 158 + 220.0 / top
    parts += [
        stroke(end, 30, end, height - 28, INK, 1.5),
        text(end, height - 12, "the ceiling", anchor="middle", size=11),
    ]
    said = "; ".join(f"{name}: {shown.per_cent(share)}" for name, share in rows)
    return charts.picture(parts, 460, height, title, f"Shares of the ceiling. {said}.")
