"""How long a training is said to take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import shapes
from corella_edge_export.generic.recipe import recipe_for
from corella_edge_export.training import expected


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.0, "less than a minute"), (59.9, "less than a minute"), (61.0, "about 1 minute"), (600.0, "about 10 minutes"),
     (5399.0, "about 90 minutes"), (5400.0, "about 2 hours"), (36_000.0, "about 10 hours")],
)  # fmt: skip
def test_a_time_is_told_roughly(seconds: float, told: str) -> None:
    assert expected.told(seconds) == told


def test_it_follows_the_work_and_the_machine(tmp_path: Path) -> None:
    data = shapes.prepared("ratings", tmp_path / "data")
    recipe = recipe_for("generic", data)
    seconds = expected.seconds(recipe, data, 1e9, 1)
    assert expected.seconds(recipe, data, 2e9, 1) == pytest.approx(seconds / 2)
    assert expected.seconds(recipe, data, 1e9, 2) < seconds
    longer = replace(recipe, llm=replace(recipe.llm, epochs=2 * recipe.llm.epochs))
    assert expected.llm_seconds(longer, data) == pytest.approx(2 * expected.llm_seconds(recipe, data))
    more = replace(recipe, crm=replace(recipe.crm, epochs=2 * recipe.crm.epochs))
    assert expected.crm_seconds(more, data) > expected.crm_seconds(recipe, data)
    checkpoint = replace(recipe, llm=replace(recipe.llm, source="checkpoint"))
    assert expected.here(checkpoint, data) is None


def test_the_speed_is_what_the_clock_says() -> None:
    ticks = iter(range(1000))
    assert expected.multiplying(lambda: next(ticks) * 0.5, span=0.9, rounds=3) == pytest.approx(
        2 * 4096 * 128 * 256 / 1.5
    )
