"""Every benchmark's report that is kept among the results is whole, of a quiet machine, and names nothing of it but its
CPU."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from corella_edge_runtime.bench.reports import report, shown
from corella_edge_runtime.bench.results.result import FILE, read

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
KEPT, COMPARED = (sorted(RESULTS.glob(names)) for names in ("*/benchmark-*", "*/compare-*"))


def test_there_are_some() -> None:
    assert len(KEPT) >= 3
    assert COMPARED


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_a_kept_report_is_whole_and_its_figures_may_be_used(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {*report.FILES, "benchmark.png"}
    found = read(folder)
    assert (shown.state(found)[0], found.complete) == ("quiet", True)
    assert report.page(found).count("<svg") >= 8  # today's reader makes today's page of it
    for name in ("benchmark.html", "benchmark.md", FILE):
        assert not re.search(r"/(home|root|work|tmp)/", (folder / name).read_text("utf-8")), name


@pytest.mark.parametrize("folder", COMPARED, ids=lambda folder: folder.name)
def test_a_kept_comparison_is_of_quiet_machines(folder: Path) -> None:
    found = json.loads((folder / "compare.json").read_text("utf-8"))
    assert found["void"] == []
    for path in folder.iterdir():
        assert not re.search(r"/(home|root|work|tmp)/", path.read_text("utf-8")), path.name


@pytest.mark.parametrize("folder", KEPT, ids=lambda folder: folder.name)
def test_the_picture_is_the_main_plot_twice_as_large(folder: Path) -> None:
    data = (folder / "benchmark.png").read_bytes()
    wide, high = map(int, re.findall(r'viewBox="0 0 (\d+) (\d+)"', (folder / "benchmark.svg").read_text("utf-8"))[0])
    assert data.startswith(b"\x89PNG\r\n")
    assert struct.unpack(">II", data[16:24]) == (2 * wide, 2 * high)
