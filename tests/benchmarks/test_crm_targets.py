"""Which of the CRM's figures are judged, and what the page says of a target that is missed."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scenarios.crm_targets import TARGETS, targets

ROOT = Path(__file__).parents[2]
LIMIT = TARGETS["path"]


def interval(high: float, pairs: int = 15) -> dict[str, float]:
    return {"median": high - 0.02, "low": high - 0.05, "high": high, "pairs": pairs}


def result(path: float = LIMIT, us: dict[str, Any] | None = None, void: bool = False, pairs: int = 15) -> Any:
    """Figures of one bundle whose path at 100 candidates ends at `path`; at 1 candidate it is far off."""
    paths = [{"candidates": n, "user": user, "ratio": interval(9.0 if n == 1 else path, pairs)}
             for n in (1, 100) for user in ("new", "same")]  # fmt: skip
    bundle = {"bundle": "b@1", "paths": paths, "encode_one_us": {"new": us or {"p50": 40.0}}}
    return {"void": void, "bundles": [{**bundle, "beside_llm": {"p99_ratio": interval(TARGETS["beside"], pairs)}}]}


def test_the_path_at_100_candidates_the_encoding_and_the_p99_beside_the_llm_are_judged() -> None:
    found = targets(result())
    assert [one["limit"] for one in found] == [LIMIT, LIMIT, TARGETS["encode_us"], TARGETS["beside"]]
    assert all(one["met"] for one in found)


def test_the_upper_end_of_a_path_decides() -> None:
    assert [one["met"] for one in targets(result(LIMIT + 0.001))] == [False, False, True, True]


def test_a_few_pairs_meet_no_target() -> None:
    assert [one["met"] for one in targets(result(pairs=14))] == [False, False, True, False]


def test_an_interval_of_the_encoding_decides_where_there_is_one() -> None:
    us = {"p50": 59.0, "interval": {"median": 59.0, "low": 58.0, "high": 60.1, "pairs": 2000}}
    assert not targets(result(us=us))[2]["met"]
    assert targets(result(us={"p50": 59.0}))[2]["met"]


def test_figures_of_a_disturbed_machine_are_void() -> None:
    assert all(one["void"] for one in targets(result(void=True)))


def test_the_page_says_why_a_path_misses_its_target_and_is_silent_where_it_meets_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    section = importlib.import_module("llm_page").SECTIONS["crm"][1]
    kept = json.loads((ROOT / "benchmarks" / "results" / "crm.json").read_text("utf-8"))
    bundle = kept["bundles"][0]
    bundle["ceilings"]["bare_run_us"]["100"] = 100.0
    for row in bundle["paths"]:
        row["ratio"] = interval(1.52)
    text = "\n".join(section({**kept, "bundles": [bundle]}))
    assert "target leaves 30 µs" in text
    assert "It takes 50 µs (new user), 50 µs (same user)" in text
    assert text.count("**not met**") == 2
    for row in bundle["paths"]:
        row["ratio"] = interval(1.2)
    assert "It takes" not in "\n".join(section({**kept, "bundles": [bundle]}))
