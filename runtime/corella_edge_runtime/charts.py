"""Charts as SVG: axes, lines with bands and marks; legible in shades of grey, on paper and to a screen reader.

Lines differ in colour (Okabe and Ito, apart for the colour-blind), in dashes and in their marks. Their names stand
beside their ends in the colour of ink, because half of the colours are too light for letters on white.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from xml.sax.saxutils import escape

from corella_edge_runtime.drawing import FONT, GREY, GRID, INK, linear_ticks, log_ticks, spread, stroke, text

# Okabe and Ito, "Color universal design" (2008); grey stands for what is only a reference.
BLACK, ORANGE, SKY, GREEN, YELLOW = "#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442"
BLUE, VERMILION, PURPLE, NEUTRAL = "#0072b2", "#d55e00", "#cc79a7", "#7f7f7f"
LABEL = 15.0  # pixels from one line's name to the next
LETTER = 6.8  # pixels that a letter of a mark is wide


@dataclass(frozen=True)
class Axis:
    """One direction of a chart: the values at both ends, its marks (value, words), what it shows, and its scale."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    name: str = ""
    scale: Callable[[float], float] = float

    def part(self, value: float) -> float:
        """Where a value lies between the ends: 0 at `low`, 1 at `high`."""
        low, high = self.scale(self.low), self.scale(self.high)
        return (self.scale(value) - low) / ((high - low) or 1.0)


def linear(low: float, high: float, name: str) -> Axis:
    """Round values that enclose the range."""
    ticks = linear_ticks(low, high)
    if len(ticks) < 4:
        ticks = sorted([*ticks, *((a + b) / 2 for a, b in pairwise(ticks))])
    decimals = max(len(f"{tick:.10g}".partition(".")[2]) for tick in ticks)
    return Axis(ticks[0], ticks[-1], [(tick, f"{tick:,.{decimals}f}") for tick in ticks], name)


def logarithmic(low: float, high: float, name: str, room: int = 20) -> Axis:
    """Values 1, 2 and 5 of each power of ten, or the powers alone, that enclose the range; both ends above 0.

    Where more than `room` words would stand, those of the twos are left out.
    """
    ticks = log_ticks(low, high)
    crowded = len(ticks) > room
    words = ["" if crowded and f"{tick:e}".startswith("2") else number(tick) for tick in ticks]
    return Axis(ticks[0], ticks[-1], list(zip(ticks, words, strict=True)), name, math.log10)


def places(names: Sequence[str], name: str) -> Axis:
    """A place for each of the names, at 0, 1, 2, …"""
    return Axis(-0.5, len(names) - 0.5, [(float(i), words) for i, words in enumerate(names)], name)


def number(value: float) -> str:
    """As a mark of an axis has it."""
    return f"{value:,.10g}"


@dataclass(frozen=True)
class Frame:
    """From values to places on the paper, in pixels."""

    x: Axis
    y: Axis
    width: int = 460
    height: int = 330
    left: int = 62
    right: int = 84
    top: int = 36
    bottom: int = 50

    @property
    def base(self) -> int:
        """The y of the lower edge."""
        return self.height - self.bottom

    @property
    def end(self) -> int:
        """The x of the right edge."""
        return self.width - self.right

    def across(self, value: float) -> float:
        return self.left + (self.end - self.left) * self.x.part(value)

    def up(self, value: float) -> float:
        return self.base - (self.base - self.top) * self.y.part(value)

    def at(self, xs: Iterable[float], ys: Iterable[float]) -> list[tuple[float, float]]:
        return [(self.across(x), self.up(y)) for x, y in zip(xs, ys, strict=True)]


@dataclass(frozen=True)
class Line:
    """A named line of (x, y); `low` and `high`, if given, are the ends of its band, `hollow` the places whose marks are
    not filled."""

    name: str
    colour: str
    x: Sequence[float]
    y: Sequence[float]
    dash: str = "none"
    mark: str = ""
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    hollow: frozenset[int] = field(default_factory=frozenset)


