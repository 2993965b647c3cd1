"""The study's JSON as SVG: quality by routed share, calibration of both models, thirds by confidence."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from corella_edge import atomic
from corella_edge_export.evaluation.scored import Json
from corella_edge_export.evaluation.tables import TITLES, lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Dark enough for white paper, and apart for the colour-blind (Okabe and Ito).
COLORS = {
    "replace": "#0072b2", "blend": "#009e73", "stack": "#d55e00", "random": "#7f7f7f", "oracle": "#cc79a7",
    "base": "#7f7f7f", "crm": "#0072b2", "llm": "#d55e00",
}  # fmt: skip
NAMES = {"base": "stage-1 CRM", "crm": "CRM", "llm": "LLM"}


def write(result: Json, folder: Path) -> list[str]:
    """Draw into a folder; the names of the files, none where matplotlib is not installed."""
    drawn = draw(result) if importlib.util.find_spec("matplotlib") else {}
    for name, svg in drawn.items():
        atomic.write_file(folder / name, svg.encode())
    return list(drawn)


def write_sizes(rows: Sequence[Json], path: Path) -> None:
    """Draw `sizes` into a file, where matplotlib is installed."""
    if importlib.util.find_spec("matplotlib"):
        atomic.write_file(path, sizes(rows).encode())


def sizes(rows: Sequence[Json]) -> str:
    """Validation AUC of LLMs against milliseconds of 20 candidates, of new and of returning users, with intervals."""
    plot, (axes,) = _figure(1)
    auc = [row["valid_auc"] for row in rows]
    for user, model in (("returning", "crm"), ("new", "llm")):
        ms = [row[f"{user}_user_ms"] for row in rows]
        value, low, high = ([one[end] for one in ms] for end in ("value", "low", "high"))
        ends = [np.subtract(value, low), np.subtract(high, value)]
        axes.errorbar(value, auc, xerr=ends, color=COLORS[model], marker=".", capsize=3, label=f"{user} user")
        for row, x in zip(rows, value, strict=True):
            axes.annotate(row["name"], (x, row["valid_auc"]), xytext=(4, 4), textcoords="offset points", fontsize=7)
    axes.set(xlabel="milliseconds for 20 candidates", ylabel="validation AUC")
    axes.legend(fontsize=7)
    return _svg(plot)


def draw(result: Json) -> dict[str, str]:
    """File name to SVG text, of an analysis or of several combined; the same input gives the same text."""
    plots = {f"curve-{metric}.svg": curve(result, metric) for metric in ("auc", "accuracy", "logloss")}
    return plots | {"calibration.svg": calibration(result), "groups.svg": groups(result)}


def curve(result: Json, metric: str = "auc") -> str:
    """A metric against the routed share, bands for the 95 % intervals; the oracle's line may leave the picture."""
    plot, (axes,) = _figure(1)
    shares = [_value(point["share"]) for point in result["curve"]]
    lines = lines_of(result)
    for line in lines:
        _line(axes, shares, [point["lines"][line][metric] for point in result["curve"]], line)
    _fit(axes, [point["lines"][line][metric] for point in result["curve"] for line in lines if line != "oracle"])
    if "users" in result:
        axes.axhline(_value(result["users"]["all"]["base"][metric]), color="black", linestyle=":", label="stage-1 CRM")
    axes.set(xlabel="routed share of test rows", ylabel=TITLES[metric], title=result["name"])
    axes.set_xscale("symlog", linthresh=0.02)
    axes.set_xlim(-0.001, 1.1)
    axes.set_xticks(shares, [f"{share:.2g}" for share in shares], fontsize=7)
    axes.set_xticks([], minor=True)
    axes.legend(fontsize=7)
    return _svg(plot)


def _line(axes: Axes, shares: Sequence[float], found: Sequence[Json], name: str) -> None:
    known = [(x, y) for x, y in zip(shares, found, strict=True) if y["low"] is not None]
    x = [share for share, _ in known]
    axes.plot(x, [y["value"] for _, y in known], color=COLORS[name], marker=".", label=name)
    low, high = ([y[end] for _, y in known] for end in ("low", "high"))
    axes.fill_between(x, low, high, color=COLORS[name], alpha=0.12, linewidth=0)


def _fit(axes: Axes, found: Sequence[Json]) -> None:
    """The vertical range of these intervals, a little wider."""
    known = [one for one in found if one["low"] is not None]
    if known:
        low, high = min(one["low"] for one in known), max(one["high"] for one in known)
        room = 0.08 * (high - low) or 0.01
        axes.set_ylim(low - room, high + room)


def calibration(result: Json) -> str:
    """Share of positives against mean score in equal-mass bins: all test rows, and the routed ones if known."""
    shown = {"all test rows": result["calibration"]}
    if "boundary" in result:
        shown[f"routed rows (ratio {result['boundary']['ratio']:g})"] = result["boundary"].get("curves", {})
    plot, panels = _figure(len(shown))
    for axes, (title, curves) in zip(panels, shown.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.6, label="calibrated")
        for model, found in curves.items():
            score, rate = ([_value(v) for v in found[key]] for key in ("score", "rate"))
            axes.plot(score, rate, color=COLORS[model], marker=".", label=NAMES[model])
        axes.set(xlabel="mean score of a bin", ylabel="share of positives", title=title)
        axes.legend(fontsize=7)
    return _svg(plot)


def groups(result: Json) -> str:
    """AUC and accuracy of both models in each third by confidence, with intervals."""
    plot, panels = _figure(2)
    for axes, metric in zip(panels, ("auc", "accuracy"), strict=True):
        for shift, model in ((-0.18, "crm"), (0.18, "llm")):
            _bars(axes, [(group["group"] + shift, group[model][metric]) for group in result["groups"]], model)
        _fit(axes, [group[model][metric] for group in result["groups"] for model in ("crm", "llm")])
        axes.set_ylim(bottom=min(0.5, axes.get_ylim()[0]))  # bars grow from a coin's throw
        axes.set(xlabel="third by CRM confidence (1 = most)", ylabel=TITLES[metric])
        axes.set_xticks([group["group"] for group in result["groups"]])
        axes.legend(fontsize=7)
    return _svg(plot)


def _bars(axes: Axes, found: Sequence[tuple[float, Json]], model: str) -> None:
    known = [(x, one) for x, one in found if one["low"] is not None]
    x, heights = [x for x, _ in known], [one["value"] for _, one in known]
    ends = [[max(0.0, one["value"] - one["low"]) for _, one in known],
            [max(0.0, one["high"] - one["value"]) for _, one in known]]  # fmt: skip
    axes.bar(x, heights, width=0.34, yerr=ends, capsize=3, color=COLORS[model], label=NAMES[model])


def _value(found: Any) -> float:
    """A number, or the mean of a combined one; nan for null."""
    value = found["value"] if isinstance(found, dict) else found
    return float("nan") if value is None else float(value)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    """A figure that no window system or global state is needed for."""
    from matplotlib.figure import Figure

    plot = Figure(figsize=(5.6 * panels, 4.0), layout="constrained")
    return plot, [plot.add_subplot(1, panels, place) for place in range(1, panels + 1)]


def _svg(plot: Figure) -> str:
    """SVG text without date, with ids that do not change from run to run."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "corella-edge", "svg.fonttype": "none"}):
        plot.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
