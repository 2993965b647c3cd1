"""The report's plots as inline SVG: the same bytes for the same lines, no fonts or scripts inside."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from corella_edge_export.report.log import LOSSES, MODELS, Line, StageLog, number
from corella_edge_export.training.stage import named

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, GREY, GRID = "#1f2933", "#616e7c", "#e4e7eb"
CRM, LLM, BOTH = "#0b4f8a", "#b44d12", "#5b3a8c"
COLOURS = {"": BOTH, "crm_": CRM, "llm_": LLM}
PAIRS = ("#0b4f8a", "#b44d12", "#1b7f5c", "#8c2f5d", "#4098d7", "#7a6a00")
DASHES = ("-", "--", "-.", ":")
SIZE = (4.6, 3.0)
# Letters of a legend that fit side by side.
LEGEND = 52
# Of longer logs this many points are drawn; the smoothed line is made of all.
DRAWN = 2000
# A smoothed point is the mean over this part of the log, half before it and half after.
SMOOTHED = 20
STYLE = {
    "svg.hashsalt": "corella-edge", "svg.fonttype": "none", "font.size": 9.0, "text.color": INK,
    "axes.edgecolor": GREY, "axes.labelcolor": INK, "axes.linewidth": 0.8, "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": GRID, "grid.linewidth": 0.8,
    "xtick.color": GREY, "ytick.color": GREY, "legend.frameon": False, "legend.fontsize": 8.5,
    "lines.linewidth": 1.8, "lines.solid_capstyle": "round",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plot:
    """One figure: its SVG, which bears `label` for screen readers, and the caption below it."""

    svg: str
    label: str
    caption: str


@dataclass(frozen=True, slots=True)
class Series:
    """A line to draw; points that are not numbers are left out."""

    label: str
    colour: str
    points: tuple[tuple[float, float], ...]
    dash: str = "-"

    @classmethod
    def of(cls, label: str, colour: str, lines: Sequence[Line], key: str) -> Series:
        points = ((line["step"], number(line, key)) for line in lines)
        return cls(label, colour, tuple(point for point in points if not math.isnan(point[1])))


def plots(stage: StageLog, pairs: Sequence[str]) -> Iterator[Plot]:
    """What the stage's lines allow to draw; `pairs` are the names of the aligned pairs, if known."""
    plain = (losses, parts, quality, perplexity)
    made = (*(draw(stage) for draw in plain), distance(stage, pairs), calibration(stage))
    yield from (plot for plot in made if plot is not None)


def losses(stage: StageLog) -> Plot | None:
    """The training loss, raw and smoothed."""
    series = Series.of("smoothed", _colour(stage), stage.train, "loss")
    if not series.points:
        return None
    smooth = smoothed(series.points)

    def draw(axes: Axes) -> None:
        raw = _thinned(series.points)
        axes.plot(*_columns(raw), color=GREY, alpha=0.45, linewidth=0.8, marker=_marker(raw), label="as logged")
        _line(axes, series, smooth)
        _over_steps(axes, "training loss")

    label = f"Training loss of {stage.name} from {_first_last(smooth)}, smoothed"
    caption = f"Training loss. {_thin_note(series)}"
    return Plot(_svg(f"{stage.name}-loss", label, draw), label, caption)


def parts(stage: StageLog) -> Plot | None:
    """The summands of the joint loss, smoothed."""
    colours = {"crm_loss": CRM, "llm_loss": LLM, "align_loss": "#1b7f5c"}
    found = [Series.of(LOSSES[key], colour, stage.train, key) for key, colour in colours.items()]
    found = [series for series in found if series.points]
    if not found:
        return None

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator, NullLocator

        for series in found:
            _line(axes, series, smoothed(series.points))
        if all(value > 0 for series in found for _, value in series.points):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
        _over_steps(axes, "loss, unweighted")

    said = (f"{series.label} from {_first_last(smoothed(series.points))}" for series in found)
    label = f"Parts of the loss of {stage.name}, smoothed: {'; '.join(said)}"
    return Plot(_svg(f"{stage.name}-parts", label, draw), label, "Parts of the loss, smoothed.")


