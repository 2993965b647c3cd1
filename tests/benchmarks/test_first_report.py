"""`benchmarks/first_report.py`: a new user's way, which must begin with nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

import bench_results
import first_report
from corella_edge.errors import InputError


def options(bundle: Path, work: Path) -> argparse.Namespace:
    return argparse.Namespace(bundle=bundle, work=work, wheels=work, note="", options=[])


def test_the_way_uses_what_it_installed_and_the_light_extras_alone(tmp_path: Path) -> None:
    way = dict(first_report.steps(tmp_path, tmp_path / "bundle", tmp_path / "wheels", ["--budget", "9s"]))
    assert list(way) == ["venv", "install", "verify", "benchmark"]
    assert str(way["install"][-1]).endswith("[cpu,llm]")
    assert {Path(way[name][0]).parent for name in ("install", "verify", "benchmark")} == {tmp_path / "venv/bin"}
    assert way["benchmark"][-2:] == ["--budget", "9s"]


def test_a_folder_that_is_not_new_is_refused(tmp_path: Path) -> None:
    (tmp_path / "left").touch()
    with pytest.raises(InputError, match="not empty"):
        first_report.measure(options(tmp_path, tmp_path))


def test_a_command_that_fails_ends_the_way_and_none_sees_this_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    seen = [sys.executable, "-c", "import os, sys; sys.exit('PYTHONPATH' in os.environ)"]
    assert first_report.timed("look", seen, tmp_path) >= 0.0
    with pytest.raises(InputError, match="break ended with exit code 3"):
        first_report.timed("break", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path)


@pytest.mark.parametrize(
    ("seconds", "complete", "met"), [(500.0, True, True), (590.0, True, False), (9.0, False, False)]
)
def test_the_target_is_ten_minutes_and_a_whole_report(seconds: float, complete: bool, met: bool) -> None:
    found = replace(bench_results.result(requests=40), complete=complete)
    told = first_report.told({"install": 20.0, "benchmark": seconds}, found)
    assert (told["total_s"], told["met"]) == (seconds + 20.0, met)
    assert told["report"]["points"] == told["report"]["planned"] == len(found.points)
