"""A stage over several openings of its sides, which are stand-ins here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from harness.models import Subject
from harness.pairs import OURS, round_of
from harness.shapes import SHAPES
from scenarios.scoring import blocks

PEERS = ("near", "far", "mute")
ROUNDS = 7


class Side:
    """Answers with `found`, and notes whoever is asked."""

    sample: int | None = None

    def __init__(self, name: str, found: float, asked: list[str]) -> None:
        self.name, self._found, self._asked = name, found, asked

    def reset(self) -> None:
        return None

    def score(self, prompts: Sequence[Any]) -> list[float]:
        self._asked.append(self.name)
        return [self._found] * len(prompts)

    def processes(self) -> list[int]:
        return []

    def close(self) -> None:
        return None


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> tuple[blocks.TimedStage, list[list[str]]]:
    """A stage of `ROUNDS` rounds, and who was asked in each opening. "far" is far only in the first one."""
    openings: list[list[str]] = []

    @contextmanager
    def sides(*_: object) -> Iterator[dict[str, Side]]:
        openings.append([])
        far = 0.9 if len(openings) == 1 else 0.5
        answers = {OURS: 0.5, "near": 0.5, "far": far, "mute": math.nan}
        yield {name: Side(name, found, openings[-1]) for name, found in answers.items()}

    monkeypatch.setattr(blocks, "sides", sides)
    subject = cast(Subject, SimpleNamespace(vocab=500))
    return blocks.stage(subject, SHAPES["c3"], "F16", dict.fromkeys(PEERS, "F16"), ROUNDS, 1), openings


def test_the_order_of_the_rounds_goes_on_over_openings(stage: tuple[blocks.TimedStage, list[list[str]]]) -> None:
    found, openings = stage
    assert len(openings) == ROUNDS > 1
    timed = [name for asked in openings for name in asked[1 + len(PEERS) :]]  # the first of each are compared
    assert timed == [name for number in range(ROUNDS) for name in round_of(PEERS, number)]
    assert {len(pairs) for pairs in found.pairs.values()} == {ROUNDS}


def test_the_greatest_difference_of_all_openings_is_told(stage: tuple[blocks.TimedStage, list[list[str]]]) -> None:
    found, openings = stage
    assert found.differences == pytest.approx({"near": 0.0, "far": 0.4, "mute": math.nan}, nan_ok=True)
    assert found.compared == {"near": 3 * len(openings), "far": 3 * len(openings), "mute": 0}
