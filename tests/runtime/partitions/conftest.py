"""A bundle without an LLM, its requests, and them as a table in two partitions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import request_tables as tables
from bundles import make_bundle
from corella_edge_runtime.engine import Engine


@pytest.fixture(scope="session")
def crm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "crm", llm=False)


@pytest.fixture(scope="session")
def engine(crm_bundle: Path) -> Iterator[Engine]:
    with Engine.open(crm_bundle, llm=None, threshold="ratio:0.3") as opened:
        yield opened


@pytest.fixture(scope="session")
def messages(crm_bundle: Path) -> list[dict]:
    """240 requests with ids, three candidates each."""
    lines = [json.loads(line)["request"] for line in (crm_bundle / "sample.jsonl").read_text().splitlines()]
    return [
        {**line, "id": f"r{i}", "candidates": [*line["candidates"], {"item": "i1"}, {"item": "nowhere"}]}
        for i, line in enumerate(lines)
    ]


@pytest.fixture
def table(messages: list[dict], tmp_path: Path) -> Path:
    """A folder: 100 of them in `a.parquet`, the others below `day=2`."""
    tables.write(tmp_path / "in/a.parquet", tables.table_of(messages[:100]), row_group_size=30)
    tables.write(tmp_path / "in/day=2/b.parquet", tables.table_of(messages[100:]))
    return tmp_path / "in"
