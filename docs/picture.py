"""docs/quality.svg, the README's picture: what the LLM's share of the candidates buys, and what it costs."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import reached_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Dark enough for white paper, and apart for the colour-blind (Okabe and Ito).
ORANGE, BLUE, GREY = "#d55e00", "#0072b2", "#595959"
# Shares whose labels have room beside each other.
TICKS = (0, 0.1, 0.2, 0.3, 0.5, 1)


def svg(study: dict[str, Any], session: dict[str, Any]) -> str:
    """Two panels over the routed share; the same figures give the same text."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "corella-edge", "svg.fonttype": "none", "font.size": 9}):
        plot = Figure(figsize=(8.5, 3), layout="constrained")
        quality, latency = (plot.add_subplot(1, 2, place) for place in (1, 2))
        _quality(quality, study)
        _latency(latency, session)
        return _text(plot)


def _quality(axes: Axes, study: dict[str, Any]) -> None:
    points = reached_page.curve(study)
    shares, gain = [point["share"] for point in points], [point["gain"] for point in points]
    axes.fill_between(
        shares, [one["low"] for one in gain], [one["high"] for one in gain], color=ORANGE, alpha=0.15, lw=0
    )
    axes.plot(shares, [one["value"] for one in gain], color=ORANGE, marker=".")
    alone = f"the CRM alone: AUC {points[0]['auc']['value']:.3f}"
    axes.axhline(0, color=GREY, linestyle=":")
    axes.annotate(alone, (1, 0), xytext=(0, 3), textcoords="offset points", color=GREY, ha="right")
    _axes(axes, "gain in AUC, 95 % interval", "Quality, test rows")


def _latency(axes: Axes, session: dict[str, Any]) -> None:
    rows = session["benchmark"]["ratios"]
    shares = [row["ratio"] for row in rows]
    for name, color, style in (("p99", BLUE, "--"), ("p50", BLUE, "-")):
        axes.plot(shares, [row["request_ms"][name] for row in rows], style, color=color, marker=".", label=name)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _axes(axes, "milliseconds for 20 candidates", "Latency, users not seen before")


def _axes(axes: Axes, label: str, title: str) -> None:
    axes.set(xlabel="share of the candidates that the LLM is asked about", ylabel=label, title=title)
    axes.set_xticks(TICKS, [f"{tick:.0%}" for tick in TICKS])
    axes.spines[["top", "right"]].set_visible(False)


def _text(plot: Figure) -> str:
    buffer = io.StringIO()
    plot.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"
