"""The targets of `crm.py`, judged from its figures: those just made, or those that are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.report import bounded, judged

TARGETS = {"path": 1.3, "encode_us": 60.0, "beside": 2.0}
CANDIDATES = 100  # of the requests whose path is judged
Row = dict[str, Any]


def targets(result: Row) -> list[Row]:
    """Of every bundle: the path of 100 candidates, encoding one, and the p99 beside the LLM if it was measured."""
    return [row for found in result["bundles"] for row in _of_bundle(found, result["void"])]


def judged_paths(found: Row) -> list[Row]:
    """A bundle's rows of encoding and running that have a target."""
    return [row for row in found["paths"] if row["candidates"] == CANDIDATES]


def _of_bundle(found: Row, void: bool) -> Iterator[Row]:
    name = found["bundle"]
    for row in judged_paths(found):
        what = f"{name}, {CANDIDATES} candidates, {row['user']} user: encode and run against a bare run"
        yield judged(what, row["ratio"], "<=", TARGETS["path"], void)
    for kind, us in found["encode_one_us"].items():
        yield _encoding(f"{name}, {kind} user: µs to encode one candidate, p50", us, void)
    if "beside_llm" in found:
        what = f"{name}: p99 of the CRM, LLM saturated against idle"
        yield judged(what, found["beside_llm"]["p99_ratio"], "<=", TARGETS["beside"], void)


def _encoding(what: str, us: Row, void: bool) -> Row:
    """Older figures have no interval: the median itself is held against the target."""
    if "interval" in us:
        return judged(what, us["interval"], "<=", TARGETS["encode_us"], void)
    return bounded(what, us["p50"], TARGETS["encode_us"], void)
