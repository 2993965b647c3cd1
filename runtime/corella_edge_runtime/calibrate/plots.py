"""The calibration report's plots as SVG: quality by share and by LLM time, gain by decile of the measure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from corella_edge.routing.decision_curve import ALL, OPEN
from corella_edge_runtime import charts
from corella_edge_runtime.charts import BLUE, NEUTRAL, PURPLE, VERMILION, Axis, Frame, Line
from corella_edge_runtime.drawing import INK, stroke

Json = dict[str, Any]
WIDTH, HEIGHT = 560, 360
WAYS = {ALL: ("all routed", NEUTRAL, "7 4", "square"), OPEN: ("can change", BLUE, "none", "circle")}
SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
NAMES = {"auc": "AUC", "logloss": "log-loss", "accuracy": "accuracy", "ece": "ECE", "uauc": "within-user AUC",
         "ndcg@10": "NDCG@10"}  # fmt: skip


def quality(result: Json, metric: str) -> str:
    """A metric against the realised share, on a root axis: small shares are where routing is used."""
    points = [row for row in result["curve"] if row[metric]["value"] is not None]
    shares = [row["share"]["value"] for row in points]
    ticks = [(share, f"{100 * share:g} %") for share in SHARES]
    across = Axis(0.0, 1.0, ticks, "share of the candidates that the LLM is asked about", math.sqrt)
    return _lines(_three(points, metric, shares), across, _upright(points, metric), f"{NAMES[metric]} by routed share",
                  _own(result, metric, "share"))  # fmt: skip


def cost(result: Json, metric: str) -> str:
    """A metric against the LLM's milliseconds a request."""
    points = [row for row in result["curve"] if row[metric]["value"] is not None]
    times = [row["llm_ms"] for row in points]
    across = charts.linear(0.0, max(times), "milliseconds of the LLM a request, in the mean")
    # At random, as many candidates touch more requests: that line would have other times.
    return _lines(_three(points, metric, times)[-1:], across, _upright(points, metric),
                  f"{NAMES[metric]} by what the LLM costs", _own(result, metric, "ms"))  # fmt: skip


def top(found: Json) -> str:
    """NDCG of the best against the LLM's milliseconds a request (where that is not known, against the candidates that
    are asked about): if all routed candidates are, and if those are that can change the top."""
    timed = found["points"][-1]["llm_ms"] is not None
    lines = [_way(found, way, timed, *style) for way, style in WAYS.items()]
    ends = [y for line in lines for y in (*line.low, *line.high)]
    x_name = "milliseconds of the LLM a request, in the mean" if timed else "candidates asked about in a request"
    across = charts.linear(0.0, max(max(line.x) for line in lines), x_name)
    upright = charts.linear(min(ends), max(ends), f"NDCG@{found['k']}")
    return _lines(lines, across, upright, f"NDCG@{found['k']} by what the LLM costs", None)


def _way(found: Json, way: str, timed: bool, name: str, colour: str, dash: str, mark: str) -> Line:
    rows = [row for row in found["points"] if row["way"] == way]
    y, low, high = ([row["ndcg"][end] for row in rows] for end in ("value", "low", "high"))
    return Line(name, colour, [row["llm_ms" if timed else "asked"] for row in rows], y, dash, mark, low, high)


def _three(points: Sequence[Json], metric: str, x: Sequence[float]) -> list[Line]:
    known = [(at, row) for at, row in zip(x, points, strict=True) if row["random"][metric] is not None]
    xs, rows = [at for at, _ in known], [row for _, row in known]
    own = [row[metric] for row in points]
    return [
        Line("oracle", PURPLE, xs, [row["oracle"][metric] for row in rows], "2 4", "diamond"),
        Line("random", NEUTRAL, xs, [row["random"][metric] for row in rows], "7 4", "square"),
        Line("policy", BLUE, x, [one["value"] for one in own], "none", "circle",
             [one["low"] for one in own], [one["high"] for one in own]),
    ]  # fmt: skip


def _own(result: Json, metric: str, axis: str) -> tuple[float, float] | None:
    """The place of the policy that was fitted."""
    found = result["policy"]
    x = found["share"]["value"] if axis == "share" else found["llm_ms"]
    return None if x is None or found[metric]["value"] is None else (x, found[metric]["value"])


def _upright(points: Sequence[Json], metric: str) -> Axis:
    """Around the policy's band and the random line; the oracle may leave the picture."""
    ends = [row[metric][end] for row in points for end in ("low", "high", "value")]
    ends += [row["random"][metric] for row in points]
    known = [end for end in ends if end is not None]
    return charts.linear(min(known), max(known), NAMES[metric])


def _lines(lines: Sequence[Line], x: Axis, y: Axis, title: str, own: tuple[float, float] | None) -> str:
    frame = Frame(x, y, WIDTH, HEIGHT, right=104)
    ring = "" if own is None else (f'<circle cx="{frame.across(own[0]):.1f}" cy="{frame.up(own[1]):.1f}" r="8" '
                                   f'fill="none" stroke="{INK}" stroke-width="2"/>')  # fmt: skip
    said = f"{y.name} (upright) against {x.name}: {', '.join(line.name for line in lines)}."
    return charts.chart(frame, lines, title, said, [ring])


def deciles(found: Json, title: str, y_name: str) -> str:
    """Means by part of the measure, lowest first, as bars with their 95 % intervals."""
    parts = found["deciles"]
    ends = [one[end] for one in parts for end in ("value", "low", "high") if one[end] is not None]
    across = charts.places([str(place) for place in range(1, len(parts) + 1)],
                           "part of the rows by the measure, from least to most unsure")  # fmt: skip
    frame = Frame(across, charts.linear(min(0.0, *ends), max(0.0, *ends), y_name), WIDTH, HEIGHT)
    drawn = charts.axes(frame, title)
    half = 0.32 * (frame.across(1.0) - frame.across(0.0)) if len(parts) > 1 else 20.0
    for place, one in enumerate(parts):
        drawn += _bar(frame, place, one, half, BLUE if one["value"] >= 0 else VERMILION)
    drawn.append(stroke(frame.left, frame.up(0.0), frame.end, frame.up(0.0), INK))
    return charts.picture(drawn, WIDTH, HEIGHT, title, f"{y_name}, by tenth of the rows ordered by the measure.")


def _bar(frame: Frame, place: int, one: Json, half: float, colour: str) -> list[str]:
    x, top, zero = frame.across(place), frame.up(max(0.0, one["value"])), frame.up(min(0.0, one["value"]))
    bar = (f'<rect x="{x - half:.1f}" y="{top:.1f}" width="{2 * half:.1f}" height="{zero - top:.1f}" fill="{colour}" '
           'fill-opacity="0.75"/>')  # fmt: skip
    return (
        [bar] if one["low"] is None else [bar, *charts.error_bar(x, frame.up(one["low"]), frame.up(one["high"]), INK)]
    )
