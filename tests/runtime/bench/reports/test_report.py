"""The report of a benchmark: its first line, figures that must not be believed, and that it needs nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from bench_results import RATIOS
from bench_results import result as made_up
from corella_edge.errors import InputError
from corella_edge_runtime.bench.reports import curves, report, shown, spreads
from corella_edge_runtime.bench.reports.ceilings import reached
from corella_edge_runtime.bench.reports.facts import provenance
from corella_edge_runtime.bench.reports.sections import sections
from corella_edge_runtime.bench.results import result
from corella_edge_runtime.bench.results.circumstances import (
    BundleFacts,
    Ceilings,
    Figure,
    Noise,
    Quiet,
    Threads,
    Verified,
)
from corella_edge_runtime.bench.results.histogram import counted
from corella_edge_runtime.bench.results.points import Energy, Latency, Law, Outcomes, Point, Rates
from corella_edge_runtime.bench.results.result import QualityLines, Result

NOISY = Quiet(before=Noise(), during=Noise(foreign=0.09), noisy=True, reasons=("Other processes took 9 %.",))


class Elements(HTMLParser):
    """Tags, ids, and whatever would be fetched."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("href", "src", "action", "data"):
                self.links.append(value or "")


def svgs(page: str) -> list[str]:
    return re.findall(r"<svg.*?</svg>", page, re.DOTALL)


@pytest.fixture(scope="module")
def page(measured: Result) -> str:
    return report.page(measured)


def test_the_files_are_whole_and_the_json_is_the_result(measured: Result, tmp_path: Path) -> None:
    (tmp_path / ".benchmark.svg.partial").write_text("of a run that was killed")
    (tmp_path / "benchmark.md").write_text("of an earlier run")
    report.check_folder(tmp_path)
    report.write(measured, tmp_path)
    names = {path.name for path in tmp_path.iterdir()} - {".benchmark.svg.partial"}
    assert names == set(report.FILES)
    assert result.read(tmp_path) == measured
    main = ElementTree.fromstring((tmp_path / "benchmark.svg").read_text())
    words = {"".join(part.itertext()) for part in main.iter("{http://www.w3.org/2000/svg}text")}
    assert {"p50", "p99", "policy", "oracle", "random", "objective p99 ≤ 30.0 ms"} <= words


def test_a_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"holds 'thesis\.tex', which this command did not write"):
        report.check_folder(tmp_path)
    with pytest.raises(InputError, match="cannot be made a folder"):
        report.check_folder(tmp_path / "thesis.tex")