def chart(
    frame: Frame, lines: Sequence[Line], title: str, said: str, above: Sequence[str] = (), below: Sequence[str] = ()
) -> str:
    """Lines in their axes, as a whole picture. `said` is what it shows, for who cannot see it; `above` is drawn after
    the lines, `below` before them."""
    name = "inside-" + "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    inside = (f'<rect x="{frame.left}" y="{frame.top - 6}" width="{frame.end - frame.left}" '
              f'height="{frame.base - frame.top + 12}"/>')  # fmt: skip
    parts = [*axes(frame, title), f'<clipPath id="{name}">{inside}</clipPath>', f'<g clip-path="url(#{name})">', *below]
    parts += [band(line, frame) for line in lines if line.low]
    parts += [piece for line in lines for piece in path(line, frame)]
    parts += ["</g>", *names(lines, frame), *above]
    return picture(parts, frame.width, frame.height, title, said)


def axes(frame: Frame, title: str) -> list[str]:
    """The title, the grid with its marks, and what both axes show."""
    middle = (frame.top + frame.base) / 2
    parts = [text(frame.left, 20, title, size=14, weight="bold")]
    for value, words in frame.y.ticks:
        y = frame.up(value)
        parts += [
            stroke(frame.left, y, frame.end, y, GRID),
            text(frame.left - 7, y + 4, words, anchor="end", fill=GREY),
        ]
    for value, words in apart(frame):
        x = frame.across(value)
        parts += [stroke(x, frame.base, x, frame.base + 4, GREY),
                  text(x, frame.base + 17, words, anchor="middle", fill=GREY)]  # fmt: skip
    parts += [stroke(frame.left, frame.top, frame.left, frame.base, GREY),
              stroke(frame.left, frame.base, frame.end, frame.base, GREY)]  # fmt: skip
    turned = text(14, middle, frame.y.name, anchor="middle")
    parts.append(f'<g transform="rotate(-90 14 {middle:.1f})">{turned}</g>')
    return [*parts, text((frame.left + frame.end) / 2, frame.height - 10, frame.x.name, anchor="middle")]


def apart(frame: Frame) -> list[tuple[float, str]]:
    """The marks of the axis across, from the last to the first; words that would touch later ones are left out."""
    found, edge = list[tuple[float, str]](), math.inf
    for value, words in reversed(frame.x.ticks):
        half = LETTER * len(words) / 2
        fits = frame.across(value) + half + LETTER / 2 <= edge
        found.append((value, words if fits else ""))
        edge = frame.across(value) - half if fits and words else edge
    return found


def band(line: Line, frame: Frame) -> str:
    """The area between a line's `low` and `high`."""
    return area(frame.at(line.x, line.high), frame.at(line.x, line.low), line.colour, 0.16)


def area(
    upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], colour: str, opacity: float
) -> str:
    """What lies between two edges, both given from left to right."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *lower[::-1]])
    return f'<polygon points="{points}" fill="{colour}" fill-opacity="{opacity:g}"/>'


def path(line: Line, frame: Frame) -> list[str]:
    """A line and its marks."""
    found = frame.at(line.x, line.y)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in found)
    drawn = (f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="2" '
             f'stroke-dasharray="{line.dash}"/>')  # fmt: skip
    if not line.mark:
        return [drawn]
    return [drawn, *(mark(line.mark, x, y, line.colour, i in line.hollow) for i, (x, y) in enumerate(found))]


def mark(kind: str, x: float, y: float, colour: str, hollow: bool = False) -> str:
    """A circle, square, diamond or triangle; hollow: white within its edge."""
    paint = f'fill="{"#ffffff" if hollow else colour}" stroke="{colour}" stroke-width="1.5"'
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" {paint}/>'
    if kind == "triangle":
        return f'<polygon points="{x:.1f},{y - 4:.1f} {x + 4:.1f},{y + 3:.1f} {x - 4:.1f},{y + 3:.1f}" {paint}/>'
    turn = f' transform="rotate(45 {x:.1f} {y:.1f})"' if kind == "diamond" else ""
    return f'<rect x="{x - 2.8:.1f}" y="{y - 2.8:.1f}" width="5.6" height="5.6" {paint}{turn}/>'


def names(lines: Sequence[Line], frame: Frame) -> list[str]:
    """Each line's name beside its last place, with a piece of the line before it, none above another."""
    ends = sorted(((min(max(frame.up(line.y[-1]), frame.top), frame.base), line) for line in lines if line.name),
                  key=lambda end: end[0])  # fmt: skip
    found = _within(spread([y for y, _ in ends], LABEL), frame.base)
    parts = []
    for y, (_, line) in zip(found, ends, strict=True):
        x = frame.end + 6
        parts.append(stroke(x, y, x + 16, y, line.colour, 2.0, line.dash))
        parts += [mark(line.mark, x + 8, y, line.colour)] if line.mark else []
        parts.append(text(x + 20, y + 4, line.name))
    return parts


