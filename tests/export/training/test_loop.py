from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from corella_edge import atomic  # noqa: E402
from corella_edge.errors import InterruptedRunError  # noqa: E402
from corella_edge.formats.strict_json import decode  # noqa: E402
from corella_edge_export.training import (  # noqa: E402
    checkpoint,
    loop,
    metrics_log,
)
from tiny_task import SCHEDULE, SHORT, TinyTask, train  # noqa: E402


class CutError(Exception):
    """The lights went out."""


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fit(folder: Path, schedule: loop.Schedule = SCHEDULE, **options: Any) -> TinyTask:
    task = TinyTask(**options)
    loop.fit(task, schedule, folder, seed=5, quiet=True)
    return task


def result(folder: Path) -> Any:
    """All that a run leaves, but for its times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = {name: tensor.tolist() for name, tensor in checkpoint.load_tensors(folder / loop.BEST).items()}
    found = checkpoint.load(folder)
    assert found is not None
    state = found[1]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines], kept, state["done"], state["best"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """An uninterrupted run: what it leaves, and its final weights."""
    folder = tmp_path_factory.mktemp("whole")
    task = fit(folder)
    return result(folder), task.weights()


def test_training_learns_and_ends_in_its_best_weights(whole: Any, tmp_path: Path) -> None:
    task = TinyTask()
    task.model.eval()
    before = task.evaluate()["auc"]
    line = loop.fit(task, SCHEDULE, tmp_path, seed=5, quiet=True)
    assert result(tmp_path) == whole[0]
    lines, _, done, best = whole[0]
    assert done
    steps = {kind: [line["step"] for line in lines if line["kind"] == kind] for kind in ("train", "valid")}
    assert steps == {"train": list(range(1, 19)), "valid": [3, 6, 9, 12, 15, 18]}
    assert line["auc"] == best == max(line["auc"] for line in lines if line["kind"] == "valid") > before
    with torch.inference_mode():
        assert task.evaluate()["auc"] == best
    assert not task.model.training


def test_the_mean_with_the_start_is_judged_and_kept(tmp_path: Path) -> None:
    """Training itself takes the same way; after a break the start is still the start."""
    start, plain = TinyTask().weights(), TinyTask()
    loop.fit(plain, SCHEDULE, tmp_path / "plain", seed=5, quiet=True)
    mixing = replace(SCHEDULE, start_share=0.25)
    mixed = TinyTask()
    loop.fit(mixed, mixing, tmp_path / "mixed", seed=5, quiet=True)
    for trained, judged in zip(plain.evaluated, mixed.evaluated, strict=True):
        for began, own, found in zip(start, trained, judged, strict=True):
            np.testing.assert_allclose(found, 0.25 * np.array(began) + 0.75 * np.array(own), atol=1e-6)
    assert mixed.weights() in mixed.evaluated

    def stop(epoch: int, index: int) -> None:
        if (epoch, index) == (1, 4):
            raise CutError

    with pytest.raises(CutError):
        loop.fit(TinyTask(at_step=stop), mixing, tmp_path / "broken", seed=5, quiet=True)
    again = TinyTask()
    loop.fit(again, mixing, tmp_path / "broken", seed=5, quiet=True)
    assert again.weights() == mixed.weights()


def test_what_learns_faster_is_kept_as_trained(tmp_path: Path) -> None:
    class Fitted(TinyTask):
        def groups(self) -> Any:
            last = list(self.model[2].parameters())  # type: ignore[index]
            return [(list(self.model[0].parameters()), 1.0), (last, 3.0)]  # type: ignore[index]

    plain, mixed = Fitted(), Fitted()
    loop.fit(plain, SCHEDULE, tmp_path / "plain", seed=5, quiet=True)
    loop.fit(mixed, replace(SCHEDULE, start_share=0.5), tmp_path / "mixed", seed=5, quiet=True)
    assert [judged[2:] for judged in mixed.evaluated] == [trained[2:] for trained in plain.evaluated]
    assert all(judged[0] != trained[0] for judged, trained in zip(mixed.evaluated, plain.evaluated, strict=True))


@pytest.mark.parametrize("steps", [{1}, {3}, {6}, {7}, {13}, {18}, {2, 3, 5, 8, 13}])
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_run_that_broke_off_ends_like_one_that_did_not(
    whole: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: set[int], seconds: float
) -> None:
    monkeypatch.setattr(loop, "CHECKPOINT_SECONDS", seconds)
    for step in sorted(steps):

        def cut(epoch: int, index: int, step: int = step) -> None:
            if epoch * 6 + index + 1 == step:
                raise CutError

        with pytest.raises(CutError):
            fit(tmp_path, at_step=cut)
    task = fit(tmp_path)
    assert (result(tmp_path), task.weights()) == whole


def count_writes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    names: list[str] = []
    replace = atomic.publish_file
    monkeypatch.setattr(atomic, "publish_file", lambda a, b: (names.append(b.name), replace(a, b)))
    fit(folder, SHORT)
    monkeypatch.setattr(atomic, "publish_file", replace)
    steps = {name for name in names if name.startswith("step-")}
    assert steps
    assert set(names) == {"metrics.jsonl", "best.safetensors", "checkpoint.json"} | steps
    return len(names)


@pytest.mark.slow
def test_a_break_at_any_write_is_made_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace = atomic.publish_file
    monkeypatch.setattr(loop, "LOGGED", 3)
    writes = count_writes(tmp_path / "whole", monkeypatch)
    assert writes >= 4 * 2 + 1
    whole = result(tmp_path / "whole"), fit(tmp_path / "whole", SHORT).weights()
    for number in range(2 * writes):
        folder = tmp_path / str(number)
        left = number // 2

        def cut(temporary: Path, path: Path, after: int = number % 2) -> None:
            nonlocal left
            if left == 0 and not after:
                raise CutError
            replace(temporary, path)
            if left == 0:
                raise CutError
            left -= 1

        monkeypatch.setattr(atomic, "publish_file", cut)
        with pytest.raises(CutError):
            fit(folder, SHORT)
        monkeypatch.setattr(atomic, "publish_file", replace)
        task = fit(folder, SHORT)
        assert (result(folder), task.weights()) == whole, number


@pytest.mark.slow
def test_a_killed_process_goes_on(whole: Any, tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "helpers" / "tiny_task.py"
    command = [sys.executable, str(script), str(tmp_path), "0.01"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 2
    assert result(tmp_path) == whole[0]


def test_ctrl_c_finishes_the_step_and_can_be_continued(whole: Any, tmp_path: Path) -> None:
    def press(epoch: int, index: int) -> None:
        if (epoch, index) == (1, 2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match="step 9 of 18"):
        fit(tmp_path, at_step=press)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    steps: list[int] = []
    task = fit(tmp_path, at_step=lambda epoch, index: steps.append(6 * epoch + index))
    assert steps == list(range(9, 18))
    assert (result(tmp_path), task.weights()) == whole


def test_a_finished_run_does_nothing(whole: Any, tmp_path: Path) -> None:
    fit(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    task = fit(tmp_path, at_step=lambda epoch, index: pytest.fail("trained again"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert task.weights() == whole[1]
    assert task.evaluated == []


@pytest.mark.parametrize(
    ("script", "patience", "best", "evaluations"),
    [([0.6, 0.7, 0.65, 0.7, 0.9, 0.9], 2, 1, 4), ([0.6, 0.5, 0.5, 0.5, 0.9, 0.9], 3, 0, 4),
     ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], 1, 5, 6), ([0.6, 0.5, 0.7, 0.5, 0.8, 0.7], 2, 4, 6),
     ([math.nan] * 6, 9, 0, 6), ([math.nan, 0.3, math.nan, math.nan, 0.2, 0.1], 9, 1, 6)],
)  # fmt: skip
def test_early_stopping_keeps_the_best_weights(
    tmp_path: Path, script: list[float], patience: int, best: int, evaluations: int
) -> None:
    task = TinyTask(script=script)
    schedule = loop.Schedule(0.05, 0.0, epochs=3, evaluations=2, patience=patience)
    line = loop.fit(task, schedule, tmp_path, seed=5, quiet=True)
    assert len(task.evaluated) == evaluations
    assert task.weights() == task.evaluated[best]
    assert task.evaluated[best] not in task.evaluated[:best]
    assert line["step"] == 3 * (best + 1)


def test_what_has_no_value_is_null_in_strict_json(tmp_path: Path) -> None:
    """Rows of one label; a log that an earlier version wrote with NaN is read alike."""
    script = [math.nan, 0.3, math.nan]
    loop.fit(TinyTask(script=script), loop.Schedule(0.05, 0.0, 3, 1, 9), tmp_path, seed=5, quiet=True)
    log = tmp_path / "metrics.jsonl"
    lines = [decode(row) for row in log.read_bytes().splitlines()]
    assert [line["auc"] for line in lines if line["kind"] == "valid"] == [None, 0.3, None]
    log.write_text(log.read_text().replace("null", "NaN"))
    assert metrics_log.read(tmp_path) == lines
    assert loop.best_line(tmp_path)["auc"] == 0.3


def test_another_thread_may_train(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(train, tmp_path).result(60)
    assert result(tmp_path)[2]


@given(st.integers(1, 3000), st.floats(0, 0.5))
def test_the_rate_rises_and_falls(total: int, warmup: float) -> None:
    schedule = loop.Schedule(0.01, 0.0, 1, 1, 1, warmup)
    rates = [schedule.rate(step, total) for step in range(total)]
    warm = max(1, int(warmup * total))
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert all(0 < rate <= 0.01 + 1e-12 for rate in rates)
    assert rates[min(warm, total) - 1] == pytest.approx(0.01)
    assert total == warm or schedule.rate(total, total) == pytest.approx(0.001)


def test_a_background_job_that_ignores_ctrl_c_goes_on(whole: Any, tmp_path: Path) -> None:
    """A script starts it with the signal ignored."""

    def press(epoch: int, index: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fit(tmp_path, at_step=press)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert result(tmp_path) == whole[0]
