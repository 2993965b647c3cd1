"""What the report says in sentences of the LLM's part of a gain, which may be larger than the whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from corella_edge_runtime.calibrate.report import summary

GAIN = {"auc": 0.0154, "logloss": -0.0053}


def figure(value: float) -> dict[str, float]:
    return {"value": value, "low": value - 0.002, "high": value + 0.002}


def result(by_llm: dict[str, float]) -> dict[str, Any]:
    gain = {name: figure(value) for name, value in GAIN.items()}
    return {
        "policy": {"over_crm": gain, "share": figure(0.12), "llm_ms": None, "threshold": 0.69, "requests_touched": 0.13,
                   "auc": figure(0.78)},
        "knee": None, "wanted": 0.1, "share": 0.1, "measure": {"name": "entropy"}, "promise": None, "gate": None,
        "fusion": {"rule": "stack"},
        "order": {"gain": {"verdict": "monotone"}},
        "by_llm": {name: figure(value) for name, value in by_llm.items()},
    }  # fmt: skip


def of_the_llm(auc: float, logloss: float) -> str:
    (found,) = [said for said in summary(result({"auc": auc, "logloss": logloss})) if "LLM's answers" in said]
    return found


def test_a_part_of_the_gain_is_called_so() -> None:
    assert of_the_llm(0.0150, -0.0050).startswith("Of that, the LLM's answers bring AUC +0.0150 [")
    assert of_the_llm(GAIN["auc"], GAIN["logloss"]).startswith("Of that, ")


@pytest.mark.parametrize(
    ("auc", "logloss", "said"),
    [
        (0.0178, -0.0065, "takes 0.0024 off the AUC and adds 0.0012 to the log-loss."),
        (0.0178, -0.0050, "takes 0.0024 off the AUC and takes 0.0003 off the log-loss."),
        (0.0150, -0.0065, "adds 0.0004 to the AUC and adds 0.0012 to the log-loss."),
    ],
)
def test_what_is_larger_than_the_whole_is_no_part_of_it(auc: float, logloss: float, said: str) -> None:
    found = of_the_llm(auc, logloss)
    assert found.startswith(f"The LLM's answers bring AUC {auc:+.4f} [")
    assert found.endswith(said)
    assert "Of that" not in found


def test_inputs_are_named_where_the_fusion_weighs_such() -> None:
    found = result({"auc": 0.0178, "logloss": -0.0065})
    assert "the base model's score anew" in summary(found)[3]
    found["fusion"]["inputs"] = ["popularity"]
    assert "the base model's score and inputs anew" in summary(found)[3]


def test_a_policy_that_asks_about_nothing_says_so() -> None:
    found = result(GAIN)
    assert "where the measure entropy is at or above 0.69" in summary(found)[0]
    found["policy"]["threshold"] = None
    assert summary(found)[0].startswith("Policy: ask the LLM about nothing: the wanted share")


KEPT = sorted(Path(__file__).parents[3].glob("benchmarks/results/routing-*/*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_result_of_kept_reports_of_every_format_is_read(path: Path) -> None:
    found = json.loads(path.read_text())
    said = any(text.startswith("Gains are over the base model behind") for text in summary(found))
    assert said == (found["format"] == 1 and "maps" in found["fusion"])
