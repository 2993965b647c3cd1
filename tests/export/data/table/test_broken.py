"""Every broken table is refused in one line that says where and what to do, and nothing is left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from broken_tables import BROKEN, lay_out
from corella_edge.errors import InputError
from corella_edge_export.data.table.parse import read_description
from corella_edge_export.data.table.prepare import prepare_table

LINES = dict(
    line.split(": ", 1) for line in Path(__file__).with_name("broken_tables.txt").read_text("utf-8").splitlines()
)


def test_every_case_has_its_line() -> None:
    assert list(LINES) == list(BROKEN)
    assert len(BROKEN) >= 40


@pytest.mark.parametrize("name", BROKEN)
def test_refused_in_one_line(tmp_path: Path, name: str) -> None:
    lay_out(BROKEN[name], tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as refusal:
        prepare_table(read_description(tmp_path / "data.toml"), tmp_path / "out")
    told = str(refusal.value).replace(f"{tmp_path}/", "").replace(str(tmp_path), "FOLDER")
    assert told == LINES[name]
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_says_the_line_and_ends_with_2(tmp_path: Path) -> None:
    lay_out(BROKEN["milliseconds"], tmp_path)
    command = [sys.executable, "-m", "corella_edge", "prepare", "table", "-q", "--config", "data.toml", "--out", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"corella-edge: {LINES['milliseconds']}\n"
