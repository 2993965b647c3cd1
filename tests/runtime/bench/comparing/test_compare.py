"""Benchmarks side by side: what a verdict may be, what is void, and that a slower build is caught."""

from __future__ import annotations

import math
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from corella_edge.errors import RegressionError, VoidError
from corella_edge_runtime.bench.comparing import compare_report
from corella_edge_runtime.bench.comparing.compare import Comparison, compare, slowdown, verdict, widened, widening
from corella_edge_runtime.bench.results.circumstances import Figure, Noise, Quiet
from corella_edge_runtime.bench.results.result import Result

OPPOSITE = {"faster": "slower", "slower": "faster", "better": "worse", "worse": "better"}
figures = st.tuples(st.floats(0.01, 1e4), st.floats(0.0, 1.0), st.floats(0.0, 1.0)).map(
    lambda one: Figure(one[0], one[0] * (1 - one[1]), one[0] * (1 + one[2]))
)
NOISY = Quiet(before=Noise(), during=Noise(foreign=0.2), noisy=True, reasons=("Other processes took 20 %.",))


def of(*results: Result, most: float = 0.05) -> Comparison:
    return compare([f"r{i}" for i in range(len(results))], results, most)


@given(figures, figures, st.booleans(), st.booleans())
def test_a_verdict_turns_round_with_the_two(a: Figure, b: Figure, more: bool, speed: bool) -> None:
    there, back = verdict(a, b, more, speed), verdict(b, a, more, speed)
    assert back == OPPOSITE.get(there, there)


@given(figures, figures, st.booleans())
def test_a_verdict_of_more_is_the_opposite_of_less(a: Figure, b: Figure, speed: bool) -> None:
    found = verdict(a, b, True, speed)
    assert verdict(a, b, False, speed) == OPPOSITE.get(found, found)


@given(figures, st.booleans(), st.booleans(), st.floats(1.0, 3.0))
def test_nothing_differs_from_itself(a: Figure, more: bool, speed: bool, factor: float) -> None:
    assert verdict(a, a, more, speed) == "no difference shown"
    assert slowdown(a, a, more) == 0.0
    wide = widened(a, factor)
    assert wide is not None
    assert (wide.low or 0.0) <= (a.low or 0.0) + 1e-9
    assert verdict(wide, a, more, speed) == "no difference shown"


@given(figures, figures, st.floats(1.0, 3.0))
def test_wider_intervals_only_take_differences_away(a: Figure, b: Figure, factor: float) -> None:
    there = verdict(widened(a, factor), widened(b, factor), False, True)
    assert there in (verdict(a, b, False, True), "no difference shown")


@given(st.integers(1, 10_000))
def test_more_figures_need_wider_intervals(number: int) -> None:
    assert 1.0 <= widening(number) <= widening(number + 1) < 2.0


def test_a_widening_keeps_false_alarms_rare() -> None:
    """Of 100 pairs of equal normal figures, one parts in about one comparison in twenty."""
    z = widening(100) * 2 * 1.959964 / math.sqrt(2)
    assert 100 * 0.5 * math.erfc(z / math.sqrt(2)) == pytest.approx(0.05, rel=0.01)


def test_what_has_no_interval_is_not_judged() -> None:
    assert verdict(Figure(1.0), Figure(9.0, 8.0, 10.0), False, True) == "not judged"
    assert verdict(None, Figure(9.0, 8.0, 10.0), False, True) == "not judged"
    assert slowdown(Figure(0.0), Figure(1.0), False) is None
    assert slowdown(Figure(100.0), Figure(80.0), True) == pytest.approx(0.25)


def test_a_result_against_itself_shows_nothing(measured: Result) -> None:
    found = of(measured, measured)
    assert found.void == found.warnings == found.differs == ()
    assert {said for row in found.rows for said in row.verdicts()} == {"no difference shown", "not judged"}
    compare_report.judge(found)
    assert compare_report.headline(found) == "No regression: no figure is slower by more than 5 %"


