"""Every command of docs/start.md's first session on a real data set, timed; the figures are kept in one file.

    python benchmarks/first_session.py --source ml-1m --work . --out benchmarks/results/ml-1m.json --note "..."

A step whose output exists is not repeated: its time is then missing (training notes its own seconds).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from harness.results import write
from harness.timed import kept

Step = tuple[str, Path, list[str | Path]]


def steps(source: Path, work: Path, recipe: str) -> list[Step]:
    """(name, what it writes, command) of the session."""
    data, run, bundle = work / "data/ml-1m", work / "runs/ml-1m", work / "bundles/ml-1m"
    scores, evaluation, report = work / "runs/ml-1m-scores.jsonl", work / "runs/ml-1m-test", work / "report"
    ratio: list[str | Path] = ["--threshold", "ratio:0.05"]
    return [
        ("prepare", data, ["prepare", "ml-1m", "--source", source, "--out", data]),
        ("train", run / "summary.json", ["train", recipe, "--data", data, "--out", run]),
        ("export", bundle, ["export", run, "--out", bundle, "--llm-type", "Q8_0"]),
        ("verify", work / "never", ["verify", bundle]),
        ("inspect", work / "never", ["inspect", bundle]),
        ("score", scores, ["score", bundle, data / "requests.jsonl", "--out", scores, *ratio]),
        ("evaluate", evaluation / "evaluation.json",
         ["evaluate", bundle, "--data", data, "--split", "test", "--out", evaluation]),
        ("benchmark", report / "benchmark.json",
         ["benchmark", bundle, "--scenario", "single", "--ratios", "0,0.01,0.05,0.2,1", "--out", report]),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the publisher's files")
    parser.add_argument("--work", type=Path, default=Path())
    parser.add_argument("--recipe", default="ml-1m-tiny")
    parser.add_argument("--note", default="", help="what a reader must know of the data")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    timed = {
        name: run(name, made, command) for name, made, command in steps(options.source, options.work, options.recipe)
    }
    figures = {"what": "first session", "note": options.note, "steps": timed, **collected(options.work)}
    write(options.out, figures)


def run(name: str, made: Path, command: list[Any]) -> dict[str, Any]:
    """Run one command; its wall time and the greatest memory of any command so far."""
    if made.exists():
        print(f"{name}: done before")
        return {"seconds": None}
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "corella_edge", *map(str, command)], check=True)
    seconds = round(time.perf_counter() - started, 2)
    print(f"{name}: {seconds} s")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"seconds": seconds, "peak_rss_so_far_bytes": peak}


def collected(work: Path) -> dict[str, Any]:
    """What the steps themselves noted."""
    bundle = work / "bundles/ml-1m"
    names = {
        "train": work / "runs/ml-1m/summary.json",
        "verification": bundle / "verification.json",
        "evaluation": work / "runs/ml-1m-test/evaluation.json",
    }
    found = {name: json.loads(path.read_text("utf-8")) for name, path in names.items()}
    found["benchmark"] = kept(work / "report")
    for row in (row for group in found["evaluation"]["groups"].values() for row in group["at"]):
        row.pop("lines", None)  # other rules, at random, the oracle: evaluate's folder has them
    sizes = {str(p.relative_to(bundle)): p.stat().st_size for p in sorted(bundle.rglob("*")) if p.is_file()}
    table = json.loads((bundle / "routing.json").read_text("utf-8"))["table"]
    recipe = json.loads((bundle / "manifest.json").read_text("utf-8"))["about"]["recipe"]
    return {"recipe": recipe, **found, "bundle_bytes": sizes, "validation_table": table}


if __name__ == "__main__":
    main()
