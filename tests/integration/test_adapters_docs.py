"""docs/adapters.md: its commands exist, its requests are answered as it says, and its limits are the product's."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from bundles import make_bundle
from corella_edge.adapters import MAX_ADAPTERS, MAX_WEIGHT
from corella_edge.cli import cli
from corella_edge.request_message import parse_request
from corella_edge.scores import answer
from corella_edge_export.bundling.verify import BATCHED_TOLERANCE, F16_TOLERANCE
from corella_edge_runtime.engine import Engine
from pages import blocks, read, section

PAGE = read("adapters.md")
(EXPORT,) = blocks(section(PAGE, "Make a bundle"), "bash")
(ASK,), (SHOWN,) = blocks(section(PAGE, "Ask for one"), "bash"), blocks(section(PAGE, "Ask for one"), "json")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    bundle: Path = make_bundle(tmp_path_factory.mktemp("docs") / "bundle", adapters=("films", "games"))
    with Engine.open(bundle, llm_threads=1, tuned=False, require_llm=True) as opened:
        yield opened


def test_the_command_of_the_page_is_understood() -> None:
    first, name, *words = shlex.split(EXPORT)
    assert (first, name) == ("corella-edge", "export")
    command = cli.get_command(click.Context(cli), "export")
    assert command is not None
    given = command.make_context("export", words).params
    assert (given["adapter"], given["add"], given["name"]) == ("separate", ("games=runs/games",), "films")


def test_the_requests_of_the_page_are_answered_as_it_shows(engine: Engine) -> None:
    bodies = [json.loads(words[words.index("-d") + 1]) for words in map(shlex.split, ASK.splitlines())]
    one, mixed = map(parse_request, bodies)
    assert engine.rank(one).reason == ("ratio", "ratio")
    found, shown = answer(mixed, engine.rank(mixed), "films@1"), json.loads(SHOWN)
    assert found["explain"]["adapters"] == shown["explain"]["adapters"]
    (row,), (expected,) = found["candidates"], shown["candidates"]
    assert {name: row[name] for name in expected} == {**expected, "llm": pytest.approx(expected["llm"], abs=5e-3)}


def test_the_limits_of_the_page_are_the_products() -> None:
    flat = " ".join(PAGE.split())
    assert f"up to {MAX_ADAPTERS} of them with weights from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}" in flat
    assert f"in f16 {F16_TOLERANCE:.0e}".replace("e-0", "e-") in flat
    assert f"and {BATCHED_TOLERANCE:.0e} with kept prefixes".replace("e-0", "e-") in flat
