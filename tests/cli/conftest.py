"""Bundles made once a session, and the command called in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from bundles import make_bundle
from corella_edge.cli import main


class Done(NamedTuple):
    code: int
    out: str
    err: str


Corella = Callable[..., Done]


@pytest.fixture
def corella(capsys: pytest.CaptureFixture[str]) -> Corella:
    """`corella("score", …)`: exit code, stdout and stderr."""

    def call(*args: object) -> Done:
        with pytest.raises(SystemExit) as left:
            main([str(arg) for arg in args])
        return Done(int(left.value.code or 0), *capsys.readouterr())

    return call


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With an LLM and a sample. Not to be changed."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def crm_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Without LLM and sample. Not to be changed."""
    return make_bundle(tmp_path_factory.mktemp("bundles") / "crm", llm=False, sample=False)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def rows(bundle: Path) -> list[dict]:
    """The lines of the bundle's sample."""
    return [json.loads(line) for line in (bundle / "sample.jsonl").read_text().splitlines()]


@pytest.fixture
def requests(rows: list[dict], tmp_path: Path) -> Path:
    """A file of 30 requests with ids, three candidates each."""
    path = tmp_path / "requests.jsonl"
    lines = []
    for i, row in enumerate(rows[:30]):
        candidates = [*row["request"]["candidates"], {"item": "i1"}, {"item": "nowhere"}]
        lines.append(json.dumps({**row["request"], "id": i, "candidates": candidates}) + "\n")
    path.write_text("".join(lines))
    return path