def test_the_page_needs_nothing_else_and_can_be_heard(page: str) -> None:
    found = Elements(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "use"} & set(found.tags)
    assert found.links == []
    assert not re.findall(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "@media print" in page and "url(http" not in page  # noqa: PT018
    pictures = svgs(page)
    assert len(pictures) >= 15
    clips = [name for one in pictures for name in re.findall(r'clipPath id="([^"]*)"', one)]
    assert len(set(clips)) == len(clips)
    for one in pictures:
        drawn = ElementTree.fromstring(one)
        space = "{http://www.w3.org/2000/svg}"
        assert drawn.get("role") == "img"
        assert len(drawn.findtext(f"{space}title") or "") > 5
        assert len(drawn.findtext(f"{space}desc") or "") > 20


@pytest.mark.parametrize(
    ("changes", "kind", "first", "why"),
    [
        ({}, "quiet", "Quiet machine", "The parity gate passed: 64 reference rows"),
        ({"quiet": NOISY}, "noisy", "NOISY machine", "Other processes took 9 %."),
        ({"verified": Verified(passed=False, why="2 of 64 rows differ")}, "void", "VOID", "2 of 64 rows differ"),
        ({"verified": Verified(passed=False), "quiet": NOISY}, "void", "VOID", "The parity gate failed"),
        ({"void": "the clock jumped"}, "void", "VOID", "The clock jumped."),
        (
            {"verified": Verified(passed=None, why="over HTTP")},
            "quiet",
            "Quiet machine",
            "gate was not run: Over HTTP.",
        ),
    ],
)
def test_the_first_line_says_whether_the_figures_may_be_used(
    measured: Result, changes: dict[str, Any], kind: str, first: str, why: str
) -> None:
    made = replace(measured, **changes)
    page, text, printed = report.page(made), report.markdown(made), report.text(made, None)
    assert f"<h1>{first}: benchmark of tiny@1</h1>" in page
    assert f'<p class="state {kind}"' in page
    assert text.startswith(f"# {first}: benchmark of tiny@1\n")
    assert printed.startswith(f"{first}.")
    assert all(why in one for one in (page, text, printed))
    assert bool(report.cautions(made)) == (kind != "quiet")


def test_ceilings_come_first_and_shares_are_of_them(measured: Result, page: str) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles[:3] == ["Ceilings", "Latency: SingleStream, new users", "Quality at the same ratios"]
    assert titles[-1] == "Provenance"
    alone = shown.headline(measured)[0]
    name, share = reached(measured)[0]
    assert (name, share) == ("0 %", pytest.approx(measured.ceilings.crm_ms / alone.latency.mean.value))
    assert f"{100 * share:.1f} %" in page
    assert reached(replace(measured, ceilings=Ceilings())) == []
    assert "Ceilings" not in report.page(replace(measured, ceilings=Ceilings()))


def test_every_figure_is_a_share_of_its_ceiling(measured: Result) -> None:
    """Base model and LLM one after the other in a request; beside each other in a process; a core does one of them."""
    base, llm = measured.ceilings.crm_ms, measured.ceilings.llm_tokens_per_s
    rows = shares(measured)
    assert list(rows) == [f"{100 * ratio:g} %" for ratio in RATIOS]
    for scenario, name, ceiling in (
        ("single", "mean time, new users", lambda reading: f"{shown.digits(base + reading)} ms"),
        ("server", "largest rate, new users", lambda reading: f"{shown.digits(1000 / max(base, reading))}/s"),
        ("offline", "Offline, 2 processes, new users", lambda reading: f"{shown.digits(2000 / (base + reading))}/s"),
    ):
        point = shown.points(measured, scenario, "new")[-1]
        assert rows["100 %"][name].endswith(f" [{ceiling(1000 * point.tokens_evaluated / llm)}]")
    other = replace(measured, threads=Threads(crm=1, llm=7))
    assert "Offline, 2 processes, new users" not in shares(other)["0 %"]
    assert "has no ceiling here" in report.markdown(other)
    assert "share of its ceiling" not in report.markdown(replace(measured, points=()))


def shares(result: Result) -> dict[str, dict[str, str]]:
    """The cells of the table by row and column."""
    table = next(one for one in sections(result) if one.title == "Each figure as a share of its ceiling")
    return {of: dict(zip(table.header[1:], cells, strict=True)) for of, *cells in table.rows}


def test_percentiles_without_support_are_grey_and_said(page: str, measured: Result) -> None:
    assert page.count('<span class="weak">(') > 8
    assert "p99 takes 1,000 requests, p99.9 takes 10,000 requests" in page
    text = report.markdown(measured)
    assert re.search(r"\| 5 % \|.*\| \(\d+\.\d\) \|", text)


def test_tables_of_page_and_text_are_the_same(page: str, measured: Result) -> None:
    text = report.markdown(measured)
    assert len(re.findall("<table", page)) == len(re.findall(r"^\| ---", text, re.MULTILINE))
    assert text.count("\n| ") > 80
    for line in text.splitlines():
        assert not line.startswith("| ") or line.endswith(" |")


def test_everything_that_a_figure_depends_on_is_said(measured: Result, page: str) -> None:
    for _, value in provenance(measured):
        assert value.replace("'", "&#x27;") in page
    for wanted in ("ab" * 32, "cd" * 32, "GNU 12.2", "AVX512_BF16", "CPUExecutionProvider", "RAPL"):
        assert wanted in page


@pytest.fixture(scope="module")
def plenty() -> Result:
    return made_up(requests=1200, labels=False)


def test_the_law_is_judged_by_a_p99_of_enough_requests_alone(measured: Result, plenty: Result) -> None:
    few, enough = (report.markdown(one).partition("## The law against measurement")[2].partition("\n## ")[0]
                   for one in (measured, plenty))  # fmt: skip
    assert "8 of 8 rows the p99, in parentheses, is of too few requests to judge the law by: it takes 1,000" in few
    assert re.search(r"\| 5 % \|.*\| \(\d+\.\d\) \| - \|", few)
    assert "too few" not in enough
    assert re.search(r"\| 5 % \|.*\| \d+\.\d \[\d+\.\d, \d+\.\d\] \| [+-]\d\.\d % \|", enough)


def test_reports_of_earlier_versions_judged_the_law_by_every_other_request(plenty: Result) -> None:
    point = shown.headline(plenty)[3]
    older = replace(point, law=replace(point.law, seen_p99=12.5, seen_touched=0.5))
    assert shown.judges_law(point)
    assert not shown.judges_law(older)
    assert shown.seen_by_law(older) == (0.5, Figure(12.5))
    assert shown.seen_by_law(point)[1].low is not None


def few(point: Point) -> Point:
    """A point of which hardly anything is known, as of a run over HTTP that was interrupted."""
    nothing = Latency(**dict.fromkeys(("p50", "p90", "p95", "p99", "p999", "max", "mean"), Figure(2.0)))
    return Point(scenario=point.scenario, threshold=point.threshold, ratio=point.ratio, routing=point.routing,
                 users=point.users, share=Figure(), touched=Figure(), latency=nothing, histogram=counted([0.002]),
                 requests_per_s=Figure(500.0), candidates_per_s=Figure(), outcomes=Outcomes(requests=1), law=Law(),
                 noise=Noise(), energy=Energy(why="no"), candidates=20.0, seconds=0.002)  # fmt: skip


CHANGES: dict[str, Callable[[Result], dict[str, Any]]] = {
    "nothing measured": lambda one: {"points": (), "complete": False},
    "one point": lambda one: {"points": one.points[:1]},
    "no quality": lambda one: {"quality": QualityLines(why="no row has a label")},
    "no knee": lambda one: {"quality": replace(one.quality, knee=None)},
    "no objective": lambda one: {"settings": replace(one.settings, slo=None)},
    "no LLM": lambda one: {"bundle": BundleFacts(label="crm@1"), "ceilings": Ceilings(crm_ms=0.5, crm_candidates=20),
                           "points": one.points[:1]},
    "hardly anything": lambda one: {"points": tuple(few(point) for point in one.points)},
    "no shares": lambda one: {"points": tuple(replace(point, ratio=None, threshold="ms:20") for point in one.points)},
    "server only": lambda one: {"points": tuple(point for point in one.points if point.scenario == "server")},
    "offline only": lambda one: {"points": tuple(point for point in one.points if point.scenario == "offline")},
    "returning only": lambda one: {"points": tuple(point for point in one.points if point.users == "returning")},
}  # fmt: skip


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_missing_is_left_out(measured: Result, kind: str) -> None:
    made = replace(measured, **CHANGES[kind](measured))
    page, text = report.page(made), report.markdown(made)
    for one in [*svgs(page), curves.main(made)]:
        ElementTree.fromstring(one)
    assert not re.search(r"\b(nan|None|inf)\b", text)
    assert report.text(made, None)
    if kind == "no quality":
        assert "Not measured: No row has a label." in text
    if kind == "nothing measured":
        assert "Interrupted: 0 of 48 points are measured." in text


def test_the_printed_table_is_short(measured: Result, tmp_path: Path) -> None:
    lines = report.text(measured, tmp_path).splitlines()
    rows = [line.split()[0] for line in lines[6:] if re.match(r" *\d+ % ", line)]
    assert rows == [f"{100 * ratio:g}" for ratio in (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)]
    assert max(len(line) for line in lines[1:-4]) <= 120
    assert [line.partition(": ")[0] for line in lines[-4:]] == [str(tmp_path / name) for name in report.FILES]


def test_lines_and_stages_are_told_apart_without_colours() -> None:
    """As by a reader who sees no colours, or in a grey print: by dashes and marks; neighbours in a bar by hatching."""
    alone = {name: (dash, "") for name, _, dash in curves.ALONE.values()}
    drawn = {name: (dash, kind) for name, (_, dash, kind) in curves.QUALITY.items()}
    for looks in ([look[1:] for look in curves.LOOKS.values()], [look[1:] for look in curves.MANY],
                  [*drawn.values(), *alone.values()]):  # fmt: skip
        assert len(set(looks)) == len(looks)
    for elsewhere in ({"http", "store", "turn"}, {"other", "fuse"}):  # what has no part in process, and over HTTP
        hatches = [spreads.PAINTS[name][1] for name in shown.STAGES if name not in elsewhere]
        assert all(a != b for a, b in pairwise(hatches))


def test_hostile_names_stay_text(measured: Result) -> None:
    bad = "<img src=x onerror=alert(1)>"
    made = replace(measured, bundle=replace(measured.bundle, label=bad), warnings=(bad,))
    page = report.page(made)
    assert bad not in page
    assert Elements(page).tags.count("img") == 0
    ElementTree.fromstring(curves.main(made))


def test_a_report_of_server_alone_tells_the_rates(measured: Result) -> None:
    alone = replace(measured, points=tuple(point for point in measured.points if point.scenario == "server"))
    (rates,) = [section for section in sections(alone) if section.title == "The rates"]
    assert [row[0] for row in rates.rows] == [shown.asked(point) for point in shown.headline(alone)]
    assert all(row[2] != shown.NONE for row in rates.rows)
    assert not [section for section in sections(measured) if section.title == "The rates"]


def test_published_rules_stand_beside_the_policy_with_their_papers(measured: Result) -> None:
    def said(result: Result) -> str:
        return " ".join(next(one for one in sections(result) if one.title == "Quality at the same ratios").said)

    words = said(measured)
    assert (
        "Rare items: items with the fewest training rows (confidence by counts, arXiv 2603.09947); learned win:"
        in words
    )
    assert "fitted on other users' rows" in words
    assert "The policy's order is that of CoReLLa, arXiv 2403.16378: entropy." in words
    assert "entropy" not in shown_lines(measured)
    plain = [point for point in measured.quality.points if point.line in ("policy", "crm", "llm")]
    gated = [*plain, replace(plain[1], line="entropy")]
    of_gate = replace(measured, quality=replace(measured.quality, points=tuple(gated)))
    assert "Entropy: those of the highest entropy (CoReLLa, arXiv 2403.16378)." in said(of_gate)
    assert "The policy's order" not in said(of_gate)
    drawn = ElementTree.fromstring(curves.quality(of_gate, "auc"))
    assert "entropy" in {"".join(part.itertext()) for part in drawn.iter("{http://www.w3.org/2000/svg}text")}
    without = curves.quality(measured, "auc", without=("oracle", "learned win"))
    assert "learned gain<" in without
    assert "learned win<" not in without
    assert "oracle" not in without


def shown_lines(result: Result) -> set[str]:
    """Of the table of quality."""
    return {row[0] for one in sections(result) if one.title == "Metrics" for row in one.rows}


def test_a_search_that_found_no_rate_says_so(measured: Result) -> None:
    def searched(point: Point) -> Point:
        return point if point.rates is None else replace(point, rates=Rates(largest=0.0, first_failed=1.5, cut=True))

    none = replace(measured, points=tuple(map(searched, measured.points)))
    (server,) = [section for section in sections(none) if section.title.startswith("Server")]
    assert {row[2] for row in server.rows} == {"none held [down to 1.50, cut short]"}
    assert len(server.figures) == 2  # nothing to be drawn of the rates
    mixed = (searched(point) if point.ratio else point for point in measured.points)
    ElementTree.fromstring(
        curves.rates(shown.points(replace(measured, points=tuple(mixed)), "server", "new"), "p99=30ms")
    )


def test_the_largest_rate_of_several_rounds_has_an_interval(measured: Result) -> None:
    def searched(point: Point) -> Point:
        rates = Rates(largest=12.0, first_failed=15.0, low=0.0 if point.ratio else 10.0, high=18.0)
        return point if point.rates is None else replace(point, rates=rates)

    rounds = replace(measured, points=tuple(map(searched, measured.points)))
    (server,) = [section for section in sections(rounds) if section.title.startswith("Server")]
    assert {row[2] for row in server.rows} == {"12.0 [10.0, 18.0]", "12.0 [0, 18.0]"}
    found = shown.points(rounds, "server", "new")
    assert shown.largest(found[0]) == Figure(12.0, 10.0, 18.0)
    lines = [one.attrib for one in ElementTree.fromstring(curves.rates(found, "p99=30ms")).iter() if "x1" in one.attrib]
    bars = [one["y1"] for one in lines if one["x1"] == one["x2"] and one["stroke-width"] == "1.5"]
    assert bars == ["280.0"] * len(found)  # from 10, where the axis begins, and from 0: from its foot
    old = shown.points(measured, "server", "new")[0]  # of one search
    assert shown.largest(old) == Figure(80.0, 80.0, 84.0)
    assert shown.largest(replace(old, rates=replace(old.rates, cut=True))) == Figure(80.0)
    assert shown.largest(replace(old, rates=None)) is None


def test_the_report_says_what_its_intervals_are_made_of(measured: Result) -> None:
    def words(**changes: Any) -> str:
        changed = replace(measured, points=tuple(replace(point, **changes) for point in measured.points))
        return next(said for one in sections(changed) for said in one.said if "95 % interval" in said)

    assert "widened to the range of the 3 repeats" in words()
    assert "Student's t over 3 rounds and over the early, the middle and the late part" in words(intervals="repeats")
    assert "of one round, which knows nothing" in words(repeats=measured.points[0].repeats[:1])


def test_an_interval_of_repeats_is_shown_as_it_is(measured: Result) -> None:
    point = replace(measured.points[0], intervals="repeats")
    assert shown.spread(point, "p50") == point.latency.p50


def test_a_gain_that_may_be_none_is_called_so(measured: Result) -> None:
    def notes(low: float) -> list[str]:
        gains = {"auc": Figure(0.01, low, 0.02)}
        points = tuple(replace(point, gains=gains) for point in measured.quality.points)
        found = replace(measured, quality=replace(measured.quality, points=points))
        return [note for name, _, note in report.tiles(found) if name.startswith("AUC gained")]

    assert [note.count("no gain is shown") for note in (*notes(-0.001), *notes(0.001))] == [1, 0]


def test_warnings_stand_before_the_figures(measured: Result) -> None:
    made = replace(measured, warnings=("half of the users had come before",))
    for text in (report.page(made), report.markdown(made), report.text(made, None)):
        assert text.index("Warning: Half of the users had come before.") < text.index("p50 ms")


# the parts


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(0.5, 1.0)), max_size=12))
def test_the_frontier_is_what_no_point_beats(found: list[tuple[float, float]]) -> None:
    kept = curves.frontier(found)
    assert [found[i] for i in kept] == sorted(found[i] for i in kept)
    for i, (ms, auc) in enumerate(found):
        beaten = any(a <= ms and b >= auc and (a, b) != (ms, auc) for a, b in found)
        assert (i in kept and not beaten) or any(found[k][0] <= ms and found[k][1] >= auc for k in kept)


