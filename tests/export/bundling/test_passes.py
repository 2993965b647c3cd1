"""What an export says of its time, and its two lanes: the same bytes, and nothing that goes on after an end."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import numpy as np
import pytest

from corella_edge.errors import ExportError
from corella_edge_export.bundling import calibration, verify
from corella_edge_export.bundling.passes import GivenUpError, Lane, StageTimes, until
from corella_edge_export.bundling.write import Export, ExportOptions, export
from corella_edge_export.data.prepared import PreparedData
from corella_edge_export.training import stages
from corella_edge_export.training.run import Run
from tiny_run import recipe

LLM = "corella-pass"


@pytest.fixture(scope="module")
def run(data: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "run"
    made = recipe(joint={"epochs": 0}, continuation={"epochs": 0}, export={"calibration_rows": 60, "sample_rows": 40})
    stages.train(folder, made, data, quiet=True)
    return Run.open(folder, data)


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def lanes() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(LLM)]


def test_a_stage_is_said_at_its_beginning_and_with_its_time_at_its_end() -> None:
    said: list[str] = []
    times = iter([0.0, 12.4, 20.0, 20.5])
    made = StageTimes(said.append, lambda: next(times))
    with made.of("reading"):
        assert said == ["reading …"]
    with made.of("a moment"):
        pass
    assert said == ["reading …", "reading: 12 s", "a moment …"]
    assert made.seconds == {"reading": pytest.approx(12.4), "a moment": pytest.approx(0.5)}


def test_work_beside_ends_when_nobody_wants_it() -> None:
    begun, read = threading.Event(), list[int]()

    def work(stop: threading.Event) -> None:
        for row in until(stop, range(10**9)):
            read.append(row)
            begun.set()

    beside = Lane(work)
    assert begun.wait(10)
    beside.close()
    assert not lanes()
    with pytest.raises(GivenUpError):
        beside.result()
    assert 0 < len(read) < 10**9
    assert list(until(None, range(3))) == [0, 1, 2]


@pytest.mark.slow
def test_two_lanes_make_the_bundle_of_one_byte_for_byte(run: Run, tmp_path: Path) -> None:
    said: list[str] = []
    for threads in (1, 2):
        export(run, tmp_path / str(threads), ExportOptions(("Q8_0", "F16"), threads=threads), said.append)
    one, two = (files(tmp_path / name) for name in ("1", "2"))
    assert {"routing.json", "verification.json", "reference.jsonl", "manifest.json"} <= one.keys()
    assert [name for name in one if one[name] != two.get(name)] == []
    assert one.keys() == two.keys()
    assert not lanes()
    assert sum(line.startswith("calibration: the LLM about ") and line.endswith(" …") for line in said) == 2
    found = json.loads(one["verification.json"])
    assert list(found["differences"]) == ["crm", "llm_f16_whole", "llm_f16", "llm_Q8_0", "llm_F16"]
    assert list(found["metrics"]) == ["torch", "F16", "Q8_0", "crm_valid", "crm", "llm_valid"]


@pytest.mark.slow
def test_the_calibration_runs_beside_the_checks_where_there_are_threads_and_memory(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int, bool]] = []
    scores = verify.gguf_scores

    def watched(path: Path, *given: object, **more: object) -> verify.Floats:
        asked.append((path.name, given[2], threading.current_thread().name.startswith(LLM)))  # type: ignore[arg-type]
        return scores(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(verify, "gguf_scores", watched)
    export(run, tmp_path / "two", ExportOptions(threads=2))
    assert sorted(asked) == [("f16.gguf", 1, False), ("f16.gguf", 1, False), ("llm.gguf", 1, False),
                             ("llm.gguf", 1, True)]  # fmt: skip
    asked.clear()
    monkeypatch.setattr(calibration, "available", lambda: 0)
    export(run, tmp_path / "short", ExportOptions(threads=2))
    assert [beside for *_, beside in asked] == [False] * 4
    asked.clear()
    export(run, tmp_path / "one", ExportOptions(threads=1))
    assert [(threads, beside) for _, threads, beside in asked] == [(1, False)] * 4


@pytest.mark.slow
def test_an_export_that_fails_leaves_no_lane_and_no_folder(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = verify.check_llm

    def refused(name: str, found: verify.Floats, expected: verify.Floats, tolerance: float) -> float:
        assert lanes()
        raise ExportError("no")

    monkeypatch.setattr(verify, "check_llm", refused)
    with pytest.raises(ExportError, match="no"):
        export(run, tmp_path / "bundle", ExportOptions(threads=2))
    assert not lanes()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(verify, "check_llm", check)


@pytest.mark.slow
def test_what_fails_in_the_lane_fails_the_export(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = verify.gguf_scores

    def broken(path: Path, *given: object, **more: object) -> verify.Floats:
        if threading.current_thread().name.startswith(LLM):
            raise ExportError("the lane broke")
        return scores(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(verify, "gguf_scores", broken)
    with pytest.raises(ExportError, match="the lane broke"):
        export(run, tmp_path / "bundle", ExportOptions(threads=2))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_of_the_reference_rows_has_a_text(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, rows = Export.prompt, list[str]()

    def of(job: Export, request: object) -> list[int] | None:
        return prompt(job, request) if request is job.requests[7] else None  # type: ignore[arg-type]

    plain = Export(run, tmp_path, tmp_path, ExportOptions(threads=1), rows.append)
    monkeypatch.setattr(Export, "prompt", of)
    other = Export(run, tmp_path, tmp_path, ExportOptions(threads=1), rows.append)
    assert 7 not in plain.reference
    assert other.reference.tolist() == sorted([*plain.reference.tolist(), 7])
    monkeypatch.setattr(Export, "prompt", lambda job, request: None)
    without = Export(run, tmp_path, tmp_path, ExportOptions(threads=1), rows.append)
    np.testing.assert_array_equal(without.reference, plain.reference)
