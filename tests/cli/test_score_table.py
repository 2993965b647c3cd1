"""`corella-edge score` of Parquet: the answers of JSON lines, file by file; what is refused, and going on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import request_tables as tables


@pytest.fixture
def messages(requests: Path) -> list[dict]:
    lines = [json.loads(line) for line in requests.read_text().splitlines()]
    return [{**line, "id": str(line["id"])} for line in lines]


@pytest.fixture
def table(messages: list[dict], tmp_path: Path) -> Path:
    tables.write(tmp_path / "in/a.parquet", tables.table_of(messages[:20], label=[1] * 20))
    tables.write(tmp_path / "in/b.parquet", tables.table_of(messages[20:]))
    return tmp_path / "in"


@pytest.mark.parametrize("threshold", ["ratio:0", "ratio:0.3", "ratio:1"])
def test_answers_are_those_of_json_lines(corella, bundle, requests, messages, table, tmp_path, threshold):
    options = ["--threshold", threshold, "--llm-threads", 1, "--deterministic"]
    done = corella("score", bundle, table, "--out", tmp_path / "out", *options)
    assert (done.code, done.out) == (0, "")
    unread, *said = done.err.splitlines()
    assert unread == "corella-edge: note: columns that nothing reads: label"
    assert said[0].startswith(f"threshold {threshold}: the LLM is ")
    assert any(line.startswith("scored 30 requests, 90 candidates in ") for line in said)
    assert corella("score", bundle, requests, "--out", tmp_path / "out.jsonl", *options).code == 0
    answers = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = [{**row, "row": i // 3} for i, row in enumerate(tables.rows(tmp_path / "out"))]
    assert found == tables.flat(answers, messages)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.parquet", "b.parquet"]


def test_one_file_gives_one_file_and_again_nothing(corella, crm_bundle, table, tmp_path):
    arguments = ["score", crm_bundle, table / "b.parquet", "--out", tmp_path / "out.parquet"]
    assert corella(*arguments).code == 0
    before = (tmp_path / "out.parquet").stat().st_mtime_ns
    again = corella(*arguments)
    assert (again.code, "10 were there already" in again.err) == (0, True)
    assert (tmp_path / "out.parquet").stat().st_mtime_ns == before
    other = corella(*arguments, "--threshold", "0.5")
    assert (other.code, "was scored with another threshold" in other.err) == (2, True)
    assert corella(*arguments, "--threshold", "0.5", "--force").code == 0
    foreign = corella("score", crm_bundle, table / "a.parquet", "--out", table / "b.parquet")
    assert "was not written by `corella-edge score`" in foreign.err


def test_what_is_odd_about_a_history_is_told_once(corella, crm_bundle, table, tmp_path):
    done = corella("score", crm_bundle, table, "--out", tmp_path / "out")
    told = [line for line in done.err.splitlines() if "to tell" in line]
    assert told[0].startswith(
        "corella-edge: note: of 30 requests there is something to tell, of the first: history_times"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["in", "--out", "-"], "is Parquet, whose answers are files; name an --out other than -"),
        (["in"], "Missing option '--out'"),
        (["in", "--out", "in/out"], "lies in the input"),
        (["requests.jsonl", "--out", "out", "--engine", "ray"], "--engine ray scores Parquet"),
        (["in", "--out", "out", "--engine", "ray", "--llm-threads", "1"], "plans threads by --worker-cpus"),
        (["empty", "--out", "out"], "holds no .parquet files"),
    ],
)
def test_bad_places(corella, crm_bundle, table, tmp_path, monkeypatch, arguments, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    done = corella("score", crm_bundle, *arguments)
    assert (done.code, message in done.err) == (2, True), done
    assert not (tmp_path / "out").exists()


def test_a_bad_row_is_one_line(corella, crm_bundle, messages, tmp_path):
    messages[7]["candidates"] = []
    source = tables.write(tmp_path / "in.parquet", tables.table_of(messages))
    done = corella("score", crm_bundle, source, "--out", tmp_path / "out.parquet", "--quiet")
    assert done.code == 2
    assert done.err == (f"corella-edge: {source} row 7 (from 0): candidates: the list is empty; "
                        "leave the field out to rank the whole catalogue\n")  # fmt: skip
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.slow
def test_a_killed_run_goes_on(corella, crm_bundle, messages, tmp_path):
    source = tables.write(tmp_path / "in/a.parquet", tables.table_of(messages * 200))
    arguments = ["score", str(crm_bundle), str(source.parent), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([sys.executable, "-m", "corella_edge", *arguments], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while not [*tmp_path.rglob("*.piece")] and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out/a.parquet").exists()
    done = corella(*arguments)
    assert (done.code, "were there already" in done.err) == (0, True)
    assert corella("score", crm_bundle, source.parent, "--out", tmp_path / "whole").code == 0
    assert (tmp_path / "out/a.parquet").read_bytes() == (tmp_path / "whole/a.parquet").read_bytes()