def test_two_runs_agree_and_a_slower_build_is_caught(measured: Result, again: Result, slower: Result) -> None:
    compare_report.judge(of(measured, again))
    found = of(measured, slower)
    assert len(found.regressions()) > 50
    with pytest.raises(RegressionError, match=r"r1 is slower than r0 by .* %.*--max-slowdown is 5%") as caught:
        compare_report.judge(found)
    assert caught.value.exit_code == 8
    compare_report.judge(of(measured, slower, most=2.0))
    compare_report.judge(of(slower, measured))
    assert any(said == "faster" for row in of(slower, measured).rows for said in row.verdicts())


def test_each_reports_cells_do_not_depend_on_the_others(measured: Result, again: Result, slower: Result) -> None:
    results = {"a": measured, "b": again, "c": slower}
    seen: dict[Any, Any] = {}
    for names in permutations(results):
        found = compare(names, [results[name] for name in names])
        for row in found.rows:
            for name, figure in zip(names, row.figures, strict=True):
                assert seen.setdefault((name, row.where, row.name), figure) == figure
            for name, said in zip(names[1:], row.verdicts(), strict=True):
                assert seen.setdefault((names[0], name, row.where, row.name), said) == said
    assert len({key for key in seen if key[0] == "a"}) > 100


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"quiet": NOISY}, "r1: NOISY machine. Other processes took 20 %."),
        ({"void": "the bundle changed while it was measured"}, "r1: VOID. The bundle changed"),
        ({"points": ()}, "They have no point in common"),
    ],
)
def test_what_cannot_be_compared_is_void(measured: Result, changes: dict[str, Any], why: str) -> None:
    found = of(measured, replace(measured, **changes))
    assert why in found.void[0]
    assert compare_report.headline(found).startswith("VOID")
    with pytest.raises(VoidError) as caught:
        compare_report.judge(found)
    assert caught.value.exit_code == 9
    for text in (compare_report.markdown(found), compare_report.text(found), compare_report.page(found)):
        assert "VOID" in text.split("</h1>")[0]
        assert why.split(":")[0] in text


def test_other_requests_are_void_or_said(measured: Result) -> None:
    many = replace(measured, data=replace(measured.data, candidates=100.0))
    failed = replace(measured, verified=replace(measured.verified, passed=False, why="3 rows differ"))
    http = replace(measured, settings=replace(measured.settings, transport="http"))
    assert "different numbers of candidates (20, 100)" in of(measured, many).void[0]
    assert "The parity gate failed: 3 rows differ." in of(failed, measured).void[0]
    assert "over HTTP" in of(measured, http).void[0]
    other = replace(measured, data=replace(measured.data, sha256="00" * 32))
    found = of(measured, other)
    assert found.void == ()
    assert found.warnings == ("The requests are not the same ones.",)
    assert dict(found.differs) == {"requests sha256": (measured.data.sha256, "00" * 32)}


def test_what_differs_comes_first(measured: Result, slower: Result) -> None:
    other = replace(slower, machine=replace(slower.machine, cpu="ARM Neoverse", cores=8))
    text = compare_report.text(of(measured, other))
    assert text.index("machine: AMD EPYC") < text.index("p50 ms")
    page = compare_report.page(of(measured, other))
    assert page.index("What differs") < page.index("Every figure")


def test_rates_that_differ_leave_latencies_out(measured: Result) -> None:
    points = tuple(replace(point, rate=40.0) if point.rate else point for point in measured.points)
    found = of(measured, replace(measured, points=points))
    assert "sent at different rates (20.0, 40.0/s)" in found.warnings[0]
    assert {row.name for row in found.rows if row.where.startswith("Server")} == {
        "largest rate/s", "LLM ms per 1,000 requests", "memory MiB",
    }  # fmt: skip


def test_json_says_what_the_page_says(measured: Result, slower: Result) -> None:
    found = of(measured, slower)
    told = compare_report.as_json(found)
    assert told["reports"] == ["r0", "r1"]
    assert len(told["regressions"]) == len(found.regressions())
    first = told["rows"][0]
    assert first["verdicts"] == ["slower"]
    assert first["slowdowns"][0] == pytest.approx(0.3, abs=0.05)
    page = compare_report.page(found)
    assert page.count("<tr") > len(found.rows)
    assert "<script" not in page
