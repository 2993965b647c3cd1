"""Charts: axes that enclose, marks that differ, words that do not hide each other. Whatever is drawn is XML."""

from __future__ import annotations

from itertools import combinations, pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corella_edge_runtime import charts
from corella_edge_runtime.charts import BLUE, LABEL, LETTER, VERMILION, Frame, Line

FRAME = Frame(charts.places(["0", "1", "2"], "ratio"), charts.logarithmic(1.0, 100.0, "ms"))
places = st.floats(0.0, 400.0)


@given(st.floats(0.01, 10.0), st.floats(1.0, 1e6))
def test_words_below_an_axis_do_not_touch(low: float, times: float) -> None:
    frame = Frame(charts.logarithmic(low, low * times, "ms", room=9), charts.linear(0.0, 1.0, ""), 460, 200, right=112)
    found = charts.apart(frame)
    assert [value for value, _ in found] == [value for value, _ in reversed(frame.x.ticks)]
    assert found[0][1] == frame.x.ticks[-1][1]
    said = [(frame.across(value), len(words) * LETTER / 2) for value, words in found if words]
    assert all(left + half < right - other for (right, other), (left, half) in pairwise(said))


@given(st.floats(-1e6, 1e6), st.floats(0.0, 1e6))
def test_a_linear_axis_encloses_its_range_and_its_words_are_those_values(low: float, more: float) -> None:
    axis = charts.linear(low, low + more, "x")
    assert axis.low <= low + 1e-6 * abs(low) + 1e-9
    assert axis.high >= low + more - 1e-6 * abs(low + more) - 1e-9
    assert len(axis.ticks) >= 3
    for value, words in axis.ticks:
        assert float(words.replace(",", "")) == pytest.approx(value, rel=1e-6, abs=1e-9)


@given(st.floats(1e-4, 1e5), st.floats(1.0, 1e6))
def test_a_logarithmic_axis_keeps_the_order(low: float, times: float) -> None:
    axis = charts.logarithmic(low, low * times, "ms")
    assert 0.0 <= axis.part(low) <= axis.part(low * times) <= 1.0
    assert [axis.part(value) for value, _ in axis.ticks] == sorted(axis.part(value) for value, _ in axis.ticks)


@given(st.lists(st.tuples(places, places, st.text("abc %", min_size=1, max_size=9)), max_size=12))
def test_words_beside_places_hide_neither_each_other_nor_a_place(found: list[tuple[float, float, str]]) -> None:
    drawn = [ElementTree.fromstring(one) for one in charts.labels(found, FRAME)]
    boxes = [(float(one.get("x", "")), float(one.get("y", "")), 6.2 * len(one.text or "")) for one in drawn]
    for (x, y, wide), (other, below, width) in combinations(boxes, 2):
        assert x + wide <= other + 0.2 or other + width <= x + 0.2 or abs(y - below) >= 12.8
    for x, y, wide in boxes:
        assert not any(x < px < x + wide and y - 10 < py < y + 3 for px, py, _ in found)


@given(st.lists(st.floats(1.0, 100.0), min_size=2, max_size=12))
def test_names_beside_the_ends_have_room(ends: list[float]) -> None:
    lines = [Line(f"line {i}", BLUE, [0.0, 2.0], [1.0, end]) for i, end in enumerate(ends)]
    texts = [ElementTree.fromstring(one) for one in charts.names(lines, FRAME) if one.startswith("<text")]
    ys = sorted(float(one.get("y", "")) for one in texts)
    assert all(b - a >= LABEL - 0.11 for a, b in pairwise(ys))
    assert ys[-1] <= FRAME.base + 4.1


def test_a_chart_is_told_in_words_and_its_lines_differ_without_colour() -> None:
    lines = [Line("one", BLUE, [0, 1], [2, 3], "none", "circle", [1, 2], [3, 4], frozenset({1})),
             Line("<two>", VERMILION, [0, 1], [5, 6], "6 3", "square")]  # fmt: skip
    drawn = ElementTree.fromstring(charts.chart(FRAME, lines, "A & B", "Two lines, <rising>."))
    space = "{http://www.w3.org/2000/svg}"
    assert (drawn.findtext(f"{space}title"), drawn.findtext(f"{space}desc")) == ("A & B", "Two lines, <rising>.")
    assert {one.get("stroke-dasharray") for one in drawn.iter(f"{space}polyline")} == {"none", "6 3"}
    assert {"one", "<two>"} <= {one.text for one in drawn.iter(f"{space}text")}
    circles = [one.get("fill") for one in drawn.iter(f"{space}circle")]
    assert circles == [BLUE, "#ffffff", BLUE]  # two places, of which one is hollow, and the one beside the name
