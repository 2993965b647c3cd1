"""A comparison of benchmarks as text, Markdown, JSON and a page, and what it means for who waits for an exit status."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from corella_edge.atomic import write_file
from corella_edge.errors import RegressionError, VoidError
from corella_edge_runtime import charts
from corella_edge_runtime.bench.comparing.compare import QUALITY, ComparedFigure, Comparison, Verdict
from corella_edge_runtime.bench.reports import curves, shown
from corella_edge_runtime.bench.reports.report import table
from corella_edge_runtime.bench.results.circumstances import Figure
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import Result
from corella_edge_runtime.charts import Frame, Line
from corella_edge_runtime.document import Section, Weak, as_html, as_markdown, document

FILES = {"compare.html": "the comparison with plots", "compare.md": "the same as text",
         "compare.json": "every figure and verdict"}  # fmt: skip
RULE = ("A difference is shown where two intervals have no value in common; they know what changed on the machine "
        "during each run, and not what changes over hours. Figures without an interval are not judged. Change: "
        "positive is more time, or worse; in parentheses where no difference is shown. Of many figures a few differ by "
        "chance: a regression is slower even with intervals that are wide enough for all of them.")  # fmt: skip
WORST = 20  # regressions that are listed


def headline(found: Comparison) -> str:
    """The first line: void, regressed, or neither."""
    if found.void:
        return "VOID: nothing may be concluded from this comparison"
    slower = found.regressions()
    if slower:
        return f"SLOWER: {_figures(len(slower))} slower by more than {100 * found.most:.3g} %"
    return f"No regression: no figure is slower by more than {100 * found.most:.3g} %"


def _figures(number: int) -> str:
    return "1 figure is" if number == 1 else f"{number} figures are"


def counts(found: Comparison) -> list[str]:
    """How many figures of each result differ from the first one's."""
    lines = []
    for place, name in enumerate(found.names[1:]):
        said = Counter(row.verdicts()[place] for row in found.rows)
        known: tuple[Verdict, ...] = ("faster", "slower", "better", "worse", "no difference shown")
        words = ", ".join(f"{verdict} in {said[verdict]}" for verdict in known if said[verdict])
        lines.append(f"{name} against {found.names[0]}, of {sum(said.values()) - said['not judged']} figures: {words}.")
    return lines


def sections(found: Comparison) -> Iterator[Section]:
    """What differs first, then the worst, then every figure."""
    about = [[name, result.bundle.label, result.machine.cpu, f"{result.machine.cores}", result.created[:16],
              shown.state(result)[1]] for name, result in zip(found.names, found.results, strict=True)]  # fmt: skip
    yield Section("What is compared", [f"The others are held against {found.names[0]}."],
                  ["report", "bundle", "CPU", "cores", "begun", "state"], about)  # fmt: skip
    rows = [[what, *values] for what, values in found.differs]
    same = "Nothing in their provenance: the same bundle, requests, machine, software and settings."
    yield Section("What differs", [*([] if rows else [same]), *found.warnings], ["what", *found.names], rows)
    yield Section("Figures", [*counts(found), RULE], figures=list(_plots(found)))
    for place, name in enumerate(found.names[1:]):
        yield _at_a_glance(found, place, name)
    yield from _regressions(found)
    yield Section("Every figure", (), _header(found), [_cells(row) for row in found.rows])


def _at_a_glance(found: Comparison, place: int, name: str) -> Section:
    """Changes in cost of one report: a row for each scenario, users and ratio, a column for each figure."""
    priced = [row for row in found.rows if not row.where.startswith(QUALITY)]
    names = list(dict.fromkeys(row.name for row in priced))
    cells: dict[str, dict[str, str]] = {}
    for row in priced:
        change, said = _change(row.slowdowns()[place]), row.verdicts()[place]
        weak = said in ("no difference shown", "not judged") and change != shown.NONE
        cells.setdefault(row.where, {})[row.name] = Weak(change) if weak else change
    rows = [[where, *(of.get(one, "") for one in names)] for where, of in cells.items()]
    return Section(f"Change of {name} against {found.names[0]}", (), ["where", *names], rows, level=3)


def _regressions(found: Comparison) -> Iterator[Section]:
    """The worst ones."""
    worst = sorted(found.regressions(), key=lambda one: -one[2])
    if not worst:
        return
    said = [f"The {WORST} worst of {len(worst)}."] if len(worst) > WORST else []
    rows = []
    for name, row, by in worst[:WORST]:
        pair = row.figures[0], row.figures[found.names.index(name)]
        rows.append([f"{row.where}: {row.name}", name, *map(shown.figure, pair), _change(by)])
    yield Section("Regressions", said, ["figure", "report", found.names[0], "compared", "change"], rows, level=3)


def _header(found: Comparison) -> list[str]:
    more = [words for name in found.names[1:] for words in (f"{name}: change", "verdict")]
    return ["figure", *found.names, *more]


def _cells(row: ComparedFigure) -> list[str]:
    words = [part for by, said in zip(row.slowdowns(), row.verdicts(), strict=True) for part in (_change(by), said)]
    return [f"{row.where}: {row.name}", *(_written(row, figure) for figure in row.figures), *words]


def _written(row: ComparedFigure, figure: Figure | None) -> str:
    return shown.fine(figure) if row.where.startswith(QUALITY) else shown.figure(figure)


def _change(by: float | None) -> str:
    return shown.NONE if by is None else f"{100 * by:+.1f} %"


