"""The log of decisions never holds a request up, is bounded, and survives what a disk does."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from corella_edge.errors import InputError
from corella_edge.request import Request, User
from corella_edge.request_message import parse_request
from corella_edge.routing.decision import Weighting
from corella_edge.scores import Scores
from corella_edge_runtime import decisions
from corella_edge_runtime.decisions import FILES, DecisionLog


def scores(n: int = 3) -> Scores:
    p = np.linspace(0.1, 0.9, n)
    return Scores(tuple(f"i{k}" for k in range(n)), p, np.full(n, np.nan), np.zeros(n, bool), ("",) * n, ((),) * n)


def fill(log: DecisionLog, number: int) -> None:
    for i in range(number):
        log.put(Request(User("u"), id=f"r{i}"), scores(), "b@1", wait=True)


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_what_is_put_is_there_in_order_when_the_log_is_closed(tmp_path: Path) -> None:
    with DecisionLog.open(tmp_path / "log", 2**20, clock=lambda: 1_700_000_000.1239) as log:
        fill(log, 1000)
    found = lines(tmp_path / "log")
    assert [line["id"] for line in found] == [f"r{i}" for i in range(1000)]
    assert {line["time"] for line in found} == {1_700_000_000.124}
    assert log.lost == 0


def test_all_files_together_are_bounded_and_the_oldest_go(tmp_path: Path) -> None:
    most = 64 * 1024
    with DecisionLog.open(tmp_path, most) as log:
        fill(log, 2000)
    files = sorted(tmp_path.glob("*.jsonl"))
    assert len(files) == FILES
    assert max(path.stat().st_size for path in files) <= most // FILES
    kept = [int(str(line["id"])[1:]) for line in lines(tmp_path)]
    assert kept == list(range(kept[0], 2000))
    with DecisionLog.open(tmp_path, most) as log:
        fill(log, 1)
    assert sorted(tmp_path.glob("*.jsonl"))[-1] > files[-1]


def test_a_slow_disk_holds_nobody_up_and_what_is_lost_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    write = DecisionLog._write
    monkeypatch.setattr(DecisionLog, "_write", lambda log, batch: (released.wait(20), write(log, batch))[-1])
    log = DecisionLog.open(tmp_path, 2**30)
    request, found = Request(User("u")), scores()
    started = time.monotonic()
    for _ in range(decisions.WAITING + 2 * decisions.TOGETHER):
        log.put(request, found, "b@1")
    assert time.monotonic() - started < 15.0  # the disk takes 20
    assert 0 < log.lost <= 2 * decisions.TOGETHER
    released.set()
    log.close()
    assert len(lines(tmp_path)) + log.lost == decisions.WAITING + 2 * decisions.TOGETHER


def test_a_disk_that_fails_is_told_once_and_the_log_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()
    begin = DecisionLog._begin

    def failing(log: DecisionLog) -> object:
        if not broken.is_set():
            raise OSError(28, "No space left on device")
        return begin(log)

    monkeypatch.setattr(DecisionLog, "_begin", failing)
    with DecisionLog.open(tmp_path, 2**20) as log:
        for i in range(3):
            fill(log, 1)
            while log.lost <= i:
                time.sleep(0.001)
        broken.set()
        fill(log, 2)
    assert log.lost == 3
    assert len(lines(tmp_path)) == 2
    assert len([r for r in caplog.records if "No space left" in r.message]) == 1


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    with DecisionLog.open(tmp_path, 2**20), pytest.raises(InputError, match="in use by another process"):
        DecisionLog.open(tmp_path, 2**20)
    with pytest.raises(InputError, match=r"--log .*: cannot be written: No such file"):
        DecisionLog.open(tmp_path / "no" / "such", 2**20)


@pytest.mark.parametrize("top_k", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("order", ["rank", "request"])
def test_an_item_named_twice_has_what_is_known_of_it_each_time(top_k: int | None, order: str) -> None:
    found = replace(scores(4), items=("a", "b", "a", "a"), propensity=np.array([0.1, 1.0, 0.3, 0.4]))
    found.shadow = np.array([np.nan, 0.2, 0.3, 0.4])
    inputs = {"popularity": np.array([1.0, 2.0, 3.0, 4.0])}
    request = parse_request(
        {"user": {}, "candidates": [{"item": item} for item in found.items], "top_k": top_k, "order": order}
    )
    written = json.loads(decisions.line(request, found, "b@1", 0.0, lambda request, scores: inputs))["candidates"]
    place = {crm: i for i, crm in enumerate(found.crm.tolist())}
    assert len(written) == min(4, top_k or 4)
    for row in written:
        i = place[row["crm"]]
        assert row["inputs"] == {"popularity": i + 1.0}
        assert row.get("ask_propensity", 1.0) == found.propensity[i]  # type: ignore[index]
        assert row.get("shadow") == (None if i == 0 else found.shadow[i])
    expected = sorted(range(4), key=lambda i: -found.crm[i])[: top_k or 4]
    assert [place[row["crm"]] for row in written] == (expected if order == "rank" else sorted(expected))


def test_the_log_of_a_weighted_request_is_in_the_order_of_its_values() -> None:
    found = replace(scores(3), propensity=np.array([0.1, 0.2, 0.3]))
    found.value = Weighting(np.array([9.0, 1.0, 0.5]), np.zeros(3))
    request = parse_request({"user": {}, "candidates": [{"item": i} for i in found.items], "order": "rank"})
    written = json.loads(decisions.line(request, found, "b@1", 0.0))["candidates"]
    assert [row["value"] for row in written] == pytest.approx([0.9, 0.5, 0.45])
    assert [row["ask_propensity"] for row in written] == [0.1, 0.2, 0.3]
