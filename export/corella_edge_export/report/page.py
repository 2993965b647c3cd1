"""The report as one HTML file that needs neither network nor script."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

from corella_edge import atomic
from corella_edge_export.report import log, plots
from corella_edge_export.report.log import METRICS, MODELS, RunLog, StageLog
from corella_edge_runtime.document import document, table_head, table_row

FILE = "report.html"
NONE = "–"  # noqa: RUF001


def write_report(folder: Path) -> Path:
    """Write (or replace) the report of the run in `folder`; of an unfinished run, what there is so far.

    Raises:
        InputError: not a run, or a file of it is damaged; names the file, and the line of a log.
    """
    path = folder / FILE
    # Half a surrogate pair can stand in JSON, not in UTF-8.
    atomic.write_file(path, page(log.read(folder)).encode("utf-8", "xmlcharrefreplace"))
    return path


def page(run: RunLog) -> str:
    """The whole file."""
    pairs = pair_names(run.recipe)
    parts = [
        *_head(run),
        *_stages(run),
        *(part for stage in run.stages for part in _section(stage, pairs)),
        *_settings("Recipe", run.recipe),
        *_settings("Versions", run.versions),
    ]
    return document(f"Training report: {run.name}", parts)


def pair_names(recipe: dict[str, Any]) -> list[str]:
    """What the recipe aligns with what; empty if it does not say."""
    joint = recipe.get("joint")
    pairs = joint.get("pairs") if isinstance(joint, dict) else None
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(type(part) is int for part in pair) for pair in pairs
    ):
        return []
    return [f"block {block}, layer {layer}" for block, layer in pairs]


def duration(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 120.0:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _head(run: RunLog) -> Iterator[str]:
    open_stages = ", ".join(stage.name for stage in run.stages if not stage.finished)
    facts = {
        "Recipe": run.name,
        "Seed": run.recipe.get("seed", NONE),
        "Data": run.data or NONE,
        "Trained": f"{sum(stage.steps for stage in run.stages):,} steps in "
                   f"{duration(math.fsum(stage.seconds for stage in run.stages))}, {_many(len(run.stages), 'stage')}",
        "State": "finished" if run.finished else f"unfinished ({open_stages or 'nothing logged yet'})",
    }  # fmt: skip
    yield "<dl>"
    yield from (f"<dt>{name}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    yield "</dl>"


def _many(count: int, name: str) -> str:
    return f"{count} {name}" + ("" if count == 1 else "s")


def _stages(run: RunLog) -> Iterator[str]:
    """Each stage's totals and the figures of the evaluation that was kept, per model where both have some."""
    kept = [stage.kept or {} for stage in run.stages]
    shown = [name for name in METRICS if any(f"{prefix}{name}" in line for line in kept for prefix in MODELS)]
    header = ["stage", "steps", "time", "evaluations", "kept at step", *(METRICS[name] for name in shown), "state"]
    yield "<h2>Stages</h2>\n<p>Validation figures of the weights that were kept."
    yield 'Where both models are trained, each has a row of its own below.</p>\n<div class="wide"><table>'
    yield f"{table_head(header)}\n<tbody>"
    for stage in run.stages:
        at = f"{stage.kept['step']:,}" if stage.kept else NONE
        state = "finished" if stage.finished else "unfinished"
        counts = [f"{stage.steps:,}", duration(stage.seconds), str(len(stage.valid)), at]
        link = f'<a href="#{stage.name}">{stage.name}</a>'
        yield table_row(link, [*counts, *(_figure(stage, name) for name in shown), state])
        for prefix, model in MODELS.items():
            figures = [_figure(stage, f"{prefix}{name}") for name in shown]
            if prefix and any(figures):
                yield table_row(model, ["", "", "", "", *figures, ""], kind="model")
    yield "</tbody></table></div>"


def _figure(stage: StageLog, key: str) -> str:
    """Empty for what the stage does not measure; a dash for what could not be measured."""
    if stage.kept is None or key not in stage.kept:
        return ""
    value = log.number(stage.kept, key)
    return NONE if math.isnan(value) else f"{value:.{2 if key == 'perplexity' else 4}f}"


def _section(stage: StageLog, pairs: list[str]) -> Iterator[str]:
    state = "" if stage.finished else " This stage is unfinished."
    lines = f"{_many(len(stage.train), 'training line')}, {_many(len(stage.valid), 'evaluation')}."
    yield f'<section aria-labelledby="{stage.name}">\n<h2 id="{stage.name}">{stage.title}</h2>'
    yield f'<p>{lines}{state}</p>\n<div class="plots">'
    for plot in plots.plots(stage, pairs):
        yield f"<figure>\n{plot.svg}<figcaption>{escape(plot.caption)}</figcaption>\n</figure>"
    yield "</div>\n</section>"


def _settings(title: str, table: dict[str, Any]) -> Iterator[str]:
    """Nested objects as one table: those of the first level are groups, deeper keys are joined by dots."""
    if not table:
        return
    yield f'<h2>{title}</h2>\n<div class="wide"><table class="settings">'
    plain = {key: value for key, value in table.items() if not isinstance(value, dict)}
    groups = [(key, value) for key, value in table.items() if isinstance(value, dict)]
    for name, group in [(title.lower(), plain)] * bool(plain) + groups:
        yield f'<tbody><tr><th scope="rowgroup" colspan="2">{escape(name)}</th></tr>'
        yield from (table_row(escape(key), [escape(value)]) for key, value in _flat(group))
        yield "</tbody>"
    yield "</table></div>"


def _flat(group: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in group.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value, ensure_ascii=False)
