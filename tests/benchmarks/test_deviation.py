"""Deviation from the deterministic mode: who asks what, and what is told of the answers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deviation
from bundles import make_bundle
from corella_edge.errors import BundleError
from corella_edge_runtime.llm.contract.messages import Answers, LlmAnswer, Prompt


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("deviation") / "bundle")


def test_every_file_has_its_figures(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "deviation.json"
    options = ["--prompts", "100", "--candidates", "10", "--callers", "3", "--out", str(out)]
    assert deviation.main([str(bundle), *options]) == 0
    (row,) = json.loads(out.read_text("utf-8"))["rows"]
    assert (row["file"], row["repeats"]) == ("llm.gguf", True)
    assert row["answers"] > row["prompts"] > 50
    assert row["prompts"] <= 100
    assert 0.0 <= row["mean"] <= row["p9999"] <= row["greatest"] <= 5e-3
    assert row["counted"]["prefix_hits"] > 0


def test_a_score_that_moves_is_seen() -> None:
    prompts = [Prompt((1,), (i,)) for i in range(4)]

    class Moved:
        """Half of a thousandth off, and silent about the last."""

        def submit(self, asked: Sequence[Prompt], deadline: float | None = None) -> Future[Answers]:
            done: Future[Answers] = Future()
            found = [LlmAnswer(0.1 * prompt.suffix[0] + 5e-4) for prompt in asked[:-1]]
            done.set_result(Answers.of([*found, LlmAnswer(math.nan, "deadline")]))
            return done

    group = deviation.PromptGroup(prompts, np.array([0.0, 0.1, 0.2, 0.3]))
    moved: Any = Moved()
    gaps = deviation.visited(moved, [group], [deviation.Question(0, (2, 0, 3)), deviation.Question(0, (1, 2))], 2)
    assert gaps == pytest.approx([5e-4] * 3)


@pytest.mark.parametrize("reason", ["llm_error", "queue_full", "too_long"])
def test_prompts_without_an_answer_are_not_passed_over(reason: str) -> None:
    with pytest.raises(BundleError, match=reason):
        deviation.probabilities(Answers.of([LlmAnswer(0.5), LlmAnswer(math.nan, reason)]))


def test_users_come_mixed_and_each_after_its_event_last() -> None:
    users = [[[Prompt((user,), (i,)) for i in range(20)]] * 2 for user in range(40)]
    visits = deviation.schedule(users, np.random.default_rng(0))
    order = [visit.group for visit in visits]
    assert sorted(order) == sorted([*range(80)] * deviation.VISITS)
    assert order != sorted(order)
    for user in range(40):
        own = [group for group in order if group // 2 == user]
        assert own == sorted(own)
    sizes = {len(visit.chosen) for visit in visits}
    assert {1, 20} < sizes
    assert all(len(set(visit.chosen)) == len(visit.chosen) for visit in visits)
    for name in ("within", "leaves"):
        assert 0.05 < np.mean([getattr(visit, name) is not None for visit in visits]) < 0.15


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ([], "not a bundle"),
        (["--prompts", "0"], "--prompts 0: at least 1"),
        (["--callers", "-1"], "--callers -1: at least 1"),
        (["--out", "/"], "--out /: is a folder"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert deviation.main([str(tmp_path / "none"), *options]) != 0
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("deviation: ")
    assert problem in printed.err


def test_a_bundle_without_an_llm_is_told_before_any_is_measured(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[object] = []
    monkeypatch.setattr(deviation, "compared", lambda *asked: measured.append(asked))
    assert deviation.main([str(bundle), str(make_bundle(tmp_path / "bare", llm=False))]) != 0
    assert "has no LLM" in capsys.readouterr().err
    assert measured == []
