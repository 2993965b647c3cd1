"""The pages of a benchmark and of a comparison in a real browser: wide, narrow, dark and on paper."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from browser import Watched, chromium, needs_chromium
from corella_edge_runtime.bench.comparing import compare_report
from corella_edge_runtime.bench.comparing.compare import compare
from corella_edge_runtime.bench.reports import report
from corella_edge_runtime.bench.results.result import Result

pytestmark = needs_chromium
PAPER = 1031  # pixels between the margins of A4 across: 273 mm
# Texts of a plot that lie on each other by more than a pixel, or that leave their plot.
OVERLAPS = """() => {
  const found = [];
  for (const svg of document.querySelectorAll("figure svg")) {
    const frame = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll("text")].filter((one) => one.textContent.trim());
    const boxes = texts.map((one) => [one.textContent, one.getBoundingClientRect()]);
    boxes.forEach(([words, a], i) => {
      if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.top < frame.top - 1 || a.bottom > frame.bottom + 1)
        found.push([svg.querySelector("title").textContent, words, "leaves the plot"]);
      boxes.slice(i + 1).forEach(([other, b]) => {
        const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
        const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
        const room = frame.width / 460;
        if (wide > room && high > 3.5 * room) found.push([svg.querySelector("title").textContent, words, other]);
      });
    });
  }
  return found;
}"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, measured: Result, slower: Result) -> dict[str, Path]:
    """The report, one with thresholds of another form, and a comparison."""
    folder = tmp_path_factory.mktemp("pages")
    others = tuple(replace(point, ratio=None, threshold=f"band:0.4-{0.5 + (point.ratio or 0.0) / 2:g}")
                   for point in measured.points)  # fmt: skip
    against = compare(["main", "a-long-name-of-a-branch"], [measured, slower])
    made = {"report": report.page(measured), "bands": report.page(replace(measured, points=others)),
            "compare": compare_report.page(against)}  # fmt: skip
    for name, text in made.items():
        (folder / f"{name}.html").write_text(text)
    return {name: folder / f"{name}.html" for name in made}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("name", ["report", "bands", "compare"])
def test_nothing_overlaps(browser: Any, pages: dict[str, Path], name: str, width: int) -> None:
    watched = Watched(browser, viewport={"width": width, "height": 900}, color_scheme="dark")
    watched.tab.goto(pages[name].as_uri())
    assert watched.tab.evaluate("document.documentElement.scrollWidth") <= width
    assert watched.tab.evaluate(OVERLAPS) == []
    watched.close()
    assert (watched.errors, watched.dialogs, watched.hosts) == ([], [], {""})


@pytest.mark.parametrize("name", ["report", "compare"])
def test_it_prints(browser: Any, pages: dict[str, Path], name: str) -> None:
    watched = Watched(browser)
    watched.tab.goto(pages[name].as_uri())
    printed = watched.tab.pdf(prefer_css_page_size=True)
    assert printed.startswith(b"%PDF")
    assert len(printed) > 20_000
    watched.tab.emulate_media(media="print")
    look = "one => [getComputedStyle(one).color, getComputedStyle(document.body).backgroundColor]"
    assert watched.tab.locator("body").evaluate(look) == ["rgb(31, 41, 51)", "rgb(255, 255, 255)"]
    watched.tab.set_viewport_size({"width": PAPER, "height": 700})
    assert watched.tab.evaluate("document.documentElement.scrollWidth") <= PAPER
    cut = "all => all.filter((one) => one.scrollWidth > one.parentElement.clientWidth + 1).map((one) => one.innerText)"
    assert watched.tab.locator("table").evaluate_all(cut) == []
    watched.close()


def test_a_screen_reader_finds_every_plot_and_column(browser: Any, pages: dict[str, Path]) -> None:
    watched = Watched(browser)
    tab = watched.tab
    tab.goto(pages["report"].as_uri())
    assert tab.get_by_role("img").count() == tab.locator("figure").count() >= 15
    assert tab.get_by_role("img", name="Latency, new users", exact=True).count() == 1
    assert tab.get_by_role("status").inner_text().startswith("Quiet machine.")
    assert tab.locator("table").count() == tab.locator("table thead th:first-child[scope=col]").count()
    levels = [int(one[1]) for one in tab.locator("h1, h2, h3").evaluate_all("all => all.map((one) => one.tagName)")]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels))
    watched.close()
