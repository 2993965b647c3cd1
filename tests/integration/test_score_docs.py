"""docs/serve.md, "Scoring many requests": the table is written and scored as the page shows it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import request_tables as tables
from bundles import make_bundle
from corella_edge_runtime.partitions import columns, parquet
from pages import blocks, read, section
from sessions import succeed

PAGE = section(read("serve.md"), "Scoring many requests")
(TABLE,), (COMMAND,), (SHOWN,) = (blocks(PAGE, language) for language in ("python", "bash", "text"))
ON_RAY = blocks(section(PAGE, "On a cluster"), "sh")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle and the table of the page."""
    make_bundle(tmp_path / "my-bundle")
    monkeypatch.chdir(tmp_path)
    exec(TABLE, {})
    return tmp_path


def test_the_table_of_the_page_is_scored_as_it_says(shop: Path) -> None:
    done = succeed(*shlex.split(COMMAND)[1:])
    figures = re.compile(r"[\d.,]+")
    # This bundle knows none of the page's users and items, which is told behind it.
    (told,) = (line for line in done.err.splitlines() if line.startswith("scored "))
    assert figures.sub("#", told).startswith(figures.sub("#", SHOWN.strip()))
    rows = tables.rows(shop / "scores/part-0.parquet")
    assert [(row["row"], row["user_id"], row["item"]) for row in rows] == [
        (0, "42", "661"), (0, "42", "914"), (0, "42", "3408"), (1, "43", "661"), (1, "43", "594")
    ]  # fmt: skip


def test_the_columns_of_the_page_are_all_there_are() -> None:
    (head,) = re.findall(r"^\| row \|(.*)\|$", PAGE, re.MULTILINE)
    assert ["row", *(name.strip() for name in head.split("|"))] == [n for n in parquet.ANSWERS.names if n != "id"]
    body = PAGE[PAGE.index("| column | type | |") :].split("\n\n")[0]
    named = re.findall(r"`(\w+)`", "\n".join(line.split("|")[1] for line in body.splitlines()))
    assert named == [*columns.KEYS]


@pytest.mark.slow
def test_a_cluster_gives_the_same_files(shop: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed (extra [ray])")
    succeed(*shlex.split(COMMAND)[1:])
    before = (shop / "scores/part-0.parquet").read_bytes()
    (shop / "scores/part-0.parquet").unlink()
    (command,) = ON_RAY
    words = [sys.executable, "-m", *shlex.split(command.replace("corella-edge", "corella_edge", 1))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert (shop / "scores/part-0.parquet").read_bytes() == before
