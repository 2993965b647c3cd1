"""A benchmark's curves as SVG: latency, quality and throughput against the ratio, the frontier, the law, and time."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

from msgspec.structs import replace

from corella_edge_runtime import charts
from corella_edge_runtime.bench.reports import shown
from corella_edge_runtime.bench.results.circumstances import Figure
from corella_edge_runtime.bench.results.points import Moment, Point
from corella_edge_runtime.bench.results.result import QualityPoint, Result
from corella_edge_runtime.charts import (
    BLACK,
    BLUE,
    GREEN,
    NEUTRAL,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    Axis,
    Frame,
    Line,
)
from corella_edge_runtime.drawing import GREY, INK, stroke, text

# Each percentile's colour, dashes and mark.
LOOKS = {"p50": (BLUE, "none", "circle"), "p90": (SKY, "8 3", "square"), "p95": (GREEN, "5 3", "diamond"),
         "p99": (VERMILION, "none", "square"), "p999": (PURPLE, "7 3 2 3", "triangle"), "max": (NEUTRAL, "2 3", ""),
         }  # fmt: skip
ALWAYS = ("p50", "p99", "max")  # others are drawn where the sample supports them somewhere
# Of the lines of quality, in the order in which they are drawn; the published rules by their names in `rules`.
QUALITY = {"entropy": (ORANGE, "9 3 2 3", "triangle"), "rare items": (BLACK, "7 3 2 3", "diamond"),
           "learned win": (GREEN, "12 3", "square"), "learned gain": (SKY, "5 2", "triangle"),
           "random": (NEUTRAL, "6 4", "square"), "oracle": (PURPLE, "2 4", "diamond"),
           "policy": (BLUE, "none", "circle")}  # fmt: skip
ALONE = {"crm": ("base model", BLACK, "1 3"), "llm": ("LLM alone", VERMILION, "9 4")}
MANY = ((BLUE, "none", "circle"), (VERMILION, "7 3", "square"), (GREEN, "2 3", "diamond"),
        (ORANGE, "9 3 2 3", "triangle"), (PURPLE, "5 2", "circle"), (SKY, "12 3", "square"), (BLACK, "1 3", "diamond"),
        (NEUTRAL, "4 4", "triangle"),
        )  # fmt: skip
FAINT = "#e3b08f"  # of intervals behind a line
SHARES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def main(result: Result) -> str:
    """The picture of a benchmark: latency of the headline's curve, and quality beside it if it was measured."""
    found = shown.headline(result)
    panels = [latency(found, result.settings.slo, "Latency by routed share")] if found else []
    panels += [quality(result, "auc")] if has(result, "auc") else []
    title = f"{shown.state(result)[1]}: {result.bundle.label} on {result.machine.cpu}, {result.machine.cores} cores"
    return beside(
        panels, title, "Percentiles of latency, and AUC, against the share of candidates that the LLM is asked about."
    )


def beside(panels: Sequence[str], title: str, said: str) -> str:
    """Charts side by side in one picture, on white paper, below a line of text."""
    width, height = 460 * max(1, len(panels)), 330
    inner = [panel.replace("<svg ", f'<svg x="{460 * i}" y="30" ', 1) for i, panel in enumerate(panels)]
    head = [f'<rect width="{width}" height="{height + 30}" fill="#ffffff"/>', text(14, 20, title, fill=GREY, size=12)]
    return charts.picture([*head, *inner], width, height + 30, title, said)


def latency(found: Sequence[Point], slo: str | None, title: str, like: Sequence[Point] = ()) -> str:
    """Percentiles against the ratio, on a logarithmic axis that also holds the points of `like`.

    Hollow marks: the sample is too small for that percentile.
    """
    lines = [line for name in LOOKS if (line := _percentile(found, name))]
    limit = shown.objective(slo)
    ends = [value for point in (*found, *like) for value in _ends(point)] + ([limit[1]] if limit else [])
    frame = Frame(_across(found), charts.logarithmic(min(ends), max(ends), "milliseconds a request (log)"))
    words = "; ".join(f"at {shown.asked(point)} p50 {shown.digits(point.latency.p50.value)} ms, p99 "
                      f"{shown.digits(point.latency.p99.value)} ms" for point in found)  # fmt: skip
    return charts.chart(frame, lines, title, f"Latency: {words}.", _limit(frame, limit))


