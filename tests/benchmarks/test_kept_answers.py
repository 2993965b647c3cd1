"""The replayed stream of returning users: nothing is hit where every view follows an event, half where none does."""

from __future__ import annotations

import json
import sys
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


def test_figures_are_kept_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, out = make_bundle(tmp_path / "bundle", llm=False), tmp_path / "out.json"
    given = [str(bundle), "--sessions", "20", "--threshold", "ratio:0.5", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["kept_answers.py", *given])
    assert kept_answers.main() == 0
    found = json.loads(out.read_text())
    assert found["bundle"] == "tiny@1"
    assert [row["event_between_views"] for row in found["rows"]] == list(kept_answers.CHANCES)
    assert found["rows"][0]["kept"] > found["rows"][-1]["kept"] >= 0.0
    assert json.loads(capsys.readouterr().out)["rows"] == found["rows"]
