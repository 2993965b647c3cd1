"""The replayed stream of returning users: nothing is hit where every view follows an event, half where none does."""

from __future__ import annotations

from pathlib import Path

import pytest

import kept_answers
from bundles import make_bundle
from corella_edge.routing.kept import KeptAnswers
from corella_edge_runtime.engine import Engine


def test_hits_are_of_views_without_an_event_between_them(tmp_path: Path) -> None:
    with Engine.open(make_bundle(tmp_path / "bundle", llm=False), llm=None, threshold="ratio:0.5") as engine:
        rates = [
            kept_answers.hit_rate(engine, KeptAnswers(10_000, 600.0), 60, chance, 1)[0] for chance in (0.0, 0.5, 1.0)
        ]
        none, _ = kept_answers.hit_rate(engine, KeptAnswers(0, 600.0), 60, 0.0, 1)
    assert rates[0] > 0.4
    assert rates == sorted(rates, reverse=True)
    assert none == 0.0
    assert rates[2] < 0.5 * rates[0]


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_the_stream_is_in_its_order_of_time(chance: float) -> None:
    import numpy as np

    from corella_edge.request import User

    times = [time for time, _, _ in kept_answers.stream([User("u")], ["a", "b"], 20, chance, np.random.default_rng(0))]
    assert times == sorted(times)
