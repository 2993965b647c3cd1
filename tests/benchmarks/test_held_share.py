"""Shares of windows counted from answers, and when a target counts as held; the script on a real server."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import held_share
from bundles import make_bundle
from held_share import CANDIDATES, Asked, any_window, by_window, met


def answers(shares: list[float], window: float = 10.0, each: int = 50) -> list[Asked]:
    """So many answers a window, each with its window's share of 20 candidates."""
    return [
        Asked(window * (place + k / each), 20, round(20 * share), 4)
        for place, share in enumerate(shares)
        for k in range(each)
    ]


def test_each_window_has_its_own_share() -> None:
    found = by_window(answers([0.1, 0.2, 0.5, 0.1]), 10.0, 2)
    assert [one["share"] for one in found] == [0.1, 0.2, 0.5, 0.1]
    assert [one["after_step"] for one in found] == [False, False, True, True]
    assert {one["not_held"] for one in found} == {0.2}
    assert {one["requests"] for one in found} == {50}


def test_windows_that_end_anywhere_leave_out_what_the_step_cost() -> None:
    found = any_window(answers([0.9, 0.1, 0.9, 0.1, 0.2]), 10.0, 2)
    assert found["least"] == pytest.approx(0.1)
    assert 0.8 < found["greatest"] <= 0.9  # the second window's first request still looks back on the first one
    calm = any_window(answers([0.1, 0.1, 0.1, 0.1]), 10.0, 2)
    assert calm == {"least": 0.1, "greatest": 0.1}


@pytest.mark.parametrize(
    ("shares", "held"),
    [([0.1, 0.095, 0.3, 0.1], True), ([0.1, 0.12, 0.1, 0.1], False), ([0.1, 0.1, 0.1, 0.15], False)],
)
def test_only_the_window_of_the_step_may_be_off(shares: list[float], held: bool) -> None:
    windows = [{"after_step": place >= 2, "share": share} for place, share in enumerate(shares)]
    assert met(windows, 0.1) is held


def test_requests_are_of_known_items_before_the_step_and_of_new_ones_in_part_after_it(tmp_path: Path) -> None:
    before, after = held_share.requests(make_bundle(tmp_path / "bundle"), 5)
    assert len(before) == len(after) == 5
    assert all(len(one.candidates or ()) == CANDIDATES for one in (*before, *after))


@pytest.mark.slow
def test_a_real_server_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, out = make_bundle(tmp_path / "bundle"), tmp_path / "held.json"
    options = ["--windows", "2", "--window", "10", "--rate", "5", "--log", str(tmp_path / "log"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["held_share.py", str(bundle), *options])
    assert held_share.main() == 0
    kept = json.loads(out.read_text())
    assert kept["requests"] > 50
    assert len(kept["windows"]) == 4
    assert 0.0 < kept["windows"][1]["share"] < 0.2  # of a target of 0.1
    assert kept["commit"]
