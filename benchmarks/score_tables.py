"""Candidates a second of `corella-edge score`: JSON lines, the same requests as Parquet, and Ray with 1, 2, … workers.

    python benchmarks/score_tables.py runs/demo/bundle --out benchmarks/results/score-tables.json

Requests are those of the bundle's sample with --candidates items drawn from its catalogue each, in --partitions files.
Every way is the command as it stands, in a process of its own, in turn, --rounds times. "candidates_s" is the median of
what the command says of its scoring, "cpu_s" the processor seconds of the whole command without Ray's processes, and
"memory_mib" its greatest resident memory. Ray's figures count from the connection on, with the workers' opening of the
bundle. Needs the extras [parquet] and, for --workers, [ray].
"""

from __future__ import annotations

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from corella_edge.bundle.artefact import Bundle
from corella_edge.errors import ComputeError
from harness.options import numbers
from harness.quiet import Watch, is_void
from harness.results import ended

Row = dict[str, Any]
_RATE = re.compile(r"\(([\d,]+) candidates/s\)")
# Tells its own processor time and memory behind what the command says.
_CHILD = """
import atexit, os, re, sys
from corella_edge.cli import main
# Of this process alone: what getrusage says of memory begins with the one that has started it.
memory = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
atexit.register(lambda: print(sum(os.times()[:2]), memory()))
main(sys.argv[1:])
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--candidates", type=int, default=100, help="of each request")
    parser.add_argument("--partitions", type=int, default=8)
    parser.add_argument("--threshold", default="ratio:0", help="as of `score`; by default the LLM is not asked")
    parser.add_argument("--workers", type=numbers, default=(1, 2), help="of Ray; empty: none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    return ended("score_tables", lambda: measured(options), options.out)


def measured(options: argparse.Namespace) -> Row:
    """The figures of every way."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write(requests(options), place, options.partitions)
        ways = dict(the_ways(place, options.workers))
        watch, found = Watch(), {name: list[Row]() for name in ways}
        for round_ in range(options.rounds):
            for name, words in ways.items():
                out = place / f"out-{round_}-{name}"
                command = ["score", options.bundle, *words, "--out", out, "--threshold", options.threshold]
                found[name].append(run([str(word) for word in command]))
        load = watch.read()
    figures = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()
    }
    about = {name: getattr(options, name) for name in ("requests", "candidates", "partitions", "threshold", "rounds")}
    return {"what": "score of files", "bundle": str(options.bundle), **about, "ways": figures, "load": load,
            "void": is_void(load)}  # fmt: skip


def the_ways(place: Path, workers: Sequence[int]) -> Iterator[tuple[str, list[Any]]]:
    """Name of a way → the words of its command."""
    yield "json-lines", [place / "requests.jsonl"]
    yield "parquet", [place / "requests"]
    for count in workers:
        words = ["--engine", "ray", "--ray-address", "local", "--worker-cpus", 1, "--workers", count]
        yield f"ray-{count}", [place / "requests", *words]


def requests(options: argparse.Namespace) -> list[Row]:
    """Requests of the sample's users, as JSON has them."""
    items = Bundle.open(options.bundle).schema()[1].ids
    lines = [json.loads(line)["request"] for line in (options.bundle / "sample.jsonl").read_bytes().splitlines()]
    draw = random.Random(0)
    return [
        {"id": f"r{i}", "user": lines[i % len(lines)]["user"],
         "candidates": [{"item": item} for item in draw.sample(items, min(options.candidates, len(items)))]}
        for i in range(options.requests)
    ]  # fmt: skip


def write(rows: Sequence[Row], place: Path, partitions: int) -> None:
    """As JSON lines, and as a folder of Parquet."""
    (place / "requests.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    (place / "requests").mkdir()
    features = sorted({name for row in rows for name in row["user"].get("features", {})})
    for part in range(partitions):
        own = rows[part::partitions]
        columns: dict[str, Any] = {"id": [row["id"] for row in own], "user_id": [row["user"]["id"] for row in own]}
        for column, name in (("history_items", "item"), ("history_ratings", "rating"), ("history_times", "time")):
            columns[column] = [[event.get(name) for event in row["user"].get("history", ())] for row in own]
        columns["candidates"] = [[candidate["item"] for candidate in row["candidates"]] for row in own]
        columns |= {name: [row["user"].get("features", {}).get(name) for row in own] for name in features}
        pq.write_table(pa.table(columns), place / "requests" / f"{part}.parquet")


def run(command: Sequence[str]) -> Row:
    """What one run of the command says of itself, and used. Raises ComputeError if it fails."""
    done = subprocess.run([sys.executable, "-c", _CHILD, *command], capture_output=True, text=True)
    rate = _RATE.search(done.stderr)
    if done.returncode != 0 or rate is None:
        raise ComputeError(f"{' '.join(command)}: {done.stderr.strip().splitlines()[-1:]}")
    cpu, memory = map(float, done.stdout.split()[-2:])
    return {"candidates_s": float(rate[1].replace(",", "")), "cpu_s": round(cpu, 2), "memory_mib": round(memory, 1)}


if __name__ == "__main__":
    sys.exit(main())
