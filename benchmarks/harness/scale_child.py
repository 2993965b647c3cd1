"""A process that opens schema and catalogue of a folder, as a server does, and encodes candidates: for
`vocabulary_scale.py`. A line "open", "memory" or "encode SEED" comes in, a line of JSON goes out."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from corella_edge.bundle.schema_files import read_schema
from corella_edge.features.encoder import FeatureEncoder
from corella_edge.request import Candidates, Event, User

CANDIDATES, REQUESTS, EVENTS = 1000, 20, 30
Found = dict[str, Any]


def opened(folder: Path) -> tuple[FeatureEncoder, Found]:
    began, used = time.perf_counter(), time.process_time()
    encoder = FeatureEncoder(*read_schema(folder))
    return encoder, {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}


def memory() -> Found:
    """MiB of this process alone, and shared with others (pages of files), from Linux's own account."""
    sizes = dict.fromkeys(("Private_Clean", "Private_Dirty", "Shared_Clean", "Pss", "Rss"), 0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in sizes:
            sizes[name] = int(rest.split()[0])
    return {name.lower(): round(kib / 1024, 1) for name, kib in sizes.items()}


def encoded(encoder: FeatureEncoder, seed: int) -> Found:
    """Microseconds of CPU of a request's `encode`, candidates asked for the first time and again; texts are new ones,
    as those of a request are."""
    rng, size = np.random.default_rng(seed), len(encoder.catalog)
    times: dict[str, list[float]] = {"new": [], "warm": []}
    for number in range(REQUESTS):
        rows = rng.integers(0, size, CANDIDATES + EVENTS).tolist()
        items = [encoder.catalog.ids[row] for row in rows[EVENTS:]]
        user = User(f"U{rows[0]:09d}", None, [Event(encoder.catalog.ids[row], 4.0, number) for row in rows[:EVENTS]])
        for what in ("new", "warm"):
            fresh = Candidates([(item + " ")[:-1] for item in items])
            began = time.thread_time()
            encoder.encode(user, fresh)
            times[what].append((time.thread_time() - began) * 1e6)
    return {name: median(spent) for name, spent in times.items()}


def main() -> None:
    folder, encoder = Path(sys.argv[1]), None
    for line in sys.stdin:
        what, _, seed = line.strip().partition(" ")
        if what == "open":
            encoder, found = opened(folder)
        elif what == "memory":
            found = memory()
        else:
            assert encoder
            found = encoded(encoder, int(seed))
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
