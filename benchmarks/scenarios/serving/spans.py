"""The server's own time for a request of 100 candidates of which none is routed, at half of saturation.

First the highest rate that is served (p99 at most 100 ms, no queue that grows), found by trying; then a Poisson stream
at half of it. The server's own spans are those of its `Server-Timing` header: `parse` (validation is part of it),
`serialise`, and `wait` (hand-over to a worker thread and back, with the queue before it, if there is one). Scoring
(`encode`, `crm`) is told beside; `total` is from the arrival of the body to its answer, `latency` what the client sees
from the moment the request was meant to be sent, queueing included, and `outside` the part of it that is not `total`.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from corella_edge.errors import InputError
from corella_edge_runtime.bench.load.mix import Stream, mix
from corella_edge_runtime.bench.load.outcome import Outcome
from corella_edge_runtime.bench.load.timing import OWN, spans, total
from harness.judged import at_most
from harness.load.saturation import saturation
from harness.load.setting import setting
from harness.load.summary import Floats, parts_of, percentile, percentiles
from harness.load.traffic import prepared

PARTS = 20  # stretches of time that intervals are drawn from
LIMITS = {50.0: 1.0, 99.0: 3.0}  # percentile → milliseconds
Row = dict[str, Any]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=60.0, help="of the judged run")
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--rate", type=float, help="requests a second; left out: half of saturation, which is searched")
    parser.add_argument("--even", action="store_true", help="even gaps in the judged run, to see it without bursts")
    parser.add_argument("--first", type=float, default=200.0, help="the first rate that is tried")
    parser.add_argument("--try-seconds", type=float, default=6.0, help="for each rate that is tried")


def measure(options: argparse.Namespace) -> Row:
    """Saturation, then the judged run."""
    with setting(options) as run:
        requests = prepared(run.source.strangers(400, options.candidates, options.seed, "ratio:0"))
        run.put(mix([Stream("easy", options.first / 4, requests)], 3.0, options.seed))
        found: Row = {"candidates": options.candidates}
        if options.rate is None:
            top, tried = saturation(run, requests, options.first, options.try_seconds, options.seed)
            found |= {"saturation_per_s": round(top, 1), "tried": tried}
        rate = options.rate or found["saturation_per_s"] / 2
        if not rate:
            raise InputError(f"--first {options.first:g}: not even a small part of this rate is served")
        run.quiet_from_now()
        done = run.put(mix([Stream("easy", rate, requests, options.even)], options.seconds, options.seed + 1))
        found |= {"rate_per_s": round(rate, 1), "even": options.even, "seconds": options.seconds}
        return {**found, **told(done, options.seconds), **run.verdict()}


def told(done: Outcome, seconds: float) -> Row:
    """What a run's replies say of their time.

    Raises:
        InputError: the server sends no `Server-Timing`.
    """
    rows = [spans(header) for header in done.happened.timing if header]
    if not rows:
        raise InputError("the server sends no Server-Timing header: there is nothing to judge")
    answered = np.array([bool(header) for header in done.happened.timing])
    own = np.array([total(row, OWN) for row in rows])
    parts = parts_of(done.moments[answered], own, PARTS, seconds)
    names = sorted({name for row in rows for name in row})
    return {
        "own": {f"p{q:g}": percentile(parts, q).to_json() for q in LIMITS},
        "spans": {name: percentiles(column(rows, name)) for name in names},
        "outside": percentiles(done.latency[answered] - column(rows, "total")),
        "latency": percentiles(done.latency),
        "sent_late": percentiles(done.lag),
        "failed": int((done.status != 200).sum()),
    }


def column(rows: list[dict[str, float]], name: str) -> Floats:
    """Seconds of one span in every reply; where it is not told it took no time."""
    return np.array([row.get(name, 0.0) for row in rows]) / 1e3


def targets(part: Row) -> list[Row]:
    """Own spans: p50 and p99."""
    what = f"own spans, {part['candidates']} candidates, half of saturation, ms"
    return [at_most(f"{what}, p{q:g}", part["own"][f"p{q:g}"], limit, part["void"]) for q, limit in LIMITS.items()]
