"""A finished benchmark as a page, Markdown, JSON, a picture and a few lines of text; `write` puts the files down."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from corella_edge.atomic import write_file
from corella_edge.errors import InputError
from corella_edge_runtime.bench.reports import curves, shown
from corella_edge_runtime.bench.reports.sections import sections
from corella_edge_runtime.bench.reports.shown import NONE, digits, per_cent
from corella_edge_runtime.bench.results.journal import FILE as SLICES
from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import FILE, QualityPoint, Result, encode
from corella_edge_runtime.document import as_html, as_markdown, document

FILES = {"benchmark.html": "the report with plots", "benchmark.md": "the same as text",
         FILE: "every figure with its histogram", "benchmark.svg": "the main plot"}  # fmt: skip
SHORT = ("asked for", "share", "touched", "p50 ms", "p99 ms", "requests/s", "LLM ms/1,000", "AUC", "gain in AUC")
Tile = tuple[str, str, str]  # name, value, note


def title(result: Result) -> str:
    """The report's first line."""
    return f"{shown.state(result)[1]}: benchmark of {result.bundle.label}"


def page(result: Result) -> str:
    """The whole report as one file of HTML."""
    kind, words, reasons = shown.state(result)
    state = f'<p class="state {kind}" role="status"><strong>{escape(words)}.</strong> {escape(" ".join(reasons))}</p>'
    about = (f"<p>{escape(sentence)}</p>" for sentence in [box(result), *warnings(result)])
    parts = [state, *about, tiles_html(tiles(result))]
    return document(title(result), [*parts, *(part for one in sections(result) for part in as_html(one))])


def markdown(result: Result) -> str:
    """The same as text, without the plots but the main one."""
    _, words, reasons = shown.state(result)
    head = [f"# {title(result)}", "", f"**{words}.** {' '.join(reasons)}", "", box(result), ""]
    head += [line for words in warnings(result) for line in (words, "")]
    head += [f"- {name}: {value} ({note})" for name, value, note in tiles(result)]
    head += ["", "![latency and quality by routed share](benchmark.svg)", ""]
    return "\n".join([*head, *(line for one in sections(result) for line in as_markdown(one))]).rstrip() + "\n"


def warnings(result: Result) -> list[str]:
    """What was not as it should be while it was measured."""
    return [f"Warning: {shown.sentence(words)}" for words in result.warnings]


def tiles_html(found: Sequence[Tile]) -> str:
    """Figures that are read first."""
    boxes = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><dd>{escape(note)}</dd></div>"
                    for name, value, note in found)  # fmt: skip
    return f'<dl class="tiles">{boxes}</dl>'


def box(result: Result) -> str:
    """On what, in a sentence."""
    found, llm = result.machine, result.bundle
    size = f" of {shown.millions(llm.llm_parameters)} parameters" if llm.llm_parameters else ""
    model = f"an LLM{size} ({llm.llm_type or 'type not known'})" if llm.llm else "no LLM"
    cut = "" if result.complete else f" Interrupted: {len(result.points)} of {result.planned} points are measured."
    return (f"{found.cpu}, {found.cores} cores, {found.memory_bytes / 2**30:.0f} GiB; {llm.label} with {model}; "
            f"{result.created[:10]}.{cut}")  # fmt: skip


def tiles(result: Result) -> list[Tile]:
    """The few figures that are read first: the base model alone, the knee, the largest rate there."""
    found = shown.headline(result)
    if not found:
        return []
    made = [_latency_tile("base model alone, p99", found[0])]
    point, why = chosen(result, found)
    if point is not None and point is not found[0]:
        made += [_latency_tile(f"{shown.asked(point)} routed, p99", point), *_gain_tile(result, point, why)]
        made += _rate_tile(result, point)
    return made


def chosen(result: Result, found: Sequence[Point]) -> tuple[Point | None, str]:
    """The point that the report leads with and why: the knee of the quality, else the largest share within the
    objective, else 5 %."""
    if result.quality.knee is not None:
        return shown.matching(found, result.quality.knee), "the knee of the curve, chosen on these rows"
    limit = shown.objective(result.settings.slo)
    held = [point for point in found if limit and (_percentile(point, limit[0]) or limit[1] + 1) <= limit[1]]
    return (held[-1], "the largest share within the objective") if held else (shown.matching(found, 0.05), "near 5 %")


