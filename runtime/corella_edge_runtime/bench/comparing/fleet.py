"""The benchmarks of a fleet on one page: a row for each, which can be sorted, and the same small plot of each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from corella_edge.atomic import write_file
from corella_edge.errors import InputError
from corella_edge_runtime.bench.comparing.compare_report import together
from corella_edge_runtime.bench.reports import curves, shown
from corella_edge_runtime.bench.reports.report import table as aligned
from corella_edge_runtime.bench.reports.shown import NONE, digits, figure, many
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import FILE, Result, read
from corella_edge_runtime.document import Section, as_markdown, cell, document, table_head, table_row

FILES = {"fleet.html": "all machines, to be sorted, with plots", "fleet.md": "the same as text",
         "fleet.json": "the same as figures"}  # fmt: skip
MIDDLE = 0.05  # the share whose p99 stands in the table, if all have it
MOST_LINES = 8  # in one plot
UNKNOWN = 1e300  # what is not known comes last
READ = "New users, one request at a time. In parentheses: of too few requests for that percentile."
Named = tuple[str, Result]
# A click on a column's name sorts by it, and once more the other way. Without scripts the table stands as written.
SORT = """<script>
document.querySelectorAll("table.sortable thead th").forEach((head, column) => {
  head.tabIndex = 0;
  const sort = () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    head.parentElement.querySelectorAll("th").forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const body = head.closest("table").tBodies[0];
    const cell = (row) => row.cells[column].querySelector("[data-value]") ?? row.cells[column];
    const key = (row) => cell(row).dataset.value ?? cell(row).textContent;
    const order = (a, b) => key(a).localeCompare(key(b), "en", { numeric: true }) * (up ? 1 : -1);
    const number = (a, b) => (Number(key(a)) - Number(key(b))) * (up ? 1 : -1);
    const plain = [...body.rows].every((row) => key(row) !== "" && !Number.isNaN(Number(key(row))));
    [...body.rows].sort(plain ? number : order).forEach((row) => body.append(row));
  };
  head.addEventListener("click", sort);
  head.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
});
</script>"""
STYLE = "<style>table.sortable thead th { cursor: pointer; text-decoration: underline dotted }</style>"


def find(folder: Path) -> tuple[list[Named], dict[str, str]]:
    """Every benchmark.json below a folder, in a fixed order, each called by its folder; and why others, by the same
    name, cannot be read.

    Raises:
        InputError: there is none, or none that can be read.
    """
    paths = sorted(folder.rglob(FILE))
    if not paths:
        raise InputError(f"--compare {folder}: no {FILE} in it or below; give folders that `benchmark --out` wrote")
    found, damaged = list[Named](), dict[str, str]()
    for path in paths:
        name = path.parent.relative_to(folder).as_posix()
        try:
            found.append((folder.resolve().name if name == "." else name, read(path)))
        except InputError as error:
            damaged[name] = str(error)
    if not found:
        raise InputError(next(iter(damaged.values())))
    return ordered(found), damaged


def ordered(found: Sequence[Named]) -> list[Named]:
    """By processor, cores, bundle and time, in whatever order they were found."""
    return sorted(found, key=lambda one: (one[1].machine.cpu, one[1].machine.cores, one[1].bundle.label,
                                          one[1].created, one[0]))  # fmt: skip


def middle(found: Sequence[Named]) -> float | None:
    """The share nearest to `MIDDLE` that every result has measured."""
    shares = [{p.ratio for p in shown.headline(result) if p.ratio is not None} for _, result in found]
    common = set.intersection(*shares) - {0.0} if shares else set()
    return min(common, key=lambda share: (abs(share - MIDDLE), share), default=None)


def columns(share: float | None) -> list[str]:
    """Names of the table's columns."""
    at = "the share" if share is None else f"{100 * share:.10g} %"
    return ["report", "CPU", "cores", "GiB", "bundle", "LLM", "state", "base model p99 ms", f"p50 ms at {at}",
            f"p99 ms at {at}", "p99 ms, all asked", f"requests/s at {at}", f"largest rate/s at {at}",
            f"AUC gained at {at}", "memory MiB"]  # fmt: skip


def values(one: Named, share: float | None) -> list[tuple[str, float | str]]:
    """A row: each cell as it is shown, and what it is sorted by."""
    name, result = one
    curve, box = shown.headline(result), result.machine
    at = next((point for point in curve if share is not None and point.ratio == share), None)
    words = [name, box.cpu, result.bundle.label, result.bundle.llm_type or NONE, shown.state(result)[1]]
    texts: list[tuple[str, float | str]] = [(word, word) for word in words]
    cores, memory = (f"{box.cores}", box.cores), (f"{box.memory_bytes / 2**30:.1f}", box.memory_bytes)
    return [*texts[:2], cores, memory, *texts[2:], *_figures(result, curve, at)]


def _figures(result: Result, curve: Sequence[Point], at: Point | None) -> list[tuple[str, float | str]]:
    alone = next((point for point in curve if point.ratio == 0.0), None)
    every = next((point for point in curve if point.ratio == 1.0), None)
    gain, rate = _gain(result, at), _rate(result, at)
    rows = [(_ms(point, name), _value(point, name)) for point, name in (
        (alone, "p99"), (at, "p50"), (at, "p99"), (every, "p99"))]  # fmt: skip
    most = max((point.memory_bytes or 0 for point in result.points), default=0) / 2**20
    speed = None if at is None else at.requests_per_s
    return [*rows, (figure(speed), _sortable(speed.value if speed else None)), (digits(rate), _sortable(rate)),
            (NONE if gain is None else f"{gain:+.4f}", _sortable(gain)), (many(most), most)]  # fmt: skip


