"""What a result file keeps of an earlier run, and which runs it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corella_edge.errors import InputError
from corella_edge_runtime.bench.measure.machine import machine, versions
from harness import results
from scenarios.scoring.kept import check, merged, stamped

OLD, NEW = {"commit": "old", "made": "then"}, {"commit": "new", "made": "now"}


def row(peer: str, high: float, ms: float = 4.0) -> dict[str, Any]:
    ratio = {"low": 0.1, "median": 0.2, "high": high, "pairs": 15}
    return {"model": "135m", "shape": "a1", "stage": "best", "peer": peer, "ours_type": "BF16", "peer_ms": ms,
            "ratio": ratio, "void": False}  # fmt: skip


def block(*rows: dict[str, Any], model: str = "135m", **more: Any) -> dict[str, Any]:
    return {"model": model, "shape": "a1", "rows": list(rows), "cold": None, **more}


def result(*blocks: dict[str, Any], threads: int = 2) -> dict[str, Any]:
    return {"blocks": list(blocks), "ceilings": [], "parity": [], "memory_of_files": [], "threads": threads}


def keep(path: Path, figures: dict[str, Any], **about: Any) -> Path:
    here = {"machine": machine(), "versions": versions()}
    path.write_text(json.dumps({**here, **figures, **about}), "utf-8")
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.json"


def highs(found: dict[str, Any]) -> list[tuple[str, str, float]]:
    return [(one["model"], line["peer"], line["ratio"]["high"]) for one in found["blocks"] for line in one["rows"]]


def test_a_part_that_was_measured_again_replaces_the_old_one_and_others_stay(path: Path) -> None:
    old = result(block(row("server", 0.9)), block(row("server", 0.5), model="0.5b"))
    keep(path, {**old, "product": {"p50": 1}})
    found = merged(path, result(block(row("server", 0.7))), print)
    assert highs(found) == [("0.5b", "server", 0.5), ("135m", "server", 0.7)]
    assert found["product"] == {"p50": 1}
    assert [one["met"] for one in found["targets"]] == [True]


def test_without_an_old_file_the_result_is_kept_as_it_is(path: Path) -> None:
    fresh = result(block(row("server", 0.7)))
    assert merged(path, fresh, print) is fresh


def test_peers_that_were_not_measured_again_stay_in_their_block_and_it_is_said(path: Path) -> None:
    plan = {"types": ["BF16"]}
    before = block(row("server", 0.9), row("eval", 0.2, 3.0), row("torch-bf16", 0.31, 5.0), plan=plan, **OLD)
    said: list[str] = []
    keep(path, merged(keep(path, result(before)), result(block(row("server", 0.7), **NEW)), said.append))
    assert said == ["135m a1: not measured now, kept as they were: eval, torch-bf16"]
    found = merged(path, result(block(row("torch-bf16", 0.25, 2.0), **NEW)), said.append)
    assert sorted(highs(found)) == [("135m", "eval", 0.2), ("135m", "server", 0.7), ("135m", "torch-bf16", 0.25)]
    (after,) = found["blocks"]
    told = {line["peer"]: line.get("kept") for line in after["rows"]}
    assert told == {"torch-bf16": None, "server": NEW, "eval": {**OLD, "plan": plan}}
    assert after["cold"] == "torch-bf16"
    assert any(one["target"] == "(a1) against cold: torch-bf16" and one["met"] for one in found["targets"])


def test_types_of_bulk_prompts_that_were_not_measured_again_stay_with_their_ceiling(path: Path) -> None:
    def bulk(*kinds: str, speed: float) -> dict[str, Any]:
        interval = {"low": 0.9, "median": 1.0, "high": 1.1, "pairs": 15}
        rows = [{"model": "135m", "shape": "b", "peer": "llama-bench", "ours_type": kind, "ours_tokens_per_s": speed,
                 "speed": interval, "share_of_bf16": interval, "void": False} for kind in kinds]  # fmt: skip
        ceiling = {"model": "135m", "llama_bench": {kind: {"tokens_per_s": speed} for kind in kinds}}
        return {**result({"model": "135m", "shape": "b", "rows": rows}), "ceilings": [ceiling]}

    found = merged(keep(path, bulk("BF16", "Q8_0", speed=1.0)), bulk("BF16", speed=2.0), print)
    assert [(one["ours_type"], one["ours_tokens_per_s"]) for one in found["blocks"][0]["rows"]] == [
        ("BF16", 2.0),
        ("Q8_0", 1.0),
    ]
    assert found["ceilings"][0]["llama_bench"] == {"BF16": {"tokens_per_s": 2.0}, "Q8_0": {"tokens_per_s": 1.0}}


def test_a_returning_user_is_measured_as_a_whole(path: Path) -> None:
    def returning(*kinds: str) -> dict[str, Any]:
        interval = {"low": 0.1, "median": 0.2, "high": 0.2, "pairs": 15}
        rows = [{"model": "135m", "shape": "c3", "stage": "best", "ours_type": kind, "to_first": interval,
                 "to_suffixes_alone": interval, "void": False} for kind in kinds]  # fmt: skip
        return result({"model": "135m", "shape": "c", "rows": rows})

    found = merged(keep(path, returning("BF16", "Q8_0")), returning("Q4_0"), print)
    assert [one["ours_type"] for one in found["blocks"][0]["rows"]] == ["Q4_0"]


@pytest.mark.parametrize(
    ("about", "word"),
    [
        ({"machine": {**machine(), "cpu": "another one"}}, "cpu another one"),
        ({"machine": {**machine(), "memory_bytes": 5}}, "memory_bytes 5"),
        ({"threads": 7}, "threads 7, not 2"),
        ({"versions": {"llama_cpp": "0.0.1"}}, "llama_cpp 0.0.1"),
    ],
)
def test_figures_of_another_machine_thread_count_or_llama_cpp_are_not_joined(
    path: Path, about: dict[str, Any], word: str
) -> None:
    keep(path, result(block(row("server", 0.9))), **about)
    before = path.read_bytes()
    with pytest.raises(InputError, match=word):
        check(path, 2)
    with pytest.raises(InputError, match="name another file"):
        merged(path, result(), print)
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": 1, "versions": 2, "threads": 3}'])
def test_a_file_of_something_else_is_not_joined(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")
    with pytest.raises(InputError, match="holds no figures of this benchmark"):
        check(path, 2)


def test_every_part_tells_of_which_commit_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "commit", lambda: "abc")
    found = stamped({**result(block()), "parity": [{"model": "135m"}], "product": {"p50": 1}})
    parts = [found["product"], *found["blocks"], *found["parity"]]
    assert [one["commit"] for one in parts] == ["abc"] * 3
    assert "start" not in found