def _percentile(point: Point, name: str) -> float | None:
    found = getattr(point.latency, name.replace(".", ""), None)
    return None if found is None else found.value


def _latency_tile(name: str, point: Point) -> Tile:
    weak = "" if "p99" in point.latency.supported else "; too few requests for p99"
    users = "new users" if point.users == "new" else "returning users"
    return name, f"{digits(point.latency.p99.value)} ms", f"p50 {digits(point.latency.p50.value)} ms, {users}{weak}"


def _scored(result: Result, point: Point) -> QualityPoint | None:
    return next((one for one in result.quality.points
                 if (one.line, one.threshold) == ("policy", point.threshold)), None)  # fmt: skip


def _gain_tile(result: Result, point: Point, why: str) -> list[Tile]:
    scored = _scored(result, point)
    gain = None if scored is None else scored.gains.get("auc")
    if gain is None or gain.value is None:
        return []
    ends = "" if gain.low is None or gain.high is None else f"95 %: {gain.low:+.4f} to {gain.high:+.4f}; "
    ends += "" if gain.low is None or gain.low > 0.0 else "no gain is shown; "
    return [(f"AUC gained at {shown.asked(point)}", f"{gain.value:+.4f}", f"{ends}{why}")]


def _rate_tile(result: Result, point: Point) -> list[Tile]:
    same = [one for one in shown.points(result, "server", "new") if one.threshold == point.threshold and one.rates]
    note = f"within {result.settings.slo or 'the objective'}, new users"
    found = [one.rates.largest for one in same if one.rates is not None]
    return [(f"largest rate at {shown.asked(point)}", f"{digits(rate)}/s" if rate else "none", note) for rate in found]


def cautions(result: Result) -> list[str]:
    """Why the figures may not be those of the machine at rest, or must not be used."""
    kind, words, reasons = shown.state(result)
    return [] if kind == "quiet" else [f"{words}: {' '.join(reasons)}"]


def text(result: Result, out: Path | None) -> str:
    """What the command prints: whether it may be believed, the first figures, a short table, where the files are."""
    _, words, reasons = shown.state(result)
    lines = [f"{words}. {' '.join(reasons)}", *(f"{name}: {value} ({note})" for name, value, note in tiles(result))]
    lines += [*warnings(result), "", *table(SHORT, [short(result, point) for point in shown.headline(result)]), ""]
    if out is None:
        return "\n".join([*lines, "--out DIR keeps the report with plots and every figure; --json prints the figures."])
    return "\n".join([*lines, *(f"{out / name}: {what}" for name, what in FILES.items())])


def short(result: Result, point: Point) -> list[str]:
    """One ratio as the cells of `SHORT`."""
    scored = _scored(result, point)
    auc, gain = (None, None) if scored is None else (scored.metrics.get("auc"), scored.gains.get("auc"))
    return [shown.asked(point), per_cent(point.share.value), per_cent(point.touched.value),
            digits(point.latency.p50.value), _weak(point, "p99"), digits(point.requests_per_s.value),
            shown.many(point.llm_ms_per_thousand), NONE if auc is None or auc.value is None else f"{auc.value:.4f}",
            shown.fine(gain, "+")]  # fmt: skip


def _weak(point: Point, name: str) -> str:
    words = digits(getattr(point.latency, name).value)
    return words if name in point.latency.supported else f"({words})"


def table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns."""
    rows = [header, *cells]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]


def check_folder(out: Path, files: Iterable[str] = (*FILES, SLICES)) -> None:
    """Make the folder before the measurement, so that a bad place is told at once.

    Raises:
        InputError: it cannot be made, or holds anything but `files` and what a killed run may leave of them.
    """
    own = {name for file in files for name in (file, f".{file}.partial")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        foreign = sorted({path.name for path in out.iterdir()} - own)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made a folder: {error.strerror}") from None
    if foreign:
        raise InputError(f"--out {out}: holds {foreign[0]!r}, which this command did not write; name another folder")


def write(result: Result, out: Path) -> None:
    """The files of `FILES`, in place of earlier ones, each whole or not at all."""
    files = {"benchmark.html": page(result), "benchmark.md": markdown(result), "benchmark.svg": curves.main(result)}
    write_file(out / FILE, encode(result))
    for name, contents in files.items():
        write_file(out / name, contents.encode("utf-8", "xmlcharrefreplace"))