def _ms(point: Point | None, name: str) -> str:
    """A percentile; in parentheses, as in the report itself, where the requests are too few for it."""
    words = NONE if point is None else figure(shown.spread(point, name))
    return words if point is None or words == NONE or name in point.latency.supported else f"({words})"


def _value(point: Point | None, name: str) -> float:
    return _sortable(None if point is None else getattr(point.latency, name).value)


def _sortable(value: float | None) -> float:
    """What a figure is sorted by."""
    return UNKNOWN if value is None else value


def _rate(result: Result, at: Point | None) -> float | None:
    same = [point for point in shown.points(result, "server", "new") if at is not None and point.ratio == at.ratio]
    return next((point.rates.largest for point in same if point.rates is not None), None)


def _gain(result: Result, at: Point | None) -> float | None:
    own = (one for one in result.quality.points if one.line == "policy")
    same = [one for one in own if at is not None and one.threshold == at.threshold]
    return next((one.gains["auc"].value for one in same if "auc" in one.gains), None)


def headline(found: Sequence[Named], damaged: Sequence[str] = ()) -> str:
    """The first line: how many there are, how many of them must not be used, and what could not be read."""
    bad = [name for name, result in found if shown.state(result)[0] != "quiet"]
    words = [f"; noisy or void: {', '.join(bad)}"] if bad else []
    words += [f"; unreadable and left out: {', '.join(damaged)}"] if damaged else []
    return f"{len(found)} benchmarks{''.join(words)}"


def page(found: Sequence[Named], damaged: Sequence[str] = ()) -> str:
    """One file of HTML."""
    share = middle(found)
    bad = bool(damaged) or any(shown.state(result)[0] != "quiet" for _, result in found)
    state = f'<p class="state {"noisy" if bad else "quiet"}" role="status">{escape(headline(found, damaged))}.</p>'
    said = f"<p>{READ} A click on a column's name sorts by it.</p>"
    parts = [STYLE, state, said, _sorted_table(found, share), "<section>\n<h2>Side by side</h2>", '<div class="plots">']
    plots = [*_overlaid(found), *_each(found)]
    parts += [f"<figure>\n{svg}<figcaption>{escape(words)}</figcaption>\n</figure>" for svg, words in plots]
    return document("Benchmarks of a fleet", [*parts, "</div>\n</section>", SORT])


def _sorted_table(found: Sequence[Named], share: float | None) -> str:
    rows = []
    for one in found:
        (name, _), *rest = values(one, share)
        cells = (f'<span data-value="{escape(str(key))}">{cell(words)}</span>' for words, key in rest)
        rows.append(table_row(escape(name), cells))
    head = table_head(map(escape, columns(share)))
    return f'<div class="wide"><table class="sortable">\n{head}\n<tbody>{"".join(rows)}</tbody></table></div>'


def _overlaid(found: Sequence[Named]) -> list[tuple[str, str]]:
    """p99 of all in one picture, where they are few and have the same ratios."""
    curves_of = [shown.headline(result) for _, result in found]
    same = len({tuple(point.threshold for point in curve) for curve in curves_of}) == 1
    if not same or not curves_of[0] or len(found) > MOST_LINES:
        return []
    return [(together([name for name, _ in found], curves_of, "p99"), "p99 of all.")]


def _each(found: Sequence[Named]) -> list[tuple[str, str]]:
    """The latency of each, all on the same axis."""
    all_points = [point for _, result in found for point in shown.headline(result)]
    return [(curves.latency(curve, None, name[:44], all_points), f"{result.machine.cpu}, {result.machine.cores} cores; "
             f"{result.bundle.label}. {shown.state(result)[1]}.")
            for name, result in found if (curve := shown.headline(result))]  # fmt: skip


def markdown(found: Sequence[Named], damaged: Sequence[str] = ()) -> str:
    """The table as text."""
    share = middle(found)
    rows = [[words for words, _ in values(one, share)] for one in found]
    made = Section("Side by side", [READ], columns(share), rows)
    return "\n".join([f"# {headline(found, damaged)}", "", *as_markdown(made)]).rstrip() + "\n"


def text(found: Sequence[Named], damaged: Sequence[str] = ()) -> str:
    """What the command prints."""
    share = middle(found)
    names = columns(share)
    kept = [names.index(name) for name in names if name in ("report", "CPU", "cores", "state") or "p99" in name]
    rows = [[values(one, share)[i][0] for i in kept] for one in found]
    return "\n".join([f"{headline(found, damaged)}.", "", *aligned([names[i] for i in kept], rows)])


def as_json(found: Sequence[Named], damaged: Sequence[str] = ()) -> dict[str, Any]:
    """The table as JSON values; what is not known is None."""
    share = middle(found)
    keys = [[None if key == UNKNOWN else key for _, key in values(one, share)] for one in found]
    rows = [dict(zip(columns(share), row, strict=True)) for row in keys]
    return {"format": 1, "share": share, "reports": rows, "damaged": list(damaged)}


def write(found: Sequence[Named], out: Path, damaged: Sequence[str] = ()) -> None:
    """The files of `FILES` into a folder that exists, in place of earlier ones."""
    plain = json.dumps(as_json(found, damaged), ensure_ascii=False, allow_nan=False, indent=1)
    texts = {"fleet.html": page(found, damaged), "fleet.md": markdown(found, damaged), "fleet.json": f"{plain}\n"}
    for name, contents in texts.items():
        write_file(out / name, contents.encode("utf-8", "xmlcharrefreplace"))
