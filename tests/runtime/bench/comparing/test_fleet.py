"""A fleet's page: in any order the same, sorted by a click, machines that must not be believed named first."""

from __future__ import annotations

import shutil
from itertools import permutations
from pathlib import Path

import pytest
from msgspec.structs import replace

from bench_results import result as made_up
from browser import Watched, chromium, needs_chromium
from corella_edge.errors import InputError
from corella_edge_runtime.bench.comparing import fleet
from corella_edge_runtime.bench.results import result
from corella_edge_runtime.bench.results.circumstances import Noise, Quiet
from corella_edge_runtime.bench.results.result import Result


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, measured: Result, slower: Result, again: Result) -> Path:
    """Three machines; one of them is noisy, and another has run fewer ratios."""
    root = tmp_path_factory.mktemp("fleet")
    noisy = Quiet(before=Noise(), during=Noise(foreign=0.3), noisy=True, reasons=("A neighbour was at work.",))
    few = tuple(point for point in again.points if point.ratio != 0.02)
    made = {"box-b": (replace(measured, quiet=noisy), "ARM <Neoverse>", 16), "box-a": (slower, "AMD EPYC", 2),
            "deep/box-c": (replace(again, points=few), "Intel Xeon", 4)}  # fmt: skip
    for name, (one, cpu, cores) in made.items():
        (root / name).mkdir(parents=True)
        result.write(replace(one, machine=replace(one.machine, cpu=cpu, cores=cores)), root / name)
    return root


def test_every_report_below_the_folder_is_found_in_a_fixed_order(folder: Path, tmp_path: Path) -> None:
    found, _ = fleet.find(folder)
    assert [name for name, _ in found] == ["box-a", "box-b", "deep/box-c"]
    assert {fleet.page(fleet.ordered(order)) for order in permutations(found)} == {fleet.page(found)}
    with pytest.raises(InputError, match=r"no benchmark.json in it or below"):
        fleet.find(tmp_path)


def test_the_files_say_the_same(folder: Path, tmp_path: Path) -> None:
    found, _ = fleet.find(folder)
    fleet.write(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(fleet.FILES)
    assert (tmp_path / "fleet.md").read_text().startswith("# 3 benchmarks; noisy or void: box-b\n")
    told = fleet.as_json(found)
    assert told["share"] == 0.05
    assert [row["cores"] for row in told["reports"]] == [2, 16, 4]
    assert "p99 ms at 5 %" in fleet.text(found)
    assert "ARM &lt;Neoverse&gt;" in (tmp_path / "fleet.html").read_text()


def test_a_report_that_cannot_be_read_is_named_and_left_out(folder: Path, tmp_path: Path) -> None:
    root = shutil.copytree(folder, tmp_path / "fleet")
    (root / "box-a" / result.FILE).write_text('{"format": 2, "created"')
    found, damaged = fleet.find(root)
    assert [name for name, _ in found] == ["box-b", "deep/box-c"]
    assert list(damaged) == ["box-a"]
    assert "box-a/benchmark.json: not a benchmark.json" in damaged["box-a"]
    fleet.write(found, tmp_path, list(damaged))
    head = "2 benchmarks; noisy or void: box-b; unreadable and left out: box-a"
    assert (tmp_path / "fleet.md").read_text().startswith(f"# {head}\n")
    assert f"{head}." in (tmp_path / "fleet.html").read_text()
    assert fleet.text(found, list(damaged)).startswith(f"{head}.\n")
    assert fleet.as_json(found, list(damaged))["damaged"] == ["box-a"]
    for path in root.rglob(result.FILE):
        path.write_text("{}")
    with pytest.raises(InputError, match=r"not a benchmark\.json"):
        fleet.find(root)


def test_the_share_is_one_that_all_have(folder: Path) -> None:
    found, _ = fleet.find(folder)
    only = replace(found[0][1], points=tuple(p for p in found[0][1].points if p.ratio in (0.0, 0.5)))
    assert fleet.middle([*found[1:], ("few", only)]) == 0.5
    assert fleet.middle([("none", replace(only, points=()))]) is None
    assert "none" in fleet.page([("none", replace(only, points=()))])


def test_a_percentile_of_too_few_requests_stands_in_parentheses(measured: Result) -> None:
    place = fleet.columns(0.05).index("p99 ms at 5 %")
    few, enough = (fleet.values(("box", one), 0.05) for one in (measured, made_up(requests=1000)))
    assert few[place][0].startswith("(")
    assert few[place - 1][0][0].isdigit()  # p50
    assert enough[place][0][0].isdigit()
    assert few[place][1] > 0.0  # and it is sorted by its figure
    assert "In parentheses: of too few requests" in fleet.markdown([("box", measured)])


@needs_chromium
def test_a_click_sorts_by_figures_and_by_words(folder: Path, tmp_path: Path) -> None:
    fleet.write(fleet.find(folder)[0], tmp_path)
    with chromium() as browser:
        watched = Watched(browser, viewport={"width": 360, "height": 800})
        tab = watched.tab
        tab.goto((tmp_path / "fleet.html").as_uri())

        def order(column: str) -> list[str]:
            tab.get_by_role("columnheader", name=column, exact=True).click()
            return list(tab.locator("table.sortable tbody th").all_inner_texts())

        assert order("cores") == ["box-a", "deep/box-c", "box-b"]
        assert order("cores") == ["box-b", "deep/box-c", "box-a"]
        assert order("CPU") == ["box-a", "box-b", "deep/box-c"]
        assert order("p99 ms at 5 %")[-1] == "box-a"
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
        watched.close()
        assert watched.errors == []
