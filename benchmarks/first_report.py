"""A new user's way from `pip install` of the light extras and a bundle to a report, every command timed.

    python benchmarks/first_report.py BUNDLE --wheels wheels --work DIR --out benchmarks/results/first-report.json

DIR is a new folder: the virtual environment, the copied bundle and the report come into it, and nothing of this
checkout but what pip installs. The commands are those of docs/start.md and docs/benchmark.md. pip's cache is left
alone, so that every package is downloaded. What is there before the clock starts: Python, the source tree, the wheel of
llama.cpp (made once by `corella-edge wheel --out wheels`) and the bundle.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge_runtime.bench.reports import shown
from corella_edge_runtime.bench.results.result import Result, read
from harness.results import ended

SOURCE = Path(__file__).parents[1]
EXTRAS = "cpu,llm"
WITHIN = 600.0  # seconds for the whole way
Step = tuple[str, Sequence[str | Path]]


def steps(work: Path, bundle: Path, wheels: Path, more: Sequence[str] = ()) -> list[Step]:
    """(name, command) of the way; `more` options of the benchmark."""
    program = work / "venv/bin"
    return [
        ("venv", [sys.executable, "-m", "venv", work / "venv"]),
        ("install", [program / "pip", "--no-cache-dir", "--disable-pip-version-check", "install", "--quiet",
                     "-c", SOURCE / "constraints.txt", "--find-links", wheels, "--only-binary", "llama-cpp-python",
                     f"{SOURCE}[{EXTRAS}]"]),
        ("verify", [program / "corella-edge", "verify", bundle]),
        ("benchmark", [program / "corella-edge", "benchmark", bundle, "--out", work / "report", *more]),
    ]  # fmt: skip


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Walk the way. Raises InputError: the folder is not new, or a command fails."""
    work: Path = options.work.resolve()
    if work.exists() and any(work.iterdir()):
        raise InputError(f"--work {work}: is not empty, and this measures a beginning")
    work.mkdir(parents=True, exist_ok=True)
    bundle = work / "bundle"
    shutil.copytree(options.bundle, bundle)
    way = steps(work, bundle, options.wheels.resolve(), options.options)
    seconds = {name: timed(name, command, work) for name, command in way}
    return {"what": "from pip install to a report", "note": options.note, "extras": EXTRAS,
            **told(seconds, read(work / "report")), "packages": packages(work / "venv"),
            "venv_bytes": size(work / "venv"), "report_bytes": size(work / "report")}  # fmt: skip


def timed(name: str, command: Sequence[str | Path], work: Path) -> float:
    """Seconds of a command that sees nothing of this checkout's own packages. Raises InputError: it fails."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
    began = time.perf_counter()
    done = subprocess.run([str(word) for word in command], cwd=work, env=own, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise InputError(f"{name} ended with exit code {done.returncode}")
    seconds = round(time.perf_counter() - began, 1)
    print(f"{name}: {seconds} s", file=sys.stderr)
    return seconds


def told(seconds: dict[str, float], result: Result) -> dict[str, Any]:
    """Whether the way was short enough, and what came of it."""
    total = round(sum(seconds.values()), 1)
    return {
        "seconds": seconds, "total_s": total, "within_s": WITHIN, "met": total <= WITHIN and result.complete,
        "report": {"bundle": result.bundle.label, "llm_parameters": result.bundle.llm_parameters,
                   "state": shown.state(result)[1], "points": len(result.points), "planned": result.planned,
                   "budget_s": result.settings.budget_s, "labelled_rows": result.quality.rows,
                   "foreign": result.quiet.during.foreign, "steal": result.quiet.during.steal},
    }  # fmt: skip


def packages(venv: Path) -> list[str]:
    """`name==version` of all that was installed."""
    done = subprocess.run([venv / "bin/pip", "--disable-pip-version-check", "list", "--format", "freeze"],
                          capture_output=True, text=True, check=True)  # fmt: skip
    return [line.partition(" @ ")[0] for line in done.stdout.split("\n") if line]


def size(folder: Path) -> int:
    """Bytes of all files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--wheels", type=Path, required=True, help="folder with the wheel of llama.cpp")
    parser.add_argument("--work", type=Path, required=True, help="a folder that is new or empty")
    parser.add_argument("--note", default="", help="what a reader must know of the run")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="last: options of the benchmark")
    options = parser.parse_args()
    return ended("first_report", lambda: measure(options), options.out)


if __name__ == "__main__":
    sys.exit(main())
