"""What is looked at in a GGUF file before llama.cpp is; the single cases are in test_corrupt_bundles.py."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bundles import make_bundle
from corella_edge.errors import BundleError
from corella_edge_runtime.llm.llama.dangers import check_gguf

GOLDEN = Path(__file__).parents[2] / "golden" / "bundle-v1" / "llm.gguf"
FUZZ = Path(__file__).with_name("fuzz_gguf.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("gguf") / "bundle") / "llm.gguf"


def test_what_export_writes_passes(made: Path) -> None:
    check_gguf(made)
    check_gguf(GOLDEN)


def test_another_version_is_refused(made: Path, tmp_path: Path) -> None:
    raw = bytearray(made.read_bytes())
    struct.pack_into("<I", raw, 4, 2)
    (tmp_path / "old.gguf").write_bytes(raw)
    with pytest.raises(BundleError, match=r"old\.gguf: not a Llama that this release can run: GGUF version 2"):
        check_gguf(tmp_path / "old.gguf")
    with pytest.raises(BundleError, match=r"none\.gguf: cannot be read"):
        check_gguf(tmp_path / "none.gguf")


EDITS = st.lists(st.tuples(st.integers(0, 5000), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(EDITS, st.integers(0, 113_280))
def test_any_head_passes_or_is_refused(made: Path, edits: list[tuple[int, bytes]], length: int) -> None:
    raw = bytearray(made.read_bytes())
    for place, new in edits:
        raw[place : place + len(new)] = new
    path = made.with_name("changed.gguf")
    path.write_bytes(raw[: length or None])
    try:
        check_gguf(path)
    except BundleError as error:
        told = str(error)
        assert told.startswith("changed.gguf: "), told


def fuzz(source: Path, folder: Path, count: int, seed: int) -> dict[str, int]:
    command = [sys.executable, str(FUZZ), str(source), str(folder), str(count), str(seed)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "GGML_NO_BACKTRACE": "1"}
    )
    found: dict[str, int] = json.loads(done.stdout)
    return found


def check_outcomes(found: dict[str, int]) -> None:
    assert found.keys() <= {"refused", "not loaded", "scored"}
    assert {"refused", "scored"} <= found.keys()


def test_changed_files_do_not_end_the_process(made: Path, tmp_path: Path) -> None:
    check_outcomes(fuzz(made, tmp_path, 60, seed=1))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_thousands_of_changed_files_do_not_end_the_process(made: Path, tmp_path: Path, seed: int) -> None:
    check_outcomes(fuzz(made, tmp_path, 1000, seed))
    check_outcomes(fuzz(GOLDEN, tmp_path, 1000, seed))
