"""The table of docs/checkpoints.md: every row within its bounds, again here, and what is beyond them told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import language_models

sys.path.append(str(Path(__file__).parents[2] / "docs"))

import checkpoints_page

SMALL = next(row for row in language_models.ROWS if row[1] == "qwen2" and row[3] == "scratch")


@pytest.mark.slow
def test_a_row_is_measured_and_within_its_bounds() -> None:
    result = language_models.measure([SMALL], 300)
    assert checkpoints_page.problems(result) == []
    (row,) = result["rows"]
    assert row["Q8_0"]["mean"] <= row["Q4_0"]["mean"]
    assert row["Q4_0"]["size"] < row["Q8_0"]["size"] < 1.0


def test_what_is_beyond_the_bounds_is_told() -> None:
    row = {"name": "X", "same_tokens": 9, "logits": 0.5, "p_yes": float("nan")}
    told = checkpoints_page.problems({"texts": 10, "rows": [row], "trained": [{"name": "Y", "same": False}]})
    assert told == ["X: 1 texts have other tokens", "X: logits differ by 5.0e-01", "X: P(Yes) differs by nan",
                    "Y continues otherwise"]  # fmt: skip


@pytest.mark.slow
def test_every_row_is_within_its_bounds() -> None:
    assert checkpoints_page.problems(language_models.measure(language_models.ROWS, 10_000)) == []