def _percentile(found: Sequence[Point], name: str) -> Line | None:
    colour, dash, mark = LOOKS[name]
    known = [(i, figure) for i, point in enumerate(found) if (figure := getattr(point.latency, name)).value]
    bands = [figure for _, figure in known] if all(figure.low and figure.high for _, figure in known) else []
    told = any(name in point.latency.supported for point in found)
    weak = frozenset(place for place, (i, _) in enumerate(known)
                     if name != "max" and name not in found[i].latency.supported)  # fmt: skip
    line = Line(shown.PERCENTILES[name], colour, [i for i, _ in known], [figure.value for _, figure in known], dash,
                mark, [figure.low for figure in bands], [figure.high for figure in bands], weak)  # fmt: skip
    return line if known and (told or name in ALWAYS) else None


def _ends(point: Point) -> list[float]:
    found = [end for name in LOOKS for figure in (getattr(point.latency, name),)
             for end in (figure.value, figure.low, figure.high)]  # fmt: skip
    return [end for end in found if end]


def _across(found: Sequence[Point]) -> Axis:
    return charts.places(*shown.marks(found))


def _limit(frame: Frame, limit: tuple[str, float] | None) -> list[str]:
    """The objective as a line across."""
    if limit is None:
        return []
    y = frame.up(limit[1])
    words = f"objective {limit[0]} ≤ {shown.digits(limit[1])} ms"
    beside = y - 5 if y - 5 - charts.LABEL > frame.top else y + charts.LABEL  # not over the title
    return [stroke(frame.left, y, frame.end, y, INK, 1.2, "3 3"), charts.halo(frame.left + 6, beside, words)]


def has(result: Result, metric: str) -> bool:
    """Whether the policy's curve has a metric; the base model alone is no curve."""
    own = [point for point in result.quality.points if point.line == "policy"]
    return any(_known(point, metric) for point in own if point.share > 0.0)


def _known(point: QualityPoint, metric: str) -> bool:
    return metric in point.metrics and point.metrics[metric].value is not None


def _value(point: QualityPoint, metric: str) -> float:
    value = point.metrics[metric].value
    assert value is not None
    return value


def paired(result: Result, metric: str) -> list[QualityPoint]:
    """The points that have a metric, with the interval of its gain over the base model around it, where that is known.

    The interval of the metric itself is mostly the chance of which users were drawn, and common to all points.
    """
    known = [point for point in result.quality.points if _known(point, metric)]
    base = next((_value(point, metric) for point in known if point.line == "crm"), None)
    return [
        point if base is None else replace(point, metrics={metric: _gained(point, metric, base)}) for point in known
    ]


def _gained(point: QualityPoint, metric: str, base: float) -> Figure:
    gain = point.gains.get(metric)
    if gain is None or gain.low is None or gain.high is None:
        return point.metrics[metric]
    return Figure(_value(point, metric), base + gain.low, base + gain.high)


def quality(result: Result, metric: str, without: Collection[str] = ()) -> str:
    """A metric against the share, on a root axis: the policy with its band, and what it is to be judged by, but for
    some lines."""
    known = [point for point in paired(result, metric) if point.line not in without]
    own = [point for point in known if point.line in QUALITY]
    alone = [point for point in known if point.line in ALONE]
    axis = shown.METRICS.get(metric, metric.upper())
    frame = Frame(_shares(), charts.linear(*_inside(known, metric), axis), right=112)
    lines = [_of_line(own, name, metric) for name in QUALITY if any(point.line == name for point in own)]
    lines += [_level(point, metric, frame.x) for point in alone]
    words = "; ".join(f"{shown.asked(point)}: {shown.fine(point.metrics[metric])}" for point in own
                      if point.line == "policy")  # fmt: skip
    return charts.chart(frame, lines, f"{axis} by routed share", f"{axis} of the policy at {words}.",
                        [*_knee(result, frame, own, metric), *_left(frame, own, metric)])  # fmt: skip


