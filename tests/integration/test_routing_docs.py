"""docs/routing.md: from a CSV of answered recommendations to a canary, to all users, and back, on a running server."""

from __future__ import annotations

import csv
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from bundles import make_bundle
from corella_edge.bundle.artefact import Bundle
from corella_edge.routing.forms import parse_threshold
from corella_edge.routing.labelled import COLUMNS
from corella_edge.routing.measure import entropy
from corella_edge.routing.policy import AskCost, Calibration, Routing
from corella_edge.routing.told import told
from logs import labelled_log
from pages import blocks, read, section
from sessions import ONE, Served, serving, start, succeed

PAGE = read("routing.md")
WALK = section(PAGE, "From answered recommendations to a policy")
(TABLE,), (FIT, ROLL_OUT, BACK), (SHOWN,) = (blocks(WALK, language) for language in ("csv", "bash", "text"))


def commands(block: str) -> list[list[str]]:
    words = [shlex.split(line) for line in block.splitlines()]
    assert all(first == "corella-edge" for first, *_ in words)
    return [rest for _, *rest in words]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a bundle, a site that serves it, and a table that begins as the page's."""
    folder = tmp_path_factory.mktemp("shop")
    make_bundle(folder / "my-bundle")
    names = TABLE.splitlines()[0].split(",")
    columns = labelled_log(1200, 10, 300).columns()
    with (folder / "answered.csv").open("w", newline="") as file:
        made = csv.writer(file)
        made.writerow(names)
        made.writerows(zip(*(columns[name].tolist() for name in names), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        succeed("deploy", "init", "site", "my-bundle")
        yield folder


@pytest.fixture(scope="module")
def server(shop: Path) -> Iterator[Served]:
    with serving(start("serve", shop / "site", "--port", "0", *ONE)) as served:
        yield served


def versions(server: Served) -> list[str]:
    """Which bundles answer forty users, in the order of the users."""
    candidates = [{"item": f"i{i}"} for i in range(8)]
    return [
        httpx.post(f"{server.url}/v1/rank", json={"user": {"id": f"u{user}"}, "candidates": candidates}, timeout=60)
        .raise_for_status()
        .json()["bundle"]
        for user in range(40)
    ]


def test_the_walk_of_the_page(shop: Path, server: Served) -> None:
    (fit,) = commands(FIT)
    done = succeed(*fit)
    figures = re.compile(r"[+-]?\d[\d.,]*%?|policy\.\w+")
    assert [figures.sub("#", line) for line in done.out.splitlines()] == [
        figures.sub("#", line) for line in SHOWN.splitlines()
    ]
    fitted = Bundle.open(Path("my-policy")).label
    push, status, use = commands(ROLL_OUT)
    succeed(*push)
    tried = versions(server)
    assert set(tried) == {"tiny@1", fitted}
    assert tried.count(fitted) < 20
    assert "canary (0.1 of the users)" in succeed(*status).out
    succeed(*use)
    assert set(versions(server)) == {fitted}
    (back,) = commands(BACK)
    succeed(*back)
    assert set(versions(server)) == {"tiny@1"}


def test_the_page_names_every_column() -> None:
    rows = re.findall(r"^\| (`.*?`(?:, `.*?`)*) \|", section(PAGE, "The log"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert named == [*COLUMNS, "input.NAME"]


def test_what_the_page_shows_of_the_table_is_a_log(tmp_path: Path) -> None:
    from corella_edge_runtime.calibrate.log import read as read_log

    path = tmp_path / "answered.csv"
    path.write_text(TABLE)
    assert len(read_log(path)) == len(TABLE.splitlines()) - 1


def test_what_serve_md_shows_of_a_start_are_its_sentences() -> None:
    (shown,) = [block for block in blocks(section(read("serve.md"), "Thresholds")) if "asking the LLM costs" in block]
    p = np.linspace(0.01, 0.99, 60)
    routing = Routing("ratio:0.3", Calibration.fit(entropy(p)), rows=60, cost=AskCost(6.8, 1.5), probabilities=p)
    lines = told(parse_threshold("ratio:0.3", routing), routing, "ratio:0.3")
    assert re.sub(r"\d[\d.]*", "#", shown.strip()) == re.sub(r"\d[\d.]*", "#", "\n".join(lines))
