"""Which figures meet which targets."""

from __future__ import annotations

from typing import Any

import pytest

from harness.report import block_table, ceilings_table, targets, targets_table

LOAD = {"foreign": 0.0, "steal": 0.0}


def interval(low: float, median: float, high: float) -> dict[str, float]:
    return {"low": low, "median": median, "high": high, "pairs": 15}


def row(peer: str, high: float, stage: str = "best", void: bool = False) -> dict[str, Any]:
    return {"model": "135m", "shape": "a1", "stage": stage, "peer": peer, "ours_type": "BF16", "peer_type": "Q8_0",
            "ours_ms": 1.0, "peer_ms": 4.0, "ratio": interval(0.1, 0.2, high), "difference": None, "compared": 0,
            "load": LOAD, "void": void}  # fmt: skip


def block(*rows: dict[str, Any], model: str = "135m", cold: str | None = None) -> dict[str, Any]:
    return {"model": model, "shape": "a1", "rows": list(rows), "cold": cold}


def result(*blocks: dict[str, Any]) -> dict[str, Any]:
    return {"blocks": list(blocks), "ceilings": [], "parity": [], "memory_of_files": []}


@pytest.mark.parametrize(("high", "met"), [(0.8, True), (0.80001, False)])
def test_the_upper_end_decides(high: float, met: bool) -> None:
    (found,) = targets(result(block(row("server", high))))
    assert found["met"] is met
    assert found["limit"] == 0.8


def test_a_few_pairs_meet_no_target() -> None:
    few = row("server", 0.5)
    few["ratio"]["pairs"] = 14
    (found,) = targets(result(block(few)))
    assert not found["met"]


def test_scans_and_other_shapes_are_not_judged() -> None:
    assert targets(result(block(row("server", 0.5, stage="scan")), block(row("server", 0.5), model="0.5b"))) == []


def test_the_cold_target_is_held_against_the_fastest_of_them_only() -> None:
    found = targets(result(block(row("eval", 0.2), row("torch-bf16", 0.31), cold="torch-bf16")))
    assert [one["limit"] for one in found] == [0.30]
    assert "torch-bf16" in found[0]["target"]
    assert not found[0]["met"]


def test_a_greater_is_better_target_is_met_by_the_lower_end() -> None:
    bulk = {"model": "135m", "shape": "b", "ours_type": "BF16", "ours_tokens_per_s": 900.0, "ubatch": 240,
            "peer_tokens_per_s": 950.0, "load": LOAD, "void": False}  # fmt: skip
    figures = {"speed": interval(0.94, 0.96, 0.99), "share_of_bf16": interval(0.5, 0.55, 0.6)}
    found = targets(result({"model": "135m", "shape": "b", "rows": [{**bulk, **figures}]}))
    assert [(one["limit"], one["met"]) for one in found] == [(0.5, True), (0.95, False)]


def test_a_void_row_is_shown_as_void_even_if_it_meets_the_target() -> None:
    found = targets(result(block(row("server", 0.5, void=True))))
    assert "void" in targets_table(found)
    assert "VOID" in block_table(block(row("server", 0.5, void=True)))


def test_memory_start_and_parity_have_their_limits() -> None:
    more = {"memory": {"beyond_model_and_kv": 121.0}, "start": {"first_score_s": 0.7, "void": False},
            "parity": [{"model": "135m", "one_a_decode": 1e-3, "batched": 6e-3}]}  # fmt: skip
    found = targets({**result(), **more})
    assert [one["met"] for one in found] == [False, True, True, False]


def test_ceilings_name_type_and_ubatch() -> None:
    text = ceilings_table([{"model": "135m", "blocks": 106_000_000, "gflops": {"bf16": 300.0},
                            "tokens_per_s_by_multiply": {"bf16": 1415},
                            "llama_bench": {"Q8_0": {"ubatch": 120, "tokens_per_s": 650.0}}}])  # fmt: skip
    assert "Q8_0: 650.0 tokens/s at -ub 120" in text
    assert "bf16 300.0 GFLOP/s = 1415" in text
