"""The same requests in both forms, and what a run says of itself."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import score_tables
from bundles import make_bundle
from corella_edge.errors import ComputeError
from request_tables import rows


def options(bundle: Path, **changes: object) -> argparse.Namespace:
    usual = {"requests": 300, "candidates": 7, "partitions": 3, "threshold": "ratio:0", "rounds": 1, "workers": ()}
    return argparse.Namespace(bundle=bundle, **{**usual, **changes})


def test_both_forms_hold_the_same_requests(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", llm=False)
    made = score_tables.requests(options(bundle))
    score_tables.write(made, tmp_path, 3)
    read = {row["id"]: row for row in rows(tmp_path / "requests")}
    assert len(made) == len(read) == 300
    for request in made:
        row = read[request["id"]]
        assert row["candidates"] == [candidate["item"] for candidate in request["candidates"]]
        assert row["history_items"] == [event["item"] for event in request["user"]["history"]]


def test_every_way_is_measured(tmp_path: Path) -> None:
    found = score_tables.measured(options(make_bundle(tmp_path / "bundle", llm=False)))
    assert found["ways"].keys() == {"json-lines", "parquet"}
    assert all(
        row["candidates_s"] > 0 and row["cpu_s"] > 0 and row["memory_mib"] > 20 for row in found["ways"].values()
    )


def test_a_run_that_fails_is_told(tmp_path: Path) -> None:
    with pytest.raises(ComputeError, match="no such file"):
        score_tables.run(["score", str(tmp_path), str(tmp_path / "none.jsonl"), "--out", str(tmp_path / "out")])
