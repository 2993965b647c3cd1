"""What docs/results.md says of the kept figures of the LLM."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("deviation", "scoring", "crm", "template", "settings")
MARKERS = "\n".join(f"<!-- {name} -->\n<!-- /{name} -->" for name in NAMES)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """`page(result)`: the page whose scoring figures are `result`."""
    monkeypatch.setattr(sys, "path", [str(ROOT / "docs"), *sys.path])
    make = importlib.import_module("llm_page").page

    def call(result: dict[str, Any]) -> str:
        (tmp_path / "llm-scoring.json").write_text(json.dumps(result), "utf-8")
        return str(make(MARKERS, tmp_path))

    return call


@pytest.fixture
def kept() -> Any:
    """Figures as they are kept, of one block."""
    kept = json.loads((ROOT / "benchmarks" / "results" / "llm-scoring.json").read_text("utf-8"))
    blocks = [one for one in kept["blocks"] if (one["model"], one["shape"]) == ("135m", "a2")]
    return {**kept, "commit": "abc", "blocks": [{**blocks[0], "commit": "abc"}]}


def test_figures_of_changed_files_and_of_other_commits_are_told(page: Any, kept: Any) -> None:
    assert "commit abc. " in page(kept)
    assert "other commits" not in page(kept)
    assert "commit abc-dirty. " in page({**kept, "commit": "abc-dirty"})
    assert "Measured at other commits: 135m a2: abc." in page({**kept, "commit": "def"})
    kept["product"]["commit"] = "older"
    rows = [row for row in kept["blocks"][0]["rows"] if row["stage"] == "best"][-2:]
    for row in rows:
        row["kept"] = {"commit": "old", "plan": {"types": ["BF16"]}}
    name = "135m a2 " + ", ".join(row["peer"] for row in rows)
    assert f"Measured at other commits: {name}: old; product: older." in page(kept)
    assert f"; {name}: BF16." in page(kept)


def test_types_that_were_tried_are_told(page: Any, kept: Any) -> None:
    kept["blocks"][0]["plan"]["types"] = ["BF16", "Q4_0"]
    assert "GGUF types tried: 135m a2: BF16, Q4_0." in page(kept)


def test_an_interval_of_few_pairs_says_so(page: Any, kept: Any) -> None:
    row = next(row for row in kept["blocks"][0]["rows"] if row["stage"] == "best")
    row["ratio"] = {"median": 0.5, "low": 0.5, "high": 0.5, "pairs": 1}
    assert "0.500 [0.500, 0.500] of 1 pair(s) |" in page(kept)
    row["ratio"]["pairs"] = 15
    assert "0.500 [0.500, 0.500] |" in page(kept)