def quality(stage: StageLog) -> Plot | None:
    """Validation AUC; of both models where the log has both."""
    made = {prefix: Series.of(MODELS[prefix] or "AUC", _colour(stage) if not prefix else COLOURS[prefix],
                              stage.valid, f"{prefix}auc") for prefix in MODELS}  # fmt: skip
    both = made["crm_"].points or made["llm_"].points
    shown = {prefix: series for prefix, series in made.items() if series.points and (prefix or not both)}
    if not shown:
        return None

    def draw(axes: Axes) -> None:
        for prefix, series in shown.items():
            _line(axes, series, series.points, marker="o")
            _mark(axes, stage, f"{prefix}auc")
        _over_steps(axes, "validation AUC")

    best = (f"{series.label} {_last(series, stage.kept)}" for series in shown.values())
    label = f"Validation AUC of {stage.name} over {stage.steps:,} steps; kept: {', '.join(best)}"
    return Plot(_svg(f"{stage.name}-auc", label, draw), label, f"Validation AUC. {_kept_note(stage)}")


def perplexity(stage: StageLog) -> Plot | None:
    """Validation perplexity of a language model."""
    series = Series.of("perplexity", _colour(stage), stage.valid, "perplexity")
    if not series.points:
        return None

    def draw(axes: Axes) -> None:
        _line(axes, series, series.points, marker="o")
        _mark(axes, stage, "perplexity")
        _over_steps(axes, "validation perplexity")

    label = f"Validation perplexity of {stage.name} from {_first_last(series.points)}"
    return Plot(_svg(f"{stage.name}-perplexity", label, draw), label, f"Validation perplexity. {_kept_note(stage)}")


def distance(stage: StageLog, pairs: Sequence[str]) -> Plot | None:
    """Mean alignment distance of each pair: training lines smoothed, evaluations as points."""
    trained, judged = (_distances(lines, pairs) for lines in (stage.train, stage.valid))
    if not trained and not judged:
        return None

    def draw(axes: Axes) -> None:
        for series in trained:
            _line(axes, series, smoothed(series.points))
        for series in judged:
            name = "_nolegend_" if trained else series.label
            axes.plot(*_columns(series.points), color=series.colour, linestyle="none", marker="o", label=name)
        axes.set_ylim(bottom=0.0)
        _over_steps(axes, "mean distance")

    said = (f"{series.label} from {_first_last(smoothed(series.points))}" for series in trained or judged)
    label = f"Alignment distance per pair: {'; '.join(said)}"
    caption = "Distance of the aligned hidden states, LLM block and CRM layer. "
    caption += "Lines: in training, smoothed; points: on validation rows."
    return Plot(_svg(f"{stage.name}-distance", label, draw), label, caption)