def _shares() -> Axis:
    ticks = [(share, f"{100 * share:g}") for share in SHARES]
    return Axis(0.0, 1.0, ticks, "share of the labelled rows asked about, %", math.sqrt)


def _inside(known: Sequence[QualityPoint], metric: str) -> tuple[float, float]:
    """The ends of the axis. The oracle is inside, too, unless that would squeeze all others into less than half."""
    ends = [end for point in known if point.line != "oracle" for figure in (point.metrics[metric],)
            for end in ((figure.value, figure.low, figure.high) if point.line == "policy" else (figure.value,))
            if end is not None]  # fmt: skip
    low, high = min(ends), max(ends)
    every = [low, high, *(_value(point, metric) for point in known if point.line == "oracle")]
    return (min(every), max(every)) if max(every) - min(every) <= 2 * (high - low) else (low, high)


def _left(frame: Frame, own: Sequence[QualityPoint], metric: str) -> list[str]:
    """Where the oracle leaves the picture: how far it goes."""
    oracle = [_value(point, metric) for point in own if point.line == "oracle"]
    parts = []
    for best, y in ((max(oracle, default=0.0), frame.top + 12), (min(oracle, default=0.0), frame.base - 6)):
        if oracle and not 0.0 <= frame.y.part(best) <= 1.0:
            parts.append(charts.halo(frame.left + 8, y, f"oracle: as far as {best:.3f}, outside"))
    return parts


def _of_line(own: Sequence[QualityPoint], name: str, metric: str) -> Line:
    colour, dash, mark = QUALITY[name]
    found = sorted((point for point in own if point.line == name), key=lambda point: point.share)
    figures = [point.metrics[metric] for point in found]
    banded = name == "policy" and all(figure.low is not None and figure.high is not None for figure in figures)
    return Line(name, colour, [point.share for point in found], [_value(point, metric) for point in found], dash, mark,
                [figure.low or 0.0 for figure in figures] if banded else [],
                [figure.high or 0.0 for figure in figures] if banded else [])  # fmt: skip


def _level(point: QualityPoint, metric: str, across: Axis) -> Line:
    """A model alone, across the whole picture."""
    name, colour, dash = ALONE[point.line]
    return Line(name, colour, [across.low, across.high], [_value(point, metric)] * 2, dash)


def _knee(result: Result, frame: Frame, own: Sequence[QualityPoint], metric: str) -> list[str]:
    """The ring around the policy's point at the knee."""
    mine = [point for point in own if point.line == "policy"]
    if result.quality.knee is None or not mine:
        return []
    knee = result.quality.knee
    near = min(mine, key=lambda point: abs((point.share if point.ratio is None else point.ratio) - knee))
    return charts.ring(frame.across(near.share), frame.up(_value(near, metric)), "knee")


def pairs(result: Result, name: str, metric: str) -> list[tuple[Point, float, Figure]]:
    """The headline's points that have both a latency percentile and a metric of quality at the same threshold."""
    scored = {point.threshold: point.metrics[metric] for point in paired(result, metric) if point.line == "policy"}
    found = [(point, getattr(point.latency, name).value, scored[point.threshold])
             for point in shown.headline(result) if point.threshold in scored]  # fmt: skip
    return [one for one in found if one[1]]


