"""docs/routing.md on gates and promises: its commands run as they stand there, and its columns are the gate's."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from bundles import make_bundle
from corella_edge.routing.decision import BINS
from corella_edge.routing.gate import MADE
from corella_edge.routing.gate_fit import ENOUGH_ROWS, ENOUGH_USERS, SHARES
from corella_edge_runtime.calibrate import log
from logs import uneven_log
from pages import blocks, read, section
from sessions import succeed

PAGE = read("routing.md")
GATE, PROMISE, TOP = (
    section(PAGE, title)
    for title in ("A learned gate", "A threshold that keeps a promise", "Only what can change the top")
)
COMMANDS = [line for text in (GATE, PROMISE) for block in blocks(text, "sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gate")
    make_bundle(made / "my-bundle")
    log.write(uneven_log(3200, 10, 900), made / "answered.csv")  # JSON lines: a file is told by what is in it
    return made


@pytest.mark.slow  # half a minute each: 2,000 draws of the users for every figure
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_page_runs(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(folder)
    first, *words = shlex.split(command)
    assert first == "corella-edge"
    succeed(*words)
    for name in ("my-policy", "my-policy-report"):
        shutil.rmtree(name)


def test_the_page_names_every_input_and_figure() -> None:
    named = set(re.findall(r"`input\.(\w+)`", GATE))
    assert named == set(MADE)
    assert f"takes {ENOUGH_ROWS} asked rows of {ENOUGH_USERS} users" in " ".join(GATE.split())
    assert f"at {', '.join(f'{100 * s:g}' for s in SHARES[:-1])} and {100 * SHARES[-1]:g} %" in GATE
    assert BINS == 10
    assert "in ten bins" in TOP
