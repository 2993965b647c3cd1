"""What a command says of the time that it still takes."""

from __future__ import annotations

import pytest

from corella_edge.cli import evaluate, talk


@pytest.mark.parametrize(
    ("rest", "done", "seconds", "text"),
    [
        (100, 0, 60.0, ""),  # nothing is known of the pace
        (100, 10, 1.9, ""),  # too little is
        (0, 10, 60.0, ""),
        (-5, 10, 60.0, ""),
        (10, 10, 60.0, ", about 60 s left"),
        (20, 10, 60.0, ", about 2 min left"),
        (900, 10, 60.0, ", about 90 min left"),
        (1_500, 10, 60.0, ", about 2 h left"),
        (10_000, 10, 600.0, ", about 7 days left"),
    ],
)
def test_what_is_left_is_told_by_the_pace(rest: int, done: int, seconds: float, text: str) -> None:
    assert talk.left(rest, done, seconds) == text


def test_an_evaluation_counts_each_step_from_where_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, told = [0.0], list[str]()
    monkeypatch.setattr(evaluate.time, "monotonic", lambda: clock[0])
    show = evaluate.Show()
    monkeypatch.setattr(show.line, "show", told.append)
    for at, what, done in ((0.0, "scoring", 500), (10.0, "scoring", 600), (20.0, "judging", 1), (30.0, "judging", 2)):
        clock[0] = at
        show(what, done, 1000 if what == "scoring" else 5)
    assert told == [
        "scoring: 500 of 1,000", "scoring: 600 of 1,000, about 40 s left", "judging: 1 of 5",
        "judging: 2 of 5, about 30 s left",
    ]  # fmt: skip
