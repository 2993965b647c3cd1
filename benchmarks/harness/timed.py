"""What is kept of a `corella-edge benchmark` among the results: milliseconds of one request at a time, by ratio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from corella_edge_runtime.bench.results.points import Point
from corella_edge_runtime.bench.results.result import read

PERCENTILES = ("p50", "p90", "p99", "mean")


def kept(report: Path) -> dict[str, Any]:
    """Of a report's new users under the policy: rows by ratio, threads, ceilings, and what else ran there."""
    found = read(report)
    rows = [_row(point) for point in found.points
            if (point.scenario, point.routing, point.users) == ("single", "policy", "new")]  # fmt: skip
    return {
        "settings": {"crm_threads": found.threads.crm, "llm_threads": found.threads.llm},
        "traffic": {"source": found.data.source, "requests": found.data.requests, "users": found.data.users},
        "disturbance": {"foreign": found.quiet.during.foreign, "steal": found.quiet.during.steal},
        "ceiling": {"crm_ms": found.ceilings.crm_ms, "llm_tokens_per_s": found.ceilings.llm_tokens_per_s},
        "ratios": rows,
    }  # fmt: skip


def _row(point: Point) -> dict[str, Any]:
    return {
        "ratio": point.ratio, "share": point.share.value, "touched": point.touched.value,
        "requests": point.outcomes.requests, "candidates": round(point.candidates * point.outcomes.requests),
        "request_ms": {name: getattr(point.latency, name).value for name in PERCENTILES},
        "candidates_per_s": point.candidates_per_s.value, "llm_tokens_per_request": point.tokens_evaluated,
    }  # fmt: skip