def _within(found: Sequence[float], base: float) -> list[float]:
    """The same places moved up as far as the last one lies below `base`."""
    result: list[float] = []
    room = base
    for place in reversed(found):
        result.append(min(place, room))
        room = result[-1] - LABEL
    return result[::-1]


def error_bar(x: float, low: float, high: float, colour: str) -> list[str]:
    """An upright interval with its two ends, in pixels."""
    return [stroke(x, low, x, high, colour, 1.5), *(stroke(x - 4, y, x + 4, y, colour, 1.5) for y in (low, high))]


def ring(x: float, y: float, words: str) -> list[str]:
    """A ring around a place, with its meaning below."""
    drawn = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{INK}" stroke-width="1.8"/>'
    return [drawn, halo(x + 11, y + 19, words)] if words else [drawn]


def halo(x: float, y: float, words: str) -> str:
    """Small words that stay legible above a line."""
    edge = '<text paint-order="stroke" stroke="#ffffff" stroke-width="3" '
    return text(x, y, words, size=11).replace("<text ", edge, 1)


def labels(found: Sequence[tuple[float, float, str]], frame: Frame) -> list[str]:
    """Words beside their places (x, y, words), where they hide neither each other nor a place; else left out."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in found]
    parts = []
    for x, y, words in found:
        box = next((box for box in _around(x, y, words) if _free(box, taken, frame)), None)
        if box is not None:
            taken.append(box)
            parts.append(halo(box[0], box[3] - 3, words))
    return parts


Box = tuple[float, float, float, float]


def _around(x: float, y: float, words: str) -> list[Box]:
    """Boxes (left, top, right, bottom) for words beside a place, best first."""
    wide, high = 6.2 * len(words), 13.0
    corners = [(x + 8, y - high - 1), (x - wide - 8, y - high - 1), (x + 8, y + 2), (x - wide - 8, y + 2),
               (x - wide / 2, y - high - 8), (x - wide / 2, y + 8), (x - wide / 2, y + 22),
               (x - wide / 2, y - 2 * high - 8)]  # fmt: skip
    return [(left, top, left + wide, top + high) for left, top in corners]


def _free(box: Box, taken: Sequence[Box], frame: Frame) -> bool:
    inside = frame.left < box[0] and box[2] < frame.end and frame.top - 8 < box[1] and box[3] < frame.base
    return inside and not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)


def picture(parts: Sequence[str], width: int, height: int, title: str, said: str) -> str:
    """The whole SVG, with its title and description for a screen reader."""
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
            f'font-family="{FONT}" font-size="12" fill="{INK}" role="img">')  # fmt: skip
    about = f"<title>{escape(title)}</title>\n<desc>{escape(said)}</desc>"
    paper = f'<rect width="{width}" height="{height}" fill="#ffffff"/>'
    return "\n".join([head, about, paper, *parts, "</svg>", ""])
