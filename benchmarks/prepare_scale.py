"""A table larger than memory through `corella-edge prepare table`: seconds, rows a second, and the most memory held.

    python benchmarks/prepare_scale.py --bytes 10e9 --work /scratch --out benchmarks/results/prepare-scale.json

The table is made up: a CSV of user, item, rating and time (ids by power laws, nearly in order of time) and one
of the items. The preparation runs in a process of its own under a limit that the kernel holds (RLIMIT_DATA: memory
that only the process can write to), and its resident memory, with that of its children, is looked at five times a
second. What is made stays in --work, so that a second run only measures; --memory is what DuckDB may hold.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from corella_edge.errors import InputError
from corella_edge_export.data.database import connect, literal
from harness.results import ended

TARGET = 2_000_000_000  # bytes resident at most
ROW_BYTES = 41  # of a line of the events
LABELS = '[label]\nrating = "rating"\nlike_above = 3.0\n'
PURCHASES = "[label]\npositives_only = true\n[negatives]\nper_positive = {}\n"
CONFIG = """name = "scale"
[events]
files = ["events.csv"]
user = "user"
item = "item"
time = "time"
time_unit = "s"
{label}
[items]
files = ["items.csv"]
id = "item"
title = "title"
attributes = {{ category = "categorical", price = "numeric" }}
[split]
rule = "time"
min_history = 1
"""
Json = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bytes", type=float, default=10e9, help="of the CSV of the events")
    parser.add_argument("--work", type=Path, required=True, help="folder for the files, with about 6 times that room")
    parser.add_argument("--memory", default="1GiB", help="what DuckDB may hold")
    parser.add_argument("--limit", type=float, default=2e9, help="bytes at which the kernel refuses more; 0 = none")
    parser.add_argument("--negatives", type=int, default=0, help="purchases, and so many negatives for each")
    parser.add_argument("--note", default="")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    return ended("prepare-scale", lambda: measure(options), options.out)


def measure(options: argparse.Namespace) -> Json:
    work: Path = options.work
    made = make(work, int(options.bytes))
    label = PURCHASES.format(options.negatives) if options.negatives else LABELS
    (work / "data.toml").write_text(CONFIG.format(label=label), "utf-8")
    shutil.rmtree(work / "prepared", ignore_errors=True)
    ran = watched(work, options.memory, int(options.limit))
    info = json.loads((work / "prepared" / "dataset.json").read_bytes())
    rows = info["ledger"]["read"]
    return {
        "what": "prepare-scale", "note": options.note, **made, "duckdb": info["duckdb"], "memory": options.memory,
        "kernel_limit_bytes": int(options.limit), "negatives": options.negatives, "rows": rows, **ran,
        "rows_a_second": round(rows / ran["seconds"]), "target_bytes": TARGET,
        "met": ran["resident_bytes"] <= TARGET, "counts": info["counts"],
        "prepared_bytes": sum(file["bytes"] for file in info["files"].values()),
    }  # fmt: skip


def make(work: Path, size: int) -> Json:
    """The two files, unless they are there."""
    work.mkdir(parents=True, exist_ok=True)
    rows = size // ROW_BYTES
    users, items = max(10, rows // 25), max(10, rows // 250)
    events, catalogue = work / f"events-{size}.csv", work / f"items-{size}.csv"
    if not events.exists():
        partial = events.with_suffix(".partial")
        with connect() as db:
            db.execute(f"COPY ({_events(rows, users, items)}) TO {literal(str(partial))} (FORMAT csv, HEADER)")
            db.execute(f"COPY ({_items(items)}) TO {literal(str(catalogue))} (FORMAT csv, HEADER)")
        partial.rename(events)
    for name, path in (("events.csv", events), ("items.csv", catalogue)):
        (work / name).unlink(missing_ok=True)
        (work / name).symlink_to(path.name)
    return {"events_bytes": events.stat().st_size, "items_bytes": catalogue.stat().st_size}


def _events(rows: int, users: int, items: int) -> str:
    """Ids by power laws: a user's share falls with the root of its rank, an item's with the power 2/3 of it."""
    share = "(hash(n * 8 + {}) % 1000000007) / 1000000007.0"
    user = f"(pow({share.format(1)}, 2) * {users})::BIGINT + 1"
    item = f"least({items}, (pow({share.format(3)}, 3) * {items})::BIGINT + 1)"
    rating = "[1, 2, 3, 4, 4, 5, 5, 5][(hash(n * 8 + 7) % 8 + 1)::INTEGER]"
    second = f"1400000000 + (n * (300000000.0 / {rows}))::BIGINT + (hash(n * 8 + 2) % 86400)::BIGINT"
    return f"""SELECT printf('A%013d', {user}) AS "user", printf('B%09d', {item}) AS item, {rating} || '.0' AS rating,
        {second} AS "time" FROM range({rows}) t(n)"""


def _items(items: int) -> str:
    return f"""SELECT printf('B%09d', n) AS item, 'A thing called ' || hash(n) AS title,
        'category ' || hash(n) % 1000 AS category, (hash(n + 1) % 10000) / 100.0 AS price
        FROM range(1, {items + 1}) t(n)"""


def watched(work: Path, memory: str, limit: int) -> Json:
    """Run the preparation and look at it until it ends."""
    command = [sys.executable, "-m", "corella_edge", "prepare", "table", "--config", str(work / "data.toml"),
               "--out", str(work / "prepared"), "--memory", memory]  # fmt: skip
    start = time.perf_counter()
    bound = (lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))) if limit else None
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=bound)
    steps: list[PreparationStep] = []
    reader = threading.Thread(target=_steps, args=(process, start, steps))
    reader.start()
    resident = working = 0
    while process.poll() is None:
        resident = max(resident, sum(_resident(pid) for pid in (process.pid, *_children(process.pid))))
        working = max(working, _size(work))
        time.sleep(0.2)
    reader.join()
    if process.returncode:
        raise InputError(f"the preparation ended with {process.returncode}: {steps[-1].text if steps else ''}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    steps.append(PreparationStep("", time.perf_counter() - start, used.ru_utime + used.ru_stime))
    return {
        "seconds": round(steps[-1].at, 1), "cpu_seconds": round(steps[-1].cpu, 1), "resident_bytes": resident,
        "working_bytes": working,
        "steps": {step.text: {"seconds": round(after.at - step.at, 1), "cpu_seconds": round(after.cpu - step.cpu, 1)}
                  for step, after in pairwise(steps) if step.text},
    }  # fmt: skip


@dataclass(frozen=True)
class PreparationStep:
    """What the preparation says it does, from when on (seconds), and the processor time it has used till then."""

    text: str
    at: float
    cpu: float


def _steps(process: subprocess.Popen[str], start: float, steps: list[PreparationStep]) -> None:
    for line in process.stderr or ():
        text, at = line.strip(), time.perf_counter() - start
        print(f"{at:8.1f} s  {text}", file=sys.stderr)
        # The command to type next is no step, and names folders of this machine.
        if not text.startswith("next: "):
            steps.append(PreparationStep(text.removesuffix(" \u2026"), at, _cpu(process.pid)))


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # it has ended
        return 0
    return pages * resource.getpagesize()


def _children(pid: int) -> list[int]:
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [below for child in map(int, found) for below in (child, *_children(child))]


def _size(work: Path) -> int:
    """Bytes of what the preparation has written and not yet finished."""
    total = 0
    for path in work.glob(".prepared.*/**/*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # deleted meanwhile
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
