"""docs/quality.svg, the README's picture: what the routed share costs with two LLMs, and what it gains with one."""

from __future__ import annotations

import math
from pathlib import Path

from corella_edge_runtime import charts
from corella_edge_runtime.bench.reports import curves, shown
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import Result, read
from corella_edge_runtime.charts import BLUE, VERMILION, Axis, Frame, Line

REPORTS = ("benchmark-ml-1m", "benchmark-smollm2")  # the first one's quality is drawn
SHARES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
LOOKS = {"p50": ("none", "circle"), "p99": ("7 3", "square")}
SAID = ("Left: percentiles of a request's latency against the share of candidates that the LLM is asked about, for "
        "two LLMs. Right: AUC against the same share, beside other ways to choose.")  # fmt: skip


def svg(results: Path) -> str:
    """Two panels from kept reports below the folder; the same reports give the same text."""
    found = [read(_folder(results, name)) for name in REPORTS]
    return curves.beside([latency(found), curves.quality(found[0], "auc", without=("oracle",))], _title(found), SAID)


def _folder(results: Path, name: str) -> Path:
    """That of the first CPU which has all of `REPORTS`."""
    cpus = (cpu for cpu in sorted(results.iterdir()) if all((cpu / one).is_dir() for one in REPORTS))
    return next(cpus) / name


def _title(found: list[Result]) -> str:
    states = " / ".join(dict.fromkeys(shown.state(one)[1] for one in found))
    names = [one.bundle.label for one in found]
    names[0] += " (on the right its AUC)"
    models = "; ".join(f"{_size(one)}: {name}" for one, name in zip(found, names, strict=True))
    box = found[0].machine
    return f"{states}, {box.cpu}, {box.cores} cores. LLMs by parameters: {models}"


def _size(result: Result) -> str:
    return shown.millions(result.bundle.llm_parameters or 0)


def latency(found: list[Result]) -> str:
    """Percentiles of each report's new users, those that its requests support at every share."""
    lines = [line for result, colour in zip(found, (BLUE, VERMILION), strict=True)
             for name in LOOKS if (line := _line(result, name, colour)) is not None]  # fmt: skip
    ends = [end for line in lines for end in line.y]
    ticks = [(share, f"{100 * share:g}") for share in SHARES]
    frame = Frame(Axis(0.0, 1.0, ticks, "share of the candidates asked about, %", math.sqrt),
                  charts.logarithmic(min(ends), max(ends), "milliseconds a request (log)"), right=102)  # fmt: skip
    words = "; ".join(f"{line.name} from {shown.digits(line.y[0])} to {shown.digits(line.y[-1])} ms" for line in lines)
    title = f"Latency, {found[0].settings.candidates} candidates, new users"
    return charts.chart(frame, lines, title, f"{title}: {words}.")


def _line(result: Result, name: str, colour: str) -> Line | None:
    points = [point for point in shown.headline(result) if point.ratio is not None]
    if not all(name in point.latency.supported for point in points):
        return None
    values = [getattr(point.latency, name).value or 0.0 for point in points]
    return Line(f"{_size(result)}, {name}", colour, [_ratio(point) for point in points], values, *LOOKS[name])


def _ratio(point: Point) -> float:
    return point.ratio or 0.0
