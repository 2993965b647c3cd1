"""docs/data.md, "Adding a data set": its reader and its commands, on data in the form that it shows."""

from __future__ import annotations

import random
import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from corella_edge.messages import MAX_ID_CHARS
from corella_edge_export.data import readers, registry
from corella_edge_export.data.contract import INTERACTIONS, RawData
from pages import blocks, read, section
from sessions import run, succeed

PAGE = section(read("data.md"), "Adding a data set")
(READER,), (COMMANDS,) = (blocks(PAGE, language) for language in ("python", "bash"))
RATINGS, ITEMS = blocks(PAGE, "csv")


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's module among the readers, and 30 customers with 20 ratings each."""
    modules = tmp_path / "readers"
    modules.mkdir()
    (modules / "shop.py").write_text(READER, "utf-8")
    write_files(tmp_path / "shop")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(readers, "__path__", [*readers.__path__, str(modules)])
    registry.known.cache_clear()
    yield tmp_path / "shop"
    registry.known.cache_clear()


def write_files(folder: Path) -> None:
    """As the page shows them: its headers, and further rows of the form of its own."""
    draw = random.Random(0)
    kinds = ("tea", "coffee", "mug")
    items = [f"p{i},{draw.choice(['Green', 'Café', 'Old'])} {kinds[i % 3]} no. {i},{kinds[i % 3]}" for i in range(40)]
    ratings = [
        f"c{user},p{item},{1 + (item + draw.randint(0, 2)) % 5},{1_700_000_000 + draw.randint(0, 10**7)}"
        for user in range(30)
        for item in draw.sample(range(40), 20)
    ]
    folder.mkdir()
    for name, shown, rows in (("ratings", RATINGS, ratings), ("items", ITEMS, items)):
        (folder / f"{name}.csv").write_text("\n".join([shown.splitlines()[0], *rows, ""]), "utf-8")


@pytest.mark.slow  # test_first_table.py goes the same way with other data
def test_the_commands_of_the_page_make_a_bundle(shop: Path) -> None:
    torch.set_num_threads(1)
    for line in COMMANDS.splitlines():
        succeed(*shlex.split(line)[1:])
    shown = succeed("inspect", "bundles/shop").out
    assert "shop@1" in shown
    assert "PROBLEMS" not in shown


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rating,", "stars,", "unable to find column"),
        ("c0,p", "c0,other", "item_id 'other"),
        (",17", ",late17", "could not parse `late17"),
    ],
)
def test_a_bad_file_is_one_line(shop: Path, old: str, new: str, told: str) -> None:
    path = shop / "ratings.csv"
    path.write_text(path.read_text("utf-8").replace(old, new, 1), "utf-8")
    done = run("prepare", "shop", "--source", "shop", "--out", "data/shop")
    assert done.code
    (line,) = (line for line in done.err.splitlines() if line.startswith("corella-edge: "))
    assert told in line
    assert "Traceback" not in done.err
    assert not Path("data/shop").exists()


def test_the_page_lists_the_fields_of_the_contract() -> None:
    rows = dict(re.findall(r"^\| (`[^|]+`) \| (.*) \|$", PAGE, re.MULTILINE))
    listed = [name for cell in rows for name in re.findall(r"`(\w+)`", cell)]
    assert listed == [field.name for field in fields(RawData)]
    columns = " ".join(f"`{name}` {kind}" for name, kind in INTERACTIONS.items())
    assert columns in re.sub(r",|\(.*?\)", "", rows["`interactions`"])
    assert f"1 to {MAX_ID_CHARS} characters" in rows["`users`"]
