"""What others' tools say of a real server with a real bundle: schemathesis of its API, promtool of its metrics."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bundles import ITEMS
from sessions import ONE, Served, serving, start
from shops import make_shop

# Not "valid input is accepted": the schemas cannot say that ids must be known, or that labels are the bundle's own.
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"

# Documented answers of a server that is well: it is too busy, and the LLM did not answer within `timeout_ms`.
SETTINGS = """
[checks]
not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", "503", "504"]
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("tools")
    bundle, kept = make_shop(folder / "bundle", llm=True), ("--store", folder / "users.db")
    more = ("--availability", folder / "stock.json", "--log", folder / "log")
    with serving(start("serve", bundle, "--port", 0, *kept, *more, *ONE)) as running:
        yield running


@pytest.mark.slow
@pytest.mark.parametrize("examples", [100])
def test_schemathesis_finds_no_fault(served: Served, tmp_path: Path, examples: int) -> None:
    command = ["run", f"{served.url}/openapi.json", "--checks", CHECKS, "--max-examples", str(examples), "--seed", "1"]
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    program = Path(sys.executable).with_name("schemathesis")
    done = subprocess.run([program, *command], cwd=tmp_path, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout[-6000:]
    assert "Tested: " in done.stdout
    assert httpx.get(f"{served.url}/v2/health/ready").status_code == 200


def test_promtool_finds_nothing_in_the_metrics(served: Served) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    body = {"user": {"id": "u1"}, "candidates": [{"item": "i1"}, {"item": "new"}], "threshold": "ratio:1"}
    assert httpx.post(f"{served.url}/v1/rank", json=body, timeout=60).status_code == 200
    text = httpx.get(f"{served.url}/metrics").text
    assert "corella_edge_rank_seconds_bucket" in text
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_ten_thousand_candidates_are_one_request(served: Served) -> None:
    items = [{"item": f"i{i % (ITEMS + 5)}"} for i in range(10_000)]
    answer = httpx.post(f"{served.url}/v1/rank", json={"user": {}, "candidates": items}, timeout=60).json()
    assert sorted(row["rank"] for row in answer["candidates"]) == list(range(1, 10_001))
    refused = httpx.post(f"{served.url}/v1/rank", json={"user": {}, "candidates": [*items, items[0]]}, timeout=60)
    assert refused.status_code == 422
    assert "a list of at most 10000 entries, got 10001" in refused.json()["error"]["message"]