def frontier(found: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (latency, quality) no other point beats in one of both without losing in the other; by latency."""
    best, kept = -math.inf, []
    for place in sorted(range(len(found)), key=lambda i: (found[i][0], -found[i][1])):
        if found[place][1] > best:
            best = found[place][1]
            kept.append(place)
    return kept


def trade(result: Result, metric: str) -> str:
    """Quality against latency, p99 and p50; filled marks lie on the frontier, hollow ones are beaten by another. Each
    model alone is a level."""
    both = {name: pairs(result, name, metric) for name in ("p99", "p50")}
    ms = [value for found in both.values() for _, value, _ in found]
    alone = [point for point in result.quality.points if point.line in ALONE and _known(point, metric)]
    ends = [end for _, _, figure in both["p99"] for end in (figure.value, figure.low, figure.high) if end is not None]
    ends += [_value(point, metric) for point in alone]
    axis = shown.METRICS.get(metric, metric.upper())
    across = charts.logarithmic(min(ms), max(ms), "milliseconds a request, new users (log)", room=9)
    frame = Frame(across, charts.linear(min(ends), max(ends), axis), right=106)
    lines = [_traded(both[name], name) for name in ("p50", "p99")] + [_level(point, metric, frame.x) for point in alone]
    bars = [stroke(frame.across(value), frame.up(figure.low), frame.across(value), frame.up(figure.high), FAINT)
            for _, value, figure in both["p99"] if figure.low is not None and figure.high is not None]  # fmt: skip
    words = charts.labels([(frame.across(value), frame.up(figure.value or 0.0), shown.brief(point))
                           for point, value, figure in both["p99"]], frame)  # fmt: skip
    said = "; ".join(f"{shown.asked(point)}: p99 {shown.digits(value)} ms, {axis} {shown.fine(figure)}"
                     for point, value, figure in both["p99"])  # fmt: skip
    return charts.chart(frame, lines, f"The frontier: {axis} against latency", f"{said}.",
                        [*_trade_knee(result, frame, both["p99"]), *words], bars)  # fmt: skip


def _traded(found: Sequence[tuple[Point, float, Figure]], name: str) -> Line:
    colour, dash, mark = (*LOOKS[name][:1], "none" if name == "p99" else "5 3", LOOKS[name][2])
    kept = frontier([(value, figure.value or 0.0) for _, value, figure in found])
    order = sorted(range(len(found)), key=lambda i: found[i][1])
    hollow = frozenset(place for place, i in enumerate(order) if i not in kept)
    return Line(name, colour, [found[i][1] for i in order], [found[i][2].value or 0.0 for i in order], dash, mark,
                hollow=hollow)  # fmt: skip


def _trade_knee(result: Result, frame: Frame, found: Sequence[tuple[Point, float, Figure]]) -> list[str]:
    knee = result.quality.knee
    near = None if knee is None else shown.matching([point for point, _, _ in found], knee)
    return [piece for point, value, figure in found if point is near
            for piece in charts.ring(frame.across(value), frame.up(figure.value or 0.0), "")]  # fmt: skip


def touched(found: Sequence[Point], control: Sequence[Point]) -> str:
    """Requests with a routed candidate against the ratio: measured, by the law, and if candidates were independent."""
    x = list(range(len(found)))
    lines = [_part("measured", (BLUE, "none", "circle"), x, [shown.seen_by_law(point)[0] for point in found])]
    lines += [_part("predicted", (VERMILION, "6 3", "diamond"), x, [point.law.touched for point in found])]
    lines += [_part("independent", (NEUTRAL, "2 3", ""), x, [point.law.independent for point in found])]
    drawn = {point.threshold: point.touched.value for point in control}
    lines.append(_part("random", (GREEN, "9 3 2 3", "square"), x, [drawn.get(point.threshold) for point in found]))
    frame = Frame(_across(found), charts.linear(0.0, 100.0, "requests with a routed candidate, %"), right=108)
    said = "; ".join(f"at {shown.asked(point)}: predicted {shown.per_cent(point.law.touched)}, measured "
                     f"{shown.per_cent(shown.seen_by_law(point)[0])}" for point in found)  # fmt: skip
    return charts.chart(frame, [line for line in lines if line.x], "Requests that touch the LLM", f"{said}.")


def _part(name: str, look: tuple[str, str, str], x: Sequence[int], shares: Sequence[float | None]) -> Line:
    known = [(float(at), 100.0 * share) for at, share in zip(x, shares, strict=True) if share is not None]
    return Line(name, look[0], [at for at, _ in known], [share for _, share in known], look[1], look[2])


def law_p99(found: Sequence[Point]) -> str:
    """p99 by the law and as measured, of points that have both."""
    x = [float(i) for i in range(len(found))]
    seen = [shown.seen_by_law(point)[1].value or 0.0 for point in found]
    told = [point.law.p99 or 0.0 for point in found]
    frame = Frame(_across(found), charts.logarithmic(min(seen + told), max(seen + told), "p99, milliseconds (log)"),
                  right=100)  # fmt: skip
    lines = [
        Line("measured", BLUE, x, seen, "none", "circle"),
        Line("predicted", VERMILION, x, told, "6 3", "diamond"),
    ]
    words = "; ".join(f"at {shown.asked(point)}: predicted {shown.digits(point.law.p99)} ms, measured "
                      f"{shown.figure(shown.seen_by_law(point)[1])} ms" for point in found)  # fmt: skip
    return charts.chart(frame, lines, "p99 by the law, and measured", f"{words}.")


def over_time(found: Sequence[Point], what: str) -> str:
    """The routed share (`share`) or `p99` of each point in the stretches of its run."""
    value: Callable[[Moment], float | None]
    value = (lambda one: None if one.share is None else 100.0 * one.share) if what == "share" else lambda one: one.p99
    lines = []
    for place, point in enumerate(found):
        end = max((one.at_s for one in point.over_time), default=0.0) or 1.0
        known = [(100.0 * one.at_s / end, at) for one in point.over_time if (at := value(one)) is not None]
        if known:
            colour, dash, mark = MANY[place % len(MANY)]
            xs, ys = [x for x, _ in known], [y for _, y in known]
            lines.append(Line(shown.brief(point), colour, xs, ys, dash, mark))
    across = charts.linear(0.0, 100.0, "part of the point's run, %")
    ends = [y for line in lines for y in line.y]
    upright = _percents() if what == "share" else charts.logarithmic(min(ends), max(ends), "p99, milliseconds (log)")
    title = "Realised share over time" if what == "share" else "p99 over time"
    return charts.chart(Frame(across, upright, right=88), lines, title,
                        f"{title}: a line for each of {', '.join(line.name for line in lines)}.")  # fmt: skip


def _percents() -> Axis:
    """A share in per cent, upright, on a root scale."""
    return Axis(0.0, 100.0, [(value, f"{value:g}") for value in (0.0, 1.0, 5.0, 10.0, 20.0, 50.0, 100.0)],
                "share of the candidates, % (root)", math.sqrt)  # fmt: skip


def rates(found: Sequence[Point], slo: str | None) -> str:
    """The largest rate that keeps the objective against the ratio, logarithmic, with its interval. Where none was found
    there is no mark; an interval from 0 begins at the foot."""
    known = [
        (float(i), point.rates) for i, point in enumerate(found) if point.rates is not None and point.rates.largest
    ]
    tops = [rate.high or rate.first_failed or rate.largest for _, rate in known]
    lows = [rate.largest if rate.low is None else rate.low for _, rate in known]
    least = min(low or rate.largest for low, (_, rate) in zip(lows, known, strict=True))
    upright = charts.logarithmic(least, max(tops), "requests a second (log)")
    frame, feet = Frame(_across(found), upright, right=30), [low or upright.low for low in lows]
    line = Line("", BLUE, [x for x, _ in known], [rate.largest for _, rate in known], "none", "circle")
    bars = [piece for (x, _), low, top in zip(known, feet, tops, strict=True)
            for piece in charts.error_bar(frame.across(x), frame.up(low), frame.up(top), GREY)]  # fmt: skip
    said = "; ".join(f"at {shown.asked(found[int(x)])}: {shown.digits(rate.largest)}" for x, rate in known)
    return charts.chart(frame, [line], f"Largest rate within {slo or 'the objective'}",
                        f"Requests a second {said}.", (), bars)  # fmt: skip


def throughput(curves: Sequence[tuple[str, Sequence[Point]]]) -> str:
    """Candidates a second against the ratio, a line for each number of processes; all requests at once."""
    longest = max((found for _, found in curves), key=len)
    lines = []
    for place, (name, found) in enumerate(curves):
        known = [(float(i), point.candidates_per_s) for i, point in enumerate(found) if point.candidates_per_s.value]
        colour, dash, mark = MANY[place % len(MANY)]
        lines.append(Line(name, colour, [x for x, _ in known], [one.value or 0.0 for _, one in known], dash, mark))
    ys = [y for line in lines for y in line.y]
    frame = Frame(_across(longest), charts.logarithmic(min(ys), max(ys), "candidates a second (log)"), left=74,
                  right=106)  # fmt: skip
    return charts.chart(frame, lines, "Throughput, all requests at once",
                        f"Candidates a second, lines for {', '.join(line.name for line in lines)}.")  # fmt: skip
