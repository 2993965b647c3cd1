"""`corella-edge score`: answers in order, all or nothing, and going on after an interruption."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from corella_edge.request_message import parse_request
from corella_edge.scores import answer
from corella_edge_runtime import batch
from corella_edge_runtime.engine import Engine

GOOD = '{"user": {"id": "u1"}, "candidates": [{"item": "i1"}]}\n'


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_in_order(corella, bundle, requests, tmp_path):
    out = tmp_path / "scores.jsonl"
    done = corella("score", bundle, requests, "--out", out, "--threshold", "ratio:0.3", "--llm-threads", 1)
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith(
        "threshold ratio:0.3: the LLM is asked about 30.00% of the calibration rows (about 72 of 240)"
    )
    assert "\nscored 30 requests, 90 candidates in " in done.err
    with Engine.open(bundle, threshold="ratio:0.3", llm_threads=1) as engine:
        expected = [answer(r, engine.rank(r), engine.name) for r in map(parse_request, lines(requests))]
    assert lines(out) == expected
    share = sum(c["routed"] for a in expected for c in a["candidates"]) / 90
    assert f"routed share {share:.4f}" in done.err
    assert 0 < share < 1
    assert sorted(tmp_path.iterdir()) == [requests, out]


def test_a_margin_routes_what_is_no_farther_from_one_half(corella, bundle, requests, tmp_path):
    out = tmp_path / "scores.jsonl"
    done = corella("score", bundle, requests, "--out", out, "--threshold", "margin:0.02", "--no-llm")
    assert done.code == 0
    rows = [row for answer in lines(out) for row in answer["candidates"]]
    near = [abs(row["crm"] - 0.5) <= 0.02 for row in rows]
    assert [bool(row["reason"]) for row in rows] == near
    assert 0 < sum(near) < len(near)


def test_stdout(corella, bundle, requests, tmp_path):
    done = corella("score", bundle, requests, "--out", "-", "--no-llm")
    assert done.code == 0
    assert [json.loads(line)["id"] for line in done.out.splitlines()] == [str(i) for i in range(30)]
    assert list(tmp_path.iterdir()) == [requests]


def test_standard_input_is_answered_on_standard_output(bundle, requests, tmp_path):
    command = [sys.executable, "-m", "corella_edge", "score", bundle, "-", "--no-llm", "--quiet"]
    done = subprocess.run([*map(str, command)], input=requests.read_text(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [str(i) for i in range(30)]
    named = subprocess.run(
        [*map(str, command), "--out", "-"], input=requests.read_text(), capture_output=True, text=True
    )
    assert named.stdout == done.stdout
    out = tmp_path / "out.jsonl"
    filed = subprocess.run(
        [*map(str, command), "--out", out], input=requests.read_text(), capture_output=True, text=True
    )
    assert (filed.stdout, out.read_text()) == ("", done.stdout)


def test_a_bad_line_of_standard_input_is_named_and_nothing_is_answered(bundle):
    command = [sys.executable, "-m", "corella_edge", "score", str(bundle), "-", "--no-llm"]
    done = subprocess.run(command, input=GOOD + "{", capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("corella-edge: standard input line 2: not JSON")


def test_a_file_of_requests_needs_an_out(corella, bundle, requests):
    done = corella("score", bundle, requests)
    assert (done.code, "Missing option '--out'" in done.err) == (2, True)


def test_empty_input(corella, bundle, tmp_path):
    (tmp_path / "in.jsonl").write_text("\n")
    assert corella("score", bundle, tmp_path / "in.jsonl", "--out", tmp_path / "out.jsonl", "--no-llm").code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "not JSON"),
        (b"\xff\n", "not valid UTF-8"),
        (b'{"user": {}, "user": {}}', "occurs twice"),
        (b'{"user": {}, "threshold": NaN}', "NaN is not JSON"),
        (b'{"user": {"id": "\\ud800"}}', "surrogate"),
        (b'{"user": {}, "threshold": 0.9}', "threshold: 0.9 is not an entropy"),
        (b'{"user": {}, "threshold": "ratio:2"}', "ratio: 2 is not a share"),
        (b'{"user": {}, "colour": 1}', "unknown field 'colour'"),
        (b'{"user": {}, "candidates": []}', "candidates: the list is empty"),
        (b"[1]", "expected an object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"user": {}, "top_k": ' + b"9" * 5000 + b"}", "too many digits"),
    ],
)
def test_bad_line_is_named_and_nothing_written(corella, bundle, tmp_path, line, message):
    source = tmp_path / "in.jsonl"
    source.write_bytes(GOOD.encode() + b"\n" + line)
    done = corella("score", bundle, source, "--out", tmp_path / "out.jsonl")
    assert done.code == 2
    assert done.err.startswith(f"corella-edge: {source} line 3: ")
    assert message in done.err
    assert done.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("out", ["out.jsonl", "-"])
def test_a_misspelt_feature_of_a_strict_line_is_named_and_nothing_scored(corella, bundle, tmp_path, out):
    source = tmp_path / "in.jsonl"
    misspelt = {"user": {"id": "u1"}, "candidates": [{"item": "i1", "features": {"genre": ["Drama"]}}]}
    source.write_text(GOOD + json.dumps(misspelt) + "\n" + json.dumps({**misspelt, "strict": True}) + "\n")
    done = corella("score", bundle, source, "--out", out if out == "-" else tmp_path / out, "--no-llm")
    assert (done.code, done.out) == (2, "")
    (told,) = [line for line in done.err.splitlines() if "warning" not in line]
    assert told.startswith(f"corella-edge: {source} line 3: candidates[0].features: no model reads 'genre'")
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize(
    ("chosen", "message"),
    [({"filter": {"genr": 1}}, "filter: no item has an attribute 'genr'; "), ({"similar_to": ["i99"]}, "similar_to: ")],
)
def test_a_selection_by_what_no_item_has_is_named_and_nothing_scored(corella, bundle, tmp_path, chosen, message):
    source = tmp_path / "in.jsonl"
    source.write_text(GOOD + json.dumps({"user": {"id": "u1"}, **chosen}) + "\n")
    done = corella("score", bundle, source, "--out", tmp_path / "out.jsonl", "--no-llm")
    assert (done.code, done.out) == (2, "")
    (told,) = [line for line in done.err.splitlines() if "warning" not in line]
    assert told.startswith(f"corella-edge: {source} line 2: {message}")
    assert list(tmp_path.iterdir()) == [source]


def test_bad_places(corella, bundle, requests, tmp_path):
    out = tmp_path / "out.jsonl"
    cases = [
        ([tmp_path / "none.jsonl", "--out", out], "no such file"),
        ([requests, "--out", tmp_path / "none" / "out.jsonl"], "does not exist"),
        ([requests, "--out", tmp_path], "is not a file"),
        ([requests, "--out", requests], "is the input itself"),
        ([requests, "--out", requests, "--force"], "is the input itself"),
        ([requests, "--out", out, "--threshold", "1"], "is not an entropy"),
    ]
    for args, message in cases:
        done = corella("score", bundle, *args)
        assert (done.code, message in done.err, done.err.count("\n")) == (2, True, 1), done
    assert list(tmp_path.iterdir()) == [requests]


def test_existing_out_needs_force(corella, bundle, requests, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    refused = corella("score", bundle, requests, "--out", out, "--no-llm")
    assert (refused.code, out.read_text()) == (2, "precious")
    assert corella("score", bundle, requests, "--out", out, "--no-llm", "--force").code == 0
    assert len(lines(out)) == 30


@pytest.fixture
def interrupted(monkeypatch, corella, bundle, requests, tmp_path):
    """A run stopped by Ctrl-C at its eleventh request; returns `out`."""
    out, rank, calls = tmp_path / "out.jsonl", Engine.rank, []

    def stop(engine, request):
        calls.append(request)
        if len(calls) > 10:
            raise KeyboardInterrupt
        return rank(engine, request)

    with monkeypatch.context() as patch:
        patch.setattr(Engine, "rank", stop)
        assert corella("score", bundle, requests, "--out", out, "--no-llm").code == 130
    assert not out.exists()
    return out


def test_goes_on_after_interruption(corella, bundle, requests, tmp_path, interrupted):
    partial = tmp_path / "out.jsonl.partial"
    assert len(lines(partial)) == 10
    with partial.open("a") as file:
        file.write('{"id":"torn')
    done = corella("score", bundle, requests, "--out", interrupted, "--no-llm")
    assert done.code == 0
    assert "scored 20 requests" in done.err
    assert "10 were there already" in done.err
    whole = tmp_path / "whole.jsonl"
    corella("score", bundle, requests, "--out", whole, "--no-llm")
    assert interrupted.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == [interrupted, requests, whole]


@pytest.mark.parametrize("options", [["--threshold", "0.5"], []])
def test_other_command_starts_again(corella, bundle, crm_bundle, requests, interrupted, options):
    done = corella("score", bundle if options else crm_bundle, requests, "--out", interrupted, "--no-llm", *options)
    assert "scored 30 requests" in done.err
    assert len(lines(interrupted)) == 30


def test_changed_input_starts_again(corella, bundle, requests, interrupted):
    requests.write_text(requests.read_text() + GOOD)
    assert "scored 31 requests" in corella("score", bundle, requests, "--out", interrupted, "--no-llm").err


def test_killed_run_goes_on(corella, bundle, requests, tmp_path):
    long, out = tmp_path / "long.jsonl", tmp_path / "out.jsonl"
    long.write_text(requests.read_text() * 200)
    arguments = ["score", str(bundle), str(long), "--out", str(out), "--no-llm"]
    process = subprocess.Popen([sys.executable, "-m", "corella_edge", *arguments], stderr=subprocess.DEVNULL)
    partial, end = tmp_path / "out.jsonl.partial", time.monotonic() + 30
    while (not partial.exists() or partial.stat().st_size < 5000) and time.monotonic() < end:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    done = corella(*arguments)
    assert "were there already" in done.err
    assert [answer["id"] for answer in lines(out)] == [str(i % 30) for i in range(6000)]


def test_two_runs_at_once(corella, bundle, requests, tmp_path):
    out = tmp_path / "out.jsonl"
    with batch._partial(out, {}):
        done = corella("score", bundle, requests, "--out", out, "--no-llm")
    assert (done.code, "another run is writing it" in done.err) == (2, True)


def test_bundle_without_llm(corella, crm_bundle, requests, tmp_path):
    done = corella("score", crm_bundle, requests, "--out", tmp_path / "a", "--threshold", "ratio:1")
    assert done.code == 0
    assert done.err.startswith("corella-edge: warning: the bundle has no LLM")
    assert "routed share 0.0000, threshold 0.0000 nats; 90 wanted the LLM" in done.err
    assert corella("score", crm_bundle, requests, "--out", tmp_path / "b", "--require-llm").code == 3
    assert corella("score", crm_bundle, requests, "--out", tmp_path / "b", "--require-llm", "--no-llm").code == 2


def test_full_disk_is_one_line(bundle, requests, tmp_path):
    code = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)); "
            "from corella_edge.cli import main; main(sys.argv[1:])")  # fmt: skip
    arguments = ["score", bundle, requests, "--out", tmp_path / "out.jsonl", "--no-llm"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("writing failed: File too large")
    assert not (tmp_path / "out.jsonl").exists()


def test_a_log_has_the_decisions_of_the_answers(corella, crm_bundle, requests, tmp_path):
    done = corella("score", crm_bundle, requests, "--out", tmp_path / "out", "--no-llm", "--log", tmp_path / "log")
    assert done.code == 0, done.err
    answers, decisions = lines(tmp_path / "out"), lines(tmp_path / "log" / "decisions-00000001.jsonl")
    inputs = [[candidate.pop("inputs") for candidate in d["candidates"]] for d in decisions]
    assert [d["candidates"] for d in decisions] == [a["candidates"] for a in answers]
    assert {one["text"] for of in inputs for one in of} <= {0.0, 1.0}
    assert [d["user"] for d in decisions] == [r["user"]["id"] for r in lines(requests)]
    done = corella("score", crm_bundle, requests, "--out", tmp_path / "two", "--log", tmp_path / "no" / "log")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--log" in done.err
    assert not (tmp_path / "two").exists()
