"""A real server whose LLM process dies at its start: the CRM serves, and the LLM comes back by itself."""

from __future__ import annotations

import json
import time
from pathlib import Path

import httpx
import pytest

from bundles import make_bundle
from corella_edge_runtime.site import layout as sites
from sessions import ONE, Served, run, serving, start

# Read by every Python at its start; the file is what the LLM dies of.
KILLS = """
import os, sys
if "corella_edge_runtime.llm.backends.process.child" in sys.orig_argv and os.path.exists({file!r}):
    os.kill(os.getpid(), 9)
"""


@pytest.fixture
def poison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """While this file is there, no LLM process lives."""
    folder, file = tmp_path / "python", tmp_path / "poison"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(KILLS.format(file=str(file)))
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=":")
    file.touch()
    return file


def reasons(served: Served, threshold: str) -> set[str]:
    body = {"user": {"id": "u1"}, "candidates": [{"item": "i1"}, {"item": "i2"}], "threshold": threshold}
    answer = httpx.post(f"{served.url}/v1/rank", content=json.dumps(body), timeout=30)
    assert answer.status_code == 200, answer.text
    return {row["reason"] for row in answer.json()["candidates"]}


def test_an_llm_that_dies_at_the_first_start_costs_its_scores_until_it_lives(tmp_path: Path, poison: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    with serving(start("serve", bundle, "--port", 0, "--timeout-ms", 30_000, *ONE)) as served:
        assert reasons(served, "ratio:1") == {"llm_error"}
        assert served.says(
            "the LLM does not start (LLM process: gone, ended by SIGKILL (killed)); the CRM decides alone"
        )
        assert len(httpx.get(served.url).json()["warnings"]) == 1
        poison.unlink()
        end = time.monotonic() + 60
        while reasons(served, "ratio:1") == {"llm_error"}:
            assert time.monotonic() < end, served.errors
            time.sleep(0.1)
        assert served.says("the LLM answers again")
        assert httpx.get(served.url).json()["warnings"] == []
        assert "Traceback" not in served.errors


def test_an_llm_that_is_required_and_dies_is_an_error(tmp_path: Path, poison: Path) -> None:
    done = run("serve", make_bundle(tmp_path / "bundle"), "--port", 0, "--require-llm", *ONE)
    assert done.code == 3
    assert "ended by SIGKILL" in done.err
    assert "Traceback" not in done.err


@pytest.mark.slow
def test_a_version_that_is_swapped_in_is_refused_for_it(tmp_path: Path, poison: Path) -> None:
    sites.create(tmp_path / "site", make_bundle(tmp_path / "b0", version="0"))
    sites.add(tmp_path / "site", make_bundle(tmp_path / "b1", seed=1, version="1"))
    ids = sites.versions(tmp_path / "site")
    poison.unlink()
    with serving(start("serve", tmp_path / "site", "--port", 0, *ONE)) as served:
        poison.touch()
        done = run("deploy", "use", tmp_path / "site", ids[1])
        assert done.code == 3
        assert "ended by SIGKILL" in done.err
        assert sites.read(tmp_path / "site").live == ids[0]
        assert reasons(served, "ratio:1") != {"llm_error"}
