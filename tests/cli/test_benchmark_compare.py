"""`benchmark --compare`: exit codes for CI, files, what is refused; and an engine that was really made slower."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import bench_results
from corella_edge_runtime.bench.comparing import compare_report, fleet
from corella_edge_runtime.bench.comparing.compare import compare
from corella_edge_runtime.bench.results import result
from corella_edge_runtime.bench.results.circumstances import Noise, Quiet
from corella_edge_runtime.bench.results.result import Result
from corella_edge_runtime.engine import Engine


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of reports: base, same, slow, noisy, hundred (candidates)."""
    root = tmp_path_factory.mktemp("reports")
    base = bench_results.result(requests=200)
    noisy = Quiet(before=Noise(), during=Noise(foreign=0.4), noisy=True, reasons=("others took 40 %",))
    made = {"base": base, "same": bench_results.result(1, requests=200), "noisy": replace(base, quiet=noisy),
            "slow": bench_results.result(2, slower=1.5, requests=200),
            "hundred": replace(base, data=replace(base.data, candidates=100.0))}  # fmt: skip
    for name, one in made.items():
        (root / name).mkdir()
        result.write(one, root / name)
    return root


@pytest.mark.parametrize(
    ("names", "options", "code", "first"),
    [
        (("base", "same"), (), 0, "No regression"),
        (("base", "slow"), (), 8, "SLOWER"),
        (("slow", "base"), (), 0, "No regression"),
        (("base", "slow"), ("--max-slowdown", "150%"), 0, "No regression"),
        (("base", "same", "slow"), (), 8, "SLOWER"),
        (("base", "noisy"), (), 9, "VOID"),
        (("base", "hundred"), (), 9, "VOID"),
    ],
)
def test_the_exit_code_is_what_ci_asks(
    corella: Any, reports: Path, names: tuple[str, ...], options: tuple[str, ...], code: int, first: str
) -> None:
    done = corella("benchmark", "--compare", *(reports / name for name in names), *options)
    assert done.code == code, done.err
    assert done.out.startswith(first)
    assert len(done.err.splitlines()) == (1 if code else 0)
    assert "p50 ms" in done.out


def test_files_and_json_say_the_same(corella: Any, reports: Path, tmp_path: Path) -> None:
    base, slow = reports / "base" / "benchmark.json", reports / "slow"
    done = corella("benchmark", "--compare", base, slow, "--out", tmp_path / "new", "--json")
    assert done.code == 8
    assert json.loads(done.out) == json.loads((tmp_path / "new" / "compare.json").read_text())
    assert json.loads(done.out)["reports"] == ["base", "slow"]
    assert {path.name for path in (tmp_path / "new").iterdir()} == set(compare_report.FILES)
    assert corella("benchmark", "--compare", base, slow, "--out", reports).code == 2


def test_it_needs_neither_models_nor_a_library_for_plots(reports: Path, tmp_path: Path) -> None:
    blocked = ["onnxruntime", "llama_cpp", "torch", "matplotlib", "polars", "starlette", "playwright"]
    code = (f"import sys; sys.modules.update(dict.fromkeys({blocked})); "
            "from corella_edge.cli import main; main(sys.argv[1:])")  # fmt: skip
    args = ["benchmark", "--compare", reports / "base", reports / "same", "--out", tmp_path / "new"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_of_reports_is_a_page(corella: Any, reports: Path, tmp_path: Path) -> None:
    done = corella("benchmark", "--compare", reports, "--out", tmp_path)
    assert done.code == 0, done.err
    assert done.out.startswith("5 benchmarks; noisy or void: noisy.\n")
    assert {path.name for path in tmp_path.iterdir()} == set(fleet.FILES)
    told = corella("benchmark", "--compare", reports, "--json")
    assert json.loads(told.out) == json.loads((tmp_path / "fleet.json").read_text())


def test_mistakes_are_one_line(corella: Any, reports: Path, tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"format": 1, "ratios": []}')
    (tmp_path / "text.json").write_text("hello")
    base = reports / "base"
    cases: list[tuple[tuple[object, ...], str]] = [
        (("--compare", base), "give two reports or more, or one folder"),
        (("--compare", tmp_path), "no benchmark.json in it or below"),
        (("--compare", base, tmp_path / "old.json"), "has format 1, and this version reads format 2"),
        (("--compare", base, tmp_path / "text.json"), "not a benchmark.json"),
        (("--compare", base, tmp_path / "none"), "cannot be read"),
        (("--compare", base, base, "--budget", "9s"), "--budget is for a measurement"),
        (("--compare", base, base, "--max-slowdown", "0.05"), "is not a number of per cent, such as 5%"),
        ((base, "--max-slowdown", "5%"), "--max-slowdown is for --compare"),
        ((base, base), "name one BUNDLE"),
    ]
    for args, said in cases:
        done = corella("benchmark", *args)
        assert (done.code, said in done.err) == (2, True), (args, done)
        assert "Traceback" not in done.err


def quieted(folder: Path) -> Result:
    """A report as it would be on a quiet machine: whether it was is not what is tested here."""
    found = result.read(folder)
    return replace(found, quiet=Quiet(before=Noise(), during=Noise(), noisy=False))


@pytest.mark.slow
def test_an_engine_that_was_made_slower_is_caught(
    corella: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--scenario", "single", "--users", "new", "--ratios", "0", "--budget", "6s", "--max-labelled", "0",
               "--no-llm")  # fmt: skip
    assert corella("benchmark", bundle, *options, "--out", tmp_path / "quick").code == 0
    finish = Engine.finish

    def slow(self: Engine, *args: Any, **more: Any) -> Any:
        time.sleep(0.03)
        return finish(self, *args, **more)

    monkeypatch.setattr(Engine, "finish", slow)
    assert corella("benchmark", bundle, *options, "--out", tmp_path / "slow").code == 0
    quick, slower = (quieted(tmp_path / name) for name in ("quick", "slow"))
    found = compare(["quick", "slow"], [quick, slower])
    assert {row.name for _, row, by in found.regressions() if by > 0.5} >= {"p50 ms"}
    assert compare(["slow", "quick"], [slower, quick]).regressions() == []
