"""What docs/results.md says of the base models: quality, microseconds and megabytes side by side, by data set."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from corella_edge_export.evaluation.tables import table_head, table_row

Json = dict[str, Any]
QUALITY = "base-models-quality.json"
TIMES = ("20 candidates, new user", "20 candidates, returning user", "20 candidates, one more event")


def lines(results: Path) -> Iterator[str]:
    """Quality of every data set, then the time of each CPU that was measured."""
    quality = json.loads((results / QUALITY).read_text("utf-8"))
    for found in quality["tables"]:
        yield from _quality(found)
    for path in sorted(results.glob("**/base-models*.json")):
        if path.name != QUALITY:
            yield from _times(json.loads(path.read_text("utf-8")))


def _quality(found: Json) -> Iterator[str]:
    yield f"**{found['data']}**: {found['told']}"
    yield ""
    columns = found["columns"]
    yield from table_head(found["row"], *columns, "seeds")
    for row in found["rows"]:
        yield table_row(row["name"], *(_figure(row.get(name)) for name in columns), str(row["seeds"]))
    yield ""
    for note in found.get("notes", []):
        yield f"- {note}"
    if found.get("notes"):
        yield ""


def _figure(found: Any) -> str:
    """A number with its interval, or without; a dash where it was not measured."""
    if found is None:
        return "–"
    if not isinstance(found, Mapping):
        return f"{found:.4f}"
    sign = "+" if found.get("gain") else ""
    spread = f" ± {found['spread']:.4f}" if "spread" in found else ""
    inside = f" [{found['low']:{sign}.4f}, {found['high']:{sign}.4f}]" if "low" in found else ""
    return f"{found['mean']:{sign}.4f}{spread}{inside}"


def _times(found: Json) -> Iterator[str]:
    machine = found["machine"]
    load = found["load"]
    void = " This run is void: other work disturbed it." if found["void"] else ""
    yield f"Microseconds of a whole `Engine.rank` without the LLM, one core, {machine['cpu']}, {found['pairs']} pairs by turns,"
    yield f"{found['clock']} time; other work took {load['foreign']:.0%} of the machine.{void}"
    yield "In brackets: the median of the pairs' ratios to the first row, with its 95 % interval."
    yield ""
    yield from table_head("base model", *TIMES, "100 candidates, new user", f"top 10 of {found['models'][0]['items']:,} items", "MB")
    for model in found["models"]:
        names = [*TIMES, "100 candidates, new user", "top 10 of the catalogue, new user"]
        cells = (_time(model["workloads"][name]) for name in names)
        yield table_row(model["name"], *cells, f"{next(iter(model['megabytes'].values())):.1f}")
    yield ""


def _time(cell: Json) -> str:
    ratio = cell["ratio"]
    return f"{cell['us']:,.0f} ({ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}])"