@given(st.lists(st.floats(1e-5, 10.0), min_size=1, max_size=60))
def test_a_histograms_shares_sum_to_one(seconds: list[float]) -> None:
    made = counted(seconds)
    parts = spreads.shares(made, spreads.classes(made.low / 1e6 or 1e-6, made.high / 1e6 * 1.01))
    assert parts.sum() == pytest.approx(1.0)
    assert (parts >= 0).all()


def test_two_humps_are_two(measured: Result) -> None:
    point = next(p for p in shown.headline(measured) if p.ratio == 0.05)
    edges = spreads.classes(0.1, 100.0)
    easy, whole = (spreads.shares(one, edges) for one in (point.unrouted, point.histogram))
    empty = np.flatnonzero(whole == 0.0)
    inside = empty[(empty > np.flatnonzero(whole)[0]) & (empty < np.flatnonzero(whole)[-1])]
    assert len(inside) > 3
    assert np.flatnonzero(easy)[-1] < inside[0]


@given(st.floats(-1e7, 1e7))
def test_figures_keep_three_digits(value: float) -> None:
    written = shown.digits(value)
    assert float(written.replace(",", "")) == pytest.approx(value, rel=6e-3, abs=1e-6)
    assert len(written) <= 12


@pytest.mark.parametrize(
    ("slo", "found"),
    [("p99=30ms", ("p99", 30.0)), ("p99.9=1.5s", ("p99.9", 1500.0)), (None, None), ("", None), ("fast", None)],
)
def test_objectives_are_read(slo: str | None, found: tuple[str, float] | None) -> None:
    assert shown.objective(slo) == found


def test_an_interval_holds_every_repeat(measured: Result) -> None:
    for point in measured.points:
        for name in ("p50", "p99", "requests_per_s"):
            found = shown.spread(point, name)
            if found.low is not None and found.high is not None:
                assert all(found.low <= getattr(one, name) <= found.high for one in point.repeats)
    assert json.loads(result.encode(measured))["format"] == 2