def calibration(stage: StageLog) -> Plot | None:
    """Observed against predicted rates of the kept evaluation, all models in one plot."""
    line = stage.kept or {}
    found = {prefix: _bins(line.get(f"{prefix}calibration") or []) for prefix in MODELS}
    found = {prefix: bins for prefix, bins in found.items() if bins}
    if not found:
        return None
    # Where both models have their own curve, the stage's is one of them.
    shown = {prefix: bins for prefix, bins in found.items() if prefix or len(found) == 1}

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1.0, linestyle="--", label="calibrated")
        for prefix, bins in shown.items():
            colour = COLOURS[prefix] if prefix else _colour(stage)
            most = max(count for _, _, count in bins)
            predicted, observed = ([row[part] for row in bins] for part in (0, 1))
            axes.plot(predicted, observed, color=colour, label=MODELS[prefix] or "model")
            sizes = [10.0 + 60.0 * count / most for _, _, count in bins]
            axes.scatter(predicted, observed, s=sizes, color=colour, zorder=3)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel="mean predicted probability", ylabel="observed rate")
        _legend(axes)

    gaps = (f"{MODELS[prefix] or 'the model'} at most {max(abs(p - rate) for p, rate, _ in bins):.3f} off in "
            f"{len(bins)} bins" for prefix, bins in shown.items())  # fmt: skip
    label = f"Calibration of {stage.name} at step {line['step']:,}: {'; '.join(gaps)}"
    caption = f"Calibration of the evaluation kept, step {line['step']:,}; a point's area follows the rows of its bin."
    return Plot(_svg(f"{stage.name}-calibration", label, draw), label, caption)


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Moving average; at both ends over what there is of its window."""
    window = np.ones(len(points) // SMOOTHED // 2 * 2 + 1)
    sums = np.convolve([value for _, value in points], window, "same")
    means = sums / np.convolve(np.ones(len(points)), window, "same")
    return [(step, mean) for (step, _), mean in zip(points, means.tolist(), strict=True)]


def _distances(lines: Sequence[Line], pairs: Sequence[str]) -> list[Series]:
    count = max((len(line.get("distance") or []) for line in lines), default=0)
    names = pairs if len(pairs) == count else [f"pair {pair + 1}" for pair in range(count)]
    found = []
    for pair, name in enumerate(names):
        cut = [{"step": line["step"], "d": (line.get("distance") or [])[pair : pair + 1]} for line in lines]
        values = [{"step": line["step"], "d": line["d"][0]} for line in cut if line["d"]]
        plain = Series.of(name, PAIRS[pair % len(PAIRS)], values, "d")
        found.append(Series(plain.label, plain.colour, plain.points, DASHES[pair % len(DASHES)]))
    return [series for series in found if series.points]


def _bins(rows: Sequence[Sequence[float | None]]) -> list[tuple[float, float, float]]:
    """The bins with rows."""
    full = ((row[0], row[1], row[2]) for row in rows)
    return [(p, rate, n) for p, rate, n in full if p is not None and rate is not None and n
            and all(map(math.isfinite, (p, rate, n)))]  # fmt: skip


def _colour(stage: StageLog) -> str:
    models = named(stage.name).trains
    return BOTH if len(models) > 1 else CRM if models == ("crm",) else LLM


def _first_last(points: Sequence[tuple[float, float]]) -> str:
    return f"{points[0][1]:.4g} at step {points[0][0]:,} to {points[-1][1]:.4g} at step {points[-1][0]:,}"


def _last(series: Series, kept: Line | None) -> str:
    return next((f"{value:.4f}" for step, value in series.points if kept and step == kept["step"]), "unknown")


def _thin_note(series: Series) -> str:
    stride = _stride(series.points)
    drawn = "every line of the log" if stride == 1 else f"one line of the log in {stride}"
    return f"Grey: {drawn}; coloured: smoothed."


def _kept_note(stage: StageLog) -> str:
    return f"The ring marks what was kept: step {stage.kept['step']:,}." if stage.kept else ""


def _stride(points: Sequence[Any]) -> int:
    return max(1, math.ceil(len(points) / DRAWN))


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    return points[:: _stride(points)]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _marker(points: Sequence[Any]) -> str:
    return "o" if len(points) == 1 else ""


def _line(axes: Axes, series: Series, points: Sequence[tuple[float, float]], marker: str = "") -> None:
    drawn = _thinned(points)
    axes.plot(*_columns(drawn), color=series.colour, linestyle=series.dash, label=series.label,
              marker=marker or _marker(drawn), markersize=3.5)  # fmt: skip


def _mark(axes: Axes, stage: StageLog, key: str) -> None:
    """A ring around the kept evaluation."""
    if stage.kept is not None and not math.isnan(number(stage.kept, key)):
        x, y = stage.kept["step"], number(stage.kept, key)
        axes.plot([x], [y], linestyle="none", marker="o", markersize=10, markerfacecolor="none",
                  markeredgecolor=INK, markeredgewidth=1.4, zorder=4)  # fmt: skip


def _over_steps(axes: Axes, name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set(xlabel="step", ylabel=name)
    _legend(axes)


def _legend(axes: Axes) -> None:
    """Above the plot, where no line runs; none for a single line."""
    names = axes.get_legend_handles_labels()[1]
    if len(names) > 1:
        columns = max(1, LEGEND // (max(map(len, names)) + 5))
        axes.figure.legend(loc="outside upper left", ncols=columns, borderaxespad=0.2, columnspacing=1.4)


def _svg(name: str, label: str, draw: Callable[[Axes], None]) -> str:
    from html import escape

    import matplotlib.style
    from matplotlib.figure import Figure

    # A user's own matplotlib settings do not count; pyplot and its global state are not used.
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.subplots())
        contents = io.StringIO()
        figure.savefig(contents, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    return _inline(contents.getvalue(), name, escape(label))


def _inline(svg: str, name: str, label: str) -> str:
    """What a page needs of a stand-alone SVG: no prologue or style sheet, ids that differ from other plots'."""
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"\s*<(metadata|style)\b.*?</\1>|\s*<metadata/>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    head, _, rest = svg.partition(">")
    (box,) = re.findall(r'viewBox="[^"]*"', head)
    return f'<svg role="img" aria-label="{label}" {box}>{rest}'
