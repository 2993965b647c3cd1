"""docs/checkpoints.md: its recipe is one, its commands and their options exist, and its limits are the product's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from corella_edge.cli import cli
from corella_edge.errors import RecipeError
from corella_edge_export.bundling import file_types
from corella_edge_export.bundling.ready import TORCH_ROWS
from corella_edge_export.bundling.verify import F16_TOLERANCE
from corella_edge_export.llm.ready import MOST_BYTES
from corella_edge_export.recipe import load_recipe
from pages import blocks, read, section

PAGE = read("checkpoints.md")
READY = section(PAGE, "A ready GGUF file")
INLINE = [command for command in re.findall(r"`(corella-edge [^`]+)`", PAGE) if "…" not in command]


@pytest.mark.parametrize("line", [*"".join(blocks(PAGE, "")).splitlines(), *INLINE])
def test_a_command_of_the_page_is_understood(line: str) -> None:
    first, *words = shlex.split(line)
    assert first == "corella-edge"
    group: click.Command = cli
    while isinstance(group, click.Group):
        command = group.get_command(click.Context(group), words.pop(0))
        assert command is not None, line
        group = command
    group.make_context(group.name, [*words, *(["x"] if "check" in line and not words else [])], resilient_parsing=False)


def test_the_recipe_of_the_page_is_one(tmp_path: Path) -> None:
    (text,) = blocks(re.sub(r"(?m)^  ", "", READY), "toml")
    (tmp_path / "asked.toml").write_text(text)
    recipe = load_recipe(str(tmp_path / "asked.toml"))
    assert (recipe.prompt.history_lines, recipe.export.calibration_rows) == (4, 500)


def test_the_recipe_that_names_the_hub_is_one_once_it_is_pinned(tmp_path: Path) -> None:
    (text,) = blocks(section(PAGE, "From the hub"), "toml")
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(RecipeError, match="pin it as"):
        load_recipe(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_text(text.replace("COMMIT", "0" * 40))
    assert load_recipe(str(tmp_path / "mine.toml")).llm.source == "checkpoint"


def test_the_limits_of_the_page_are_the_products() -> None:
    flat = " ".join(READY.split())
    assert f"{TORCH_ROWS} reference rows" in flat
    assert f"more than {F16_TOLERANCE:g}".replace("0.002", "2e-3") in flat
    assert f"Files above {MOST_BYTES >> 30} GiB" in flat
    types = " ".join(section(PAGE, "File types").split())
    assert f"the {100 * file_types.SHARE:g} % of the sampled test rows, and at least {file_types.FEWEST}" in types
    assert f"(here {file_types.MAX_DROP:g} if nothing is said)" in types
    assert f"within {100 * (file_types.NEAR - 1):.0f} %" in types
    assert f"prompts of {file_types.IMPORTANT_ROWS} training rows" in types
