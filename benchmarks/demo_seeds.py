"""The demo over several seeds: does some ratio between 0 and 1 beat both models alone, with intervals?

    python benchmarks/demo_seeds.py --work runs/demo-seeds --out benchmarks/results/demo-seeds.json

The data are synthetic; the figures say nothing about real users.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from corella_edge_export.demo import demo
from harness.results import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder; finished parts are not repeated")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = {seed: one(int(seed), options.work / f"seed-{seed}") for seed in options.seeds.split(",")}
    write(options.out, {"what": "demo over seeds", "data": "synthetic", "seeds": found})
    for seed, entry in found.items():
        winners = ", ".join(f"{ratio:g}" for ratio in entry["beats_both"]) or "none"
        print(f"seed {seed}: ratios that beat both models, interval above zero: {winners}")


def one(seed: int, folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    rows = demo(folder, seed, print, lambda *_: None)["evaluation"]["groups"]["all"]["at"]
    winners = [row["ratio"] for row in rows if row["gain"]["low"] > 0 and row["gain_over_llm"]["low"] > 0]
    kept = [{name: value for name, value in row.items() if name != "lines"} for row in rows]
    return {"beats_both": winners, "seconds": round(time.monotonic() - started, 1), "at": kept}


if __name__ == "__main__":
    main()