def _plots(found: Comparison) -> Iterator[tuple[str, str]]:
    """p50 and p99 of the headline's curve of each, over the ratios that all of them have."""
    columns = [shown.headline(result) for result in found.results]
    common = [threshold for threshold in (p.threshold for p in columns[0])
              if all(threshold in [p.threshold for p in column] for column in columns)]  # fmt: skip
    same = [[p for p in column if p.threshold in common] for column in columns]
    if common:
        for name in ("p50", "p99"):
            yield together(found.names, same, name), "Bands: the intervals that the verdicts are made by."


def together(names: Sequence[str], curves_of: Sequence[Sequence[Point]], name: str) -> str:
    """One percentile of several results against the ratio."""
    lines = []
    for place, (words, points) in enumerate(zip(names, curves_of, strict=True)):
        colour, dash, mark = curves.MANY[place % len(curves.MANY)]
        found = [shown.spread(point, name) for point in points]
        known = [(float(i), one) for i, one in enumerate(found) if one.value]
        bands = [one for _, one in known] if all(one.low and one.high for _, one in known) else []
        lines.append(Line(words[:16], colour, [x for x, _ in known], [one.value or 0.0 for _, one in known], dash, mark,
                          [one.low or 0.0 for one in bands], [one.high or 0.0 for one in bands]))  # fmt: skip
    ends = [end for line in lines for end in (*line.y, *line.low, *line.high)]
    across = charts.places(*shown.marks(curves_of[0]))
    upright = charts.logarithmic(min(ends), max(ends), "milliseconds a request (log)")
    title = f"{shown.PERCENTILES[name]} by routed share"
    return charts.chart(Frame(across, upright, right=40 + 7 * max(len(line.name) for line in lines)), lines, title,
                        f"{title}: a line for each of {', '.join(names)}.")  # fmt: skip


def page(found: Comparison) -> str:
    """One file of HTML."""
    kind = "void" if found.void else "noisy" if found.regressions() else "quiet"
    reasons = " ".join(found.void or counts(found))
    state = f'<p class="state {kind}" role="status"><strong>{escape(headline(found))}.</strong> {escape(reasons)}</p>'
    title = f"{headline(found).partition(':')[0]}: {', '.join(found.names[1:])} against {found.names[0]}"
    return document(title, [state, *(part for one in sections(found) for part in as_html(one))])


def markdown(found: Comparison) -> str:
    """The same as text."""
    head = [f"# {headline(found)}", "", *(f"- {reason}" for reason in found.void), ""]
    return "\n".join([*head, *(line for one in sections(found) for line in as_markdown(one))]).rstrip() + "\n"


def text(found: Comparison) -> str:
    """What the command prints: the first line, what differs, and the figures that people ask for first."""
    lines = [f"{headline(found)}.", *found.void, ""]
    lines += [f"{what}: {' | '.join(values)}" for what, values in found.differs] or ["Nothing differs in provenance."]
    first = found.rows[0].where.rpartition(", ")[0] if found.rows else ""
    rows = [row for row in found.rows if row.where.startswith(first) and row.name in ("p50 ms", "p99 ms")]
    short = [*table(_header(found), [_cells(row) for row in rows]), ""] if rows else []
    lines += [*found.warnings, "", *short, *counts(found)]
    return "\n".join(lines)


def as_json(found: Comparison) -> dict[str, Any]:
    """Every figure and verdict as JSON values."""
    rows = [{"where": row.where, "figure": row.name, "values": msgspec.to_builtins(row.figures),
             "more_is_better": row.more, "verdicts": list(row.verdicts()), "slowdowns": list(row.slowdowns())}
            for row in found.rows]  # fmt: skip
    slower = [{"report": name, "where": row.where, "figure": row.name, "slowdown": by}
              for name, row, by in found.regressions()]  # fmt: skip
    return {"format": 1, "reports": list(found.names), "void": list(found.void), "warnings": list(found.warnings),
            "differences": {what: list(values) for what, values in found.differs}, "max_slowdown": found.most,
            "regressions": slower, "rows": rows}  # fmt: skip


def write(found: Comparison, out: Path) -> None:
    """The files of `FILES` into a folder that exists, in place of earlier ones."""
    plain = json.dumps(as_json(found), ensure_ascii=False, allow_nan=False, indent=1)
    texts = {"compare.html": page(found), "compare.md": markdown(found), "compare.json": f"{plain}\n"}
    for name, contents in texts.items():
        write_file(out / name, contents.encode("utf-8", "xmlcharrefreplace"))


def judge(found: Comparison) -> None:
    """Raises VoidError where nothing may be concluded, RegressionError where a figure is too slow; else nothing."""
    if found.void:
        raise VoidError(f"the comparison is void: {found.void[0]}")
    slower = found.regressions()
    if slower:
        name, row, by = max(slower, key=lambda one: one[2])
        where = f"{100 * by:.1f} % in {row.where}, {row.name}"
        raise RegressionError(
            f"{name} is slower than {found.names[0]} by {where}; --max-slowdown is {100 * found.most:.3g}%"
        )


def named(paths: Sequence[Path], results: Sequence[Result]) -> list[str]:
    """What the results are called: the shortest of file, folder and label that tells them apart; else letters."""
    folders = [path.name if path.name != "benchmark.json" else path.resolve().parent.name for path in paths]
    for words in ([result.bundle.label for result in results], [name.removesuffix(".json") for name in folders]):
        if len(set(words)) == len(words):
            return words
    return [f"{chr(65 + place)} {result.bundle.label}" for place, result in enumerate(results)]
